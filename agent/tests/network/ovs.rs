//! Open vSwitch with its userspace datapath, one per host.

use std::{process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::{process::Child, time::timeout};
use vmferry_agent::{
    network::{Networks, Plumber},
    storage::tool::Tool,
};
use vmferry_core::network::{Carrier, HeldKind, Holder, Network, Plug};

use crate::{link, namespace::Namespace, network, plug, plugged, unplugged, vlan};

/// The daemons of one host. They go with it.
struct Switch {
    directory: TempDir,
    _server: Child,
    switch: Option<Child>,
}

impl Switch {
    fn start(host: &Namespace) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let at = directory.path().display().to_string();
        host.sh(&format!("ovsdb-tool create {at}/conf.db /usr/share/openvswitch/vswitch.ovsschema"));
        let remote = format!("--remote=punix:{at}/db.sock");
        let server = daemon(host, &directory, "ovsdb-server", &[&remote, &format!("{at}/conf.db")]);
        host.sh(&format!("until [ -S {at}/db.sock ]; do sleep 0.02; done"));
        let mut switch = Self { directory, _server: server, switch: None };
        switch.vsctl(host, "--no-wait init");
        switch.start_switch(host);
        switch
    }

    fn start_switch(&mut self, host: &Namespace) {
        let database = format!("unix:{}", self.database());
        self.switch = Some(daemon(host, &self.directory, "ovs-vswitchd", &[&database]));
    }

    fn database(&self) -> String {
        self.directory.path().join("db.sock").display().to_string()
    }

    fn vsctl(&self, host: &Namespace, what: &str) -> String {
        host.sh(&format!("ovs-vsctl --timeout=10 --db=unix:{} {what}", self.database()))
    }

    fn plumber(&self) -> Plumber {
        Plumber::new(Networks::new([violet(10)]).with_ovs_database(self.database().into()))
    }

    fn hindrances(&self, host: &Namespace, network: &Network) -> Vec<String> {
        let plumber = self.plumber();
        let carried = host.run(async || plumber.judge(network, None).await).expect("judged");
        carried.hindrances.iter().map(ToString::to_string).collect()
    }
}

fn daemon(host: &Namespace, directory: &TempDir, program: &str, arguments: &[&str]) -> Child {
    host.run(async || {
        let mut command = Tool::new(program).args(arguments.iter().copied()).args(["-vconsole:off"]).command();
        for variable in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"] {
            command.env(variable, directory.path());
        }
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("installed: `make setup`")
    })
}

fn violet(id: u16) -> Network {
    network("violet", Carrier::Ovs { bridge: link("br-int"), vlan: Some(vlan(id)) })
}

fn host() -> (Namespace, Switch) {
    let host = Namespace::new();
    let switch = Switch::start(&host);
    switch.vsctl(&host, "add-br br-int -- set Bridge br-int datapath_type=netdev");
    (host, switch)
}

fn guest(host: &Namespace, plug: &Plug, number: u8) -> Namespace {
    let (tap, mac) = (format!("tap{number}"), format!("52:54:00:00:00:0{number}"));
    host.guest(plug.bridge().as_str(), &tap, &mac, &format!("10.0.0.{number}/24"))
}

