//! A guest's QEMU as a process of this host. The kernel knows first that it will never run again.

use std::{fs, io, path::Path, time::Duration};

use procfs::{
    ProcError, ProcResult,
    process::{Process, StatFlags},
};
use tokio::time::sleep;
use vmferry_core::id::InstanceId;

/// Where libvirt writes which process is which domain's, by its name.
const PID_FILES: &str = "/run/libvirt/qemu";

/// How often a process is looked at that is expected to end: what it takes is downtime.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// One that runs, or did when it was looked up.
#[derive(Debug)]
pub struct QemuProcess(Process);

impl QemuProcess {
    /// That of the domain.
    pub fn of(name: &str, id: InstanceId) -> io::Result<Self> {
        // A name is one component of a path: libvirt lets nobody have another.
        let file = Path::new(PID_FILES).join(format!("{name}.pid"));
        let text = fs::read_to_string(&file)?;
        let pid = text.trim().parse();
        let pid = pid.map_err(|_| io::Error::other(format!("{} holds no process number", file.display())))?;
        // First the process, then the look: what is held open of it is never another's.
        let process = Process::new(pid).map_err(io::Error::other)?;
        let id = id.to_string();
        if !process.cmdline().map_err(io::Error::other)?.contains(&id) {
            return Err(io::Error::other(format!("process {pid} is not the QEMU of domain {id}")));
        }
        Ok(Self(process))
    }

    /// Returns when none of its threads will ever run a guest's instruction again: each is gone, or on its way out of the kernel, from where
    /// none comes back. That is before the kernel has taken its memory back, which takes longer the more there is. An error says nothing.
    pub async fn gone(&self) -> io::Result<()> {
        // A thread that was made while the first look was taken is seen by the second.
        while !(self.is_leaving()? && self.is_leaving()?) {
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    fn is_leaving(&self) -> io::Result<bool> {
        all_leave(&self.0).or_else(|error| match error {
            ProcError::NotFound(_) => Ok(true),
            error => Err(io::Error::other(error)),
        })
    }
}

fn all_leave(process: &Process) -> ProcResult<bool> {
    // Most often it is not, and one file says so.
    if !process.stat()?.flags()?.contains(StatFlags::PF_EXITING) {
        return Ok(false);
    }
    for thread in process.tasks()? {
        let leaves = thread.and_then(|thread| thread.stat()?.flags());
        match leaves {
            Ok(flags) if !flags.contains(StatFlags::PF_EXITING) => return Ok(false),
            Ok(_) | Err(ProcError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "processes of the tests' own, without a secret")]
mod tests {
    use std::{
        process::{Child, Command, Stdio},
        time::Instant,
    };

    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);
    const MOMENT: Duration = Duration::from_millis(50);

    #[test]
    fn a_domain_that_does_not_run_has_no_process() {
        let id = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0".parse().expect("a UUID");
        let error = QemuProcess::of("no-such-domain-of-vmferry", id).expect_err("there is none");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    fn process(child: &Child) -> QemuProcess {
        QemuProcess(Process::new(child.id().cast_signed()).expect("it runs"))
    }

    #[tokio::test]
    async fn a_process_is_gone_when_it_is_dead_although_nobody_has_collected_it() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("it starts");
        let process = process(&child);
        assert!(timeout(MOMENT, process.gone()).await.is_err());
        child.kill().expect("it is ours");
        timeout(LONG, process.gone()).await.expect("in time").expect("it can be looked at");
        child.wait().expect("it has ended");
        timeout(LONG, process.gone()).await.expect("in time").expect("a process that was collected is gone, too");
    }

    #[tokio::test]
    async fn a_process_is_gone_when_no_thread_of_it_runs_any_more() {
        // Its first thread ends, the second goes on: the process is still there.
        let script = "import ctypes, threading, time\n\
                      threading.Thread(target=time.sleep, args=(1000,)).start()\n\
                      print('ready', flush=True)\n\
                      ctypes.CDLL(None).pthread_exit(None)";
        let mut command = Command::new("python3");
        let mut child = command.args(["-c", script]).stdout(Stdio::piped()).spawn().expect("it starts");
        let process = process(&child);
        let begun = Instant::now();
        while !process.0.stat().and_then(|stat| stat.flags()).expect("it is there").contains(StatFlags::PF_EXITING) {
            assert!(begun.elapsed() < LONG, "its first thread does not end");
            sleep(MOMENT).await;
        }
        assert!(timeout(MOMENT, process.gone()).await.is_err());
        child.kill().expect("it is ours");
        timeout(LONG, process.gone()).await.expect("in time").expect("it can be looked at");
        child.wait().expect("it has ended");
    }
}
