//! Hosts to which a guest cannot go because of its network. It is told why, and nothing is changed.

use anyhow::{Context, Result};
use vmferry_tests::{
    Host, Options, Testbed,
    carrier::{By, VNI, start, up},
    guest::{Guest, LinuxGuest},
    network::{Link, host_address},
    testbed::HostSpec,
};

use crate::{
    network_rig::{restrict, succeed},
    rig::{Before, DESTINATION, SOURCE, assert_only_on, migrate, vmferry},
};

/// A guest that cannot be moved.
struct Refused<'a> {
    testbed: &'a Testbed,
    guest: &'a Guest,
}

impl Refused<'_> {
    /// Fails unless the move is refused for one reason, in these words, with nothing changed.
    fn assert_to(&self, to: &str, reason: &str, words: &[&str]) -> Result<()> {
        let Self { testbed, guest } = self;
        let before = Before::of(testbed)?;
        let refused = migrate(testbed, guest.name(), to)?;
        refused.assert_ended(3, &[reason])?;
        refused.assert_error_says(&["nothing was changed", "stays on node-28", guest.name(), to])?;
        refused.assert_error_says(words)?;
        before.assert_nothing_leaked(testbed, &[])
    }

    fn assert(&self, reason: &str, words: &[&str]) -> Result<()> {
        self.assert_to(DESTINATION, reason, words).with_context(|| format!("{words:?}"))
    }
}

#[test]
fn a_guest_is_not_moved_to_a_host_that_cannot_carry_its_network() -> Result<()> {
    let mut hosts = HostSpec::defaults(4);
    // The second has no such network, the third Open vSwitch without the bridge, the fourth another VXLAN of the same number.
    for (index, by) in [(0, By::Bridge("br0")), (2, By::Ovs), (3, By::Vxlan)] {
        hosts[usize::from(index)].configuration = by.table(index);
    }
    let [_, none, bare, taken] = [0, 1, 2, 3].map(|index: usize| hosts[index].name.clone());
    let testbed = Testbed::up(Options { hosts, ..Options::default() })?;
    let guest = start(&testbed, SOURCE, By::Bridge("br0"), LinuxGuest::new("web-1"))?;
    let tunnel = format!("ip link add vx-old type vxlan id {VNI} local {} dstport 4789 dev underlay0", host_address(3));
    testbed.join_vxlan(VNI)?;
    testbed.host(&taken)?.sh(&tunnel)?;
    testbed.host(&bare)?.run("systemctl", ["start", "openvswitch-switch"])?;

    let refused = Refused { testbed: &testbed, guest: &guest };
    refused.assert_to(&none, "NETWORK_MISSING", &["network blue", "[[network]] named \"blue\""])?;
    refused.assert_to(&taken, "NETWORK_MISSING", &["VXLAN 5001 is vx-old's already", "remove vx-old"])?;
    refused.assert_to(&bare, "NETWORK_MISSING", &["Open vSwitch has no bridge br-int", "ovs-vsctl add-br br-int"])?;

    // Without it, nobody can say that nothing was changed in it.
    let before = Before::of(&testbed)?;
    testbed.host(&bare)?.run("systemctl", ["stop", "openvswitch-switch", "ovs-vswitchd", "ovsdb-server"])?;
    let answer = migrate(&testbed, guest.name(), &bare)?;
    testbed.host(&bare)?.run("systemctl", ["start", "openvswitch-switch"])?;
    answer.assert_ended(3, &["NETWORK_MISSING"])?;
    answer.assert_error_says(&["Open vSwitch does not answer", "systemctl start openvswitch-switch"])?;
    before.assert_nothing_leaked(&testbed, &[])?;
    assert_only_on(&testbed, &guest, SOURCE)
}

