use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use vmferry_core::network::{Carrier, LinkName, Network, NetworkName, Plug, VifId, VlanId};

/// Where the packages of Open vSwitch put its database's socket.
pub const OVS_DATABASE: &str = "/var/run/openvswitch/db.sock";

/// The logical networks that a host carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Networks {
    networks: BTreeMap<NetworkName, Network>,
    ovs_database: PathBuf,
}

impl Default for Networks {
    fn default() -> Self {
        Self { networks: BTreeMap::new(), ovs_database: OVS_DATABASE.into() }
    }
}

impl Networks {
    /// These, by their names.
    pub fn new(networks: impl IntoIterator<Item = Network>) -> Self {
        let networks = networks.into_iter().map(|network| (network.name.clone(), network)).collect();
        Self { networks, ..Self::default() }
    }

    /// With Open vSwitch's database at another socket.
    #[must_use]
    pub fn with_ovs_database(self, ovs_database: PathBuf) -> Self {
        Self { ovs_database, ..self }
    }

    /// The socket of Open vSwitch's database.
    pub fn ovs_database(&self) -> &Path {
        &self.ovs_database
    }

    /// The network of this name.
    pub fn get(&self, name: &NetworkName) -> Option<&Network> {
        self.networks.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Network> {
        self.networks.values()
    }

    /// The network that a vif is in whose definition names only a bridge, and perhaps a VLAN of it: the bridge is the
    /// administrator's and carries that network, or VMFerry has made it for the network or the vif. None if there is no
    /// such network, or more than one.
    pub fn of_bridge(&self, vif: VifId, bridge: &LinkName, vlan: Option<VlanId>) -> Option<&Network> {
        let mut networks = self.iter().filter(|network| match &network.carrier {
            Carrier::Bridge { bridge: given } => (given, None) == (bridge, vlan),
            Carrier::BridgeVlan { bridge: given, vlan: tag } if given == bridge => Some(*tag) == vlan,
            Carrier::Ovs { bridge: given, vlan: tag } if given == bridge => *tag == vlan,
            _ => vlan.is_none() && Plug { vif, network: (*network).clone() }.bridge() == *bridge,
        });
        networks.next().filter(|_| networks.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use macaddr::MacAddr6;
    use uuid::Uuid;
    use vmferry_core::id::InstanceId;

    use super::*;

    fn link(name: &str) -> LinkName {
        name.parse().expect("valid")
    }

    fn vlan(id: u16) -> VlanId {
        VlanId::try_from(id).expect("valid")
    }

    #[test]
    fn a_bridge_tells_the_network_only_where_it_is_the_only_one() {
        let network = |name: &str, carrier: Carrier| Network { name: name.parse().expect("valid"), carrier, mtu: None };
        let red = network("red", Carrier::UplinkVlan { uplink: link("eth1"), vlan: vlan(20) });
        let vif = VifId { instance: InstanceId(Uuid::from_u128(1)), mac: MacAddr6::new(0x52, 0x54, 0, 0, 0, 1) };
        let own = |network: &Network| Plug { vif, network: network.clone() }.bridge();
        let orange = network("orange", Carrier::Ovs { bridge: link("br-int"), vlan: None });
        let networks = Networks::new([
            network("blue", Carrier::Bridge { bridge: link("br-blue") }),
            network("green", Carrier::BridgeVlan { bridge: link("br-trunk"), vlan: vlan(10) }),
            network("violet", Carrier::Ovs { bridge: link("br-int"), vlan: Some(vlan(10)) }),
            orange.clone(),
            red.clone(),
        ]);
        let found = |bridge: &LinkName, vlan| Some(networks.of_bridge(vif, bridge, vlan)?.name.as_str());
        assert_eq!(found(&link("br-blue"), None), Some("blue"));
        assert_eq!(found(&link("br-blue"), Some(vlan(1))), None);
        // Without a VLAN it is not in VLAN 10, which is all that is configured.
        assert_eq!(found(&link("br-trunk"), None), None);
        assert_eq!(found(&link("br-trunk"), Some(vlan(10))), Some("green"));
        assert_eq!(found(&link("br-int"), Some(vlan(10))), Some("violet"));
        assert_eq!(found(&link("br-int"), None), Some("orange"));
        assert_eq!(found(&own(&red), None), Some("red"));
        // The bridge of a vif leads to one of two networks, and does not tell to which.
        assert_eq!(found(&own(&orange), None), None);
    }
}
