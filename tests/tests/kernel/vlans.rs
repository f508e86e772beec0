//! Guests that move over VLANs, between two kernels that have them.
//!
//! ```text
//!  each host:     red ── bridge ── veth ── br-trunk ── eth2 ──┐ VLAN 30
//!                 brown ── bridge ── VLAN device ── eth1 ─────┤ VLAN 20
//!  the first one: somebody in VLAN 10, in 20, in 30 ── eth3 ──┘
//! ```

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::{Context, Result, ensure};
use vmferry_core::network::{Carrier, Network, Plug, VifId, VlanId};
use vmferry_tests::{
    frames::{KINDS, Kind},
    guest::{LinuxGuest, Tool},
    kernel_vm::KernelHost,
    layout::SHARED,
    network::guest_address,
    stream::PORTS,
    told::{STRANGER, TELLER},
    wait::until,
};

use crate::{
    assert_healthy,
    outside::{self, Outside},
    rig::{Rig, SOON, alone, timed},
};

/// In the configuration of both hosts.
pub(crate) const NETWORKS: &str = "
[[network]]
name = \"red\"
bridge = \"br-trunk\"
vlan = 30

[[network]]
name = \"brown\"
uplink = \"eth1\"
vlan = 20
";

/// What the administrator has done on each host: the wire carries the VLAN that a forger chooses, too.
const PREPARE: &str = "
ip link set eth1 up
ip link add br-trunk type bridge vlan_filtering 1 forward_delay 0
ip link set br-trunk up
ip link set eth2 master br-trunk up
for vlan in 10 20 30; do bridge vlan add dev eth2 vid $vlan; done
truncate -s 8M /srv/shared/red.img /srv/shared/brown.img";

/// Of the two networks. A forger chooses [`outside::FORGED`].
pub(crate) const VLANS: [u16; 2] = [30, 20];

/// And undoes.
const RESTORE: &str = "ip link delete br-trunk; ip link set eth1 down; ip link set eth2 down";

/// The administrator's bridge and its ports, without what runs by itself: timers, and whether it has noticed a carrier.
const AS_IT_IS: &str = "
ls /sys/class/net/br-trunk/brif
bridge vlan show dev eth2
bridge vlan show dev br-trunk
ip -d link show br-trunk | sed 's/_timer *[0-9.]*//g; s/state [A-Z]* //'";

/// Links of VMFerry's, and filters of taps.
const MADE: &str = "
ip -o link | grep -o 'vmf[^:@]*' || true
nft list ruleset | grep 'vmft\\|vnet' || true";

/// A guest that forges, serves and asks.
#[derive(Debug)]
pub(crate) struct Guest {
    /// Its network's, too.
    pub(crate) name: &'static str,
    pub(crate) vlan: u16,
    pub(crate) mac: String,
    pub(crate) address: Ipv4Addr,
    /// Whether its network carries tags inside of its own.
    takes_tags: bool,
    xml: String,
    bridge: String,
}

impl Guest {
    fn new(
        name: &'static str,
        carrier: impl Fn(VlanId) -> Result<Carrier>,
        vlan: u16,
        takes_tags: bool,
    ) -> Result<Self> {
        let mut definition = LinuxGuest::new(name).with_tool(Tool::Forge).with_tool(Tool::Serve).with_tool(Tool::Ask);
        // A frame costs such a guest much.
        definition.parameters = format!("peer={} pause=100", outside::ADDRESS);
        definition.domain.hypervisor = "kvm".to_owned();
        definition.domain.memory_mib = 96;
        let instance = definition.domain.uuid.parse()?;
        let vif = definition.domain.vif.as_mut().context("it has one")?;
        let carrier = carrier(VlanId::try_from(vlan)?)?;
        let network = Network { name: name.parse()?, carrier, mtu: None };
        let plug = Plug { vif: VifId { instance, mac: vif.mac.parse()? }, network };
        vif.bridge = plug.bridge().to_string();
        let (mac, bridge) = (vif.mac.clone(), vif.bridge.clone());
        let address = guest_address(u8::try_from(vlan)?);
        Ok(Self { name, vlan, mac, address, takes_tags, xml: definition.xml(Some(address)), bridge })
    }

    /// Defines it on the first host, on its network and with a policy, and starts it there.
    fn start(&self, rig: &Rig) -> Result<()> {
        let (host, file) = (&rig.hosts[0], format!("/run/{}.xml", self.name));
        host.write(&file, &self.xml)?;
        host.virsh(&format!("define {file}"))?;
        rig.done(&format!("instance network set {} {}", self.name, self.name))?;
        let rules = format!("--ingress tcp:{} --ingress icmp", PORTS[0]);
        rig.done(&format!("instance policy set {} --address {} {rules}", self.name, self.address))?;
        let shown = format!("ip link show {}", self.bridge);
        until(&shown, SOON, || Ok(host.sh(&shown).ok()))?;
        host.virsh(&format!("start {}", self.name)).map(drop)
    }

    fn console(&self) -> String {
        format!("{SHARED}/{}.console", self.name)
    }

    /// Waits until it is told more, on this host. Fails if somebody tells it something whom it has not asked.
    fn wait_until_told(&self, host: &KernelHost) -> Result<()> {
        let told = || {
            let told = host.sh(&format!("grep ^TOLD {} || true", self.console()))?;
            let uninvited = told.lines().find(|line| line.trim_end().ends_with(&format!(" {STRANGER}")));
            ensure!(uninvited.is_none(), "{} was told by who was not asked: {uninvited:?}", self.name);
            Ok(told.lines().filter(|line| line.trim_end().ends_with(&format!(" {TELLER}"))).count())
        };
        let before = told()?;
        until(&format!("{} to be told more", self.name), SOON, || Ok((told()? >= before + 5).then_some(())))
    }

