//! One run: a guest moves, something breaks, and independent eyes judge what came of it.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    Bounds,
    draw::{Fault, Plan},
    inject::{Cast, Injector, JOURNAL, journals},
    report::{Bound, Broken, Run},
    rig::{GUEST, Rig},
    vcpus::{NOISE, Watch},
    wire::Heard,
};
use crate::{Host, leaks::Difference, process::Process, wait};

/// A coordinator that takes longer does not end.
const COORDINATOR: Duration = Duration::from_secs(150);
/// One that takes longer is ended.
const RESOLVE: Duration = Duration::from_secs(60);
/// Between two `vmferry migrations resolve`.
const AGAIN: Duration = Duration::from_secs(5);

/// Where the guest is, as both hosts' libvirts say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    /// It runs on this host, and the other does not know it.
    On(usize),
    /// It runs nowhere, and this host alone has its definition.
    Off(usize),
    /// Anything else.
    Unclear,
}

impl Stands {
    pub(super) fn host(self) -> Option<usize> {
        match self {
            Self::On(host) | Self::Off(host) => Some(host),
            Self::Unclear => None,
        }
    }
}

/// Makes a run of the plan, with what is worth keeping in `directory`.
pub(crate) fn run(rig: &mut Rig, plan: Plan, bounds: &Bounds, directory: &Path) -> Result<Run> {
    let begun = Instant::now();
    // The last run may have killed it.
    if rig.wants_guest()? || !matches!(stands(rig)?, Stands::On(_)) {
        rig.start_guest()?;
    }
    let rig = &*rig;
    let Stands::On(from) = stands(rig)? else { bail!("{GUEST} does not run on one host before the run") };
    let (source, destination) = (rig.host(from), rig.host(1 - from));
    for capture in &rig.wire {
        capture.take();
    }
    let cast = Cast { testbed: &rig.testbed, source, destination };
    let mut injector = Injector::prepare(cast, plan)?;
    let before = [journals(rig.host(0))?, journals(rig.host(1))?];
    let watch = Watch::start(Box::new(qemus(rig)));

    let mut coordinator = Coordinator::start(rig, plan, destination, directory)?;
    let process = coordinator.process;
    let is_fired = injector.inject(process, || coordinator.is_over())?;
    let ended = Instant::now();

    let broke = injector.broke.filter(|_| is_fired).map(Timestamp::try_from).transpose()?;
    let mut trial = Trial { rig, plan, before, ended, broke, missing: Vec::new(), is_ended_but_unclean: false };
    let (settled, resolves) = trial.settle(&mut coordinator, bounds, directory)?;
    let together = watch.end();
    let mut broken = Vec::new();
    if resolves > 0 {
        let what = format!("`vmferry migrations resolve` was asked for {resolves} times");
        broken.push(Broken { bound: Bound::Alone, what });
    }
    if settled.is_none_or(|settled| settled > bounds.settle) {
        let bound = if trial.is_ended_but_unclean { Bound::Leak } else { Bound::Settle };
        broken.push(Broken { bound, what: trial.missing.join("; ") });
    }
    let stands = stands(rig)?;
    let mut heard = Heard::default();
    // Before what follows, so that it is heard once more; and after.
    let is_running = matches!(stands, Stands::On(_));
    if is_running && let Err(error) = rig.guest()?.console().wait_for_more(3, wait::SOON) {
        broken.push(Broken { bound: Bound::Guest, what: format!("it does not go on: {error:#}") });
    }
    for (host, capture) in rig.wire.iter().enumerate() {
        heard.add(host, &capture.take());
    }
    let document = coordinator.document(directory)?;
    broken.extend(trial.judge(stands, from, &heard, &document, coordinator.exit));
    if together.is_double() {
        let what = format!(
            "both vCPUs had more than {NOISE:?} in {} of {} windows, at most {:?}",
            together.windows, together.looked, together.most
        );
        broken.push(Broken { bound: Bound::Double, what });
    }
    let name = |host: usize| if host == from { "source" } else { "destination" };
    let run = Run {
        plan,
        fault: plan.fault.label(),
        fired: is_fired,
        outcome: outcome(&document, coordinator.exit),
        reason: document["cause"]["reason"]
            .as_str()
            .or_else(|| document["error"]["reason"].as_str())
            .map(str::to_owned),
        exit: coordinator.exit,
        stands: match stands {
            Stands::On(host) => format!("on {}", name(host)),
            Stands::Off(host) => format!("off, on {}", name(host)),
            Stands::Unclear => "unclear".to_owned(),
        },
        settle_ms: settled.map(|settled| u64::try_from(settled.as_millis()).unwrap_or(u64::MAX)),
        resolves,
        together_us: u64::try_from(together.most.as_micros()).unwrap_or(u64::MAX),
        frames: heard.len(),
        wall_ms: 0,
        broken,
    };
    if run.leaves_hosts_whole() {
        injector.clear()?;
    }
    Ok(Run { wall_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX), ..run })
}

