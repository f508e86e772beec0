//! Guests whose vifs name filters of libvirt's (`<filterref>`): they have them wherever they are, and leave none behind.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vmferry_tests::{
    Host, Options, Testbed,
    capture::{Capture, Direction},
    frames::Kind,
    guest::{BootSectorGuest, Guest, LinuxGuest, Tool, Vif},
    leaks::Difference,
    network::Link,
};

use crate::{
    network_rig::succeed,
    rig::{Before, DESTINATION, Move, SOON, SOURCE, assert_only_on, migrate, slow_down, vmferry},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Each after those that it names.
const FILTERS: [(&str, &str); 3] = [
    (
        "tenant-mac",
        "<filter name='tenant-mac' chain='mac'>
           <rule action='return' direction='out' priority='350'><mac srcmacaddr='$MAC'/></rule>
           <rule action='drop' direction='out' priority='500'/>
         </filter>",
    ),
    (
        "tenant-ip",
        "<filter name='tenant-ip' chain='ipv4-tenant'>
           <rule action='return' direction='out' priority='100'><ip srcipaddr='$IP'/></rule>
           <rule action='drop' direction='out' priority='500'/>
         </filter>",
    ),
    ("tenant", "<filter name='tenant'><filterref filter='tenant-mac'/><filterref filter='tenant-ip'/></filter>"),
];
/// What those let nobody send.
const FORBIDDEN: [Kind; 2] = [Kind::ForeignMac, Kind::ForeignIpv4];
/// What they say nothing of: that it is heard shows that the forger has not stopped.
const UNFILTERED: Kind = Kind::GatewayArp;

fn up() -> Result<Testbed> {
    let testbed = Testbed::up(Options::default())?;
    let source = testbed.host(SOURCE)?;
    FILTERS.iter().try_for_each(|(_, xml)| define(source, xml))?;
    Ok(testbed)
}

/// As an administrator does it.
fn define(host: &Host, xml: &str) -> Result<()> {
    host.write("/run/filter.xml", xml)?;
    host.virsh(["nwfilter-define", "/run/filter.xml"]).map(drop)
}

/// Gives a guest that runs a filter, now and when it is next started.
fn filter(testbed: &Testbed, guest: &Guest, filterref: &str) -> Result<()> {
    let host = testbed.host(SOURCE)?;
    let xml = host.virsh(["dumpxml", guest.name()])?;
    let vif = xml.find("<interface").zip(xml.find("</interface>")).map(|(from, to)| &xml[from..to]);
    host.write("/run/vif.xml", format!("{}{filterref}</interface>", vif.context("it has a vif")?))?;
    host.virsh(["update-device", guest.name(), "/run/vif.xml", "--live", "--config"]).map(drop)
}

/// A guest with the filter that names the others.
fn filter_with_address(testbed: &Testbed, guest: &Guest) -> Result<()> {
    let parameter = format!("<parameter name='IP' value='{}'/>", guest.address()?);
    filter(testbed, guest, &format!("<filterref filter='tenant'>{parameter}</filterref>"))
}

/// The names and UUIDs of a host's filters.
fn filters(host: &Host) -> Result<Vec<String>> {
    let listed = host.virsh(["nwfilter-list"])?;
    Ok(listed.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Which of the filters above a host has.
fn tenants(host: &Host) -> Result<Vec<String>> {
    let names = filters(host)?.into_iter().filter_map(|line| Some(line.split_whitespace().last()?.to_owned()));
    Ok(names.filter(|name| name.starts_with("tenant")).collect())
}

fn moved(testbed: &Testbed, guest: &Guest, to: &str) -> Result<()> {
    let answer = migrate(testbed, guest.name(), to)?;
    answer.assert_ended(0, &[])?;
    answer.assert_outcome("completed", to)?;
    assert_only_on(testbed, guest, to)
}

/// The tables that libvirt makes for the first filter of a host stay there, empty.
fn is_libvirts_table(_: &str, new: &Difference) -> bool {
    new.kind == "firewall rule" && !["vnet", "vmft", "libvirt-"].iter().any(|name| new.item.contains(name))
}

/// Fails if something was heard that the filters forbid, or nothing of what they do not.
fn assert_filtered(captures: &[&Capture]) -> Result<()> {
    for capture in captures {
        capture.wait_for(Kind::Honest, 5, PATIENCE)?;
        capture.wait_for(UNFILTERED, 5, PATIENCE)?;
        let heard = capture.counts();
        ensure!(FORBIDDEN.iter().all(|kind| !heard.contains_key(kind)), "forged frames were heard: {heard:?}");
    }
    Ok(())
}

#[test]
fn a_guest_takes_its_filters_along_and_leaves_none_when_it_moves_back() -> Result<()> {
    let testbed = up()?;
    let [source, destination] = [testbed.host(SOURCE)?, testbed.host(DESTINATION)?];
    let forger = testbed.launch(LinuxGuest::new("forger").with_tool(Tool::Forge), SOURCE)?;
    {
        // Without a filter everything is heard: what follows is no accident.
        let heard = testbed.capture_from(SOURCE, Link::Guests)?;
        FORBIDDEN.iter().try_for_each(|kind| heard.wait_for(*kind, 1, PATIENCE))?;
    }
    filter_with_address(&testbed, &forger)?;
    let before = Before::of(&testbed)?;
    let [of_source, of_destination] = [filters(source)?, filters(destination)?];
    let [from_source, from_destination] =
        [testbed.capture_from(SOURCE, Link::Guests)?, testbed.capture_from(DESTINATION, Link::Guests)?];
    assert_filtered(&[&from_source])?;

    moved(&testbed, &forger, DESTINATION)?;
    assert_filtered(&[&from_source, &from_destination])?;
    ensure!(filters(source)? == of_source, "the administrator's filters are not the source's own any more");
    ensure!(tenants(destination)? == ["tenant", "tenant-ip", "tenant-mac"], "{:?}", filters(destination)?);
    let xml = destination.virsh(["dumpxml", "--inactive", "forger"])?;
    let address = format!("value='{}'", forger.address()?);
    ensure!(xml.contains("<filterref filter='tenant'>") && xml.contains(&address), "{xml}");
    before.assert_nothing_leaked_but(&testbed, &["forger"], |host, new| {
        let came = host == DESTINATION && (new.kind == "libvirt filter" || new.kind == "firewall rule");
        came || is_libvirts_table(host, new)
    })?;

    moved(&testbed, &forger, SOURCE)?;
    ensure!(filters(source)? == of_source, "{:?} is not {of_source:?}", filters(source)?);
    ensure!(filters(destination)? == of_destination, "{:?} is not {of_destination:?}", filters(destination)?);
    let again = testbed.capture_from(SOURCE, Link::Guests)?;
    assert_filtered(&[&again, &from_source, &from_destination])?;
    // That it still forges is seen where it is not filtered: at its own tap.
    let listed = source.virsh(["domiflist", "forger"])?;
    let sent = source.capture(listed.split_whitespace().next().context("it has a tap")?, Direction::In)?;
    FORBIDDEN.iter().try_for_each(|kind| sent.wait_for(*kind, 1, PATIENCE))?;
    // Its tap has another name now, and so have the rules for it.
    before.assert_nothing_leaked_but(&testbed, &["forger"], |host, new| {
        is_libvirts_table(host, new) || (host == SOURCE && new.kind == "firewall rule")
    })
}

#[test]
fn filters_that_vmferry_made_go_with_the_last_guest_that_needs_them() -> Result<()> {
    let testbed = up()?;
    let [source, destination] = [testbed.host(SOURCE)?, testbed.host(DESTINATION)?];
    let one = testbed.start(LinuxGuest::new("one"), SOURCE)?;
    let other = testbed.start(LinuxGuest::new("other"), SOURCE)?;
    filter_with_address(&testbed, &one)?;
    filter(&testbed, &other, "<filterref filter='tenant-mac'/>")?;
    // The same under another UUID, which is somebody else's.
    define(destination, &FILTERS[1].1.replace("\n", "\n\n"))?;
    let own = filters(destination)?;
    for guest in [&one, &other] {
        moved(&testbed, guest, DESTINATION)?;
    }
    ensure!(tenants(destination)? == ["tenant", "tenant-ip", "tenant-mac"], "{:?}", filters(destination)?);

    moved(&testbed, &one, SOURCE)?;
    ensure!(tenants(destination)? == ["tenant-ip", "tenant-mac"], "{:?}", filters(destination)?);
    // A guest that is undefined by hand leaves its filter, of which the doctor knows.
    destination.virsh(["destroy", "other"])?;
    destination.virsh(["undefine", "other"])?;
    let doctor = vmferry(&testbed, &["doctor", DESTINATION])?;
    doctor.assert_ended(1, &[])?;
    ensure!(doctor.document.to_string().contains("virsh nwfilter-undefine tenant-mac"), "{doctor:#?}");
    destination.virsh(["nwfilter-undefine", "tenant-mac"])?;
    succeed(&testbed, &["doctor"])?.assert_ended(0, &[])?;
    ensure!(filters(destination)? == own, "{:?} is not {own:?}", filters(destination)?);
    ensure!(tenants(source)? == ["tenant", "tenant-ip", "tenant-mac"], "{:?}", filters(source)?);
    Ok(())
}

#[test]
fn a_filter_of_the_same_name_that_says_something_else_is_refused() -> Result<()> {
    let testbed = up()?;
    let [source, destination] = [testbed.host(SOURCE)?, testbed.host(DESTINATION)?];
    let guest = testbed.start(LinuxGuest::new("web-1"), SOURCE)?;
    filter_with_address(&testbed, &guest)?;
    define(destination, &FILTERS[1].1.replace("'drop'", "'accept'"))?;
    let before = Before::of(&testbed)?;
    let known = [filters(source)?, filters(destination)?];

    let refused = migrate(&testbed, "web-1", DESTINATION)?;
    refused.assert_ended(3, &["FILTER_DIFFERS"])?;
    refused.assert_error_says(&[
        "nothing was changed",
        "tenant-ip",
        "web-1",
        SOURCE,
        DESTINATION,
        "nwfilter-edit tenant-ip",
    ])?;
    ensure!([filters(source)?, filters(destination)?] == known, "{:?}", filters(destination)?);
    before.assert_nothing_leaked(&testbed, &[])?;

    // That it was refused for nothing else is shown by a move.
    destination.virsh(["nwfilter-undefine", "tenant-ip"])?;
    moved(&testbed, &guest, DESTINATION)
}

#[test]
fn a_guest_whose_filter_is_gone_is_not_moved() -> Result<()> {
    let testbed = up()?;
    let source = testbed.host(SOURCE)?;
    let guest = testbed.start(LinuxGuest::new("web-1"), SOURCE)?;
    filter_with_address(&testbed, &guest)?;
    source.virsh(["destroy", "web-1"])?;
    source.virsh(["nwfilter-undefine", "tenant-ip"])?;
    let before = Before::of(&testbed)?;
    let refused = vmferry(&testbed, &["migrate", "web-1", "--to", DESTINATION, "--cold"])?;
    refused.assert_ended(3, &["FILTER_MISSING"])?;
    refused.assert_error_says(&[
        "nothing was changed",
        "filter tenant of web-1 names filter tenant-ip",
        "nwfilter-define",
    ])?;
    before.assert_nothing_leaked(&testbed, &[])?;

    define(source, FILTERS[1].1)?;
    let answer = vmferry(&testbed, &["migrate", "web-1", "--to", DESTINATION, "--cold"])?;
    answer.assert_ended(0, &[])?;
    let destination = testbed.host(DESTINATION)?;
    destination.virsh(["start", "web-1"])?;
    let rules = destination.sh("nft list ruleset")?;
    ensure!(rules.contains(&format!("ip saddr {}", guest.address()?)), "{rules}");
    Ok(())
}

#[test]
fn a_move_that_does_not_go_through_leaves_no_filter() -> Result<()> {
    let testbed = up()?;
    let [source, destination] = [testbed.host(SOURCE)?, testbed.host(DESTINATION)?];
    let mut definition = BootSectorGuest::new("web-1").dirtying(100);
    definition.domain.vif = Some(Vif::new("web-1"));
    let guest = testbed.start(definition, SOURCE)?;
    slow_down(&testbed, &guest)?;
    filter(&testbed, &guest, "<filterref filter='tenant-mac'/>")?;
    let before = Before::of(&testbed)?;
    let known = [filters(source)?, filters(destination)?];

    let moving = Move::begin(&testbed, &guest)?;
    ensure!(tenants(destination)? == ["tenant-mac"], "{:?}", filters(destination)?);
    vmferry(&testbed, &["abort", moving.id()])?.assert_ended(0, &["MIGRATION_ABORTED"])?;
    moving.end(SOON)?.assert_ended(4, &["MIGRATION_ABORTED"])?;
    ensure!([filters(source)?, filters(destination)?] == known, "{:?}", filters(destination)?);
    before.assert_nothing_leaked_but(&testbed, &[], is_libvirts_table)?;

    let moving = Move::begin(&testbed, &guest)?;
    ensure!(tenants(destination)? == ["tenant-mac"], "{:?}", filters(destination)?);
    destination.agent().kill_all()?;
    let answer = moving.end(PATIENCE)?;
    answer.assert_ended(1, &["MIGRATION_FAILED"])?;
    answer.assert_outcome("failed_rolled_back", SOURCE)?;
    destination.agent().wait_ready(SOON)?;
    assert_only_on(&testbed, &guest, SOURCE)?;
    before.assert_nothing_leaked_but(&testbed, &[], is_libvirts_table)?;
    ensure!([filters(source)?, filters(destination)?] == known, "{:?}", filters(destination)?);
    Ok(())
}
