//! The time that vCPUs' threads spend on a CPU, read from outside, every few milliseconds: of two hosts' QEMUs only one may get any.
//!
//! What it can tell: both ran within the same few milliseconds, each for longer than a QEMU that is paused needs for its own sake ([`NOISE`]), and
//! more than once ([`OFTEN`]). What it cannot: a guest that was let run twice for less than some tenths of a second. The numbers on the
//! [wire](super::wire) tell that, a hundred in a second.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::process::Process;

/// How often it looks.
const WINDOW: Duration = Duration::from_millis(5);
/// Looks that are further apart tell nothing: one guest may have been stopped in between, and the other let run.
const LONGEST: Duration = Duration::from_millis(15);
/// How often it looks for new QEMUs; none runs its guest so soon after its own start.
const RESCAN: Duration = Duration::from_millis(100);
/// What a vCPU's thread may take in a window although its guest is paused: QEMU has it load its state, forget what it has translated, end.
pub(crate) const NOISE: Duration = Duration::from_micros(1500);
/// What a paused one does for its own sake it does once.
pub(crate) const OFTEN: u32 = 3;
/// `PF_EXITING` of sched.h: what it takes now is the kernel's taking its memory back.
const EXITING: u64 = 4;

/// Every QEMU of a host.
type Look = dyn Fn(usize) -> Vec<Process> + Send;

/// It looks until it is ended.
#[derive(Debug)]
pub(crate) struct Watch {
    ended: Arc<AtomicBool>,
    most: Arc<Mutex<Together>>,
    thread: Option<JoinHandle<()>>,
}

/// How much both have run at once at most.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Together {
    /// The lesser of what the two took within one window, where that was the most.
    pub(crate) most: Duration,
    /// In how many windows both took more than [`NOISE`].
    pub(crate) windows: u32,
    /// How many windows there were with two QEMUs.
    pub(crate) looked: u32,
}

struct Vcpu {
    host: usize,
    task: PathBuf,
    /// In nanoseconds, at the last look.
    spent: Option<u64>,
}

impl Watch {
    /// Looks from now on at the QEMUs that `qemus` finds on each of two hosts.
    pub(crate) fn start(qemus: Box<Look>) -> Self {
        let (ended, most) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Together::default())));
        let (until, result) = (Arc::clone(&ended), Arc::clone(&most));
        let thread = thread::spawn(move || {
            let (mut vcpus, mut scanned, mut looked) = (Vec::new(), None::<Instant>, Instant::now());
            while !until.load(Ordering::Relaxed) {
                if scanned.is_none_or(|at| at.elapsed() > RESCAN) {
                    scan(&qemus, &mut vcpus);
                    scanned = Some(Instant::now());
                }
                let took = look(&mut vcpus);
                // This thread may not have run for a while.
                if looked.elapsed() <= LONGEST {
                    result.lock().unwrap_or_else(PoisonError::into_inner).add(took);
                }
                looked = Instant::now();
                thread::sleep(WINDOW);
            }
        });
        Self { ended, most, thread: Some(thread) }
    }

    /// Ends it.
    pub(crate) fn end(mut self) -> Together {
        self.stop();
        *self.most.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
    }
}

fn scan(qemus: &Look, vcpus: &mut Vec<Vcpu>) {
    for host in 0..2 {
        for qemu in qemus(host) {
            let tasks = fs::read_dir(format!("/proc/{}/task", qemu.pid)).into_iter().flatten().flatten();
            for task in tasks.map(|task| task.path()) {
                // libvirt has QEMU name its threads: `CPU 0/TCG`, `CPU 0/KVM`.
                let is_vcpu = fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("CPU "));
                if is_vcpu && vcpus.iter().all(|known| known.task != task) {
                    vcpus.push(Vcpu { host, task, spent: None });
                }
            }
        }
    }
}

/// What each host's vCPUs took since the last look, in nanoseconds; those that end are forgotten.
fn look(vcpus: &mut Vec<Vcpu>) -> [Option<u64>; 2] {
    let mut took = [None::<u64>; 2];
    vcpus.retain_mut(|vcpu| {
        let Some(spent) = spent(&vcpu.task) else { return false };
        if let Some(before) = vcpu.spent.replace(spent) {
            *took[vcpu.host].get_or_insert(0) += spent.saturating_sub(before);
        }
        true
    });
    took
}

impl Together {
    fn add(&mut self, took: [Option<u64>; 2]) {
        if let [Some(one), Some(other)] = took {
            let least = Duration::from_nanos(one.min(other));
            self.looked += 1;
            self.most = self.most.max(least);
            self.windows += u32::from(least > NOISE);
        }
    }

    /// Whether both guests must have run.
    pub(crate) fn is_double(&self) -> bool {
        self.windows >= OFTEN
    }
}

/// On a CPU so far, in nanoseconds. None: it ends, or has.
fn spent(task: &std::path::Path) -> Option<u64> {
    let spent = fs::read_to_string(task.join("schedstat")).ok()?.split_ascii_whitespace().next()?.parse().ok()?;
    // Looked at afterwards: one that ends meanwhile is not counted either.
    let stat = fs::read_to_string(task.join("stat")).ok()?;
    let flags: u64 = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(6)?.parse().ok()?;
    (flags & EXITING == 0).then_some(spent)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        path::Path,
        process::{Child, Command, Stdio},
    };

    use super::*;
    use crate::wait;

    /// A process whose thread is called as a vCPU's.
    fn vcpu(directory: &Path, script: &str) -> Child {
        let program = directory.join("CPU 0");
        if !program.exists() {
            fs::copy("/bin/sh", &program).expect("there is a shell");
        }
        let mut command = Command::new(program);
        command.args(["-c", &format!("echo; {script}")]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        // Its start is work, too.
        child.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("it runs");
        child
    }

    /// What is seen of two, once `is_enough`.
    fn seen(scripts: [&str; 2], is_enough: impl Fn(Together) -> bool) -> Together {
        let directory = tempfile::tempdir().expect("a directory");
        let mut children = scripts.map(|script| vcpu(directory.path(), script));
        let pids = [&children[0], &children[1]].map(|child| i32::try_from(child.id()).expect("a pid"));
        let watch = Watch::start(Box::new(move |host| Process::find(pids[host]).into_iter().collect()));
        let waited = wait::until("enough", wait::SOON, || {
            let together = *watch.most.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(is_enough(together).then_some(()))
        });
        for child in &mut children {
            child.kill().expect("it is ours");
            child.wait().expect("it was killed");
        }
        waited.expect("it has looked");
        watch.end()
    }

    #[test]
    fn two_that_run_at_once_are_seen_and_two_that_do_not_are_not() {
        const BUSY: &str = "while :; do :; done";
        assert!(seen([BUSY, BUSY], |together| together.is_double()).most > NOISE);
        let alone = seen([BUSY, "read line"], |together| together.looked > 50);
        assert_eq!(alone.windows, 0, "{alone:?}");
    }
}