/// What finds the QEMUs of a host, from any thread.
fn qemus(rig: &Rig) -> impl Fn(usize) -> Vec<Process> + Send + 'static {
    let name = rig.testbed.name().to_owned();
    // Opened anew: a host that has booted has another init.
    let look = move |host: usize| crate::Testbed::open(&name)?.hosts()[host].processes("qemu-system-x86");
    move |host| look(host).unwrap_or_default()
}

fn stands(rig: &Rig) -> Result<Stands> {
    let states = rig.both(|host| host.domain_state(GUEST))?;
    Ok(match [states[0].as_deref(), states[1].as_deref()] {
        [Some("running"), None] => Stands::On(0),
        [None, Some("running")] => Stands::On(1),
        [Some("shut off"), None] => Stands::Off(0),
        [None, Some("shut off")] => Stands::Off(1),
        _ => Stands::Unclear,
    })
}

/// What it said of the end; a killed one says nothing.
fn outcome(document: &Value, exit: Option<i32>) -> String {
    match (document["outcome"].as_str(), exit) {
        (Some(outcome), _) => outcome.to_owned(),
        (None, Some(3)) => "refused".to_owned(),
        (None, Some(exit)) => format!("not begun ({exit})"),
        (None, None) => "coordinator killed".to_owned(),
    }
}

/// `vmferry migrate`.
struct Coordinator {
    child: Child,
    process: Process,
    started: Instant,
    is_ended: bool,
    exit: Option<i32>,
}

impl Coordinator {
    fn start(rig: &Rig, plan: Plan, destination: &Host, directory: &Path) -> Result<Self> {
        let bandwidth = plan.bandwidth.map(|bandwidth| format!("{bandwidth}MiB/s"));
        let mut command = rig.testbed.vmferry(["migrate", GUEST, "--to", destination.name(), "-o", "json"])?;
        command.args(plan.is_fast.then_some(["--handover", "fast"]).into_iter().flatten());
        command.args(bandwidth.iter().flat_map(|bandwidth| ["--bandwidth", bandwidth]));
        let [stdout, stderr] = ["coordinator.out", "coordinator.err"].map(|name| File::create(directory.join(name)));
        let child =
            command.stdin(Stdio::null()).stdout(stdout?).stderr(stderr?).spawn().context("cannot start vmferry")?;
        let process = i32::try_from(child.id()).ok().and_then(Process::find).context("vmferry ended at once")?;
        Ok(Self { child, process, started: Instant::now(), is_ended: false, exit: None })
    }

    fn is_over(&mut self) -> Result<bool> {
        if !self.is_ended
            && let Some(status) = self.child.try_wait()?
        {
            self.is_ended = true;
            self.exit = status.code();
        }
        Ok(self.is_ended)
    }

