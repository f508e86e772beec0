//! The page: the figures, what was foreseen and what came of it, what was done, and the picture.

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use vmferry_core::migration::{PhaseSpan, Record, Story};

use super::{
    chart::{Chart, ending},
    picture::drawn,
};
use crate::{
    history::Migration,
    render::{
        migrations::{limits, moment},
        story::{Actual, author, basis, comparisons, deed, foreseen_end, since},
        units::{bytes, count, time},
    },
};

const STYLE: &str = "
:root { color-scheme: light; }
body { margin: 0 auto; padding: 24px 32px 48px; max-width: 1200px; background: #fff; color: #1f2937;
       font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 28px 0 8px; }
p { margin: 4px 0; } .faint { color: #6b7280; }
figure { margin: 20px 0 0; } figure svg { width: 100%; height: auto; }
table { border-collapse: collapse; } th, td { text-align: left; padding: 4px 24px 4px 0; border-bottom: 1px solid #e5e7eb; vertical-align: top; }
th { font-weight: 600; white-space: nowrap; } td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.columns { display: flex; flex-wrap: wrap; gap: 0 64px; }
@media print { body { padding: 0; } h2, table, figure { break-inside: avoid; } }
";

/// An HTML document.
pub(crate) fn page(migration: &Migration, now: Timestamp) -> String {
    let chart = Chart::of(migration, now);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (chart.title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Migration of " (migration.order.instance_name) }
                p { (ending(migration)) }
                @for warning in migration.warnings() { p { "Warning: " (warning) } }
                figure { (PreEscaped(drawn(&chart))) }
                div.columns {
                    section { h2 { "Migration" } (facts(migration, now)) }
                    section { h2 { "Phases" } (phases(migration)) }
                    (forecast(migration))
                    (events(migration))
                }
                p.faint { "By vmferry " (env!("CARGO_PKG_VERSION")) ", " (moment(now)) ", from the records of the hosts." }
            }
        }
    };
    page.into_string()
}

fn facts(migration: &Migration, now: Timestamp) -> Markup {
    let order = &migration.order;
    let asked = migration.source.as_ref().or(migration.destination.as_ref()).map(|half| half.requested_by.as_str());
    let mut rows = vec![
        ("id", order.id.to_string()),
        ("instance", format!("{} ({})", order.instance_name, order.instance)),
        ("from", format!("{} ({})", order.source.host, order.source.address)),
        ("to", format!("{} ({})", order.destination.host, order.destination.address)),
        ("kind", order.kind.to_string()),
        ("asked by", asked.unwrap_or_default().to_owned()),
        ("started", moment(migration.started())),
        ("ended", migration.ended().map_or("not yet".into(), moment)),
        ("duration", time(migration.duration(now))),
        ("outcome", migration.outcome().map_or("open".into(), |outcome| outcome.to_string())),
    ];
    if !order.kind.is_cold() {
        rows.push(("policy", limits(&order.limits)));
    }
    if let Some(Actual { total, sent, rounds, downtime }) = Actual::of(migration) {
        rows.push(("job", time(total)));
        rows.push(("sent", format!("{} in {}", bytes(sent), count(rounds, "round"))));
        rows.extend(downtime.map(|downtime| ("downtime", time(downtime))));
    }
    let points = migration.story().and_then(|story| story.timeline.as_ref()).map(|line| line.points.as_slice());
    if let Some(throttle) = points.unwrap_or_default().iter().map(|point| point.throttle).max().filter(|most| *most > 0)
    {
        rows.push(("CPUs slowed down", format!("by up to {throttle} %")));
    }
    rows.extend(migration.cause().map(|cause| ("cause", cause.to_string())));
    html! {
        table {
            @for (name, value) in rows { tr { th { (name) } td { (value) } } }
        }
    }
}

fn phases(migration: &Migration) -> Markup {
    let row = |host: &str, started: Timestamp, span: &PhaseSpan| {
        html! {
            tr {
                td { (host) }
                td { (span.phase) }
                td { "+ " (time(since(started, span.started))) }
                td { (span.duration.map_or("goes on".into(), time)) }
            }
        }
    };
    let half = |host: &str, half: &Record| {
        html! {
            @for span in &half.phases { (row(host, migration.started(), span)) }
        }
    };
    let order = &migration.order;
    html! {
        table {
            tr { th { "host" } th { "phase" } th { "after" } th { "took" } }
            @if let Some(source) = &migration.source { (half(order.source.host.as_str(), source)) }
            @if let Some(destination) = &migration.destination { (half(order.destination.host.as_str(), destination)) }
        }
    }
}

fn forecast(migration: &Migration) -> Markup {
    let Some(foreseen) = migration.story().and_then(|story| story.foreseen.as_ref()) else { return html! {} };
    html! {
        section {
            h2 { "Forecast and what came of it" }
            table {
                tr { th {} th { "forecast" } th { "actual" } th { "factor" } }
                @for row in comparisons(foreseen, Actual::of(migration)) {
                    tr { th { (row.what) } td { (row.foreseen) } td { (row.actual) } td { (row.factor_text()) } }
                }
            }
            @if let Some(end) = foreseen_end(foreseen) { p { (end) } }
            p.faint { (basis(&migration.order, foreseen)) }
        }
    }
}

fn events(migration: &Migration) -> Markup {
    let Some(Story { events, .. }) = migration.story().filter(|story| !story.events.is_empty()) else {
        return html! {};
    };
    html! {
        section {
            h2 { "What was done while it ran" }
            table {
                tr { th {} th { "after" } th { "by" } th { "what" } }
                @for (index, event) in events.iter().enumerate() {
                    tr {
                        td { (index + 1) }
                        td { "+ " (time(since(migration.started(), event.at))) }
                        td { (author(&event.by)) }
                        td { (deed(&event.deed).1) }
                    }
                }
            }
        }
    }
}
