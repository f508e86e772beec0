//! The part of the edge that is about guests which are shut down, moved while they are off, and started.

use std::future::Future;

use vmferry_core::{domain_xml::rewrite::Relocation, id::InstanceId, migration::Order};

use super::Fault;

/// Guests that are off.
///
/// Steps are idempotent: done twice they change nothing more.
pub trait Power: Send + Sync + 'static {
    /// Whether the host starts the guest with itself.
    fn autostart(&self, instance: InstanceId) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Either: has the host start the guest with itself, or not.
    fn set_autostart(&self, instance: InstanceId, autostart: bool) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Asks the guest to shut itself down. Returns before it has; it may never do it, or much later.
    fn ask_to_shut_down(&self, instance: InstanceId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Cuts the guest's power.
    fn power_off(&self, instance: InstanceId) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Gives a guest that is off another name.
    fn rename(&self, instance: InstanceId, name: &str) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Source: defines the guest, which is off, on the destination as well, its disks where `relocations` say.
    fn move_definition(
        &self,
        order: &Order,
        relocations: &[Relocation],
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Starts the guest; returns when it runs. After an error it has not run, unless the host says otherwise.
    fn start(&self, instance: InstanceId) -> impl Future<Output = Result<(), Fault>> + Send;
}
