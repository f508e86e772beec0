use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error as _};

use super::{Action, InvalidPolicy, Policy, Span, Step, Throttle, When};

/// A policy as configuration files have it.
///
/// ```toml
/// [policy.patient]
/// downtime = "50ms"                                     # for how long the guest may stand still, to begin with
/// throttle = { initial = 20, increment = 10 }           # percent; without: its CPUs are never slowed down
/// steps = [
///   { stalled = 2, downtime = "300ms" },                # rounds in a row without progress
///   { round = 10, downtime = "1s" },                    # as this round begins
///   { after = "5m", after_per_gib = "60s", do = "suspend" },
/// ]
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyText {
    #[serde(deserialize_with = "time")]
    downtime: Duration,
    throttle: Option<Throttle>,
    #[serde(default)]
    postcopy: bool,
    steps: Vec<StepText>,
}

/// One step of it: one of `after`, `round` and `stalled`, and one of `downtime` and `do`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepText {
    #[serde(default, deserialize_with = "perhaps_time")]
    after: Option<Duration>,
    #[serde(default, deserialize_with = "perhaps_time")]
    after_per_gib: Option<Duration>,
    round: Option<u32>,
    stalled: Option<u32>,
    #[serde(default, deserialize_with = "perhaps_time")]
    downtime: Option<Duration>,
    #[serde(rename = "do")]
    end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum End {
    Postcopy,
    Suspend,
    Abort,
}

impl PolicyText {
    /// The policy of that name.
    pub fn policy(self, name: &str) -> Result<Policy, InvalidPolicy> {
        let step = |(index, text): (usize, StepText)| {
            text.step().ok_or_else(|| InvalidPolicy::Step {
                step: index + 1,
                what: "it needs one of `after` (with or without `after_per_gib`), `round` and `stalled`, and one of `downtime` and `do`"
                    .to_owned(),
            })
        };
        let steps = self.steps.into_iter().enumerate().map(step).collect::<Result<_, _>>()?;
        let policy = Policy::new(name, self.downtime, self.throttle, steps)?;
        Ok(if self.postcopy { policy.with_postcopy() } else { policy })
    }
}

impl StepText {
    fn step(self) -> Option<Step> {
        let when = match (self.after, self.after_per_gib, self.round, self.stalled) {
            (None, None, Some(round), None) => When::Round(round),
            (None, None, None, Some(rounds)) => When::Stalled(rounds),
            (base, per_gib, None, None) if base.or(per_gib).is_some() => {
                When::After(Span { base: base.unwrap_or_default(), per_gib: per_gib.unwrap_or_default() })
            }
            _ => return None,
        };
        let action = match (self.downtime, self.end) {
            (Some(downtime), None) => Action::Downtime(downtime),
            (None, Some(End::Postcopy)) => Action::Postcopy,
            (None, Some(End::Suspend)) => Action::Suspend,
            (None, Some(End::Abort)) => Action::Abort,
            _ => return None,
        };
        Some(Step { when, action })
    }
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|error| D::Error::custom(format!("`{text}`: {error}")))
}

fn perhaps_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    time(deserializer).map(Some)
}