#[test]
fn guests_of_one_vlan_meet_and_of_two_do_not() {
    let (host, switch) = host();
    let plumber = switch.plumber();
    let before = (host.links(), switch.vsctl(&host, "list-ports br-int"));
    let plugs = [plug(&violet(10), 1), plug(&violet(10), 2), plug(&violet(11), 3)];
    for plug in &plugs {
        plugged(&host, &plumber, plug).expect("plugged");
        plugged(&host, &plumber, plug).expect("plugged again");
    }
    assert_eq!(switch.vsctl(&host, "list-ports br-int").lines().count(), 3);
    let port = plugs[0].port().expect("made");
    assert_eq!(switch.vsctl(&host, &format!("get Port {port} tag")).trim(), "10");
    let ids = switch.vsctl(&host, &format!("get Interface {port} external_ids"));
    for id in [
        "attached-mac=\"52:54:00:00:00:01\"",
        &format!("iface-id=\"{}\"", plugs[0].vif.interface_id()),
        &format!("vm-uuid=\"{}\"", plugs[0].vif.instance),
    ] {
        assert!(ids.contains(id), "{id} in {ids}");
    }
    assert_eq!(host.link(&plugs[0].bridge())["linkinfo"]["info_data"]["ageing_time"], 0);
    assert_eq!(host.link(&port)["ifalias"], format!("vmferry: {}", plugs[0].vif));

    let guests = [1, 2, 3].map(|number| guest(&host, &plugs[usize::from(number) - 1], number));
    assert!(guests[0].reaches("10.0.0.2"));
    assert!(!guests[0].reaches("10.0.0.3"));
    // Not only pings: what a guest leaves to its card to sum up must arrive summed up.
    guests[1].run(async || {
        let listener = tokio::net::TcpListener::bind("10.0.0.2:7").await.expect("its address");
        let connect = async || tokio::net::TcpStream::connect("10.0.0.2:7").await.map(drop);
        let connected = std::thread::scope(|scope| {
            let connecting = scope.spawn(|| guests[0].run(async || timeout(Duration::from_secs(5), connect()).await));
            connecting.join().expect("it ran")
        });
        drop(listener);
        connected.expect("in time").expect("connected");
    });

    let mut held = host.run(async || plumber.held().await).expect("listed");
    held.extend(host.run(async || plumber.held_ports().await).expect("listed"));
    let of = |kind| held.iter().filter(|held| held.kind == kind).count();
    // A bridge each, and one end of the pair that leads from it to the switch.
    assert_eq!((of(HeldKind::Link), of(HeldKind::OvsPort)), (6, 3), "{held:?}");
    assert!(held.iter().any(|held| held.name == port && held.holder == Some(Holder::Vif(plugs[0].vif))));
    drop(guests);
    for tap in ["tap1", "tap2", "tap3"] {
        host.sh(&format!("ip link del {tap} 2>/dev/null || true"));
    }
    for plug in &plugs {
        unplugged(&host, &plumber, plug);
        unplugged(&host, &plumber, plug);
    }
    assert_eq!((host.links(), switch.vsctl(&host, "list-ports br-int")), before);
}

#[test]
fn what_is_missing_is_told_and_what_is_others_is_left_alone() {
    let (host, mut switch) = host();
    let (plumber, plug) = (switch.plumber(), plug(&violet(10), 1));
    let other = network("plum", Carrier::Ovs { bridge: link("br-ext"), vlan: None });
    assert_eq!(switch.hindrances(&host, &plug.network), [""; 0]);
    assert_eq!(switch.hindrances(&host, &other), ["Open vSwitch has no bridge br-ext"]);

    let port = plug.port().expect("made");
    switch.vsctl(&host, &format!("add-port br-int {port} -- set Interface {port} type=internal"));
    let refused = plugged(&host, &plumber, &plug).expect_err("refused");
    assert!(refused.contains(&format!("{port}")), "{refused}");
    unplugged(&host, &plumber, &plug);
    assert_eq!(switch.vsctl(&host, "list-ports br-int").trim(), port.as_str());
    switch.vsctl(&host, &format!("del-port {port}"));

    // Of a plug that was cut off before the switch knew of it, and with the VLAN of before.
    plugged(&host, &plumber, &plug).expect("plugged");
    switch.vsctl(&host, &format!("set Port {port} tag=12"));
    plugged(&host, &plumber, &plug).expect("plugged again");
    assert_eq!(switch.vsctl(&host, &format!("get Port {port} tag")).trim(), "10");
    switch.vsctl(&host, "add-br br-ext -- set Bridge br-ext datapath_type=netdev");
    let moved = Plug { network: other.clone(), ..plug.clone() };
    plugged(&host, &plumber, &moved).expect("plugged elsewhere");
    assert_eq!(switch.vsctl(&host, &format!("port-to-br {port}")).trim(), "br-ext");
    unplugged(&host, &plumber, &plug);
    assert_eq!(switch.vsctl(&host, "list-ports br-ext").trim(), "");

    // Its database answers, and nobody acts on it.
    switch.switch = None;
    let mut told = Vec::new();
    for _ in 0..100 {
        told = switch.hindrances(&host, &plug.network);
        if !told.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(told.len() == 1 && told[0].contains("ovs-vswitchd does not listen"), "{told:?}");
    let refused = plugged(&host, &plumber, &plug).expect_err("refused");
    assert!(refused.contains("systemctl start openvswitch-switch"), "{refused}");
    unplugged(&host, &plumber, &plug);
    switch.start_switch(&host);

    let absent = Plumber::new(Networks::default().with_ovs_database("/nonexistent/db.sock".into()));
    let refused = plugged(&host, &absent, &plug).expect_err("refused");
    assert!(refused.contains("Open vSwitch does not answer: there is no /nonexistent/db.sock"), "{refused}");
    unplugged(&host, &absent, &plug);
}
