//! The part of the edge that writes into guests' definitions what is said of them.

use std::future::Future;

use vmferry_core::{
    convergence::GuestLimits,
    domain_xml::metadata::{AffinityChange, VolumeLabel, interfaces::InterfaceLabel},
    id::InstanceId,
};

use super::Fault;

/// What is said of guests, kept with their definitions.
pub trait Labelling: Send + Sync + 'static {
    /// Says of one of a domain's disks what it is as a volume.
    fn set_label(&self, instance: InstanceId, label: VolumeLabel) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Takes away what is said of one of a domain's disks; `None`: of all of them, whether it can be read or not.
    fn unset_label(
        &self,
        instance: InstanceId,
        target: Option<String>,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Says of one of a domain's vifs where it is plugged in and what it may; `None`: nothing of any of them, whether it can be
    /// read or not.
    fn set_vif_label(
        &self,
        instance: InstanceId,
        label: Option<InterfaceLabel>,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Says what a domain's live migrations may cost it, in the place of what was said before, whether that can be read or not.
    fn set_limits(&self, instance: InstanceId, limits: GuestLimits) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Says which affinity groups a domain is in.
    fn set_affinity(
        &self,
        instance: InstanceId,
        change: AffinityChange,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}
