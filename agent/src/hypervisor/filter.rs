//! The part of the edge that is about libvirt's own network filters (`<filterref>`).

use std::future::Future;

use vmferry_core::{domain_xml::FilterDefinition, id::MigrationId, migration::Order};

use super::Fault;

/// The filters that the host's libvirt keeps.
///
/// Steps are idempotent: done twice they change nothing more, and taking back what is not there succeeds.
pub trait Filtering: Send + Sync + 'static {
    /// Source: the names of the filters that the guest needs and that VMFerry has made here, each after those that it names.
    fn made_filters(&self, order: &Order) -> impl Future<Output = Result<Vec<String>, Fault>> + Send;

    /// Destination: makes a filter, unless it is there. Another one of its name is a fault.
    fn make_filter(&self, order: &Order, filter: &FilterDefinition) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Either: takes a filter away that VMFerry has made, unless a domain here needs it, or one that is arriving, or a filter of
    /// somebody else's names it.
    fn undefine_filter(&self, migration: MigrationId, name: &str) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: the guest is here. From now on its filters stay for its sake, not for the migration's.
    fn settle_filters(&self, migration: MigrationId);
}
