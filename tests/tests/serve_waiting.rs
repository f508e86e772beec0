//! `vmferry serve` and migrations that wait for their turn on real hosts: aborted and repeated at other coordinators.

use std::{
    process::{Child, Output, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use vmferry_tests::{
    Options, Testbed,
    coordinator::Coordinator,
    guest::{BootSectorGuest, Guest},
    process,
    wait::until,
};

use crate::rig::{Before, DESTINATION, Move, SOON, SOURCE, assert_only_on, busy_guest, speed_up, vmferry};

const ID: &str = "0190f5fe-7c00-7a00-8abc-012345678901";

/// How long what a killed coordinator left waiting may be taken for waiting, and the one that takes it up to make sure.
const TAKEN_UP: Duration = Duration::from_secs(60);

/// Two hosts of which the source sends one guest at a time, two coordinators, a guest that is on its way, and one for which there is no
/// place yet.
struct Full {
    testbed: Testbed,
    services: Vec<Coordinator>,
    first: Guest,
    second: Guest,
    before: Before,
}

fn full() -> Result<(Full, Move)> {
    let mut options = Options::default();
    options.hosts[0].configuration = "[capacity]\noutgoing = 1\n".into();
    let testbed = Testbed::up(options)?;
    let services = vec![testbed.serve(7444)?, testbed.serve(7445)?];
    let first = busy_guest(&testbed, "web-1")?;
    let second = testbed.start(BootSectorGuest::new("web-2"), SOURCE)?;
    let before = Before::of(&testbed)?;
    let moving = Move::begin(&testbed, &first)?;
    Ok((Full { testbed, services, first, second, before }, moving))
}

impl Full {
    /// A client that has the second guest moved by one of the coordinators.
    fn ask(&self, service: usize) -> Result<Child> {
        let mut client = self.testbed.client(self.services[service].address(), "web-2", DESTINATION)?;
        client.args(["--id", ID]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        client.spawn().context("cannot start the client")
    }

    /// The ids of those that wait.
    fn waiters(&self) -> Result<Vec<String>> {
        let answer = vmferry(&self.testbed, &["migrations"])?;
        let waiting = answer.document["waiting"].as_array().context("a list")?;
        Ok(waiting.iter().filter_map(|waiter| waiter["id"].as_str().map(str::to_owned)).collect())
    }

    /// Nothing is left, where these guests came.
    fn end(self, came: &[&str]) -> Result<()> {
        // Their connections are gone with them.
        drop(self.services);
        self.before.assert_nothing_leaked(&self.testbed, came)
    }

    fn wait_for_waiter(&self) -> Result<()> {
        until("it to wait", SOON, || Ok((self.waiters()? == [ID]).then_some(())))
    }
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

fn end(mut child: Child, limit: Duration) -> Result<(bool, String)> {
    until("the client's end", limit, || Ok(child.try_wait()?))?;
    let output = child.wait_with_output()?;
    Ok((output.status.success(), said(&output)))
}

#[test]
fn what_waits_by_one_coordinator_is_aborted_at_another() -> Result<()> {
    let (full, moving) = full()?;
    let client = full.ask(0)?;
    full.wait_for_waiter()?;
    let told = process::run(&mut full.testbed.aborting_client(full.services[1].address(), "web-2")?)?;
    for words in ["was aborted while it waited", "nothing was changed, web-2 stays on node-28"] {
        ensure!(told.contains(words), "{told}");
    }
    let (succeeded, said) = end(client, SOON)?;
    ensure!(!succeeded && said.contains("was aborted while it waited") && said.contains("stays on node-28"), "{said}");
    ensure!(!said.contains("is not known"), "it is known: {said}");
    ensure!(full.waiters()?.is_empty());
    speed_up(&full.testbed, &full.first)?;
    moving.end(SOON)?.assert_ended(0, &[])?;
    assert_only_on(&full.testbed, &full.second, SOURCE)?;
    full.end(&["web-1"])
}

#[test]
fn what_waits_by_a_coordinator_that_is_killed_is_moved_once_by_the_one_that_was_asked_again() -> Result<()> {
    let (mut full, moving) = full()?;
    let mut killed = full.ask(0)?;
    full.wait_for_waiter()?;
    let repeat = full.ask(1)?;
    sleep(Duration::from_secs(3));
    ensure!(full.waiters()? == [ID], "both wait as one");
    let first = full.services.remove(0);
    first.signal(Signal::SIGKILL)?;
    first.end(SOON)?;
    // Its client would ask the same address again and again.
    killed.kill()?;
    killed.wait()?;
    sleep(Duration::from_secs(2));
    speed_up(&full.testbed, &full.first)?;
    moving.end(SOON)?.assert_ended(0, &[])?;
    let (succeeded, said) = end(repeat, TAKEN_UP)?;
    ensure!(succeeded && said.contains("web-2 runs on node-31"), "{said}");
    assert_only_on(&full.testbed, &full.second, DESTINATION)?;
    let answer = vmferry(&full.testbed, &["migrations"])?;
    let migrations = answer.document["migrations"].as_array().context("a list")?;
    let of_second: Vec<_> = migrations.iter().filter(|migration| migration["instance"] == "web-2").collect();
    ensure!(
        of_second.len() == 1 && of_second[0]["id"] == ID && of_second[0]["outcome"] == "completed",
        "{of_second:#?}"
    );
    full.end(&["web-1", "web-2"])
}
