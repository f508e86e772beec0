//! What simulated guests do not have: networks that VMFerry makes, filters, labels, and a switch to turn them off.

use std::time::Duration;

use vmferry_agent::hypervisor::{Fault, Filtering, Labelling, Networking, Power};
use vmferry_core::{
    agent::Leaving,
    convergence::GuestLimits,
    domain_xml::{
        FilterDefinition,
        metadata::{AffinityChange, VolumeLabel, interfaces::InterfaceLabel},
        rewrite::Relocation,
    },
    id::{InstanceId, MigrationId},
    migration::Order,
    network::{LinkName, Plug},
    policy::{Guarded, Told},
    vif::{self, Placement},
};

use super::{SimulatedHost, not_simulated};

const OFF: &str = "a guest that is off";
const CHANGED: &str = "a definition that is changed";

impl Networking for SimulatedHost {
    async fn plugged(&self, order: &Order) -> Result<Vec<Placement>, Fault> {
        let guest = self.guest(order.instance)?;
        Ok(guest.definition.vifs.iter().filter_map(|vif| vif::here(vif, order.instance, None)).collect())
    }

    fn placements(&self, leaving: &Leaving) -> Vec<(Placement, Option<Relocation>)> {
        let definition = &leaving.definition;
        definition.vifs.iter().filter_map(|vif| vif::there(vif, definition.id, None)).collect()
    }

    async fn plug(&self, _: MigrationId, _: &Plug) -> Result<(), Fault> {
        Err(not_simulated("a logical network"))
    }

    async fn unplug(&self, _: MigrationId, _: &Plug) -> Result<(), Fault> {
        Ok(())
    }

    async fn guard(&self, _: MigrationId, _: &[Guarded], _: &Told) -> Result<(), Fault> {
        Err(not_simulated("a vif that is filtered"))
    }

    async fn release_filters(&self, _: MigrationId, _: &LinkName) -> Result<(), Fault> {
        Ok(())
    }

    async fn note_departure(&self, _: &Order, _: &[Placement]) -> Result<(), Fault> {
        Ok(())
    }

    async fn settle(&self, _: MigrationId, _: &[Placement]) {}

    async fn announce(&self, _: &[Placement]) -> Result<(), Fault> {
        Ok(())
    }

    async fn await_departure(&self, _: &[Placement], _: Duration) -> Result<Vec<String>, Fault> {
        Ok(Vec::new())
    }
}

impl Filtering for SimulatedHost {
    async fn made_filters(&self, _: &Order) -> Result<Vec<String>, Fault> {
        Ok(Vec::new())
    }

    async fn make_filter(&self, _: &Order, _: &FilterDefinition) -> Result<(), Fault> {
        Err(not_simulated("a filter of libvirt's"))
    }

    async fn undefine_filter(&self, _: MigrationId, _: &str) -> Result<(), Fault> {
        Ok(())
    }

    fn settle_filters(&self, _: MigrationId) {}
}

impl Power for SimulatedHost {
    async fn autostart(&self, _: InstanceId) -> Result<bool, Fault> {
        Ok(false)
    }

    async fn set_autostart(&self, _: InstanceId, _: bool) -> Result<(), Fault> {
        Err(not_simulated(OFF))
    }

    async fn ask_to_shut_down(&self, _: InstanceId) -> Result<(), Fault> {
        Err(not_simulated(OFF))
    }

    async fn power_off(&self, _: InstanceId) -> Result<(), Fault> {
        Err(not_simulated(OFF))
    }

    async fn rename(&self, _: InstanceId, _: &str) -> Result<(), Fault> {
        Err(not_simulated(OFF))
    }

    async fn move_definition(&self, _: &Order, _: &[Relocation]) -> Result<(), Fault> {
        Err(not_simulated(OFF))
    }

    async fn start(&self, _: InstanceId) -> Result<(), Fault> {
        Err(not_simulated(OFF))
    }
}

impl Labelling for SimulatedHost {
    async fn set_label(&self, _: InstanceId, _: VolumeLabel) -> Result<(), Fault> {
        Err(not_simulated(CHANGED))
    }

    async fn unset_label(&self, _: InstanceId, _: Option<String>) -> Result<(), Fault> {
        Err(not_simulated(CHANGED))
    }

    async fn set_vif_label(&self, _: InstanceId, _: Option<InterfaceLabel>) -> Result<(), Fault> {
        Err(not_simulated(CHANGED))
    }

    async fn set_limits(&self, _: InstanceId, _: GuestLimits) -> Result<(), Fault> {
        Err(not_simulated(CHANGED))
    }

    async fn set_affinity(&self, _: InstanceId, _: AffinityChange) -> Result<(), Fault> {
        Err(not_simulated(CHANGED))
    }
}
