//! The fabric: a network namespace with two bridges, one namespace per host, and veth pairs between them.

use std::{fs::File, net::Ipv4Addr, path::Path, process::Command, sync::mpsc, thread, thread::JoinHandle};

use anyhow::{Context, Result, bail};
use nix::{
    ifaddrs::getifaddrs,
    sched::{CloneFlags, setns},
    sys::socket::LinkAddr,
};

use crate::{
    layout::{Layout, netns},
    process::{run, run_with_input},
    state::HostState,
    wait,
};

/// The operator's own address on the underlay.
pub const OPERATOR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The bridge inside each host to which guests are attached.
pub const GUEST_BRIDGE: &str = "br0";

/// The underlay address of the host with this index.
pub fn host_address(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 10 + index)
}

/// The storage node's two addresses, so that a target can have two portals.
pub const STORAGE: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 5), Ipv4Addr::new(192, 0, 2, 6)];

/// The guests' network: 198.51.100.0/24.
pub fn guest_address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, last)
}

/// One of a host's two links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Management and migration.
    Underlay,
    /// The guests' data plane.
    Guests,
}

impl Link {
    /// The fabric's end of the pair.
    pub fn port(self, host: &str) -> String {
        match self {
            Self::Underlay => format!("u-{host}"),
            Self::Guests => format!("g-{host}"),
        }
    }
}

/// A command that runs in the namespace. It execs: the child's pid is the program's own.
pub fn command_in(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns(namespace).display())).arg("--").arg(program);
    command
}

/// Starts a thread that is in the namespace, once it is.
pub(crate) fn thread_in<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<JoinHandle<Result<T>>> {
    let path = netns(namespace);
    let target = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let (entered, has_entered) = mpsc::channel();
    let thread = thread::spawn(move || {
        let result = setns(target, CloneFlags::CLONE_NEWNET);
        let _ = entered.send(result);
        if result.is_err() {
            bail!("not in the namespace");
        }
        work()
    });
    has_entered.recv()?.with_context(|| format!("cannot enter {namespace}"))?;
    Ok(thread)
}

/// The address of a port of the calling thread's namespace, to bind to.
pub fn port_address(port: &str) -> Result<LinkAddr> {
    let mut addresses = getifaddrs()?.filter(|address| address.interface_name == port);
    let found = addresses.find_map(|address| address.address?.as_link_addr().copied());
    found.with_context(|| format!("there is no port {port}"))
}

/// Makes the fabric of a testbed and its bridges.
pub(crate) fn create_fabric(layout: &Layout) -> Result<()> {
    let fabric = layout.fabric();
    add_namespace(&fabric)?;
    let lines = format!(
        "link set lo up
         link add underlay type bridge
         address add {OPERATOR}/24 dev underlay
         link set underlay up
         link add guests type bridge
         address add {}/24 dev guests
         link set guests up
        ",
        guest_address(1)
    );
    batch(&fabric, &lines)
}

/// Makes a host's namespace and joins it to the fabric.
pub(crate) fn create_host(layout: &Layout, host: &HostState) -> Result<()> {
    let (fabric, inside) = (layout.fabric(), layout.machine(&host.name));
    add_namespace(&inside)?;
    let (underlay, guests) = (Link::Underlay.port(&host.name), Link::Guests.port(&host.name));
    let lines = format!(
        "link add {underlay} type veth peer name underlay0 netns {inside}
         link set {underlay} master underlay up
         link add {guests} type veth peer name guests0 netns {inside}
         link set {guests} master guests up
        "
    );
    batch(&fabric, &lines)?;
    let lines = format!(
        "link set lo up
         address add {}/24 dev underlay0
         link set underlay0 up
         link add {GUEST_BRIDGE} type bridge
         link set guests0 master {GUEST_BRIDGE} up
         link set {GUEST_BRIDGE} up
        ",
        host.address
    );
    batch(&inside, &lines)
}

/// Joins the guests' network to a VXLAN between the hosts: guests on it are in the fabric's reach. Its packets have 50 bytes
/// more than the guests' own, and the wire is widened for them.
pub(crate) fn join_vxlan(layout: &Layout, vni: u32, hosts: &[HostState]) -> Result<()> {
    const WIDE: u32 = 1600;
    let fabric = layout.fabric();
    for host in hosts {
        batch(&layout.machine(&host.name), &format!("link set underlay0 mtu {WIDE}\n"))?;
        batch(&fabric, &format!("link set {} mtu {WIDE}\n", Link::Underlay.port(&host.name)))?;
    }
    let port = format!("vxlan{vni}");
    let lines = format!(
        "link set underlay mtu {WIDE}
         link add {port} type vxlan id {vni} local {OPERATOR} dstport 4789 dev underlay
         link set {port} master guests up
        "
    );
    batch(&fabric, &lines)?;
    for host in hosts {
        let everybody = ["fdb", "append", "00:00:00:00:00:00", "dev", &port, "dst", &host.address.to_string()];
        run(command_in(&fabric, "bridge").args(everybody))?;
    }
    Ok(())
}

/// Gives a host one more address on the underlay.
pub(crate) fn add_address(layout: &Layout, host: &str, address: Ipv4Addr) -> Result<()> {
    batch(&layout.machine(host), &format!("address add {address}/24 dev underlay0\n"))
}

/// Does to a host's links and filters what a reboot does: the namespace is not the container's, and stays.
pub(crate) fn forget(layout: &Layout, host: &str) -> Result<()> {
    let machine = layout.machine(host);
    let script = "for link in $(ip -o link | awk '{ sub(/[:@].*/, \"\", $2); print $2 }' | grep ^vmf || true); do
            if ip link show $link >/dev/null 2>&1; then ip link delete $link; fi
        done
        nft flush ruleset";
    run(command_in(&machine, "sh").args(["-ec", script]))?;
    Ok(())
}

/// Takes the cable out of a host, or puts it back. The host sees its carrier go.
pub(crate) fn set_link(layout: &Layout, host: &str, link: Link, up: bool) -> Result<()> {
    let state = if up { "up" } else { "down" };
    run(Command::new("ip").args(["-n", &layout.fabric(), "link", "set", &link.port(host), state]))?;
    Ok(())
}

/// Removes a namespace. One that isn't there is no error.
pub(crate) fn delete_namespace(name: &str) -> Result<()> {
    let mut last = Ok(());
    // While somebody else makes one, the mount of this may be busy for a moment; or somebody else may be quicker.
    let gone = wait::until("the namespace to go", wait::SOON, || {
        if Path::exists(&netns(name)) {
            last = run(Command::new("ip").args(["netns", "delete", name])).map(drop);
        }
        Ok((!Path::exists(&netns(name))).then_some(()))
    });
    gone.or(last)
}

fn add_namespace(name: &str) -> Result<()> {
    run(Command::new("ip").args(["netns", "add", name]))?;
    // Where br_netfilter is loaded, bridged frames would pass the machine's or a host's iptables. The data plane is a wire.
    let quiet = "for f in /proc/sys/net/bridge/bridge-nf-call-*; do if [ -e $f ]; then echo 0 >$f; fi; done";
    run(command_in(name, "sh").args(["-c", quiet]))?;
    Ok(())
}

fn batch(namespace: &str, lines: &str) -> Result<()> {
    run_with_input(Command::new("ip").args(["-n", namespace, "-batch", "-"]), lines)
        .with_context(|| format!("cannot set up the network of {namespace}"))?;
    Ok(())
}
