//! Whether a guest finds on a host what is outside of it: its networks, and the secrets that open its volumes.

use super::Question;
use crate::{
    compatibility::Refusal,
    host::Offers,
    id::HostName,
    instance::{Vif, VifAttachment},
    reason::Reason,
};

impl Question<'_> {
    pub(super) fn reach(&self, host: &HostName, offers: &Offers, refusals: &mut Vec<Refusal>) {
        refusals.extend(self.definition.vifs.iter().filter_map(|vif| self.network(host, offers, vif)));
        refusals.extend(self.secrets(host, offers));
    }

    fn network(&self, host: &HostName, offers: &Offers, vif: &Vif) -> Option<Refusal> {
        let labels = self.definition.interfaces.iter().flatten();
        let said = labels.filter(|label| label.network.is_some()).any(|label| vif.mac.parse() == Ok(label.mac));
        // What only the source's configuration calls so may have a bridge of the same name here.
        let network = vif.network.as_ref().filter(|network| said || offers.networks.contains(*network));
        let (what, remedy) = match (network, &vif.attachment) {
            (Some(network), VifAttachment::Bridge { .. }) if !offers.networks.contains(network) => (
                format!("network {network}"),
                format!("add it to the configuration of the agent of {host}: a [[network]] named \"{network}\""),
            ),
            (None, VifAttachment::Bridge { bridge }) if !offers.bridges.contains(bridge) => (
                format!("bridge {bridge}"),
                format!("create it on {host} (ip link add {bridge} type bridge) with the same uplink as on the source"),
            ),
            (None, VifAttachment::Network { network }) if !offers.libvirt_networks.contains(network) => (
                format!("libvirt network {network}"),
                format!("define and start it on {host} (virsh net-start {network})"),
            ),
            // What is wrong with a vif wherever it goes, the agents' checks say.
            _ => return None,
        };
        Some(Refusal {
            reason: Reason::NetworkMissing,
            message: format!("vif {} of {} needs {what}, which {host} does not have", vif.mac, self.guest()),
            remedy,
        })
    }

    fn secrets(&self, host: &HostName, offers: &Offers) -> Vec<Refusal> {
        let volumes = self.definition.disks.iter().filter_map(|disk| disk.volume.as_ref());
        let locked = volumes.filter_map(|volume| Some((volume, &volume.connection.login()?.secret)));
        let missing = locked.filter(|(_, secret)| !offers.secrets.contains(*secret));
        let refusal = |(volume, secret): (&crate::volume::Volume, &crate::volume::SecretName)| Refusal {
            reason: Reason::VolumeSecretMissing,
            message: format!(
                "{host} does not have secret {secret}, which opens volume {} of {}",
                volume.connection,
                self.guest()
            ),
            remedy: format!("give it to the agent of {host}: a [[secret]] in its configuration"),
        };
        missing.map(refusal).collect()
    }
}
