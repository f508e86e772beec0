//! The fabric: a network namespace with two bridges, one namespace per host, and veth pairs between them.

use std::{net::Ipv4Addr, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};

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
    fn port(self, host: &str) -> String {
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

/// Gives a host one more address on the underlay.
pub(crate) fn add_address(layout: &Layout, host: &str, address: Ipv4Addr) -> Result<()> {
    batch(&layout.machine(host), &format!("address add {address}/24 dev underlay0\n"))
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
    let gone = wait::until("the namespace to go", Duration::from_secs(2), || {
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
