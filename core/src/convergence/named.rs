use std::time::Duration;

use super::{
    Action::{self, Abort, Downtime, Postcopy, Suspend},
    IN_VAIN, Policy, Span, Step, Throttle,
    When::{self, After, Round, Stalled},
};

/// The policy of a migration that names none.
pub const DEFAULT: &str = "default";

/// The policies that are always there, the default first.
const NAMES: [&str; 6] = [DEFAULT, "gentle", "never-pause", "must-finish", "postcopy", "nova"];

/// A policy that is always there.
pub fn named(name: &str) -> Option<Policy> {
    let (downtime, throttle, steps) = match name {
        DEFAULT => (ms(50), None, rising(&[100, 200, 300, 500], after(300, 150), Abort)),
        "gentle" => (ms(30), None, rising(&[60, 100], after(600, 300), Abort)),
        "never-pause" => (ms(50), Some(THROTTLE), rising(&[100, 200, 300], after(600, 300), Abort)),
        "must-finish" => (ms(50), Some(THROTTLE), rising(&[100, 200, 300, 500, 1_000], after(60, 60), Suspend)),
        "postcopy" => {
            let switch = Step { when: Round(3), action: Postcopy };
            (ms(50), None, vec![switch, Step { when: after(300, 150), action: Abort }])
        }
        "nova" => (ms(50), None, nova()),
        _ => return None,
    };
    Some(Policy::new(name, downtime, throttle, steps).expect("tested"))
}

impl Policy {
    /// All that are always there, the default first.
    pub fn all_named() -> Vec<Self> {
        NAMES.iter().filter_map(|name| named(name)).collect()
    }
}

/// QEMU's own.
const THROTTLE: Throttle = Throttle { initial: 20, increment: 10 };

/// A longer time to stand still each time that two rounds were in vain, and the end.
fn rising(downtimes: &[u64], when: When, end: Action) -> Vec<Step> {
    let rungs = downtimes.iter().map(|downtime| Step { when: Stalled(IN_VAIN), action: Downtime(ms(*downtime)) });
    rungs.chain([Step { when, action: end }]).collect()
}

/// Nova's defaults: live_migration_downtime 500 ms in 10 steps, 75 s per GiB apart; live_migration_completion_timeout 800 s per GiB.
fn nova() -> Vec<Step> {
    let rung = |step: u64| Step { when: after(0, 75 * step), action: Downtime(ms(50 + 45 * step)) };
    (1..=10).map(rung).chain([Step { when: after(0, 800), action: Abort }]).collect()
}

fn after(seconds: u64, per_gib: u64) -> When {
    After(Span { base: Duration::from_secs(seconds), per_gib: Duration::from_secs(per_gib) })
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
