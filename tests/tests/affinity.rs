//! Guests that shall be together, or apart, on three hosts in two zones: said through the CLI, kept to by whoever moves them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use vmferry_tests::{
    Options, Testbed,
    guest::{BootSectorGuest, Guest},
    testbed::HostSpec,
};

use crate::rig::{Answer, Before, assert_only_on, vmferry};

/// In zone nova; the second is the first by name.
const ZONE: [&str; 2] = ["node-28", "node-27"];
/// In zone nova2.
const OTHER_ZONE: &str = "node-31";
/// What each host gives its guests: less than the kernel has, so that hosts with as many guests are as good.
const GIVEN_MIB: u64 = 1_024;

fn up() -> Result<Testbed> {
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let total: u64 = total.context("the kernel has a MemTotal")?.parse()?;
    let mut options = Options { hosts: HostSpec::defaults(3), ..Options::default() };
    for host in &mut options.hosts {
        host.configuration = format!("capacity.memory_reserve = \"{}KiB\"", total - GIVEN_MIB * 1024);
    }
    Testbed::up(options)
}

fn start(testbed: &Testbed, name: &str, host: &str) -> Result<Guest> {
    testbed.start(BootSectorGuest::new(name), host)
}

fn say(testbed: &Testbed, guest: &str, group: &str, policy: &str) -> Result<()> {
    let arguments = ["instance", "affinity", "set", guest, "--group", group, "--policy", policy];
    vmferry(testbed, &arguments)?.assert_ended(0, &[])
}

/// Where it would go, if nobody says where.
fn planned(testbed: &Testbed, guest: &str) -> Result<String> {
    let answer = vmferry(testbed, &["plan", guest])?;
    ensure!(answer.exit == Some(0), "{answer:#?}");
    Ok(answer.document["destination"].as_str().context("it has one")?.to_owned())
}

/// Why each host does not take it.
fn reasons(answer: &Answer) -> BTreeMap<&str, BTreeSet<&str>> {
    let hosts = answer.document["hosts"].as_array().map(Vec::as_slice).unwrap_or_default();
    hosts
        .iter()
        .filter_map(|row| {
            let refusals = row["refusals"].as_array()?.iter().filter_map(|refusal| refusal["reason"].as_str());
            Some((row["host"].as_str()?, refusals.collect()))
        })
        .collect()
}

#[test]
fn guests_that_must_be_apart_are_kept_apart_by_choice_and_by_name() -> Result<()> {
    let testbed = up()?;
    let guests = [start(&testbed, "db-1", ZONE[0])?, start(&testbed, "db-2", ZONE[1])?];
    ensure!(planned(&testbed, "db-1")? == ZONE[1], "without a rule it stays in its zone");
    for guest in &guests {
        say(&testbed, guest.name(), "db", "anti-affinity")?;
    }
    let before = Before::of(&testbed)?;

    let answer = vmferry(&testbed, &["migrate", "db-1"])?;
    answer.assert_outcome("completed", OTHER_ZONE)?;
    ensure!(answer.stderr.contains("node-31 is chosen"), "{answer:#?}");
    // The rule went along: it is the agent there that refuses.
    let refused = vmferry(&testbed, &["migrate", "db-1", "--to", ZONE[1]])?;
    refused.assert_ended(3, &["AFFINITY_VIOLATED"])?;
    refused.assert_error_says(&[
        "db-1 must be apart from the others of group db (anti-affinity)",
        "node-27 has db-2",
        "--policy soft-anti-affinity",
        "nothing was changed",
    ])?;

    // Nowhere left: every host says why.
    vmferry(&testbed, &["cordon", ZONE[0], "--reason", "new disks"])?.assert_ended(0, &[])?;
    let refused = vmferry(&testbed, &["migrate", "db-1"])?;
    ensure!(refused.exit == Some(3), "{refused:#?}");
    let expected = [(ZONE[1], "AFFINITY_VIOLATED"), (ZONE[0], "HOST_CORDONED")];
    ensure!(
        reasons(&refused) == expected.map(|(host, reason)| (host, BTreeSet::from([reason]))).into(),
        "{refused:#?}"
    );
    refused.assert_error_says(&["db-1 cannot move", "nothing was changed"])?;
    vmferry(&testbed, &["uncordon", ZONE[0]])?.assert_ended(0, &[])?;
    for (guest, host) in guests.iter().zip([OTHER_ZONE, ZONE[1]]) {
        assert_only_on(&testbed, guest, host)?;
    }

    // Taken back, it is no rule any more.
    vmferry(&testbed, &["instance", "affinity", "unset", "db-1", "--group", "db"])?.assert_ended(0, &[])?;
    vmferry(&testbed, &["migrate", "db-1", "--to", ZONE[1]])?.assert_outcome("completed", ZONE[1])?;
    before.assert_nothing_leaked(&testbed, &["db-1"])
}

