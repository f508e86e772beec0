//! What the tests share: the CLI and its answers, moves that go on, and what must not be left.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use vmferry_tests::{
    Testbed,
    guest::{BootSectorGuest, Guest},
    leaks::{Difference, Snapshot},
    wait::until,
};

pub(crate) mod volumes;

pub(crate) use vmferry_tests::wait::SOON;

/// The first host: guests start here.
pub(crate) const SOURCE: &str = "node-28";
/// The second.
pub(crate) const DESTINATION: &str = "node-31";

/// What `vmferry … -o json` said.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The exit code; `None`: killed.
    pub(crate) exit: Option<i32>,
    /// The document on stdout.
    pub(crate) document: Value,
    /// For people.
    pub(crate) stderr: String,
}

impl Answer {
    fn new(status: ExitStatus, stdout: &str, stderr: String) -> Result<Self> {
        let document = match stdout.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text).with_context(|| format!("stdout is no document: {text}"))?,
        };
        Ok(Self { exit: status.code(), document, stderr })
    }

    /// Runs the CLI to its end; the arguments are those of the command, `-o json` is added.
    pub(crate) fn of(command: &mut Command) -> Result<Self> {
        let output = command.args(["-o", "json"]).stdin(Stdio::null()).output().context("cannot start vmferry")?;
        Self::ended(output)
    }

    /// Of a CLI that has ended.
    pub(crate) fn ended(output: Output) -> Result<Self> {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Self::new(output.status, &String::from_utf8_lossy(&output.stdout), stderr)
    }

    /// Every reason in the document: of the error, of the cause, of the refusals.
    pub(crate) fn reasons(&self) -> Vec<&str> {
        let refusals = self.document["refusals"].as_array().into_iter().flatten();
        let places = [&self.document["error"], &self.document["cause"]].into_iter().chain(refusals);
        places.filter_map(|place| place["reason"].as_str()).collect()
    }

    /// Fails unless it ended so, for this reason and no other.
    pub(crate) fn assert_ended(&self, exit: i32, reasons: &[&str]) -> Result<()> {
        ensure!(self.exit == Some(exit) && self.reasons() == reasons, "expected {exit}, {reasons:?}; got {self:#?}");
        let told = &self.document["exit_code"];
        ensure!(told.is_null() || *told == exit, "exit code {exit}, but the document says {told}");
        Ok(())
    }

    /// Fails unless it failed because the tunnel was cut with the source's agent: which of the two is told first is chance.
    pub(crate) fn assert_cut_with_its_source(&self) -> Result<()> {
        self.assert_ended(1, &["AGENT_RESTARTED"]).or_else(|_| self.assert_ended(1, &["MIGRATION_FAILED"]))
    }

    /// Fails unless the user gets one error, with all of these words in it.
    pub(crate) fn assert_error_says(&self, words: &[&str]) -> Result<()> {
        let errors = self.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        ensure!(errors == 1, "{errors} errors instead of one: {}", self.stderr);
        let (_, error) = self.stderr.split_once("error: ").context("there is one")?;
        for word in words {
            ensure!(error.contains(word), "no `{word}` in: {error}");
        }
        Ok(())
    }

    /// Fails unless a migration ended so, with the guest there.
    pub(crate) fn assert_outcome(&self, outcome: &str, runs_on: &str) -> Result<()> {
        let (found, at) = (&self.document["outcome"], &self.document["runs_on"]);
        ensure!(found == outcome && at == runs_on, "expected {outcome} on {runs_on}; got {self:#?}");
        Ok(())
    }
}

impl Answer {
    /// Fails unless `vmferry migrations resolve` ended one migration so, with the guest there.
    pub(crate) fn assert_outcome_of_only(&self, outcome: &str, runs_on: &str) -> Result<()> {
        let ended = self.document["migrations"].as_array().map(Vec::as_slice).unwrap_or_default();
        let found: Vec<_> = ended.iter().map(|ended| (ended["outcome"].as_str(), ended["runs_on"].as_str())).collect();
        // Of one that the agents had ended before nobody says where the guest is by now.
        let expected = [[(Some(outcome), Some(runs_on))], [(Some(outcome), None)]];
        ensure!(expected.iter().any(|expected| found == expected), "expected {outcome} on {runs_on}; got {self:#?}");
        Ok(())
    }
}

