//! The part of the edge that is about a strict hand-over (docs/decisions/0008-strict-hand-over.md).

use std::{future::Future, sync::Arc};

use futures::future::BoxFuture;
use vmferry_core::{id::InstanceId, migration::Order};

use super::Fault;

/// Lets a guest run that its source has released, and returns when it does. An error is a sentence.
pub type OnRelease = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Guests that arrive paused, and go on when their source has released them.
///
/// Steps are idempotent: done twice they change nothing more.
pub trait HandingOver: Send + Sync + 'static {
    /// Source: makes sure that the destination takes part, and keeps a way to tell it.
    fn open_release(&self, order: &Order) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Source: tells the destination that there is no copy here any more that could run. Returns when the guest runs there.
    fn release(&self, order: &Order) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Source: lets a guest go on that was stopped to be handed over, and was not. One that runs, or is paused for another reason, stays as
    /// it is; one that libvirt still moves is an error.
    fn let_go_on(&self, instance: InstanceId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: lets a guest run that has arrived. One that runs, or has run, is success.
    fn resume_arrived(&self, instance: InstanceId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: destroys a guest that has arrived and never run; one that has is not touched.
    fn destroy_arrived(&self, instance: InstanceId) -> impl Future<Output = Result<(), Fault>> + Send;
}
