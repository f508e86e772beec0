//! Whether a host's clock is ours. Nothing depends on it; people who compare times of two hosts do.

use jiff::{SignedDuration, Timestamp};
use vmferry_core::id::HostName;

/// Clocks that NTP keeps differ by less.
const TOLERATED: SignedDuration = SignedDuration::from_secs(2);

/// By how much a host's clock is ahead of ours at least, if that is too much; less than zero: behind. It was asked and heard at these
/// times of ours, and answered at some time in between.
pub(crate) fn skew(asked: Timestamp, answered: Timestamp, heard: Timestamp) -> Option<SignedDuration> {
    let (ahead, behind) = (answered.duration_since(heard), answered.duration_since(asked));
    let skew = if ahead > SignedDuration::ZERO { ahead } else { behind.min(SignedDuration::ZERO) };
    (skew.abs() > TOLERATED).then_some(skew)
}

/// A sentence about it.
pub(crate) fn sentence(host: &HostName, skew: SignedDuration) -> String {
    let (by, direction) = (skew.abs().as_secs_f64(), if skew.is_negative() { "behind" } else { "ahead of" });
    format!("the clock of {host} is {by:.1} s {direction} ours, so times in its records are; see to NTP, there or here")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + millis).expect("in range")
    }

    #[test]
    fn what_the_round_trip_may_have_taken_is_no_skew() {
        let of = |answered| skew(at(0), at(answered), at(9_000));
        for answered in [-2_000, -1_500, 0, 4_000, 9_000, 11_000] {
            assert_eq!(of(answered), None, "{answered}");
        }
        assert_eq!(of(11_001), Some(SignedDuration::from_millis(2_001)));
        assert_eq!(of(-2_001), Some(SignedDuration::from_millis(-2_001)));
    }

    #[test]
    fn it_is_said_in_which_direction() {
        let host = "node-28".parse().expect("valid");
        let of = |seconds| sentence(&host, SignedDuration::from_secs(seconds));
        assert!(of(-61).contains("the clock of node-28 is 61.0 s behind ours"), "{}", of(-61));
        assert!(of(3).contains("3.0 s ahead of ours"), "{}", of(3));
    }
}
