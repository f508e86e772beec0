//! VLANs on a kernel that has them. They run in a machine of their own, one after the other: `make test-kernel`.

use uuid::Uuid;
use vmferry_core::{
    id::InstanceId,
    network::{Hindrance, VlanId},
};

use super::*;
use crate::storage::tool::Tool;

async fn sh(script: &str) -> String {
    Tool::new("sh").args(["-ec", script]).run().await.unwrap_or_else(|failed| panic!("{failed}"))
}

fn link(name: &str) -> LinkName {
    name.parse().expect("valid")
}

fn plug(name: &str, carrier: impl Fn(VlanId) -> Carrier, vlan: u16, number: u8) -> Plug {
    let carrier = carrier(VlanId::try_from(vlan).expect("valid"));
    let network = Network { name: name.parse().expect("valid"), carrier, mtu: None };
    let instance = InstanceId(Uuid::from_u128(number.into()));
    Plug { vif: VifId { instance, mac: MacAddr6::new(0x52, 0x54, 0, 0, 0, number) }, network }
}

/// `trunk0`, up, to a namespace `outside` that has 10.0.0.1 in VLAN 10 and 10.0.0.9 in VLAN 11.
async fn trunk() {
    sh("modprobe -a 8021q bridge veth
        ip netns add outside
        ip link add trunk0 type veth peer name eth0 netns outside
        ip link set trunk0 up
        ip -n outside link set eth0 up
        ip -n outside link add link eth0 name v10 type vlan id 10
        ip -n outside link add link eth0 name v11 type vlan id 11
        ip netns add outside11
        ip -n outside link set v11 netns outside11
        ip -n outside addr add 10.0.0.1/24 dev v10
        ip -n outside11 addr add 10.0.0.9/24 dev v11
        ip -n outside link set v10 up
        ip -n outside11 link set v11 up")
    .await;
}

/// A guest behind a port of this bridge, in a namespace of this name.
async fn guest(name: &str, bridge: &LinkName, address: &str) {
    sh(&format!(
        "ip netns add {name}
         ip link add tap-{name} type veth peer name eth0 netns {name}
         ip link set tap-{name} master {bridge} up
         ip -n {name} addr add {address}/24 dev eth0
         ip -n {name} link set eth0 up"
    ))
    .await;
}

async fn reaches(guest: &str, address: &str) -> bool {
    let ping = format!("ip netns exec {guest} busybox ping -c 1 -W 1 {address}");
    Tool::new("sh").args(["-ec", &format!("{ping} || {ping}")]).run().await.is_ok()
}

/// Guests of VLAN 10 and of VLAN 11, by whatever carries them, meet their own and nobody else.
async fn keeps_apart(carrier: impl Fn(VlanId) -> Carrier) -> [Plug; 2] {
    let plumber = Plumber::new(Networks::default());
    let plugs = [plug("teal", &carrier, 10, 1), plug("olive", &carrier, 11, 2)];
    for plug in &plugs {
        let judged = plumber.judge(&plug.network, Some(1500)).await.expect("judged");
        assert_eq!((judged.mtu, judged.hindrances), (1500, Vec::new()));
        plumber.plug(None, plug).await.expect("plugged");
        plumber.plug(None, plug).await.expect("plugged again");
    }
    guest("ten", &plugs[0].bridge(), "10.0.0.2").await;
    guest("eleven", &plugs[1].bridge(), "10.0.0.3").await;
    assert!(reaches("ten", "10.0.0.1").await);
    assert!(reaches("eleven", "10.0.0.9").await);
    assert!(!reaches("ten", "10.0.0.9").await && !reaches("ten", "10.0.0.3").await);
    assert!(!reaches("eleven", "10.0.0.1").await && !reaches("eleven", "10.0.0.2").await);
    plugs
}

/// The guests go, and everything that was made for them.
async fn taken_away(plugs: &[Plug]) {
    let plumber = Plumber::new(Networks::default());
    for plug in plugs {
        plumber.unplug(None, plug, false).await.expect("kept: the tap is a port");
    }
    assert_ne!(plumber.held().await.expect("listed"), Vec::new());
    sh("ip link del tap-ten; ip link del tap-eleven; ip netns del ten; ip netns del eleven").await;
    for plug in plugs {
        plumber.unplug(None, plug, false).await.expect("taken away");
        plumber.unplug(None, plug, false).await.expect("nothing left");
    }
    assert_eq!(plumber.held().await.expect("listed"), Vec::new());
}

#[tokio::test]
#[ignore = "needs VLANs: `make test-kernel`"]
async fn vlans_of_an_uplink_are_kept_apart() {
    trunk().await;
    let plugs = keeps_apart(|vlan| Carrier::UplinkVlan { uplink: link("trunk0"), vlan }).await;
    taken_away(&plugs).await;
    sh("ip link del trunk0; ip netns del outside; ip netns del outside11").await;
}

#[tokio::test]
#[ignore = "needs VLANs: `make test-kernel`"]
async fn vlans_of_a_bridge_are_kept_apart() {
    trunk().await;
    sh("ip link add br-trunk type bridge forward_delay 0; ip link set br-trunk up; ip link set trunk0 master br-trunk")
        .await;
    let carrier = |vlan| Carrier::BridgeVlan { bridge: link("br-trunk"), vlan };
    let plumber = Plumber::new(Networks::default());
    let judged = plumber.judge(&plug("teal", carrier, 10, 1).network, None).await.expect("judged");
    assert_eq!(judged.hindrances, [Hindrance::NotVlanAware { bridge: link("br-trunk") }]);
    assert!(!judged.hindrances.contains(&Hindrance::KernelLacks { what: Feature::BridgeVlanFiltering }));

    sh("ip link set br-trunk type bridge vlan_filtering 1; bridge vlan add dev trunk0 vid 10-11").await;
    // Not what runs by itself: its timers, and whether it has noticed that its port has a carrier.
    const AS_IT_IS: &str = "bridge vlan show; ip -d link show br-trunk | sed 's/_timer *[0-9.]*//g; s/state [A-Z]* //'";
    let before = sh(AS_IT_IS).await;
    let plugs = keeps_apart(carrier).await;
    // In its VLAN, untagged, and in no other: not in VLAN 1, which every new port is in.
    let port = plugs[0].port().expect("made");
    let vlans: serde_json::Value =
        serde_json::from_str(&sh(&format!("bridge -j vlan show dev {port}")).await).expect("JSON");
    let expected = serde_json::json!([{ "vlan": 10, "flags": ["PVID", "Egress Untagged"] }]);
    assert_eq!(vlans[0]["vlans"], expected);
    // A guest of the administrator's, in VLAN 1.
    guest("one", &link("br-trunk"), "10.0.0.4").await;
    assert!(!reaches("one", "10.0.0.2").await && !reaches("one", "10.0.0.3").await);
    sh("ip link del tap-one; ip netns del one").await;
    taken_away(&plugs).await;
    assert_eq!(sh(AS_IT_IS).await, before);
    sh("ip link del trunk0; ip link del br-trunk; ip netns del outside; ip netns del outside11").await;
}
