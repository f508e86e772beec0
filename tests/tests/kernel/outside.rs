//! Who meets guests on VLANs: on the first host, but out of all that it does for guests. A card of its own leads to the wire, and there
//! is somebody in each VLAN.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use vmferry_tests::{kernel_vm::KernelHost, stream::PORTS, wait::until};

use crate::{
    rig::SOON,
    vlans::{Guest, VLANS},
};

/// The address of whoever is in a VLAN: in each the same.
pub(crate) const ADDRESS: &str = "198.51.100.2";
/// The VLAN that a forger chooses, and no guest is in.
pub(crate) const FORGED: u16 = 10;
/// Who hears all that is on the wire, whatever its VLAN.
const WIRE: &str = "wire";

/// They end with the value's [`Outside::end`].
#[derive(Debug)]
pub(crate) struct Outside<'a> {
    host: &'a KernelHost,
}

/// A frame that was heard: its sender, what it is, its number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Heard {
    pub(crate) mac: String,
    pub(crate) kind: String,
    number: u32,
}

impl<'a> Outside<'a> {
    /// From now on they listen.
    pub(crate) fn begin(host: &'a KernelHost, guest: &Guest) -> Result<Self> {
        let outside = Self { host };
        host.sh(&format!(
            "mkdir /run/outside
             ip netns add {WIRE}
             ip link set eth3 netns {WIRE}
             ip -n {WIRE} link set eth3 up promisc on"
        ))?;
        for vlan in [FORGED].into_iter().chain(VLANS) {
            host.sh(&format!(
                "ip netns add vlan{vlan}
                 ip -n {WIRE} link add link eth3 name vlan type vlan id {vlan}
                 ip -n {WIRE} link set vlan netns vlan{vlan}
                 ip -n vlan{vlan} address add {ADDRESS}/24 dev vlan
                 ip -n vlan{vlan} link set lo up
                 ip -n vlan{vlan} link set vlan up"
            ))?;
            let hear = if vlan == guest.vlan { "hear vlan".to_owned() } else { format!("hear vlan {}", guest.mac) };
            outside.start(&format!("vlan{vlan}"), "heard", &hear)?;
        }
        outside.start(WIRE, "heard", "hear eth3")?;
        Ok(outside)
    }

    fn start(&self, namespace: &str, log: &str, tool: &str) -> Result<()> {
        let log = format!("/run/outside/{namespace}.{log}");
        self.host.sh(&format!("ip netns exec {namespace} guest-tool {tool} >{log} 2>&1 </dev/null &")).map(drop)
    }

    fn log(&self, namespace: &str, log: &str) -> Result<String> {
        self.host.sh(&format!("cat /run/outside/{namespace}.{log}"))
    }

    /// Answers the guest, and opens a connection to it. Neither is done a second time.
    pub(crate) fn converse(&self, guest: &Guest) -> Result<()> {
        let namespace = format!("vlan{}", guest.vlan);
        self.start(&namespace, "told", "tell")?;
        self.start(&namespace, "read", &format!("read {} {}", guest.address, PORTS[0]))
    }

    /// Whether the guest answers a ping.
    pub(crate) fn reaches(&self, guest: &Guest) -> Result<Option<()>> {
        let ping = format!("ip netns exec vlan{} busybox ping -c 1 -W 3 {} || true", guest.vlan, guest.address);
        Ok(self.host.sh(&ping)?.contains("bytes from").then_some(()))
    }

    /// Whether the other of its ports can be connected to.
    pub(crate) fn enters(&self, guest: &Guest) -> Result<bool> {
        let tried = self.host.sh(&format!(
            "ip netns exec vlan{} timeout 8 guest-tool read {} {} 2>&1 || true",
            guest.vlan, guest.address, PORTS[1]
        ))?;
        ensure!(tried.contains("READ") != tried.contains("cannot connect"), "it has said: {tried}");
        Ok(tried.contains("READ"))
    }

    /// Waits until the connection has carried more. Fails if it broke.
    pub(crate) fn wait_for_stream(&self, guest: &Guest) -> Result<()> {
        let read = || {
            let log = self.log(&format!("vlan{}", guest.vlan), "read")?;
            ensure!(log.lines().all(|line| line.starts_with("READ ")), "the connection to {}: {log}", guest.name);
            Ok(log.lines().count())
        };
        let before = read()?;
        until(&format!("{} to send", guest.name), SOON, || Ok((read()? >= before + 3).then_some(())))
    }

    /// All that somebody has heard of forgers, and of guests of other VLANs.
    pub(crate) fn heard(&self, namespace: &str) -> Result<Vec<Heard>> {
        let log = self.log(namespace, "heard")?;
        // The last line may be half there.
        let (whole, _) = log.rsplit_once('\n').unwrap_or_default();
        let heard = whole.lines().map(|line| {
            let mut words = line.split(' ');
            let (mac, kind, number) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
            Some(Heard { mac: mac.to_owned(), kind: kind.to_owned(), number })
        });
        heard.collect::<Option<_>>().with_context(|| format!("who listens in {namespace} has said: {log}"))
    }

    /// Waits for more honest frames of the guest. Fails unless all that was ever heard of it was honest, and in its own VLAN.
    pub(crate) fn assert_apart(&self, guest: &Guest) -> Result<()> {
        let in_vlan = |vlan: u16| self.heard(&format!("vlan{vlan}"));
        let before = in_vlan(guest.vlan)?.len();
        until("honest frames", SOON, || Ok((in_vlan(guest.vlan)?.len() >= before + 5).then_some(())))?;
        let mut on_the_wire = self.heard(WIRE)?;
        // The newest may not be written down elsewhere yet.
        on_the_wire.truncate(on_the_wire.len().saturating_sub(5));
        let own = in_vlan(guest.vlan)?;
        let forged = own.iter().find(|heard| heard.mac != guest.mac || heard.kind != "Honest");
        ensure!(forged.is_none(), "heard in VLAN {}: {forged:?}", guest.vlan);
        for vlan in [FORGED].into_iter().chain(VLANS).filter(|vlan| *vlan != guest.vlan) {
            let heard = in_vlan(vlan)?;
            ensure!(heard.is_empty(), "heard in VLAN {vlan}: {heard:?}");
        }
        let elsewhere = on_the_wire.iter().find(|heard| !own.contains(heard));
        ensure!(elsewhere.is_none(), "heard in no VLAN: {elsewhere:?}");
        let distinct: BTreeSet<_> = on_the_wire.iter().collect();
        ensure!(distinct.len() == on_the_wire.len(), "a frame was heard in its VLAN and out of it");
        Ok(())
    }

    /// Nobody listens any more.
    pub(crate) fn end(self) -> Result<()> {
        self.host
            .sh("for namespace in $(ls /run/netns); do
                     kill $(ip netns pids $namespace) || true
                 done
                 # A namespace is gone later than it is deleted, and its VLAN with it.
                 for namespace in $(cd /run/netns && ls -d vlan*); do ip -n $namespace link delete vlan; done
                 ip -n wire link set eth3 netns 1
                 for namespace in $(ls /run/netns); do ip netns delete $namespace; done
                 rm -r /run/outside")
            .map(drop)
    }
}
