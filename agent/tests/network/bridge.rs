use vmferry_core::network::Carrier;

use crate::{judged, link, namespace::Namespace, network, plug, plugged, plumber, unplugged};

#[test]
fn the_administrators_bridge_is_judged_and_never_changed() {
    let (host, outside) = (Namespace::new(), Namespace::new());
    let (plumber, blue) = (plumber(), network("blue", Carrier::Bridge { bridge: link("br-blue") }));
    let plug = plug(&blue, 1);
    assert_eq!(judged(&host, &blue, None), (0, vec!["there is no link br-blue".to_owned()]));
    let refused = plugged(&host, &plumber, &plug).expect_err("refused");
    assert!(refused.contains("there is no link br-blue; make br-blue"), "{refused}");
    unplugged(&host, &plumber, &plug);

    host.sh("ip link add br-blue type veth peer name other");
    assert_eq!(judged(&host, &blue, None).1, ["br-blue is not a bridge"]);
    host.sh("ip link del br-blue; ip link add br-blue mtu 1400 type bridge");
    assert_eq!(judged(&host, &blue, None), (1400, vec!["br-blue is down".to_owned()]));
    host.sh("ip link set br-blue up");
    host.connect("eth0", &outside, "eth0");
    host.sh("ip link set eth0 mtu 1400 master br-blue");
    assert_eq!(judged(&host, &blue, Some(1400)), (1400, Vec::new()));
    assert_eq!(
        judged(&host, &blue, Some(1500)).1,
        ["network blue takes packets of up to 1400 bytes, and they have up to 1500"]
    );

    let state = || (host.link(&link("br-blue")), host.links(), host.sh("ip addr show"));
    let before = state();
    plugged(&host, &plumber, &plug).expect("plugged");
    unplugged(&host, &plumber, &plug);
    assert_eq!(state(), before);

    outside.sh("ip link set eth0 down");
    assert_eq!(judged(&host, &blue, None).1, ["eth0 has no carrier"]);
    host.sh("ip link set eth0 down");
    assert_eq!(judged(&host, &blue, None).1, ["eth0 is down"]);
}
