use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{InvalidPolicy, Policy};
use crate::migration::Steering;

/// What its owner says of a guest's live migrations, whoever asks for them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GuestLimits {
    /// The policy of a migration that names none.
    pub policy: Option<String>,
    /// For how long QEMU may let the guest stand still at most, whatever the policy says.
    pub max_downtime: Option<Duration>,
    /// Whether it may be switched to postcopy. None: as the migration has it.
    pub postcopy: Option<May>,
    /// Whether it may be stopped before all is sent. None: it may, unless `max_downtime` says for how long it may stand still.
    pub suspend: Option<May>,
}

/// Whether something may be done to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum May {
    /// Not by a policy, and not by hand.
    Never,
    /// Also where the policy does not have it.
    Allowed,
}

impl May {
    /// The word in metadata, on the command line and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Allowed => "allowed",
        }
    }
}

impl fmt::Display for May {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for May {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Never, Self::Allowed].into_iter().find(|may| may.as_str() == text);
        known.ok_or_else(|| format!("`{text}` is neither `never` nor `allowed`"))
    }
}

/// What a migration would do to a guest that its limits forbid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// It would stand still for too long.
    Downtime {
        /// As it is asked for.
        asked: Duration,
        /// As the guest may.
        most: Duration,
    },
    /// It would be switched to postcopy.
    Postcopy,
    /// It would be stopped, by a step or by hand. `most` is why, where nothing is said of it: it may stand still no longer.
    Suspend {
        /// For how long it may stand still.
        most: Option<Duration>,
    },
}

impl GuestLimits {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the guest may be stopped before all is sent.
    pub fn may_suspend(&self) -> bool {
        match self.suspend {
            Some(may) => may == May::Allowed,
            None => self.max_downtime.is_none(),
        }
    }

    /// The policy as it is for this guest: it stands still no longer than it may, postcopy is left out where it may not be, and may be
    /// switched to by hand where it may. Whether it is stopped in the end is left as it is: without that it would be another policy.
    pub fn restrain(&self, policy: &Policy) -> Result<Policy, InvalidPolicy> {
        let shorter = self.max_downtime.filter(|most| *most < policy.longest_downtime());
        let policy = shorter.map_or_else(|| Ok(policy.clone()), |most| policy.with_longest_downtime(most))?;
        Ok(match self.postcopy {
            None => policy,
            Some(May::Never) => policy.without_postcopy(),
            Some(May::Allowed) => policy.with_postcopy(),
        })
    }

    /// All that the policy would do and may not.
    pub fn judge(&self, policy: &Policy) -> Vec<Excess> {
        let downtime = self.judge_downtime(policy.longest_downtime());
        let postcopy = policy.may_postcopy().then_some(Excess::Postcopy).filter(|_| self.postcopy == Some(May::Never));
        let suspend = self.judge_suspend().filter(|_| policy.may_suspend());
        [downtime, postcopy, suspend].into_iter().flatten().collect()
    }

    /// What the job would be told by hand and may not.
    pub fn judge_steering(&self, steering: &Steering) -> Option<Excess> {
        match steering {
            Steering::Downtime(asked) => self.judge_downtime(*asked),
            Steering::Postcopy => (self.postcopy == Some(May::Never)).then_some(Excess::Postcopy),
            Steering::Suspend => self.judge_suspend(),
            Steering::Bandwidth(_) | Steering::Deadline(_) | Steering::Pause | Steering::Resume => None,
        }
    }

    fn judge_downtime(&self, asked: Duration) -> Option<Excess> {
        self.max_downtime.filter(|most| asked > *most).map(|most| Excess::Downtime { asked, most })
    }