    fn document(&self, directory: &Path) -> Result<Value> {
        match fs::read_to_string(directory.join("coordinator.out"))?.trim() {
            "" => Ok(Value::Null),
            text => Ok(serde_json::from_str(text).unwrap_or(Value::Null)),
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A run whose fault is over.
pub(super) struct Trial<'a> {
    pub(super) rig: &'a Rig,
    pub(super) plan: Plan,
    /// The journals that each host had before the move.
    pub(super) before: [std::collections::BTreeSet<std::path::PathBuf>; 2],
    /// The fault's end.
    ended: Instant,
    /// Its beginning. None: it did not come about.
    pub(super) broke: Option<Timestamp>,
    /// What was not settled at the last look.
    missing: Vec<String>,
    /// Of that, only that something was left behind.
    is_ended_but_unclean: bool,
}

impl Trial<'_> {
    /// Waits until all is over and clean, and returns how long after the fault's end that was, and how often somebody had to ask for it.
    fn settle(
        &mut self,
        coordinator: &mut Coordinator,
        bounds: &Bounds,
        directory: &Path,
    ) -> Result<(Option<Duration>, u32)> {
        let (mut resolves, mut asked) = (0, None::<Instant>);
        loop {
            let is_over = coordinator.is_over()?;
            if !is_over && coordinator.started.elapsed() > COORDINATOR {
                self.missing = vec!["the coordinator does not end".to_owned()];
                return Ok((None, resolves));
            }
            self.missing = self.unsettled(is_over).unwrap_or_else(|error| vec![format!("{error:#}")]);
            if self.missing.is_empty() {
                return Ok((Some(self.ended.elapsed()), resolves));
            }
            let waited = self.ended.elapsed();
            // Nobody is asked for more while the coordinator that began it is at it.
            if is_over && waited > bounds.give_up {
                return Ok((None, resolves));
            }
            if is_over && waited > bounds.patience && asked.is_none_or(|at| at.elapsed() > AGAIN) {
                resolves += 1;
                asked = Some(Instant::now());
                self.resolve(directory, resolves)?;
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// What is still open, or left behind: the cheap looks first.
    fn unsettled(&mut self, is_over: bool) -> Result<Vec<String>> {
        self.is_ended_but_unclean = false;
        if !is_over {
            return Ok(vec!["the coordinator has not ended".to_owned()]);
        }
        for (index, before) in self.before.iter().enumerate() {
            let host = self.rig.host(index);
            for name in journals(host)?.difference(before) {
                let journal = fs::read_to_string(host.path(JOURNAL)?.join(name))?;
                if !journal.lines().any(|line| line.starts_with("{\"ended\"")) {
                    return Ok(vec![format!("{}: {} is open", host.name(), name.display())]);
                }
            }
        }
        let stands = stands(self.rig)?;
        if stands == Stands::Unclear {
            let states: Vec<_> = self
                .rig
                .testbed
                .hosts()
                .iter()
                .map(|host| Ok(format!("{}: {:?}", host.name(), host.domain_state(GUEST)?)))
                .collect::<Result<_>>()?;
            return Ok(vec![format!("the guest is on {}", states.join(", "))]);
        }
        let leaks = self.rig.leaks(stands.host(), |new| self.is_ours(new))?;
        self.is_ended_but_unclean = !leaks.is_empty();
        Ok(leaks)
    }

    /// What the campaign itself has made.
    fn is_ours(&self, new: &Difference) -> bool {
        matches!(self.plan.fault, Fault::FullDisk { .. }) && new.kind == "mount" && new.item == "/var/lib/vmferry"
            || matches!(self.plan.fault, Fault::LostFinish) && new.kind == "UNIX listener"
    }

    fn resolve(&self, directory: &Path, number: u32) -> Result<()> {
        let said = File::create(directory.join(format!("resolve-{number}")))?;
        let mut command = self.rig.testbed.vmferry(["migrations", "resolve", "-o", "json"])?;
        let mut child = command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said).spawn()?;
        if wait::until("vmferry migrations resolve", RESOLVE, || Ok(child.try_wait()?)).is_err() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}