    fn moved(&self, rig: &Rig, to: &KernelHost) -> Result<()> {
        timed(&format!("{} is moved to {}", self.name, to.name()), || {
            // In half a second such a machine sends less than the guest writes meanwhile.
            let answer = rig.vmferry(&format!("migrate {} --to {} --policy slow", self.name, to.name()))?;
            ensure!(answer.exit == Some(0) && answer.document["outcome"] == "completed", "{answer:#?}");
            Ok(())
        })
    }
}

/// Fails unless what may go on goes on, and nothing else, with the guest on this host.
fn assert_itself(guest: &Guest, outside: &Outside<'_>, host: &KernelHost) -> Result<()> {
    timed(&format!("{} is reached, and reaches, as it may", guest.name), || {
        outside.wait_for_stream(guest)?;
        guest.wait_until_told(host)?;
        until("an answer", SOON, || outside.reaches(guest))?;
        ensure!(!outside.enters(guest)?, "{} is entered by a port that no rule opens", guest.name);
        Ok(())
    })?;
    timed("nothing forged was heard, and nothing in another VLAN", || outside.assert_apart(guest))
}

/// Fails unless nothing is there of a guest that has left, and the administrator's bridge is as it was.
fn assert_left(host: &KernelHost, before: &str) -> Result<()> {
    let (made, now) = (host.sh(MADE)?, host.sh(AS_IT_IS)?);
    ensure!(made.is_empty(), "left on {}: {made}", host.name());
    ensure!(now == before, "on {}, {now} is not {before}", host.name());
    Ok(())
}

/// None of it was by accident: without rules the port is open, and without a policy all is heard that is forged.
fn assert_at_large(rig: &Rig, guest: &Guest, outside: &Outside<'_>) -> Result<()> {
    rig.done(&format!("instance policy set {} --address {}", guest.name, guest.address))?;
    // Such a guest is seldom as quick as a connection wants it to be.
    until(&format!("{} to let in by the other port", guest.name), SOON, || Ok(outside.enters(guest)?.then_some(())))?;
    rig.done(&format!("instance policy unset {}", guest.name))?;
    // A bridge that filters VLANs takes no tags from a port that is in one.
    let kinds = KINDS.into_iter().filter(|kind| *kind != Kind::Tagged || guest.takes_tags);
    let kinds: BTreeSet<_> = kinds.map(|kind| format!("{kind:?}")).collect();
    until(&format!("{kinds:?}"), SOON, || {
        let heard = outside.heard(&format!("vlan{}", guest.vlan))?;
        Ok((heard.into_iter().map(|heard| heard.kind).collect::<BTreeSet<_>>() == kinds).then_some(()))
    })
}

/// Ends the guest, and removes what an administrator would remove then.
fn ended(rig: &Rig, guest: &Guest, host: &KernelHost) -> Result<()> {
    host.virsh(&format!("destroy {}", guest.name))?;
    host.virsh(&format!("undefine {}", guest.name))?;
    for leftover in rig.leftovers(host)? {
        host.sh(leftover["remedy"].as_str().context("it says what to do")?)?;
    }
    let made = host.sh(MADE)?;
    ensure!(made.is_empty(), "left: {made}");
    host.sh(RESTORE)?;
    assert_healthy(rig)
}

fn assert_moves_there_and_back(guest: &Guest) -> Result<()> {
    alone(|rig| {
        let [a, b] = &rig.hosts;
        let before = [a, b].map(|host| {
            host.sh(PREPARE)?;
            host.sh(AS_IT_IS)
        });
        let [before_a, before_b] = before;
        let (before_a, before_b) = (before_a?, before_b?);
        let outside = Outside::begin(a, guest)?;
        timed(&format!("{} is defined and started", guest.name), || guest.start(rig))?;
        timed(&format!("{} has booted", guest.name), || {
            until("an answer", SOON, || outside.reaches(guest))?;
            outside.converse(guest)
        })?;
        assert_itself(guest, &outside, a)?;

        guest.moved(rig, b)?;
        assert_left(a, &before_a)?;
        // What it has said there is no sign of life when it is back.
        a.sh(&format!("rm {}", guest.console()))?;
        assert_itself(guest, &outside, b)?;
        guest.moved(rig, a)?;
        assert_left(b, &before_b)?;
        assert_itself(guest, &outside, a)?;
        assert_healthy(rig)?;

        timed("without a policy it does what it likes", || assert_at_large(rig, guest, &outside))?;
        outside.end()?;
        ended(rig, guest, a)?;
        b.sh(RESTORE).map(drop)
    })
}

#[test]
#[ignore = "needs emulated machines: make test-kernel"]
fn a_guest_moves_over_a_vlan_of_a_bridge() -> Result<()> {
    let carrier = |vlan| Ok(Carrier::BridgeVlan { bridge: "br-trunk".parse()?, vlan });
    assert_moves_there_and_back(&Guest::new("red", carrier, VLANS[0], false)?)
}

#[test]
#[ignore = "needs emulated machines: make test-kernel"]
fn a_guest_moves_over_a_vlan_of_an_uplink() -> Result<()> {
    let carrier = |vlan| Ok(Carrier::UplinkVlan { uplink: "eth1".parse()?, vlan });
    assert_moves_there_and_back(&Guest::new("brown", carrier, VLANS[1], true)?)
}