    fn judge_suspend(&self) -> Option<Excess> {
        let most = self.max_downtime.filter(|_| self.suspend.is_none());
        (!self.may_suspend()).then_some(Excess::Suspend { most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convergence::{Action, DEFAULT, named};

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn policy(name: &str) -> Policy {
        named(name).expect("one of them")
    }

    #[test]
    fn a_policy_is_restrained_to_what_the_guest_may() {
        let short = GuestLimits { max_downtime: Some(ms(200)), ..GuestLimits::default() };
        for name in ["default", "gentle", "never-pause", "must-finish", "postcopy", "nova"] {
            let restrained = short.restrain(&policy(name)).expect("valid");
            assert_eq!(restrained.longest_downtime(), policy(name).longest_downtime().min(ms(200)), "{name}");
            assert_eq!(restrained.name(), name);
            assert_eq!(restrained.steps().len(), policy(name).steps().len(), "{name}");
            let left = short.judge(&restrained);
            let stops = [Excess::Suspend { most: Some(ms(200)) }];
            assert_eq!(left, if policy(name).may_suspend() { &stops[..] } else { &[] }, "{name}");
        }
        let long = GuestLimits { max_downtime: Some(ms(9_000)), ..GuestLimits::default() };
        assert_eq!(long.restrain(&policy(DEFAULT)), Ok(policy(DEFAULT)), "a limit is no wish");
    }

    #[test]
    fn postcopy_is_left_out_or_allowed() {
        let never = GuestLimits { postcopy: Some(May::Never), ..GuestLimits::default() };
        let allowed = GuestLimits { postcopy: Some(May::Allowed), ..GuestLimits::default() };
        let without = never.restrain(&policy("postcopy")).expect("valid");
        assert!(!without.may_postcopy() && without.steps().iter().all(|step| step.action == Action::Abort));
        assert!(!never.restrain(&policy(DEFAULT).with_postcopy()).expect("valid").may_postcopy());
        assert_eq!(never.judge(&policy("postcopy")), [Excess::Postcopy]);
        assert_eq!(never.judge(&policy(DEFAULT).with_postcopy()), [Excess::Postcopy], "by hand");
        let by_hand = allowed.restrain(&policy(DEFAULT)).expect("valid");
        assert!(by_hand.may_postcopy() && by_hand.steps() == policy(DEFAULT).steps());
        assert_eq!(GuestLimits::default().restrain(&policy("postcopy")), Ok(policy("postcopy")));
    }

    #[test]
    fn what_a_guest_may_not_be_done_is_the_same_by_policy_and_by_hand() {
        let limits = |max_downtime, postcopy, suspend| GuestLimits { policy: None, max_downtime, postcopy, suspend };
        let (never, allowed) = (Some(May::Never), Some(May::Allowed));
        let most = Some(ms(200));
        let longer = Excess::Downtime { asked: ms(1_000), most: ms(200) };
        let stopped = Excess::Suspend { most };
        // must-finish: 1 s, and it stops the guest.
        for (limits, expected) in [
            (limits(None, None, None), vec![]),
            (limits(most, None, None), vec![longer, stopped]),
            (limits(most, None, allowed), vec![longer]),
            (limits(most, None, never), vec![longer, Excess::Suspend { most: None }]),
            (limits(Some(ms(1_000)), None, allowed), vec![]),
            (limits(None, None, never), vec![Excess::Suspend { most: None }]),
            (limits(None, never, None), vec![Excess::Postcopy]),
            (limits(None, allowed, allowed), vec![]),
        ] {
            assert_eq!(limits.judge(&policy("must-finish").with_postcopy()), expected, "{limits:?}");
            let by_hand = [Steering::Downtime(ms(1_000)), Steering::Postcopy, Steering::Suspend];
            let by_hand: Vec<_> = by_hand.iter().filter_map(|steering| limits.judge_steering(steering)).collect();
            assert_eq!(by_hand, expected, "{limits:?}");
        }
        let strict = limits(most, never, never);
        assert_eq!(strict.judge_steering(&Steering::Downtime(ms(200))), None, "as long as it may");
        for free in [Steering::Bandwidth(None), Steering::Deadline(ms(1)), Steering::Pause, Steering::Resume] {
            assert_eq!(strict.judge_steering(&free), None, "{free:?}");
        }
    }

    #[test]
    fn what_may_be_is_a_word() {
        for may in [May::Never, May::Allowed] {
            assert_eq!(may.as_str().parse(), Ok(may));
        }
        assert!("Never".parse::<May>().is_err_and(|error| error.contains("`Never` is neither")));
    }
}
