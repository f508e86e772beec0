//! Many agents at once, on hosts that are simulated: drained by several coordinators while others choose among the same places.

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use vmferry_tests::fleet::{Fleet, Hosts, Simulated, guest_name, node, own_network};

const HOSTS: usize = 40;
const GUESTS: usize = 4;
/// Each has room for one guest more, so that whoever chooses at the same time chooses the same.
const HOST: Simulated = Simulated { guests: GUESTS, room: GUESTS + 1, guest_memory: 64, dirty_rate: 4, bandwidth: 256 };
/// Far longer than it takes.
const LIMIT: Duration = Duration::from_secs(90);

/// In a network of its own, which the thread and its children are in.
fn in_own_network(test: fn() -> Result<()>) -> Result<()> {
    let tested = thread::spawn(move || {
        own_network()?;
        test()
    });
    tested.join().map_err(|_| anyhow!("the test panicked"))?
}

/// Dies with the value, unless it is waited for.
struct Running(String, Option<Child>);

impl Running {
    fn begin(command: &mut Command) -> Result<Self> {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Self(format!("{command:?}"), Some(child)))
    }

    fn succeed(mut self) -> Result<()> {
        let output = self.1.take().context("waited for once")?.wait_with_output()?;
        let [said, complained] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        ensure!(output.status.success(), "{}: {}\n{said}{complained}", self.0, output.status);
        Ok(())
    }

    fn is_over(&mut self) -> Result<bool> {
        Ok(self.1.as_mut().context("not waited for yet")?.try_wait()?.is_some())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.1 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn two_drains_and_a_chooser_among_forty_hosts_lose_double_and_overfill_nobody() -> Result<()> {
    in_own_network(|| {
        let fleet = Fleet::up(HOSTS, Hosts::Simulated(HOST))?;
        let (_serving, coordinator) = fleet.serve()?;
        // One by itself, one through the coordinator that serves, and one who moves single guests meanwhile.
        let mut drains = vec![
            Running::begin(&mut fleet.vmferry(&["drain", &node(0)]))?,
            Running::begin(&mut fleet.vmferry(&["--coordinator", coordinator, "drain", &node(1)]))?,
        ];
        for number in 2..6 {
            Running::begin(&mut fleet.vmferry(&["migrate", &guest_name(number, 0)]))?.succeed()?;
        }
        let begun = Instant::now();
        while drains
            .iter_mut()
            .try_fold(false, |going_on, drain| Ok::<_, anyhow::Error>(going_on | !drain.is_over()?))?
        {
            let overfilled = fleet.overfilled()?;
            ensure!(overfilled.is_empty(), "more guests than there is room for: {overfilled:?}");
            ensure!(begun.elapsed() < LIMIT, "the drains do not end");
            thread::sleep(Duration::from_millis(50));
        }
        drains.into_iter().try_for_each(Running::succeed)?;

        let census = fleet.census()?;
        for drained in [node(0), node(1)] {
            ensure!(census[&drained].is_empty(), "still on {drained}: {:?}", census[&drained]);
        }
        ensure!(fleet.overfilled()?.is_empty());
        let left = fleet.leftovers()?;
        ensure!(left.is_empty(), "left behind: {left:#?}");
        Ok(())
    })
}
