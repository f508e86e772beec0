//! The lines of a migration that goes on. Pure: samples in, text out.

use std::time::Duration;

use vmferry_core::{
    convergence::{End, Outlook},
    flow::Plan,
    migration::{Fallback, Kind, Mode, Order, Phase, Progress, Shutdown, ShuttingDown},
};

use super::units::{about, bytes, rate, time};

const BAR_WIDTH: usize = 8;

/// How a phase went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As it should.
    Ok,
    /// It found reasons not to go on.
    Refused,
    /// It did, but something needs a look.
    Warnings,
    /// It was to end before it was over, and it did.
    Aborted,
    /// It did not.
    Failed,
}

impl Verdict {
    /// The word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Warnings => "warning",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
        }
    }
}

/// What moves where.
pub(crate) fn heading(order: &Order) -> String {
    format!("{}  {} → {}", order.instance_name, order.source.host, order.destination.host)
}

/// What the user must know before anything is done; of a live migration there is nothing.
pub(crate) fn forewarning(order: &Order) -> Option<String> {
    let Order { instance_name: name, source, destination, kind, .. } = order;
    let (from, to) = (&source.host, &destination.host);
    match kind {
        Kind::Live => None,
        Kind::Cold { shutdown: None } => {
            Some(format!("cold migration: {name} is off, moves as it is, and stays off on {to}"))
        }
        Kind::Cold { shutdown: Some(Shutdown { deadline, fallback }) } => {
            let otherwise = match fallback {
                Fallback::PowerOff => "its power is cut",
                Fallback::GiveUp => "it runs on and does not move",
            };
            Some(format!(
                "cold migration: {name} is shut down on {from} and started again on {to}: its guest sees a reboot; if it does not \
                 shut down within {}, {otherwise}",
                time(*deadline)
            ))
        }
    }
}

/// By which id it is known; before that the hosts know nothing of it.
pub(crate) fn known_as(order: &Order) -> String {
    format!("(migration {})", order.id)
}

/// A phase that is over. `verdict` is its word, perhaps coloured.
pub(crate) fn finished(
    phase: Phase,
    verdict: Verdict,
    detail: &str,
    took: Duration,
    paint: impl Fn(&str) -> String,
) -> String {
    // Padded before it is coloured: colours have no width.
    let word = paint(&format!("{:<8}", verdict.as_str()));
    format!("{phase:<8} {word} {detail:<40} {:>8}", time(took))
}

/// A phase that goes on and has nothing to tell.
pub(crate) fn running(phase: Phase) -> String {
    let what = match phase {
        Phase::Check => "asking both hosts",
        Phase::Pre => "getting both hosts ready",
        Phase::Migrate => "starting to move",
        Phase::Post => "tidying the source",
        Phase::Cleanup => "taking back what was done",
    };
    format!("{phase:<8} {what} …")
}

/// How many checks there were, and on how many hosts.
pub(crate) fn checked(plan: &Plan) -> String {
    let count = plan.checks.len();
    match plan.checks.iter().filter(|check| check.refusal().is_some()).count() {
        0 => format!("{count} checks on both hosts"),
        refused => format!("{refused} of {count} checks failed"),
    }
}

/// A job that goes on, with a bar for those who see it move, in at most `width` columns: what matters least comes last
/// and is left out first.
pub(crate) fn moving_bar(percent: u8, sample: &Progress, width: usize) -> String {
    if let Some(waiting) = sample.shutting_down {
        return fit(&[shutting_down(waiting)], width);
    }
    let full = usize::from(percent) * BAR_WIDTH / 100;
    let bar = "█".repeat(full) + &" ".repeat(BAR_WIDTH - full);
    let mut fields =
        vec![format!("{:<8} ▕{bar}▏ {percent:>2} %", Phase::Migrate), format!("{} left", bytes(sample.remaining))];
    fields.extend(burden(sample));
    fields.extend(speeds(sample));
    fields.push(time(sample.elapsed));
    fields.extend(round(sample));
    fit(&fields, width)
}

/// As many fields as there is room for, and never a part of one.
fn fit(fields: &[String], width: usize) -> String {
    let mut line = String::new();
    for field in fields {
        let gap = if line.is_empty() { "" } else { "  " };
        // No letter of ours is wider than a column.
        if line.chars().count() + gap.len() + field.chars().count() > width {
            break;
        }
        line = line + gap + field;
    }
    line
}

