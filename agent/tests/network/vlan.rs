//! Whether VLANs work is for a kernel that has them: `agent/src/network/kernel_tests.rs`.

use vmferry_core::network::Carrier;

use crate::{judged, link, namespace::Namespace, network, plug, plugged, plumber, unplugged, vlan};

#[test]
fn a_bridge_that_cannot_tell_vlans_apart_is_refused() {
    let host = Namespace::new();
    host.sh("ip link add br-trunk type bridge; ip link set br-trunk up");
    let teal = network("teal", Carrier::BridgeVlan { bridge: link("br-trunk"), vlan: vlan(10) });
    let (_, told) = judged(&host, &teal, None);
    let expected = [
        "the kernel has no VLAN filtering of bridges (CONFIG_BRIDGE_VLAN_FILTERING)",
        "bridge br-trunk does not filter VLANs",
    ];
    assert!(told.len() == 1 && expected.contains(&told[0].as_str()), "{told:?}");
    let (plumber, plug) = (plumber(), plug(&teal, 1));
    let refused = plugged(&host, &plumber, &plug).expect_err("refused");
    assert!(refused.contains(&told[0]), "{refused}");
    unplugged(&host, &plumber, &plug);
    assert_eq!(host.links(), ["lo", "br-trunk"]);
}

#[test]
fn a_kernel_without_vlans_says_so() {
    let (host, other) = (Namespace::new(), Namespace::new());
    host.connect("eth1", &other, "eth1");
    let red = network("red", Carrier::UplinkVlan { uplink: link("eth1"), vlan: vlan(20) });
    let (plumber, plug) = (plumber(), plug(&red, 1));
    let (mtu, told) = judged(&host, &red, None);
    assert_eq!(mtu, 1500);
    if host.try_sh("ip link add link eth1 name probe type vlan id 7 && ip link del probe").is_ok() {
        assert_eq!(told, [""; 0]);
        return;
    }
    assert_eq!(told, ["the kernel has no VLAN devices (CONFIG_VLAN_8021Q)"]);
    let refused = plugged(&host, &plumber, &plug).expect_err("refused");
    assert!(refused.contains("use a kernel that has it"), "{refused}");
    unplugged(&host, &plumber, &plug);
    assert_eq!(host.links(), ["lo", "eth1"]);
}
