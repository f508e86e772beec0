use std::collections::BTreeSet;

use macaddr::MacAddr6;

use crate::{address, link, namespace::Namespace, plumber};

const GUEST: MacAddr6 = MacAddr6::new(0x52, 0x54, 0, 0, 0, 0x0a);

/// A host whose bridge `br0` has the port `uplink`, and what is behind that.
fn host() -> (Namespace, Namespace) {
    let (host, outside) = (Namespace::new(), Namespace::new());
    host.sh("ip link add br0 type bridge forward_delay 0; ip link set br0 up");
    host.connect("uplink", &outside, "eth0");
    host.sh("ip link set uplink master br0");
    outside.sh("ip addr add 10.0.0.1/24 dev eth0; ip addr add fd00::1/64 dev eth0 nodad");
    (host, outside)
}

#[test]
fn neighbours_hear_where_a_guest_is_and_its_own_bridge_does_not() {
    let (host, outside) = host();
    let _guest = host.guest("br0", "tap0", "52:54:00:00:00:0a", "10.0.0.7/24");
    // What they knew before, long enough ago to be told something else.
    outside.sh("echo 0 > /proc/sys/net/ipv4/neigh/eth0/locktime
         ip neigh replace 10.0.0.7 lladdr 02:00:00:00:00:99 dev eth0 nud stale
         ip neigh replace fd00::7 lladdr 02:00:00:00:00:99 dev eth0 nud stale");
    let plumber = plumber();
    let addresses = BTreeSet::from(["10.0.0.7", "fd00::7"].map(address));
    let (bridge, tap) = (link("br0"), link("tap0"));
    host.sh("bridge fdb del 52:54:00:00:00:0a dev tap0 master 2>/dev/null || true");
    host.run(async || plumber.announce(&bridge, &tap, GUEST, &addresses).await).expect("sent");
    let mut known = String::new();
    for _ in 0..50 {
        known = outside.sh("ip neigh show dev eth0");
        if known.matches("52:54:00:00:00:0a").count() == 2 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(known.matches("52:54:00:00:00:0a").count(), 2, "{known}");
    let seen = host.run(async || plumber.seen_at(&bridge, GUEST).await).expect("read");
    assert_ne!(seen, Some(link("uplink")));
    let entries = host.sh("bridge fdb show br br0");
    assert!(!entries.lines().any(|entry| entry.contains("52:54:00:00:00:0a") && entry.contains("uplink")), "{entries}");
}

#[test]
fn a_bridge_tells_where_it_has_seen_an_address_and_forgets_it() {
    let (host, outside) = host();
    let guest = host.guest("br0", "tap0", "52:54:00:00:00:0a", "10.0.0.7/24");
    let (plumber, bridge) = (plumber(), link("br0"));
    let seen = |mac: MacAddr6| host.run(async || plumber.seen_at(&bridge, mac).await).expect("read");
    assert!(guest.reaches("10.0.0.1"));
    assert_eq!(seen(GUEST), Some(link("tap0")));
    assert_eq!(seen(MacAddr6::new(2, 0, 0, 0, 0, 1)), None);
    let own = host.link(&link("uplink"))["address"].as_str().and_then(|mac| mac.parse().ok()).expect("it has one");
    assert_eq!(seen(own), None, "a port's own address was not seen anywhere");
    let theirs = outside.link(&link("eth0"))["address"].as_str().and_then(|mac| mac.parse().ok()).expect("it has one");
    assert_eq!(seen(theirs), Some(link("uplink")));
    guest.sh("ip link set eth0 down");
    for _ in 0..2 {
        host.run(async || plumber.forget(&bridge, theirs).await).expect("forgotten");
        assert!(!host.sh("bridge fdb show br br0").contains(&theirs.to_string().to_lowercase()));
    }
    let error = host.run(async || plumber.seen_at(&link("br1"), GUEST).await).expect_err("no bridge");
    assert!(error.message.contains("there is no bridge br1"), "{error}");
}