/// `vmferry ARGUMENTS`
pub(crate) fn vmferry(testbed: &Testbed, arguments: &[&str]) -> Result<Answer> {
    Answer::of(&mut testbed.vmferry(arguments)?)
}

/// `vmferry migrate GUEST --to HOST`
pub(crate) fn migrate(testbed: &Testbed, guest: &str, to: &str) -> Result<Answer> {
    vmferry(testbed, &["migrate", guest, "--to", to])
}

/// The migrations that have not ended.
pub(crate) fn active_migrations(testbed: &Testbed) -> Result<Vec<Value>> {
    let answer = vmferry(testbed, &["migrations", "--active"])?;
    ensure!(answer.exit == Some(0), "{answer:#?}");
    Ok(answer.document["migrations"].as_array().cloned().unwrap_or_default())
}

/// A guest that writes faster than [`slow_down`] lets its memory move: its migration does not end by itself.
pub(crate) fn busy_guest(testbed: &Testbed, name: &str) -> Result<Guest> {
    let guest = testbed.start(BootSectorGuest::new(name).dirtying(100), SOURCE)?;
    slow_down(testbed, &guest)?;
    Ok(guest)
}

/// From now on the guest moves away from the source at 10 MiB/s.
pub(crate) fn slow_down(testbed: &Testbed, guest: &Guest) -> Result<()> {
    testbed.host(SOURCE)?.virsh(["migrate-setspeed", guest.name(), "10"]).map(drop)
}

/// Lets a move go on without a limit, so that it ends.
pub(crate) fn speed_up(testbed: &Testbed, guest: &Guest) -> Result<()> {
    testbed.host(SOURCE)?.virsh(["migrate-setspeed", guest.name(), "10000"]).map(drop)
}

/// A migration that goes on, with its coordinator. The coordinator dies with the value.
#[derive(Debug)]
pub(crate) struct Move {
    child: Child,
    id: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Move {
    /// Begins to move a guest from the source to the destination. Returns when its memory flows.
    pub(crate) fn begin(testbed: &Testbed, guest: &Guest) -> Result<Self> {
        Self::begin_with(testbed, guest, &[])
    }

    /// The same, with more arguments.
    pub(crate) fn begin_with(testbed: &Testbed, guest: &Guest, arguments: &[&str]) -> Result<Self> {
        Self::begin_as(testbed, guest, arguments, "memory to flow", || memory_flows(testbed, guest))
    }

    /// The same; returns as soon as `flows` says so.
    pub(crate) fn begin_until(
        testbed: &Testbed,
        guest: &Guest,
        what: &str,
        flows: impl Fn() -> Result<bool>,
    ) -> Result<Self> {
        Self::begin_as(testbed, guest, &[], what, flows)
    }

    fn begin_as(
        testbed: &Testbed,
        guest: &Guest,
        arguments: &[&str],
        what: &str,
        flows: impl Fn() -> Result<bool>,
    ) -> Result<Self> {
        let directory = testbed.layout().run_dir();
        let [stdout, stderr] = ["out", "err"].map(|end| directory.join(format!("move-{}.{end}", guest.name())));
        let mut command = testbed.vmferry(["migrate", guest.name(), "--to", DESTINATION, "-o", "json"])?;
        command.args(arguments).stdin(Stdio::null()).stdout(File::create(&stdout)?).stderr(File::create(&stderr)?);
        let mut child = command.spawn().context("cannot start vmferry")?;
        let flows = until(what, SOON, || {
            if let Some(status) = child.try_wait()? {
                anyhow::bail!("vmferry migrate ended: {status}: {}", fs::read_to_string(&stderr)?);
            }
            Ok(flows()?.then_some(()))
        });
        let id = flows.and_then(|()| {
            let active = active_migrations(testbed)?;
            let found = active.iter().find(|migration| migration["instance"] == guest.name());
            let migration = found.with_context(|| format!("no migration of {} in {active:?}", guest.name()))?;
            ensure!(migration["phase"] == "migrate" && migration["outcome"].is_null(), "{migration:#}");
            Ok(migration["id"].as_str().context("a migration has an id")?.to_owned())
        });
        // Into the value first: it ends the child.
        let mut begun = Self { child, id: String::new(), stdout, stderr };
        begun.id = id?;
        Ok(begun)
    }

    /// The migration's id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// What the coordinator has told the user so far.
    pub(crate) fn stderr(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.stderr)?)
    }

    /// Whether its coordinator still runs.
    pub(crate) fn goes_on(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends the coordinator a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// Waits for the coordinator's end.
    pub(crate) fn end(mut self, timeout: Duration) -> Result<Answer> {
        let waited = until("the coordinator's end", timeout, || Ok(self.child.try_wait()?));
        let status = waited.map_err(|error| error.context(self.stderr().unwrap_or_default()))?;
        Answer::new(status, &fs::read_to_string(&self.stdout)?, self.stderr()?)
    }
}

