use vmferry_core::{
    migration::Priority,
    turns::{Admission, Waiter, Waiting},
};

use super::{Invalid, duration, invalid, required, wire_duration};
use crate::v1;

impl From<Priority> for v1::Priority {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Low => Self::Low,
            Priority::Normal => Self::Normal,
            Priority::High => Self::High,
        }
    }
}

impl From<v1::Priority> for Priority {
    fn from(priority: v1::Priority) -> Self {
        match priority {
            v1::Priority::Low => Self::Low,
            v1::Priority::Unspecified | v1::Priority::Normal => Self::Normal,
            v1::Priority::High => Self::High,
        }
    }
}

impl From<Admission> for v1::AdmitResponse {
    fn from(admission: Admission) -> Self {
        match admission {
            Admission::Turn => Self { waiting: None },
            Admission::Waiting(waiting) => Self { waiting: Some(waiting.into()) },
        }
    }
}

impl TryFrom<v1::AdmitResponse> for Admission {
    type Error = Invalid;

    fn try_from(response: v1::AdmitResponse) -> Result<Self, Invalid> {
        Ok(match response.waiting {
            None => Self::Turn,
            Some(waiting) => Self::Waiting(waiting.try_into()?),
        })
    }
}

impl From<Waiting> for v1::Waiting {
    fn from(waiting: Waiting) -> Self {
        Self {
            host: waiting.host.to_string(),
            side: v1::Side::from(waiting.side).into(),
            limit: waiting.limit,
            busy: waiting.busy,
            before: waiting.before,
        }
    }
}

impl TryFrom<v1::Waiting> for Waiting {
    type Error = Invalid;

    fn try_from(waiting: v1::Waiting) -> Result<Self, Invalid> {
        Ok(Self {
            side: waiting.side().try_into()?,
            host: waiting.host.parse().map_err(invalid("waiting.host"))?,
            limit: waiting.limit,
            busy: waiting.busy,
            before: waiting.before,
        })
    }
}

impl From<Waiter> for v1::Waiter {
    fn from(waiter: Waiter) -> Self {
        Self {
            order: Some(waiter.order.into()),
            requested_by: waiter.requested_by,
            waited: Some(wire_duration(waiter.waited)),
            has_turn: waiter.has_turn,
            waiting: Some(waiter.waiting.into()),
        }
    }
}

impl TryFrom<v1::Waiter> for Waiter {
    type Error = Invalid;

    fn try_from(waiter: v1::Waiter) -> Result<Self, Invalid> {
        Ok(Self {
            order: required(waiter.order, "waiter.order")?,
            requested_by: waiter.requested_by,
            waited: duration(waiter.waited, "waiter.waited")?,
            has_turn: waiter.has_turn,
            waiting: required(waiter.waiting, "waiter.waiting")?,
        })
    }
}
