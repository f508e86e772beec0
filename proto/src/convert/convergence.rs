use bytesize::ByteSize;
use vmferry_core::{
    convergence::{Action, GuestLimits, May, Measured, Policy, Span, Step, Throttle, When},
    direct::DirectEnd,
    domain_xml::metadata::limits::judged,
    migration::{Handover, Limits, Path, Steering, Streams},
};

use super::{Invalid, all, duration, invalid, wire_duration};
use crate::v1::{
    self,
    convergence_step::{self, GiveUp, Postcopy, Suspend},
    steering::{self, Change},
};

impl From<Limits> for v1::Limits {
    fn from(limits: Limits) -> Self {
        Self {
            policy: Some(limits.policy.into()),
            bandwidth_bytes_per_second: limits.bandwidth.map(|bandwidth| bandwidth.as_u64()),
            streams: limits.streams.into(),
            path: match limits.path {
                Path::Tunnel => v1::DataPath::Tunnel,
                Path::Direct => v1::DataPath::Direct,
            }
            .into(),
            handover: v1::Handover::from(limits.handover).into(),
        }
    }
}

impl From<Handover> for v1::Handover {
    fn from(handover: Handover) -> Self {
        match handover {
            Handover::Fast => Self::Fast,
            Handover::Strict => Self::Strict,
        }
    }
}

impl TryFrom<v1::Limits> for Limits {
    type Error = Invalid;

    fn try_from(limits: v1::Limits) -> Result<Self, Invalid> {
        // Nobody's memory takes another way than was asked for: what is not known is refused.
        let path = match v1::DataPath::try_from(limits.path) {
            Ok(v1::DataPath::Unspecified | v1::DataPath::Tunnel) => Path::Tunnel,
            Ok(v1::DataPath::Direct) => Path::Direct,
            Err(_) => return Err(Invalid { field: "limits.path" }),
        };
        let bandwidth = limits.bandwidth_bytes_per_second.map(ByteSize::b);
        if bandwidth.is_some_and(|bandwidth| bandwidth.as_u64() == 0) {
            return Err(Invalid { field: "limits.bandwidth_bytes_per_second" });
        }
        // One who knows nothing of streams says 0.
        let streams = match limits.streams {
            0 => Streams::ONE,
            streams => streams.try_into().map_err(invalid("limits.streams"))?,
        };
        let policy = limits.policy.map(TryInto::try_into).transpose()?.unwrap_or_default();
        // Nor is it handed over otherwise.
        let handover = match v1::Handover::try_from(limits.handover) {
            Ok(v1::Handover::Unspecified | v1::Handover::Fast) => Handover::Fast,
            Ok(v1::Handover::Strict) => Handover::Strict,
            Err(_) => return Err(Invalid { field: "limits.handover" }),
        };
        Ok(Self { policy, bandwidth, streams, path, handover })
    }
}

impl From<DirectEnd> for v1::DirectEnd {
    fn from(DirectEnd { address, name }: DirectEnd) -> Self {
        Self { address: address.to_string(), name }
    }
}

impl TryFrom<v1::DirectEnd> for DirectEnd {
    type Error = Invalid;

    fn try_from(end: v1::DirectEnd) -> Result<Self, Invalid> {
        Ok(Self { address: end.address.parse().map_err(invalid("direct.address"))?, name: end.name })
    }
}

impl From<Policy> for v1::ConvergencePolicy {
    fn from(policy: Policy) -> Self {
        Self {
            name: policy.name().to_owned(),
            downtime: Some(wire_duration(policy.downtime())),
            throttle: policy.throttle().map(Into::into),
            steps: policy.steps().iter().copied().map(Into::into).collect(),
            postcopy: policy.may_postcopy(),
        }
    }
}

impl TryFrom<v1::ConvergencePolicy> for Policy {
    type Error = Invalid;

    fn try_from(policy: v1::ConvergencePolicy) -> Result<Self, Invalid> {
        let downtime = duration(policy.downtime, "policy.downtime")?;
        let throttle = policy.throttle.map(TryInto::try_into).transpose()?;
        let read = Self::new(&policy.name, downtime, throttle, all(policy.steps)?).map_err(invalid("policy"))?;
        Ok(if policy.postcopy { read.with_postcopy() } else { read })
    }
}

impl From<Throttle> for v1::Throttle {
    fn from(Throttle { initial, increment }: Throttle) -> Self {
        Self { initial_percent: initial.into(), increment_percent: increment.into() }
    }
}

impl TryFrom<v1::Throttle> for Throttle {
    type Error = Invalid;