#[test]
fn a_guest_is_not_moved_to_a_bridge_that_does_not_fit() -> Result<()> {
    let testbed = up([By::Bridge("br0"), By::Bridge("br-guests")])?;
    let guest = start(&testbed, SOURCE, By::Bridge("br0"), LinuxGuest::new("web-1"))?;
    let refused = Refused { testbed: &testbed, guest: &guest };
    let host = testbed.host(DESTINATION)?;

    host.sh("ip link set br-guests down; ip link set br-guests name br-other; ip link set br-other up")?;
    refused.assert("NETWORK_MISSING", &["there is no link br-guests", "make br-guests"])?;
    host.sh("ip link set br-other down; ip link set br-other name br-guests; ip link set br-guests up")?;

    host.sh("ip link set br-guests mtu 1400")?;
    refused.assert("MTU_TOO_SMALL", &["up to 1400 bytes", "up to 1500", "larger MTU"])?;
    host.sh("ip link set br-guests mtu 1500")?;

    host.cut(Link::Guests)?;
    refused.assert("NETWORK_MISSING", &["guests0 has no carrier", "the other end of guests0"])?;
    host.mend(Link::Guests)?;

    host.sh("ip link set br-guests down")?;
    refused.assert("NETWORK_MISSING", &["br-guests is down", "ip link set br-guests up"])?;
    host.sh("ip link set br-guests up")?;
    assert_can_go(&testbed, &guest)
}

#[test]
fn a_guest_is_not_moved_beside_one_that_has_its_addresses() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let definition = LinuxGuest::new("web-1");
    let mac = definition.domain.vif.as_ref().context("it has a vif")?.mac.clone();
    let guest = testbed.start(definition, SOURCE)?;
    let refused = Refused { testbed: &testbed, guest: &guest };
    let host = testbed.host(DESTINATION)?;

    let mut twin = LinuxGuest::new("twin");
    twin.domain.vif.as_mut().context("it has a vif")?.mac.clone_from(&mac);
    testbed.launch(twin, DESTINATION)?;
    refused.assert("MAC_IN_USE", &["twin", &mac, "give one of them another"])?;
    remove(host, "twin")?;

    let other = testbed.launch(LinuxGuest::new("other"), DESTINATION)?;
    let address = guest.address()?.to_string();
    restrict(&testbed, &guest, &[])?;
    restrict(&testbed, &other, &["--address", &address])?;
    refused.assert("ADDRESS_IN_USE", &["other", &address, "vmferry instance policy show other"])?;
    remove(host, "other")?;
    assert_can_go(&testbed, &guest)
}

#[test]
fn a_guest_is_not_moved_to_a_host_that_cannot_filter_it() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(LinuxGuest::new("web-1"), SOURCE)?;
    restrict(&testbed, &guest, &[])?;
    let host = testbed.host(DESTINATION)?;
    // Whoever looks whether all is as before needs it, too.
    let before = Before::of(&testbed)?;
    host.sh("mv /usr/sbin/nft /usr/sbin/nft.away")?;
    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    host.sh("mv /usr/sbin/nft.away /usr/sbin/nft")?;
    answer.assert_ended(3, &["FIREWALL_MISSING"])?;
    answer.assert_error_says(&["nothing was changed", "node-31 cannot filter vif", "install nftables on node-31"])?;
    before.assert_nothing_leaked(&testbed, &[])?;
    assert_can_go(&testbed, &guest)
}

#[test]
fn a_guest_whose_metadata_nobody_can_read_is_not_moved() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let guest = testbed.start(LinuxGuest::new("web-1"), SOURCE)?;
    let before = Before::of(&testbed)?;
    let metadata = "<interfaces><interface mac='52:54:00:00:00:01'/><interface mac='52:54:00:00:00:01'/></interfaces>";
    let set = ["metadata", "web-1", "--uri", "https://vmferry.org/xmlns/interfaces/1", "--key", "vmferry", "--live"];
    let source = testbed.host(SOURCE)?;
    source.virsh([&set[..], &["--config", "--set", metadata]].concat())?;
    let answer = migrate(&testbed, "web-1", DESTINATION)?;
    answer.assert_ended(3, &["VIF_LABEL_INVALID"])?;
    answer.assert_error_says(&["nothing was changed", "52:54:00:00:00:01", "vmferry instance policy"])?;
    succeed(&testbed, &["instance", "policy", "unset", "web-1", "--all"])?;
    before.assert_nothing_leaked(&testbed, &[])?;
    assert_can_go(&testbed, &guest)
}

/// That it was refused for nothing else is shown by a move.
fn assert_can_go(testbed: &Testbed, guest: &Guest) -> Result<()> {
    let answer = vmferry(testbed, &["migrate", guest.name(), "--to", DESTINATION])?;
    answer.assert_ended(0, &[])?;
    assert_only_on(testbed, guest, DESTINATION)
}

fn remove(host: &Host, guest: &str) -> Result<()> {
    host.virsh(["destroy", guest])?;
    host.virsh(["undefine", guest]).map(drop)
}
