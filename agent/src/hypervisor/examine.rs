//! The part of the edge that is looked through for what was left behind.

use std::future::Future;

use vmferry_core::leftovers::{Holdings, Needs};

use super::Fault;

/// What a host holds and what it needs. What follows from it is decided in [`vmferry_core::leftovers`].
pub trait Examining: Send + Sync + 'static {
    /// What is here that a migration could have left; the lists of probe files are left for the caller to fill in.
    fn holdings(&self) -> impl Future<Output = Result<Holdings, Fault>> + Send;

    /// What its domains need; the migrations are left for the caller to fill in.
    fn needs(&self) -> impl Future<Output = Result<Needs, Fault>> + Send;
}