    fn try_from(throttle: v1::Throttle) -> Result<Self, Invalid> {
        Ok(Self {
            initial: throttle.initial_percent.try_into().map_err(invalid("throttle.initial_percent"))?,
            increment: throttle.increment_percent.try_into().map_err(invalid("throttle.increment_percent"))?,
        })
    }
}

impl From<Step> for v1::ConvergenceStep {
    fn from(Step { when, action }: Step) -> Self {
        let when = match when {
            When::After(span) => convergence_step::When::After(span.into()),
            When::Round(round) => convergence_step::When::Round(round),
            When::Stalled(rounds) => convergence_step::When::StalledRounds(rounds),
        };
        let action = match action {
            Action::Downtime(downtime) => convergence_step::Action::Downtime(wire_duration(downtime)),
            Action::Postcopy => convergence_step::Action::Postcopy(Postcopy {}),
            Action::Suspend => convergence_step::Action::Suspend(Suspend {}),
            Action::Abort => convergence_step::Action::Abort(GiveUp {}),
        };
        Self { when: Some(when), action: Some(action) }
    }
}

impl TryFrom<v1::ConvergenceStep> for Step {
    type Error = Invalid;

    fn try_from(step: v1::ConvergenceStep) -> Result<Self, Invalid> {
        let when = match step.when.ok_or(Invalid { field: "step.when" })? {
            convergence_step::When::After(span) => When::After(span.try_into()?),
            convergence_step::When::Round(round) => When::Round(round),
            convergence_step::When::StalledRounds(rounds) => When::Stalled(rounds),
        };
        let action = match step.action.ok_or(Invalid { field: "step.action" })? {
            convergence_step::Action::Downtime(downtime) => {
                Action::Downtime(duration(Some(downtime), "step.downtime")?)
            }
            convergence_step::Action::Postcopy(Postcopy {}) => Action::Postcopy,
            convergence_step::Action::Suspend(Suspend {}) => Action::Suspend,
            convergence_step::Action::Abort(GiveUp {}) => Action::Abort,
        };
        Ok(Self { when, action })
    }
}

impl From<Span> for v1::Span {
    fn from(Span { base, per_gib }: Span) -> Self {
        Self { base: Some(wire_duration(base)), per_gib: Some(wire_duration(per_gib)) }
    }
}

impl TryFrom<v1::Span> for Span {
    type Error = Invalid;

    fn try_from(span: v1::Span) -> Result<Self, Invalid> {
        let part = |part: Option<_>, field| part.map_or(Ok(Default::default()), |part| duration(Some(part), field));
        Ok(Self { base: part(span.base, "span.base")?, per_gib: part(span.per_gib, "span.per_gib")? })
    }
}

impl From<Measured> for v1::MeasureResponse {
    fn from(Measured { memory, resident, dirty_rate, path, usual }: Measured) -> Self {
        Self {
            memory_bytes: memory.as_u64(),
            resident_bytes: resident.as_u64(),
            dirty_rate_bytes_per_second: dirty_rate.as_u64(),
            path_bytes_per_second: path.as_u64(),
            usual_bytes_per_second: usual.map(|usual| usual.as_u64()),
        }
    }
}

impl From<v1::MeasureResponse> for Measured {
    fn from(measured: v1::MeasureResponse) -> Self {
        Self {
            memory: ByteSize::b(measured.memory_bytes),
            resident: ByteSize::b(measured.resident_bytes),
            dirty_rate: ByteSize::b(measured.dirty_rate_bytes_per_second),
            path: ByteSize::b(measured.path_bytes_per_second),
            usual: measured.usual_bytes_per_second.map(ByteSize::b),
        }
    }
}

impl From<Steering> for v1::Steering {
    fn from(steering: Steering) -> Self {
        let change = match steering {
            Steering::Downtime(downtime) => Change::Downtime(wire_duration(downtime)),
            Steering::Bandwidth(bandwidth) => {
                Change::Bandwidth(steering::Bandwidth { bytes_per_second: bandwidth.map(|bytes| bytes.as_u64()) })
            }
            Steering::Deadline(deadline) => Change::Deadline(wire_duration(deadline)),
            Steering::Pause => Change::Pause(steering::Pause {}),
            Steering::Resume => Change::Resume(steering::Resume {}),
            Steering::Postcopy => Change::Postcopy(steering::Postcopy {}),
            Steering::Suspend => Change::Suspend(steering::Suspend {}),
        };
        Self { change: Some(change) }
    }
}

impl TryFrom<v1::Steering> for Steering {
    type Error = Invalid;