impl Drop for Move {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the source's libvirt says that some of the guest's memory has been sent, and more is to come.
pub(crate) fn memory_flows(testbed: &Testbed, guest: &Guest) -> Result<bool> {
    flows(testbed, guest, "Memory processed:")
}

/// The same of its disks.
pub(crate) fn disks_flow(testbed: &Testbed, guest: &Guest) -> Result<bool> {
    flows(testbed, guest, "File processed:")
}

fn flows(testbed: &Testbed, guest: &Guest, figure: &str) -> Result<bool> {
    let job = testbed.host(SOURCE)?.virsh(["domjobinfo", guest.name()]).unwrap_or_default();
    let sent = job.lines().find_map(|line| line.strip_prefix(figure));
    // "12.345 MiB": below that it is "KiB" or "B".
    Ok(job.contains("Outgoing migration") && sent.is_some_and(|sent| sent.trim_end().ends_with("MiB")))
}

/// What was on the hosts before.
#[derive(Debug)]
pub(crate) struct Before(Vec<Snapshot>);

impl Before {
    /// Looks now: nothing must be under way.
    pub(crate) fn of(testbed: &Testbed) -> Result<Self> {
        Ok(Self(testbed.hosts().iter().map(vmferry_tests::Host::snapshot).collect::<Result<_>>()?))
    }

    /// Fails if anything is left on a host that was not there before, or a migration is open. Guests that came are named.
    pub(crate) fn assert_nothing_leaked(&self, testbed: &Testbed, came: &[&str]) -> Result<()> {
        self.assert_nothing_leaked_but(testbed, came, |_, _| false)
    }

    /// The same, where guests that came need something on their host, by its name.
    pub(crate) fn assert_nothing_leaked_but(
        &self,
        testbed: &Testbed,
        came: &[&str],
        is_needed: impl Fn(&str, &Difference) -> bool,
    ) -> Result<()> {
        let active = active_migrations(testbed)?;
        ensure!(active.is_empty(), "not ended: {active:#?}");
        let is_guest = |new: &Difference| match new.kind {
            "domain" | "qemu process" => came.contains(&new.item.strip_prefix("guest=").unwrap_or(&new.item)),
            // Images are called after their guests.
            "image" => came.iter().any(|guest| new.item.contains(guest)),
            "link" => !came.is_empty() && new.item.starts_with("tap "),
            _ => false,
        };
        for (host, before) in testbed.hosts().iter().zip(&self.0) {
            // Connections close in their own time; nothing else may take any.
            let mut last = Ok(());
            let quiet = until("quiet", Duration::from_secs(5), || {
                let now = host.snapshot()?;
                last = now.assert_nothing_new(before, |new| is_guest(new) || is_needed(host.name(), new));
                Ok(last.is_ok().then_some(()))
            });
            quiet.or(last)?;
        }
        vmferry(testbed, &["doctor"])?.assert_ended(0, &[])
    }
}

/// Fails unless the guest runs on this host, and no other host so much as knows it. By libvirt, not by the agents.
pub(crate) fn assert_only_on(testbed: &Testbed, guest: &Guest, host: &str) -> Result<()> {
    for other in testbed.hosts() {
        let state = other.domain_state(guest.name())?;
        let expected = (other.name() == host).then_some("running");
        ensure!(state.as_deref() == expected, "{} is {state:?} on {}", guest.name(), other.name());
    }
    guest.console().wait_for_more(3, SOON)
}

/// The same for a guest that was moving, with all its memory.
pub(crate) fn assert_unharmed_on(testbed: &Testbed, guest: &Guest, host: &str) -> Result<()> {
    assert_only_on(testbed, guest, host)?;
    guest.console().assert_memory_intact()
}