/// The same as a line of a log.
pub(crate) fn moving_line(percent: u8, sample: &Progress) -> String {
    if let Some(waiting) = sample.shutting_down {
        return shutting_down(waiting);
    }
    let left = format!("{percent:>2} %  {} of {} left", bytes(sample.remaining), bytes(sample.total));
    let fields = round(sample)
        .into_iter()
        .chain([left])
        .chain(burden(sample))
        .chain(speeds(sample))
        .chain([time(sample.elapsed)]);
    format!("{:<8} {}", Phase::Migrate, fields.collect::<Vec<_>>().join("  "))
}

/// Before the first, only files are sent, or the guest is off.
fn round(sample: &Progress) -> Option<String> {
    (sample.round > 0).then(|| format!("round {}", sample.round))
}

fn shutting_down(ShuttingDown { elapsed, deadline }: ShuttingDown) -> String {
    format!("{:<8} the guest is shutting down  {} of at most {}", Phase::Migrate, time(elapsed), time(deadline))
}

/// What is done to the guest, so that it arrives.
fn burden(sample: &Progress) -> Option<String> {
    match (sample.stopped, sample.throttle) {
        _ if sample.mode == Mode::Postcopy => Some("the guest runs on the destination, its memory follows".into()),
        _ if sample.mode == Mode::Broken => {
            Some("the way is BROKEN: both halves are kept until it is there again".into())
        }
        (true, _) => Some("the guest is stopped".into()),
        (false, 0) => None,
        (false, percent) => Some(format!("its CPUs are slowed down by {percent} %")),
    }
}

/// How fast memory is sent and written again, and what follows from that. libvirt measures the second at a round's end.
fn speeds(sample: &Progress) -> Vec<String> {
    let mut speeds = vec![rate(sample.rate)];
    match sample.round {
        0 => return speeds,
        1 => speeds.push("dirty ?".into()),
        _ => speeds.push(format!("dirty {}", rate(sample.dirty_rate))),
    }
    speeds.extend(match sample.forecast {
        Some(outlook) => prospects(outlook),
        None if sample.round == 1 => vec![],
        None => vec!["ETA unknown".into()],
    });
    speeds
}

