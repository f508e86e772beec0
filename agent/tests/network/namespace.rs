//! Network namespaces that stand for hosts and guests. They go with the test.

use std::{fs::File, os::fd::AsRawFd as _, process, thread};

use nix::sched::{CloneFlags, setns, unshare};
use vmferry_agent::storage::tool::Tool;
use vmferry_core::network::LinkName;

/// One of them.
pub(crate) struct Namespace(File);

impl Namespace {
    pub(crate) fn new() -> Self {
        let thread = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root");
            File::open("/proc/thread-self/ns/net").expect("there is one")
        });
        let namespace = Self(thread.join().expect("a namespace"));
        namespace.sh("ip link set lo up");
        namespace
    }

    /// Runs this in the namespace.
    pub(crate) fn run<T: Send>(&self, what: impl AsyncFnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("it is there");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(what())
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Runs this in the namespace; returns what it wrote.
    pub(crate) fn sh(&self, script: &str) -> String {
        self.try_sh(script).unwrap_or_else(|failed| panic!("{script}: {failed}"))
    }

    /// The same of what may fail.
    pub(crate) fn try_sh(&self, script: &str) -> Result<String, String> {
        self.run(async || Tool::new("sh").args(["-ec", script]).run().await.map_err(|failed| failed.how))
    }

    /// What `ip` knows of a link, with all that is particular to it.
    pub(crate) fn link(&self, name: &LinkName) -> serde_json::Value {
        let links: serde_json::Value =
            serde_json::from_str(&self.sh(&format!("ip -j -d link show dev {name}"))).expect("JSON");
        let mut link = links[0].clone();
        // What passes by itself.
        if let Some(data) = link["linkinfo"]["info_data"].as_object_mut() {
            data.retain(|key, _| !key.ends_with("_timer"));
        }
        link
    }

    /// Names of all links.
    pub(crate) fn links(&self) -> Vec<String> {
        let links: Vec<serde_json::Value> = serde_json::from_str(&self.sh("ip -j link show")).expect("JSON");
        links.iter().map(|link| link["ifname"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// A path of it that `ip link` takes as `netns`.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd())
    }

    /// A guest behind `tap`, which is a port of `bridge`.
    pub(crate) fn guest(&self, bridge: &str, tap: &str, mac: &str, address: &str) -> Self {
        let guest = Self::new();
        self.connect(tap, &guest, "eth0");
        self.sh(&format!("ip link set {tap} master {bridge}"));
        let mtu = self.link(&bridge.parse().expect("valid"))["mtu"].clone();
        self.sh(&format!("ip link set {tap} mtu {mtu}"));
        guest.sh(&format!("ip link set eth0 address {mac} mtu {mtu}; ip addr add {address} dev eth0"));
        guest
    }

    /// A cable between a link here and one there, both up.
    pub(crate) fn connect(&self, here: &str, other: &Self, there: &str) {
        self.sh(&format!(
            "ip link add {here} type veth peer name {there} netns {}; ip link set {here} up",
            other.path()
        ));
        other.sh(&format!("ip link set {there} up"));
    }

    pub(crate) fn reaches(&self, address: &str) -> bool {
        self.try_sh(&format!("ping -c 1 -W 1 {address} || ping -c 1 -W 2 {address}")).is_ok()
    }
}

/// Two hosts, each with `eth0` in one underlay, and the addresses 192.0.2.1 and 192.0.2.2, 2001:db8::1 and 2001:db8::2.
pub(crate) fn hosts() -> [Namespace; 2] {
    let hosts = [Namespace::new(), Namespace::new()];
    hosts[0].connect("eth0", &hosts[1], "eth0");
    for (host, number) in hosts.iter().zip(1..) {
        host.sh(&format!("ip addr add 192.0.2.{number}/24 dev eth0; ip addr add 2001:db8::{number}/64 dev eth0 nodad"));
    }
    hosts
}
