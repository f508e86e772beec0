//! The part of the edge that is looked through for what was left behind.

use std::future::Future;

use vmferry_core::leftovers::{Fix, Holdings, Needs};

use super::Fault;

/// What a host holds and what it needs. What follows from it is decided in [`vmferry_core::leftovers`].
pub trait Examining: Send + Sync + 'static {
    /// What is here that a migration could have left; the lists of probe files are left for the caller to fill in.
    fn holdings(&self) -> impl Future<Output = Result<Holdings, Fault>> + Send;

    /// The same, but only what no guest can need, for as much as that can be told at once: see [`Fix::needs_no_asking`].
    fn debris(&self) -> impl Future<Output = Result<Holdings, Fault>> + Send;

    /// Removes a leftover, if it still has VMFerry's mark and no domain needs it. There being none is success. Those of migrations, by
    /// whose journals that is known, and probe files are the caller's to judge.
    fn remove(&self, fix: &Fix) -> impl Future<Output = Result<(), Fault>> + Send;

    /// What its domains need; the migrations are left for the caller to fill in.
    fn needs(&self) -> impl Future<Output = Result<Needs, Fault>> + Send;
}