/// How it will go on.
fn prospects(Outlook { end, rest, downtime }: Outlook) -> Vec<String> {
    let eta = if rest < Duration::from_secs(1) { "< 1 s".into() } else { about(rest) };
    match end {
        None => vec![format!("ETA {eta}"), format!("downtime {}", time(downtime))],
        Some(End::Postcopy) => vec![format!("ETA {eta} by postcopy"), format!("downtime {}", time(downtime))],
        Some(End::Suspend) => {
            let until = about(rest.saturating_sub(downtime));
            vec![format!("not converging: stopped by its policy in {until}, for {}", time(downtime))]
        }
        Some(End::Abort) => vec![format!("not converging: its policy gives up in {eta}")],
    }
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;

    use super::*;

    fn sample(remaining: u64, total: u64) -> Progress {
        Progress {
            elapsed: Duration::from_millis(800),
            total: ByteSize::b(total),
            remaining: ByteSize::b(remaining),
            transferred: ByteSize::mib(160),
            rate: ByteSize::mib(110),
            dirty_rate: ByteSize::mib(21),
            round: 2,
            forecast: outlook(None, 1_130, 72),
            ..Progress::default()
        }
    }

    fn outlook(end: Option<End>, rest: u64, downtime: u64) -> Option<Outlook> {
        let [rest, downtime] = [rest, downtime].map(Duration::from_millis);
        Some(Outlook { end, rest, downtime })
    }

    #[test]
    fn a_running_job_on_a_terminal_and_off_it() {
        let sample = sample(98 << 20, 256 << 20);
        let percent = sample.after(0).percent;
        insta::assert_snapshot!(
            format!("{}\n{}", moving_bar(percent, &sample, 200), moving_line(percent, &sample)),
            @"
        migrate  ▕████    ▏ 61 %  98.0 MiB left  110.0 MiB/s  dirty 21.0 MiB/s  ETA 1 s  downtime 72 ms  800 ms  round 2
        migrate  round 2  61 %  98.0 MiB of 256.0 MiB left  110.0 MiB/s  dirty 21.0 MiB/s  ETA 1 s  downtime 72 ms  800 ms
        "
        );
    }

    #[test]
    fn a_narrow_terminal_gets_fewer_fields_but_whole_ones() {
        let sample = sample(98 << 20, 256 << 20);
        let whole = moving_bar(61, &sample, 200);
        for width in 0..200 {
            let line = moving_bar(61, &sample, width);
            assert!(line.chars().count() <= width, "{width}: {line}");
            let rest = whole.strip_prefix(line.as_str()).expect("the same, as far as it goes");
            assert!(line.is_empty() || rest.is_empty() || rest.starts_with("  "), "{width}: {line}");
        }
        insta::assert_snapshot!(moving_bar(61, &sample, 76), @"migrate  ▕████    ▏ 61 %  98.0 MiB left  110.0 MiB/s  dirty 21.0 MiB/s");
    }

    #[test]
    fn nothing_is_said_of_what_the_first_round_does_not_tell() {
        for (round, told) in [(0, "110.0 MiB/s  800 ms"), (1, "110.0 MiB/s  dirty ?  800 ms")] {
            let first = Progress { dirty_rate: ByteSize::b(0), round, forecast: None, ..sample(98 << 20, 256 << 20) };
            for line in [moving_bar(10, &first, 200), moving_line(10, &first)] {
                assert!(line.contains(told) && !line.contains("ETA"), "{line}");
                assert_eq!(line.contains("round"), round > 0, "{line}");
            }
        }
        // Unless the guest was measured beside it.
        let foreseen = Progress { round: 1, ..sample(98 << 20, 256 << 20) };
        assert!(moving_line(10, &foreseen).contains("dirty ?  ETA 1 s"), "{}", moving_line(10, &foreseen));
        let forecast = outlook(None, 990, 60);
        let second = Progress { dirty_rate: ByteSize::b(0), forecast, ..sample(98 << 20, 256 << 20) };
        assert!(moving_line(10, &second).contains("dirty 0 B/s  ETA < 1 s"), "{}", moving_line(10, &second));
    }

    #[test]
    fn a_job_that_does_not_converge_says_so() {
        let line = |forecast| moving_line(10, &Progress { forecast, ..sample(98 << 20, 256 << 20) });
        let given_up = line(outlook(Some(End::Abort), 290_000, 0));
        assert!(
            given_up.contains("dirty 21.0 MiB/s  not converging: its policy gives up in 4 min 50 s  800 ms"),
            "{given_up}"
        );
        let stopped = line(outlook(Some(End::Suspend), 62_500, 2_500));
        assert!(stopped.contains("not converging: stopped by its policy in 1 min 0 s, for 2.50 s"), "{stopped}");
        assert!(line(None).contains("ETA unknown"));
    }

    #[test]
    fn what_is_done_to_the_guest_is_said() {
        let slowed = Progress { throttle: 40, ..sample(98 << 20, 256 << 20) };
        assert!(
            moving_line(10, &slowed).contains("left  its CPUs are slowed down by 40 %  110"),
            "{}",
            moving_line(10, &slowed)
        );
        let follows = |mode| moving_line(10, &Progress { mode, ..slowed });
        assert!(follows(Mode::Postcopy).contains("its memory follows"), "{}", follows(Mode::Postcopy));
        assert!(follows(Mode::Broken).contains("the way is BROKEN"), "{}", follows(Mode::Broken));
        let forecast = outlook(None, 900, 1_900);
        let stopped = Progress { stopped: true, dirty_rate: ByteSize::mib(500), forecast, ..slowed };
        let line = moving_bar(10, &stopped, 200);
        assert!(
            line.contains("left  the guest is stopped  110") && line.contains("ETA < 1 s  downtime 1.90 s"),
            "{line}"
        );
    }

    #[test]
    fn finished_phases_line_up() {
        let plain = |text: &str| text.to_owned();
        let lines = [
            finished(Phase::Check, Verdict::Ok, "14 checks on both hosts", Duration::from_millis(52), plain),
            finished(Phase::Pre, Verdict::Ok, "", Duration::from_millis(11), plain),
            finished(Phase::Migrate, Verdict::Failed, "", Duration::from_millis(2_340), plain),
            finished(Phase::Cleanup, Verdict::Warnings, "", Duration::from_secs(75), plain),
        ];
        insta::assert_snapshot!(lines.join("\n"), @"
        check    ok       14 checks on both hosts                     52 ms
        pre      ok                                                   11 ms
        migrate  failed                                              2.34 s
        cleanup  warning                                           1 min 15 s
        ");
    }
}
