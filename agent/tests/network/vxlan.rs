use std::str::FromStr as _;

use vmferry_core::network::{HeldKind, Holder, Remotes};

use crate::{
    address, green, judged, link, migration,
    namespace::{Namespace, hosts},
    network, peers, plug, plugged, plumber, unplugged, vxlan,
};

/// A guest on each host, in the same network.
fn guests(hosts: &[Namespace; 2], bridge: &str) -> [Namespace; 2] {
    [1, 2].map(|n| {
        hosts[n - 1].guest(bridge, &format!("tap{n}"), &format!("52:54:00:00:00:0{n}"), &format!("10.0.0.{n}/24"))
    })
}

#[test]
fn guests_of_two_hosts_meet_and_nothing_is_made_twice_or_stays() {
    let hosts = hosts();
    let (plumber, networks) = (plumber(), green());
    let plugs = networks.each_ref().map(|network| plug(network, 1));
    let before = hosts[0].links();
    for (host, plug) in hosts.iter().zip(&plugs) {
        plugged(host, &plumber, plug).expect("plugged");
    }
    let (bridge, uplink) = (plugs[0].bridge(), plugs[0].uplink().expect("made"));
    let made = (hosts[0].link(&bridge), hosts[0].link(&uplink), hosts[0].sh("bridge fdb show"));
    plugged(&hosts[0], &plumber, &plugs[0]).expect("plugged again");
    assert_eq!((hosts[0].link(&bridge), hosts[0].link(&uplink), hosts[0].sh("bridge fdb show")), made);

    let (facts, data) = (&made.0, &made.0["linkinfo"]["info_data"]);
    assert_eq!((&facts["mtu"], &facts["ifalias"]), (&1450.into(), &"vmferry: network green".into()));
    assert_eq!(
        (&data["stp_state"], &data["forward_delay"], &data["mcast_snooping"]),
        (&0.into(), &0.into(), &0.into())
    );
    let (facts, data) = (&made.1, &made.1["linkinfo"]["info_data"]);
    assert_eq!((&facts["mtu"], &facts["master"]), (&1450.into(), &bridge.as_str().into()));
    assert_eq!((&data["id"], &data["port"], &data["local"]), (&5001.into(), &4789.into(), &"192.0.2.1".into()));
    // To the other host, and not to itself.
    assert_eq!(made.2.matches("00:00:00:00:00:00").count(), 1, "{}", made.2);
    for name in [&bridge, &uplink] {
        assert_eq!(hosts[0].sh(&format!("ip addr show dev {name} | grep -c inet || true")).trim(), "0");
    }

    let guests = guests(&hosts, bridge.as_str());
    assert!(guests[0].reaches("10.0.0.2"));
    assert!(guests[0].try_sh("ping -c 1 -W 1 -M do -s 1422 10.0.0.2").is_ok(), "packets of 1450 bytes");

    // The guest is still there: its tap is a port.
    unplugged(&hosts[0], &plumber, &plugs[0]);
    assert!(guests[0].reaches("10.0.0.2"));
    drop(guests);
    hosts[0].sh("ip link del tap1 2>/dev/null || true");
    unplugged(&hosts[0], &plumber, &plugs[0]);
    assert_eq!(hosts[0].links(), before);
    unplugged(&hosts[0], &plumber, &plugs[0]);
}

#[test]
fn guests_meet_by_a_group_too() {
    let hosts = hosts();
    let plumber = plumber();
    let group = || Remotes::Group(address("239.1.1.1"));
    let networks = ["192.0.2.1", "192.0.2.2"].map(|local| network("green", vxlan(local, group())));
    for (host, network) in hosts.iter().zip(&networks) {
        plugged(host, &plumber, &plug(network, 1)).expect("plugged");
    }
    let guests = guests(&hosts, plug(&networks[0], 1).bridge().as_str());
    assert!(guests[0].reaches("10.0.0.2"));
}

