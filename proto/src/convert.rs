//! From wire types to core's and back. Core never sees prost; an unknown or missing value is an error, not a default.

mod affinity;
mod convergence;
mod disk;
mod facts;
mod group;
mod host;
mod instance;
mod label;
mod leftover;
mod migration;
mod network;
mod story;
mod turns;
mod volume;

pub use self::{
    leftover::removal,
    migration::{guest, wire_guest},
};

use std::time::Duration;

use jiff::Timestamp;

/// A message that cannot mean anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}` is missing or invalid")]
pub struct Invalid {
    /// The field, dotted.
    pub field: &'static str,
}

pub(crate) fn invalid<E>(field: &'static str) -> impl FnOnce(E) -> Invalid {
    move |_| Invalid { field }
}

/// The value of a message field that must be there.
pub fn required<T, U: TryFrom<T>>(value: Option<T>, field: &'static str) -> Result<U, Invalid>
where
    Invalid: From<U::Error>,
{
    Ok(value.ok_or(Invalid { field })?.try_into()?)
}

impl From<std::convert::Infallible> for Invalid {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// Every one of them, or the first that cannot mean anything.
pub fn all<T, U: TryFrom<T>>(values: Vec<T>) -> Result<Vec<U>, Invalid>
where
    Invalid: From<U::Error>,
{
    values.into_iter().map(|value| Ok(value.try_into()?)).collect()
}

fn timestamp(value: prost_types::Timestamp, field: &'static str) -> Result<Timestamp, Invalid> {
    Timestamp::new(value.seconds, value.nanos).map_err(invalid(field))
}

/// A moment as it travels.
pub fn wire_timestamp(value: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: value.as_second(), nanos: value.subsec_nanosecond() }
}

/// A time that must be there and can be one.
pub fn duration(value: Option<prost_types::Duration>, field: &'static str) -> Result<Duration, Invalid> {
    value.ok_or(Invalid { field })?.try_into().map_err(invalid(field))
}

/// A time as it travels.
pub fn wire_duration(value: Duration) -> prost_types::Duration {
    // Only durations beyond 292 billion years do not fit.
    value.try_into().unwrap_or_default()
}
