use super::*;
use crate::config::{Config, File};

fn read(text: &str) -> (Networks, Vec<String>) {
    let file = toml::from_str::<File>(text).expect("valid TOML");
    let mut problems = Vec::new();
    let networks = networks(&mut problems, file.network, file.ovs);
    (networks, problems)
}

fn told(problems: &[String], start: &str, words: &str) {
    assert!(problems.iter().any(|p| p.starts_with(start) && p.contains(words)), "{start} {words} in {problems:#?}");
}

#[test]
fn every_carrier_is_read() {
    let (networks, problems) = read(
        "[[network]]\nname = 'blue'\nbridge = 'br-blue'\n
         [[network]]\nname = 'teal'\nbridge = 'br-trunk'\nvlan = 10\n
         [[network]]\nname = 'red'\nuplink = 'eth1'\nvlan = 20\nmtu = 1500\n
         [[network]]\nname = 'green'\n
         vxlan = { vni = 5001, local = '192.0.2.11', peers = ['192.0.2.11', '192.0.2.12'] }\n
         [[network]]\nname = 'lime'\n
         vxlan = { vni = 5002, local = '2001:db8::11', group = 'ff05::1', device = 'eth0', port = 8472 }\n
         [[network]]\nname = 'violet'\novs = 'br-int'\nvlan = 10\n
         [[network]]\nname = 'plum'\novs = 'br-int'\n
         [ovs]\ndatabase = '/run/ovs/db.sock'",
    );
    assert_eq!(problems, [""; 0]);
    assert_eq!(networks.ovs_database(), std::path::Path::new("/run/ovs/db.sock"));
    let carriers = networks.iter().map(|network| format!("{}: {}", network.name, network.carrier)).collect::<Vec<_>>();
    let expected = [
        "blue: bridge br-blue",
        "green: VXLAN 5001",
        "lime: VXLAN 5002",
        "plum: Open vSwitch bridge br-int",
        "red: VLAN 20 of eth1",
        "teal: VLAN 10 of bridge br-trunk",
        "violet: VLAN 10 of Open vSwitch bridge br-int",
    ];
    assert_eq!(carriers, expected);
    let green = networks.get(&"green".parse().expect("valid")).expect("read");
    let Carrier::Vxlan { port, device, remotes: Remotes::Peers(peers), .. } = &green.carrier else {
        panic!("{green:?}")
    };
    assert_eq!((*port, device, peers.len()), (VXLAN_PORT, &None, 2));
    let red = networks.get(&"red".parse().expect("valid")).expect("read");
    assert_eq!(red.mtu, Some(1500));
}

#[test]
fn every_problem_with_networks_is_reported_at_once() {
    let told_of = Config::parse(
        "[[network]]\nname = 'blue'\nbridge = 'br-blue'\n
         [[network]]\nname = 'blue'\nbridge = 'br-blue'\n
         [[network]]\nname = 'a b'\nuplink = 'a/b'\nvlan = 4095\nmtu = 10\n
         [[network]]\nname = 'red'\nuplink = 'eth1'\n
         [[network]]\nname = 'none'\n
         [[network]]\nname = 'both'\nbridge = 'br0'\novs = 'br1'\n
         [[network]]\nname = 'v7'\nvxlan = { vni = 0, local = 'here', port = 0, peers = [] }\n
         [[network]]\nname = 'v8'\nvlan = 7\nvxlan = { vni = 1, local = '192.0.2.1', group = '192.0.2.2' }\n
         [[network]]\nname = 'v9'\nvxlan = { vni = 1, local = '192.0.2.1', peers = ['::1'], group = '239.0.0.1' }\n
         [[network]]\nname = 'v10'\nvxlan = { vni = 1, local = '192.0.2.1', peers = ['2001:db8::1'] }\n
         [[network]]\nname = 'v11'\nvxlan = { vni = 2, local = '192.0.2.1', peers = ['192.0.2.2'], ttl = 1 }\n
         [[network]]\nname = 'v12'\nvxlan = { vni = 2, local = '192.0.2.1', peers = ['192.0.2.3'] }\n
         [[network]]\nbridges = 'br0'\n
         [ovs]\ndatabase = 'db.sock'",
    )
    .expect_err("all wrong");
    told(&told_of, "network 2 (name)", "another network is `blue`");
    told(&told_of, "network 2 (bridge)", "carries `blue` already");
    told(&told_of, "network 3 (name)", "`a b`");
    told(&told_of, "network 3 (uplink)", "a/b");
    told(&told_of, "network 3 (vlan)", "4095 is not between 1 and 4094");
    told(&told_of, "network 3 (mtu)", "10 is not between 68 and 65535");
    told(&told_of, "network 4 (vlan)", "is missing");
    told(&told_of, "network 5 (bridge, uplink, vxlan, ovs)", "nothing carries it");
    told(&told_of, "network 6 (bridge, uplink, vxlan, ovs)", "more than one");
    told(&told_of, "network 7 (vxlan.vni)", "0 is not between 1 and 16777215");
    told(&told_of, "network 7 (vxlan.local)", "`here`");
    told(&told_of, "network 7 (vxlan.port)", "0 is none");
    told(&told_of, "network 7 (vxlan.peers)", "is empty");
    told(&told_of, "network 8 (vlan)", "a VXLAN has none");
    told(&told_of, "network 8 (vxlan.group)", "192.0.2.2 is not multicast");
    told(&told_of, "network 8 (vxlan.device)", "is missing");
    told(&told_of, "network 9 (vxlan.group, vxlan.peers)", "both are there");
    told(&told_of, "network 10 (vxlan.peers)", "2001:db8::1 is not of 192.0.2.1's family");
    told(&told_of, "network.10.vxlan.ttl", "is unknown");
    told(&told_of, "network 12 (vxlan.vni)", "VXLAN 2 carries `v11` already");
    told(&told_of, "network.12.bridges", "is unknown");
    told(&told_of, "network 13 (name)", "is missing");
    told(&told_of, "ovs.database", "db.sock is not absolute");
    assert!(!told_of.iter().any(|problem| problem.starts_with("network 1 (")), "{told_of:#?}");
}