#[test]
fn guests_meet_over_ipv6_too() {
    let hosts = hosts();
    let plumber = plumber();
    let networks = ["2001:db8::1", "2001:db8::2"]
        .map(|local| network("green", vxlan(local, peers(&["2001:db8::1", "2001:db8::2"]))));
    for (host, network) in hosts.iter().zip(&networks) {
        assert_eq!(judged(host, network, Some(1430)), (1430, Vec::new()));
        plugged(host, &plumber, &plug(network, 1)).expect("plugged");
    }
    let guests = guests(&hosts, plug(&networks[0], 1).bridge().as_str());
    assert!(guests[0].reaches("10.0.0.2"));
    assert!(guests[0].try_sh("ping -c 1 -W 1 -M do -s 1402 10.0.0.2").is_ok(), "packets of 1430 bytes");
}

#[test]
fn peers_that_are_configured_anew_are_taken_over() {
    let [host, _other] = hosts();
    let plumber = plumber();
    let ends = |addresses: &[&str]| {
        let network = network("green", vxlan("192.0.2.1", peers(addresses)));
        plugged(&host, &plumber, &plug(&network, 1)).expect("plugged");
        let entries = host.sh("bridge fdb show | grep 00:00:00:00:00:00 || true");
        let ends =
            entries.lines().filter_map(|entry| entry.split_whitespace().skip_while(|word| *word != "dst").nth(1));
        let mut ends = ends.map(str::to_owned).collect::<Vec<_>>();
        ends.sort();
        ends
    };
    assert_eq!(ends(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]), ["192.0.2.2", "192.0.2.3"]);
    assert_eq!(ends(&["192.0.2.4", "192.0.2.3"]), ["192.0.2.3", "192.0.2.4"]);
}

#[test]
fn what_is_shared_stays_for_others() {
    let [host, _other] = hosts();
    let (plumber, [network, _]) = (plumber(), green());
    let (one, two) = (plug(&network, 1), plug(&network, 2));
    host.run(async || {
        plumber.plug(Some(migration(1)), &one).await.expect("plugged");
        plumber.plug(Some(migration(2)), &two).await.expect("plugged");
        plumber.unplug(Some(migration(1)), &one, false).await.expect("kept");
    });
    assert!(host.links().contains(&one.bridge().to_string()), "another migration has it");
    host.run(async || plumber.unplug(Some(migration(2)), &two, true).await).expect("kept");
    assert!(host.links().contains(&one.bridge().to_string()), "a guest that is off has it");
    host.run(async || plumber.unplug(Some(migration(2)), &two, false).await).expect("taken away");
    assert_eq!(host.links(), ["lo", "eth0"]);
}

#[test]
fn two_at_once_are_one() {
    let [host, _other] = hosts();
    let (plumbers, [network, _]) = ([plumber(), plumber()], green());
    let (one, two) = (plug(&network, 1), plug(&network, 2));
    // The second of them knows nothing of the first.
    let plugged = host.run(async || {
        tokio::join!(plumbers[0].plug(None, &one), plumbers[0].plug(None, &two), plumbers[1].plug(None, &one))
    });
    assert_eq!(plugged, (Ok(()), Ok(()), Ok(())));
    assert_eq!(host.links().len(), 4);
    assert_eq!(host.sh("bridge fdb show").matches("00:00:00:00:00:00").count(), 1);
}

#[test]
fn links_of_others_are_refused_and_left_alone() {
    let [host, _other] = hosts();
    let (plumber, [network, _]) = (plumber(), green());
    let plug = plug(&network, 1);
    let uplink = plug.uplink().expect("made");
    host.sh(&format!("ip link add {uplink} type veth peer name other; ip link set {uplink} alias mine"));
    let before = host.link(&uplink);
    let refused = plugged(&host, &plumber, &plug).expect_err("refused");
    assert!(refused.contains(&format!("there is a link {uplink} that VMFerry has not made")), "{refused}");
    assert!(judged(&host, &network, None).1[0].contains(uplink.as_str()));
    unplugged(&host, &plumber, &plug);
    assert_eq!(host.link(&uplink), before);
    assert_eq!(host.run(async || plumber.held().await), Ok(Vec::new()));
}

