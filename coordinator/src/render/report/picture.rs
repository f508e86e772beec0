//! The picture: phases above, what was left below them, speeds at the bottom, over one time axis.

use jiff::Timestamp;
use plotters::{
    chart::{ChartBuilder, ChartContext},
    coord::{Shift, types::RangedCoordf64},
    drawing::{DrawingArea, IntoDrawingArea},
    element::{Circle, PathElement, Rectangle, Text},
    prelude::{Cartesian2d, SVGBackend},
    series::{AreaSeries, LineSeries},
    style::{
        Color, FontStyle, IntoFont, RGBColor, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::chart::{Band, Chart, Curve, Mark};
use crate::history::Migration;

const WIDTH: i32 = 1_200;
const LEFT: i32 = 96;
const MARGIN: i32 = 20;
const RIGHT: i32 = WIDTH - 30;
/// From the top: the numbers of what was done, the phases, the two panels, and what was done in words.
const MARKS: i32 = 106;
const STRIP: (i32, i32) = (122, 140);
const PANELS: [(i32, i32); 2] = [(146, 400), (406, 690)];
/// What a panel has above its curves, and the lower one below them.
const HEADING: i32 = 26;
const AXIS: i32 = 44;
/// A line of words.
const LINE: i32 = 19;
/// How many marks have words, in two columns; and a number.
const MOST_WORDS: usize = 24;
const MOST_NUMBERS: usize = 40;
/// What is shorter is drawn as wide as this.
const NARROWEST: i32 = 3;

const INK: RGBColor = RGBColor(31, 41, 55);
const FAINT: RGBColor = RGBColor(107, 114, 128);
const GRID: RGBColor = RGBColor(209, 213, 219);
const PAPER: RGBColor = RGBColor(255, 255, 255);
const REMAINING: RGBColor = RGBColor(29, 78, 216);
const RATE: RGBColor = RGBColor(15, 118, 110);
const DIRTY: RGBColor = RGBColor(194, 65, 12);
const BLACKOUT: RGBColor = RGBColor(220, 38, 38);
const DEED: RGBColor = RGBColor(109, 40, 217);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Panel<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// An SVG document.
pub(crate) fn picture(migration: &Migration, now: Timestamp) -> String {
    drawn(&Chart::of(migration, now))
}

pub(super) fn drawn(chart: &Chart) -> String {
    let words = chart.marks.len().min(MOST_WORDS).div_ceil(2) + usize::from(chart.marks.len() > MOST_WORDS);
    let height = 700 + LINE * i32::try_from(words).unwrap_or(0) + if words > 0 { LINE } else { 0 };
    let mut svg = String::new();
    draw(&mut svg, height, chart).expect("a text takes every shape");
    svg
}

fn draw(svg: &mut String, height: i32, chart: &Chart) -> Drawn {
    let root = SVGBackend::with_string(svg, (WIDTH.cast_unsigned(), height.cast_unsigned())).into_drawing_area();
    root.fill(&PAPER)?;
    words(&root, &chart.title, (24, 16), 22, FontStyle::Bold, INK)?;
    words(&root, &chart.subtitle, (24, 46), 13, FontStyle::Normal, FAINT)?;
    let end = chart.end;
    phases(&root, chart)?;

    let [upper, lower] = PANELS;
    let (scale, unit) = unit(chart.remaining.iter());
    let curves = [("left to be sent", REMAINING, &chart.remaining)];
    panel(&root, upper, end, (scale, unit.to_owned()), &curves, chart, false)?;
    let (scale, unit) = unit_of_both(&chart.rate, &chart.dirty_rate);
    let curves =
        [("sent per second", RATE, &chart.rate), ("written to by the guest per second", DIRTY, &chart.dirty_rate)];
    panel(&root, lower, end, (scale, format!("{unit}/s")), &curves, chart, true)?;
    marks(&root, chart)?;
    root.present()?;
    Ok(())
}

/// A strip with the phases and the blackout, and their names with how long they took above it.
fn phases(root: &Area, chart: &Chart) -> Drawn {
    let mut x = LEFT;
    let all = chart.phases.iter().map(|band| (band, phase_color(&band.name)));
    for (band, color) in all.clone().chain(chart.blackout.iter().map(|band| (band, BLACKOUT))) {
        root.draw(&Rectangle::new([(x, 75), (x + 12, 87)], color.filled()))?;
        let text = format!("{} {}", band.name, band.took);
        words(root, &text, (x + 18, 74), 13, FontStyle::Normal, INK)?;
        x += 18 + width(&text) + 26;
    }
    if !chart.rounds.is_empty() {
        root.draw(&PathElement::new(vec![(x + 6, 74), (x + 6, 88)], FAINT.stroke_width(1)))?;
        words(root, "a round over its memory begins", (x + 14, 74), 13, FontStyle::Normal, INK)?;
    }
    // The earlier ones last: a short one must not be hidden by the next, which is drawn from where that ends.
    for (band, color) in all.rev() {
        let (from, to) = columns(chart.end, band);
        root.draw(&Rectangle::new([(from, STRIP.0), (to, STRIP.1)], color.filled()))?;
        if to - from > width(&band.name) + 8 {
            let style = text(13, FontStyle::Normal, PAPER).pos(Pos::new(HPos::Center, VPos::Center));
            root.draw(&Text::new(band.name.clone(), ((from + to) / 2, (STRIP.0 + STRIP.1) / 2), style))?;
        }
    }
    if let Some(band) = &chart.blackout {
        let (from, to) = columns(chart.end, band);
        root.draw(&Rectangle::new([(from, STRIP.0), (to, STRIP.1)], BLACKOUT.filled()))?;
    }
    Ok(())
}

fn panel(
    root: &Area,
    (top, bottom): (i32, i32),
    end: f64,
    (scale, unit): (f64, String),
    curves: &[(&str, RGBColor, &Curve)],
    chart: &Chart,
    is_last: bool,
) -> Drawn {
    let area = root.clone().shrink((0, top), (WIDTH.cast_unsigned(), (bottom - top).cast_unsigned()));
    let most = curves.iter().flat_map(|(_, _, curve)| curve.iter()).map(|(_, value)| value / scale).fold(0.0, f64::max);
    let (per, time_unit) = time_unit(end);
    let mut builder = ChartBuilder::on(&area);
    builder.margin_top(HEADING).margin_right(WIDTH - RIGHT).margin_left(MARGIN).y_label_area_size(LEFT - MARGIN);
    builder.x_label_area_size(if is_last { AXIS } else { 1 });
    let mut panel = builder.build_cartesian_2d(0.0..end / per, 0.0..if most > 0.0 { most * 1.08 } else { 1.0 })?;
    for band in &chart.phases {
        shade(&mut panel, band, per, phase_color(&band.name), 0.07)?;
    }
    let label = text(12, FontStyle::Normal, FAINT);
    let number = |value: &f64| figure(*value);
    let mut mesh = panel.configure_mesh();
    mesh.disable_x_mesh().light_line_style(PAPER.mix(0.0)).bold_line_style(GRID).axis_style(FAINT).label_style(label);
    mesh.x_label_formatter(&number).y_label_formatter(&number).x_labels(12).y_labels(6);
    mesh.axis_desc_style(text(13, FontStyle::Normal, INK)).y_desc(unit);
    if is_last {
        mesh.x_desc(format!("time since the migration began ({time_unit})"));
    } else {
        mesh.x_labels(0);
    }
    if chart.lacks.is_some() {
        mesh.y_labels(0);
    }
    mesh.draw()?;
    if !is_last {
        round_marks(root, &panel, chart, per)?;
    }
    if let Some(band) = &chart.blackout {
        shade(&mut panel, band, per, BLACKOUT, 0.28)?;
    }
    for mark in &chart.marks {
        let x = mark.at / per;
        let height = panel.y_range().end;
        panel.draw_series([PathElement::new(vec![(x, 0.0), (x, height)], DEED.mix(0.6).stroke_width(1))])?;
    }
    let mut x = LEFT;
    for (name, color, curve) in curves {
        let scaled = curve.iter().map(|(time, value)| (time / per, value / scale));
        if !is_last {
            panel.draw_series(AreaSeries::new(scaled.clone(), 0.0, color.mix(0.12)))?;
        }
        panel.draw_series(LineSeries::new(scaled.clone(), color.stroke_width(2)))?;
        // One sample alone is no line.
        if curve.len() < 60 {
            panel.draw_series(scaled.map(|point| Circle::new(point, 2, color.filled())))?;
        }
        root.draw(&PathElement::new(vec![(x, top + 13), (x + 22, top + 13)], color.stroke_width(3)))?;
        words(root, name, (x + 28, top + 6), 13, FontStyle::Normal, INK)?;
        x += 28 + width(name) + 30;
    }
    if let Some(lacks) = chart.lacks {
        let style = text(15, FontStyle::Normal, FAINT).pos(Pos::new(HPos::Center, VPos::Center));
        root.draw(&Text::new(lacks, ((LEFT + RIGHT) / 2, (top + bottom) / 2), style))?;
    }
    Ok(())
}

/// Over the panel's height.
fn shade(panel: &mut Panel, band: &Band, per: f64, color: RGBColor, strength: f64) -> Drawn {
    let (height, end) = (panel.y_range().end, panel.x_range().end);
    let narrowest = f64::from(NARROWEST) / f64::from(RIGHT - LEFT) * end;
    let from = (band.from / per).min(end - narrowest);
    let to = (band.to / per).max(from + narrowest).min(end);
    panel.draw_series([Rectangle::new([(from, height), (to, 0.0)], color.mix(strength).filled())])?;
    Ok(())
}

/// Where rounds begin: a short stroke, with its number where there is room.
fn round_marks(root: &Area, panel: &Panel, chart: &Chart, per: f64) -> Drawn {
    let top = panel.y_range().end;
    let mut free = LEFT;
    for (at, round) in &chart.rounds {
        let (x, y) = panel.backend_coord(&(at / per, top));
        root.draw(&PathElement::new(vec![(x, y), (x, y + 8)], FAINT.stroke_width(1)))?;
        let number = round.to_string();
        if x - width(&number) / 2 >= free {
            let style = text(11, FontStyle::Normal, FAINT).pos(Pos::new(HPos::Center, VPos::Top));
            root.draw(&Text::new(number.clone(), (x, y + 9), style))?;
            free = x + width(&number) / 2 + 8;
        }
    }
    Ok(())
}

/// Numbers above the phases, and words for them below everything.
fn marks(root: &Area, chart: &Chart) -> Drawn {
    let mut free = LEFT - 8;
    for (index, Mark { at, .. }) in chart.marks.iter().take(MOST_NUMBERS).enumerate() {
        let exact = column(chart.end, *at);
        let x = exact.max(free).min(RIGHT);
        free = x + 18;
        root.draw(&PathElement::new(vec![(x, MARKS), (exact, STRIP.0), (exact, STRIP.1)], DEED.stroke_width(1)))?;
        root.draw(&Circle::new((x, MARKS), 8, DEED.filled()))?;
        let style = text(11, FontStyle::Bold, PAPER).pos(Pos::new(HPos::Center, VPos::Center));
        root.draw(&Text::new((index + 1).to_string(), (x, MARKS), style))?;
    }
    let (_, bottom) = PANELS[1];
    for (index, Mark { text, .. }) in chart.marks.iter().take(MOST_WORDS).enumerate() {
        let (row, column) = (index / 2, index % 2);
        let row = i32::try_from(row).unwrap_or(0);
        let x = if column == 0 { LEFT } else { LEFT + (RIGHT - LEFT) / 2 };
        words(
            root,
            &shortened(&format!("{}  {text}", index + 1), 78),
            (x, bottom + 12 + row * LINE),
            13,
            FontStyle::Normal,
            INK,
        )?;
    }
    if let Some(more) = chart.marks.len().checked_sub(MOST_WORDS).filter(|more| *more > 0) {
        let row = i32::try_from(MOST_WORDS / 2).unwrap_or(0);
        let text = format!("and {more} more, which vmferry migrations show has");
        words(root, &text, (LEFT, bottom + 12 + row * LINE), 13, FontStyle::Normal, FAINT)?;
    }
    Ok(())
}

fn columns(end: f64, band: &Band) -> (i32, i32) {
    let from = column(end, band.from);
    (from, column(end, band.to).max(from + NARROWEST).min(RIGHT + NARROWEST))
}

fn column(end: f64, at: f64) -> i32 {
    LEFT + ((at / end).clamp(0.0, 1.0) * f64::from(RIGHT - LEFT)) as i32
}

fn phase_color(name: &str) -> RGBColor {
    match name {
        "pre" => RGBColor(100, 116, 139),
        "migrate" => RGBColor(59, 130, 246),
        "post" => RGBColor(22, 163, 74),
        "cleanup" => RGBColor(217, 119, 6),
        _ => RGBColor(148, 163, 184),
    }
}

fn unit<'a>(values: impl Iterator<Item = &'a (f64, f64)>) -> (f64, &'static str) {
    let most = values.map(|(_, value)| *value).fold(0.0, f64::max);
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let found = units.into_iter().map(|(bytes, unit)| (bytes as f64, unit)).find(|(bytes, _)| most >= *bytes);
    found.unwrap_or((1.0, "B"))
}

fn unit_of_both(one: &Curve, other: &Curve) -> (f64, &'static str) {
    unit(one.iter().chain(other))
}

/// In what the time axis counts.
fn time_unit(end: f64) -> (f64, &'static str) {
    match end {
        ..1.0 => (0.001, "ms"),
        ..300.0 => (1.0, "s"),
        ..18_000.0 => (60.0, "min"),
        _ => (3_600.0, "h"),
    }
}

/// `0`, `12`, `1.5`
fn figure(value: f64) -> String {
    let rounded = (value * 1_000.0).round() / 1_000.0;
    format!("{rounded}")
}

fn text(size: i32, style: FontStyle, color: RGBColor) -> TextStyle<'static> {
    TextStyle { color: color.to_backend_color(), ..("sans-serif", size, style).into_font().into() }
}

fn words(root: &Area, what: &str, at: (i32, i32), size: i32, style: FontStyle, color: RGBColor) -> Drawn {
    Ok(root.draw(&Text::new(what.to_owned(), at, text(size, style, color)))?)
}

/// About as wide as a text of size 13 is.
fn width(text: &str) -> i32 {
    i32::try_from(text.chars().count()).unwrap_or(i32::MAX / 8).saturating_mul(7)
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}
