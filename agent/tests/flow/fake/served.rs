//! What calls from outside ask of a host besides its migrations: nothing that is asked here.

use jiff::Timestamp;
use vmferry_agent::hypervisor::{Fault, Grouping, Labelling, Reporting};
use vmferry_core::{
    convergence::{GuestLimits, Policy},
    domain_xml::metadata::{AffinityChange, VolumeLabel, interfaces::InterfaceLabel},
    host::{Claims, Cordon, Host, HostPolicy, host_policies},
    id::InstanceId,
    instance::Instance,
    policy::{GroupReport, Told},
    reason::Reason,
};

use super::host::Fake;

fn not_here<T>() -> Result<T, Fault> {
    Err(Fault::new(Reason::InvalidRequest, "hosts in memory only have migrations"))
}

impl Reporting for Fake {
    fn policies(&self) -> Vec<HostPolicy> {
        host_policies(&[Policy::default()])
    }

    async fn facts(&self, _: &str, _: &Claims, _: Option<Cordon>, _: u32, _: Timestamp) -> Result<Host, Fault> {
        not_here()
    }

    async fn instances(&self) -> Result<Vec<Instance>, Fault> {
        not_here()
    }

    async fn instance(&self, _: &str) -> Result<Option<Instance>, Fault> {
        not_here()
    }
}

impl Labelling for Fake {
    async fn set_label(&self, _: InstanceId, _: VolumeLabel) -> Result<(), Fault> {
        not_here()
    }

    async fn unset_label(&self, _: InstanceId, _: Option<String>) -> Result<(), Fault> {
        not_here()
    }

    async fn set_vif_label(&self, _: InstanceId, _: Option<InterfaceLabel>) -> Result<(), Fault> {
        not_here()
    }

    async fn set_limits(&self, _: InstanceId, _: GuestLimits) -> Result<(), Fault> {
        not_here()
    }

    async fn set_affinity(&self, _: InstanceId, _: AffinityChange) -> Result<(), Fault> {
        not_here()
    }
}

impl Grouping for Fake {
    async fn groups(&self) -> Result<GroupReport, Fault> {
        not_here()
    }

    async fn tell_groups(&self, _: Told) -> Result<(), Fault> {
        not_here()
    }
}
