//! The part of the edge that knows who is in which security group.

use std::future::Future;

use vmferry_core::policy::{GroupReport, Told};

use super::Fault;

/// Members of security groups, here and on other hosts.
pub trait Grouping: Send + Sync + 'static {
    /// Which of the host's guests are in groups, and what it remembers of others'.
    ///
    /// # Errors
    ///
    /// `LIBVIRT_FAILED`
    fn groups(&self) -> impl Future<Output = Result<GroupReport, Fault>> + Send;

    /// Takes this for all that there is to know of exactly these hosts, and filters accordingly.
    ///
    /// # Errors
    ///
    /// `INVALID_REQUEST`: it is said what this host's own guests are in, or too much; `JOURNAL_FAILED`: it cannot be remembered.
    /// Nothing was changed. Others: it is remembered, and the filters follow as soon as they can.
    fn tell_groups(&self, hosts: Told) -> impl Future<Output = Result<(), Fault>> + Send;
}
