//! A guest's QEMU as a process of this host: the kernel says when it is gone, some 0.2 s before libvirt does, who looks for it five times a
//! second.

#![expect(unsafe_code, reason = "a file descriptor of its own for tokio, which trusts none by its type")]

use std::{fs, io, os::fd::OwnedFd, path::Path};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::{Interest, unix::AsyncFd};
use vmferry_core::id::InstanceId;

/// Where libvirt writes which process is which domain's, by its name.
const PID_FILES: &str = "/run/libvirt/qemu";

/// One that runs, or did when it was looked up.
#[derive(Debug)]
pub struct QemuProcess(AsyncFd<OwnedFd>);

impl QemuProcess {
    /// That of the domain.
    pub fn of(name: &str, id: InstanceId) -> io::Result<Self> {
        // A name is one component of a path: libvirt lets nobody have another.
        let file = Path::new(PID_FILES).join(format!("{name}.pid"));
        let text = fs::read_to_string(&file)?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other(format!("{} holds no process number", file.display())))?;
        // First the process, then the look: what it is then cannot become another.
        let process = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        // SAFETY: an `OwnedFd` is one open descriptor until it is dropped, which is with the `AsyncFd` that owns it.
        let process = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) }?;
        let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()))?;
        let id = id.to_string();
        if !line.split(|byte| *byte == 0).any(|argument| argument == id.as_bytes()) {
            return Err(io::Error::other(format!("process {} is not the QEMU of domain {id}", pid.as_raw_nonzero())));
        }
        Ok(Self(process))
    }

    /// Returns when it is gone, with all its threads and its memory. An error says nothing of it.
    pub async fn gone(&self) -> io::Result<()> {
        self.0.readable().await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_that_does_not_run_has_no_process() {
        let id = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0".parse().expect("a UUID");
        let error = QemuProcess::of("no-such-domain-of-vmferry", id).expect_err("there is none");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