#[test]
fn guests_that_would_rather_be_apart_are_where_that_can_be() -> Result<()> {
    let testbed = up()?;
    // As many on each of the two that come into question, which are as good then; of those the first by name is taken.
    let moving = start(&testbed, "db-1", OTHER_ZONE)?;
    start(&testbed, "db-2", ZONE[1])?;
    start(&testbed, "web-1", ZONE[0])?;
    ensure!(planned(&testbed, "db-1")? == ZONE[1]);
    for guest in ["db-1", "db-2"] {
        say(&testbed, guest, "db", "soft-anti-affinity")?;
    }
    ensure!(planned(&testbed, "db-1")? == ZONE[0], "db-2 is on the other");
    // It is a wish, no rule.
    vmferry(&testbed, &["migrate", "db-1", "--to", ZONE[1]])?.assert_outcome("completed", ZONE[1])?;
    vmferry(&testbed, &["migrate", "db-1", "--to", OTHER_ZONE])?.assert_outcome("completed", OTHER_ZONE)?;
    vmferry(&testbed, &["migrate", "db-1"])?.assert_outcome("completed", ZONE[0])?;
    assert_only_on(&testbed, &moving, ZONE[0])
}

#[test]
fn guests_that_must_be_together_go_where_the_others_are_and_nowhere_else() -> Result<()> {
    let testbed = up()?;
    let cache = start(&testbed, "cache-1", OTHER_ZONE)?;
    start(&testbed, "app-1", ZONE[0])?;
    start(&testbed, "web-1", ZONE[1])?;
    ensure!(planned(&testbed, "cache-1")? == ZONE[1], "the first by name");
    say(&testbed, "app-1", "app", "soft-affinity")?;
    say(&testbed, "cache-1", "app", "soft-affinity")?;
    ensure!(planned(&testbed, "cache-1")? == ZONE[0], "app-1 is there");

    say(&testbed, "cache-1", "app", "affinity")?;
    let refused = vmferry(&testbed, &["migrate", "cache-1", "--to", ZONE[1]])?;
    ensure!(refused.exit == Some(3), "{refused:#?}");
    ensure!(reasons(&refused)[ZONE[1]] == BTreeSet::from(["AFFINITY_VIOLATED"]), "{refused:#?}");
    let rule =
        "cache-1 must be with others of group app (affinity), which are on node-28, and node-27 has none of them";
    ensure!(refused.stderr.contains(rule), "{refused:#?}");
    // Where they are, nobody may come: it stays, and hears why of each.
    vmferry(&testbed, &["cordon", ZONE[0], "--reason", "new disks"])?.assert_ended(0, &[])?;
    let refused = vmferry(&testbed, &["migrate", "cache-1"])?;
    ensure!(refused.exit == Some(3), "{refused:#?}");
    let expected = [(ZONE[1], "AFFINITY_VIOLATED"), (ZONE[0], "HOST_CORDONED")];
    ensure!(
        reasons(&refused) == expected.map(|(host, reason)| (host, BTreeSet::from([reason]))).into(),
        "{refused:#?}"
    );
    assert_only_on(&testbed, &cache, OTHER_ZONE)?;
    vmferry(&testbed, &["uncordon", ZONE[0]])?.assert_ended(0, &[])?;
    vmferry(&testbed, &["migrate", "cache-1"])?.assert_outcome("completed", ZONE[0])
}

#[test]
fn a_drain_places_those_apart_that_must_be() -> Result<()> {
    let testbed = up()?;
    let names = ["db-1", "db-2", "db-3"];
    let guests = names.map(|name| start(&testbed, name, ZONE[0])).into_iter().collect::<Result<Vec<_>>>()?;
    for name in names {
        say(&testbed, name, "db", "anti-affinity")?;
    }
    let other = start(&testbed, "web-1", ZONE[0])?;
    let before = Before::of(&testbed)?;
    let plan = vmferry(&testbed, &["drain", ZONE[0], "--dry-run"])?;
    ensure!(plan.exit == Some(9) && plan.document["moves"].as_array().map(Vec::len) == Some(3), "{plan:#?}");
    ensure!(plan.document["blocked"].as_array().map(Vec::len) == Some(1), "{plan:#?}");

    // All at once: nobody sees where the others are before they have begun.
    let answer = vmferry(&testbed, &["drain", ZONE[0], "--parallel", "4"])?;
    ensure!(answer.exit == Some(9), "{answer:#?}");
    let at: Vec<_> = guests.iter().map(|guest| testbed.runners(guest.name())).collect::<Result<Vec<_>>>()?;
    let hosts: BTreeSet<_> = at.iter().flatten().copied().collect();
    ensure!(hosts.len() == 3 && at.iter().all(|runners| runners.len() == 1), "{at:?}: {answer:#?}");
    ensure!(testbed.runners(other.name())? != [ZONE[0]], "it had no reason to stay: {answer:#?}");
    let ended = answer.document["instances"].as_array().context("a list")?;
    let stays: Vec<_> = ended.iter().filter(|ended| ended["end"] != "moved").collect();
    let [only] = stays[..] else { anyhow::bail!("{answer:#?}") };
    let [objection] = only["objections"].as_array().context("why")?.as_slice() else { anyhow::bail!("{only:#}") };
    ensure!(objection["reason"] == "AFFINITY_VIOLATED", "{only:#}");
    ensure!(objection["hosts"] == serde_json::json!([ZONE[1], OTHER_ZONE]), "every host says so: {only:#}");
    let moved = ended.iter().filter(|ended| ended["end"] == "moved");
    let moved: Vec<_> = moved.filter_map(|ended| ended["instance"].as_str()).collect();
    before.assert_nothing_leaked(&testbed, &moved)
}
