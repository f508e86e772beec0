use std::future::Future;

use bytesize::ByteSize;
use vmferry_core::migration::Order;

use super::Fault;

/// Source: what a forecast of a guest that runs goes by. Changes nothing.
pub trait Measuring {
    /// What the guest may have of memory, and what it has written to, as far as its host knows.
    fn memory(&self, order: &Order) -> impl Future<Output = Result<(ByteSize, ByteSize), Fault>> + Send;

    /// What the way to its destination carries per second, by trying it for a moment.
    fn path(&self, order: &Order) -> impl Future<Output = Result<ByteSize, Fault>> + Send;

    /// What it writes to per second, by looking at it for one. To be begun before the job, and answered while that runs.
    fn dirty_rate(&self, order: &Order) -> impl Future<Output = Result<ByteSize, Fault>> + Send;
}
