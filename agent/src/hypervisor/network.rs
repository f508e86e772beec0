//! The part of the edge that is about networks.

use std::{future::Future, time::Duration};

use vmferry_core::{
    agent::Leaving,
    domain_xml::rewrite::Relocation,
    id::MigrationId,
    migration::Order,
    network::{LinkName, Plug},
    policy::{Guarded, Told},
    vif::Placement,
};

use super::Fault;

/// The host's bridges and filters.
///
/// Steps are idempotent: done twice they change nothing more, and taking back what is not there succeeds.
pub trait Networking: Send + Sync + 'static {
    /// Source: how the guest's vifs are plugged in here now.
    fn plugged(&self, order: &Order) -> impl Future<Output = Result<Vec<Placement>, Fault>> + Send;

    /// Destination: how the guest's vifs shall be plugged in here, and which of them its definition must find elsewhere.
    fn placements(&self, leaving: &Leaving) -> Vec<(Placement, Option<Relocation>)>;

    /// Destination: makes what a vif is plugged into.
    fn plug(&self, migration: MigrationId, plug: &Plug) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Either: takes that away, as far as no domain here, and none that is arriving, needs it.
    fn unplug(&self, migration: MigrationId, plug: &Plug) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: filters taps that are not there yet, in one go. `members`: of the groups that their rules name, as the source
    /// knows them.
    fn guard(
        &self,
        migration: MigrationId,
        vifs: &[Guarded],
        members: &Told,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Either: lets go of a tap, unless a domain here has it, or one that is arriving.
    fn release_filters(&self, migration: MigrationId, tap: &LinkName)
    -> impl Future<Output = Result<(), Fault>> + Send;

    /// Source: the guest is in the same groups on its destination as here; this host's other guests must still know it when its
    /// definition is gone.
    fn note_departure(&self, order: &Order, placed: &[Placement]) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Destination: the guest is here. From now on what was made stays for its sake, not for the migration's.
    fn settle(&self, migration: MigrationId, placed: &[Placement]) -> impl Future<Output = ()> + Send;

    /// Destination: tells the networks where the guest's known addresses are now.
    fn announce(&self, placed: &[Placement]) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Source: waits until the host's own bridges have heard of the guest from elsewhere, for `limit` at most. Returns the vifs of
    /// which they have not.
    fn await_departure(
        &self,
        placed: &[Placement],
        limit: Duration,
    ) -> impl Future<Output = Result<Vec<String>, Fault>> + Send;
}