    fn try_from(steering: v1::Steering) -> Result<Self, Invalid> {
        let steering = match steering.change.ok_or(Invalid { field: "steering.change" })? {
            Change::Downtime(downtime) => Self::Downtime(duration(Some(downtime), "steering.downtime")?),
            Change::Bandwidth(steering::Bandwidth { bytes_per_second }) => {
                Self::Bandwidth(bytes_per_second.map(ByteSize::b))
            }
            Change::Deadline(deadline) => Self::Deadline(duration(Some(deadline), "steering.deadline")?),
            Change::Pause(steering::Pause {}) => Self::Pause,
            Change::Resume(steering::Resume {}) => Self::Resume,
            Change::Postcopy(steering::Postcopy {}) => Self::Postcopy,
            Change::Suspend(steering::Suspend {}) => Self::Suspend,
        };
        steering.judged().map_err(invalid("steering"))
    }
}

impl From<GuestLimits> for v1::GuestLimits {
    fn from(limits: GuestLimits) -> Self {
        let may = |may: Option<May>| match may {
            None => v1::May::Unspecified,
            Some(May::Never) => v1::May::Never,
            Some(May::Allowed) => v1::May::Allowed,
        };
        Self {
            postcopy: may(limits.postcopy).into(),
            suspend: may(limits.suspend).into(),
            policy: limits.policy,
            max_downtime: limits.max_downtime.map(wire_duration),
        }
    }
}

impl TryFrom<v1::GuestLimits> for GuestLimits {
    type Error = Invalid;

    fn try_from(limits: v1::GuestLimits) -> Result<Self, Invalid> {
        // A limit that this version does not know must not be taken for none.
        let may = |may: i32, field| -> Result<_, Invalid> {
            Ok(match v1::May::try_from(may).map_err(invalid(field))? {
                v1::May::Unspecified => None,
                v1::May::Never => Some(May::Never),
                v1::May::Allowed => Some(May::Allowed),
            })
        };
        let downtime = limits.max_downtime.map(|downtime| duration(Some(downtime), "limits.max_downtime"));
        let read = Self {
            postcopy: may(limits.postcopy, "limits.postcopy")?,
            suspend: may(limits.suspend, "limits.suspend")?,
            max_downtime: downtime.transpose()?,
            policy: limits.policy,
        };
        judged(read).map_err(invalid("limits"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_says_nothing_of_the_way_has_one_stream_through_the_tunnel() {
        let read = Limits::try_from(v1::Limits::default()).expect("what there was before");
        assert_eq!((read.streams, read.path, read.handover), (Streams::ONE, Path::Tunnel, Handover::Fast));
        let limits = Limits {
            streams: 4.try_into().expect("some"),
            path: Path::Direct,
            handover: Handover::Strict,
            ..Limits::default()
        };
        assert_eq!(Limits::try_from(v1::Limits::from(limits.clone())), Ok(limits));
    }

    #[test]
    fn a_way_that_is_not_known_is_no_other_way() {
        let wire = v1::Limits::from(Limits::default());
        for (wrong, field) in [
            (v1::Limits { path: 9, ..wire.clone() }, "limits.path"),
            (v1::Limits { streams: 17, ..wire.clone() }, "limits.streams"),
            (v1::Limits { handover: 9, ..wire.clone() }, "limits.handover"),
        ] {
            assert_eq!(Limits::try_from(wrong), Err(Invalid { field }));
        }
    }

    #[test]
    fn a_guests_limits_come_back_as_they_went() {
        for may in [None, Some(May::Never), Some(May::Allowed)] {
            let max_downtime = may.map(|_| Duration::from_millis(200));
            let policy = may.map(|_| "gentle".to_owned());
            let limits = GuestLimits { policy, max_downtime, postcopy: may, suspend: may };
            assert_eq!(v1::GuestLimits::from(limits.clone()).try_into(), Ok(limits));
        }
        assert_eq!(v1::GuestLimits::default().try_into(), Ok(GuestLimits::default()));
    }

    #[test]
    fn limits_that_cannot_be_are_not_read() {
        let good = v1::GuestLimits::from(GuestLimits::default());
        for (wrong, field) in [
            (v1::GuestLimits { postcopy: 7, ..good.clone() }, "limits.postcopy"),
            (v1::GuestLimits { suspend: -1, ..good.clone() }, "limits.suspend"),
            (v1::GuestLimits { policy: Some("Fast One".into()), ..good.clone() }, "limits"),
            (v1::GuestLimits { max_downtime: Some(wire_duration(Duration::ZERO)), ..good }, "limits"),
        ] {
            assert_eq!(GuestLimits::try_from(wrong), Err(Invalid { field }));
        }
    }
}