#[test]
fn what_was_cut_off_is_completed_or_taken_away() {
    let (plumber, [network, _]) = (plumber(), green());
    let plug = plug(&network, 1);
    let (bridge, uplink) = (plug.bridge(), plug.uplink().expect("made"));
    for half in [
        // Before it had its alias, and after.
        format!("ip link add {bridge} group 0x766d66 type bridge"),
        format!("ip link add {bridge} type bridge; ip link set {bridge} alias 'vmferry: network green'"),
        format!(
            "ip link add {bridge} type bridge; ip link set {bridge} alias 'vmferry: network green'
             ip link add {uplink} group 0x766d66 type vxlan id 5001 dstport 4789 local 192.0.2.1 dev eth0"
        ),
        // With what the configuration said before.
        format!("ip link add {uplink} group 0x766d66 type vxlan id 5002 dstport 4789 local 192.0.2.1 dev eth0"),
    ] {
        let [host, _other] = hosts();
        host.sh(&half);
        let held = host.run(async || plumber.held().await).expect("listed");
        assert!(!held.is_empty() && held.iter().all(|held| held.kind == HeldKind::Link), "{half}: {held:?}");
        plugged(&host, &plumber, &plug).unwrap_or_else(|error| panic!("{half}: {error}"));
        assert_eq!(host.link(&uplink)["linkinfo"]["info_data"]["id"], 5001);
        assert_eq!(host.link(&bridge)["linkinfo"]["info_data"]["mcast_snooping"], 0);
        let held = host.run(async || plumber.held().await).expect("listed");
        let holder = Holder::from_str("network green").ok();
        assert!(held.len() == 2 && held.iter().all(|held| held.holder == holder), "{held:?}");
        unplugged(&host, &plumber, &plug);
        assert_eq!(host.links(), ["lo", "eth0"], "{half}");

        host.sh(&half);
        unplugged(&host, &plumber, &plug);
        assert_eq!(host.links(), ["lo", "eth0"], "{half}");
    }
}

#[test]
fn every_hindrance_is_told() {
    let [host, other] = hosts();
    let [network, foreign] = green();
    assert_eq!(judged(&host, &network, Some(1450)), (1450, Vec::new()));
    let (_, told) = judged(&host, &network, Some(1500));
    assert_eq!(told, ["network green takes packets of up to 1450 bytes, and they have up to 1500"]);
    let mut large = network.clone();
    large.mtu = Some(1500);
    assert_eq!(judged(&host, &large, None).0, 1450);
    assert_eq!(judged(&host, &large, None).1.len(), 1);
    host.sh("ip link add other type vxlan id 5001 dstport 4789 dev eth0");
    assert_eq!(judged(&host, &network, None).1, ["VXLAN 5001 is other's already"]);
    let refused = plugged(&host, &plumber(), &plug(&network, 1)).expect_err("refused");
    assert!(refused.contains("VXLAN 5001 is other's already; remove other"), "{refused}");
    host.sh("ip link del other");
    assert_eq!(judged(&host, &foreign, None).1, ["no link has the address 192.0.2.2"]);
    other.sh("ip link set eth0 down");
    assert_eq!(judged(&host, &network, None).1, ["eth0 has no carrier"]);
    host.sh("ip link set eth0 down; ip link add other type vxlan id 5001 dstport 4789 dev eth0");
    assert_eq!(judged(&host, &network, None).1, ["VXLAN 5001 is other's already", "eth0 is down"]);
    host.sh("ip link del other; ip link del eth0");
    let told = judged(&host, &network, None).1;
    assert_eq!(told, ["no link has the address 192.0.2.1", "there is no link eth0"]);
    assert!(link("eth0").as_str() == "eth0" && host.links() == ["lo"]);
}
