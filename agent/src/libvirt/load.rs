//! How much memory a guest has, and how fast it writes to it.

use std::time::Duration;

use bytesize::ByteSize;
use tokio::time::sleep;
use virt::domain::Domain;
use virt_sys as sys;
use vmferry_core::id::InstanceId;

use super::{
    Error, Fault, Libvirt, ffi,
    reading::{lookup, or_gone},
};

/// For how long it is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two looks whether QEMU has counted, and for how many it may take.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS: u32 = 50;

impl Libvirt {
    /// What a guest that runs writes to per second, by looking at it for one; what it writes to twice counts once. libvirt begins
    /// with that only while no job runs; to wait for it is nothing to a job.
    ///
    /// QEMU samples some of its pages. Its other ways are exact and not for this: one needs KVM, and one crashes QEMU 7.2 without
    /// KVM.
    pub async fn dirty_rate(&self, id: InstanceId) -> Result<ByteSize, Error> {
        let begun = self
            .change(format!("begin to measure what is written to by domain {id}"), move |connection| {
                match lookup(connection, id)? {
                    Some(domain) => or_gone(ffi::start_dirty_rate(&domain, PERIOD)),
                    None => Ok(None),
                }
            })
            .await?;
        begun.ok_or(Error::NoDomain { id })?;
        sleep(PERIOD).await;
        for _ in 0..LOOKS {
            let measured = self.of_running(id, "tell what is written to by", ffi::dirty_rate).await?;
            if let Some(mib) = measured {
                return Ok(ByteSize::mib(mib));
            }
            sleep(LOOK).await;
        }
        let source = Fault { code: sys::VIR_ERR_OPERATION_TIMEOUT, message: "QEMU has not counted in time".to_owned() };
        Err(Error::Refused { asked: format!("tell what is written to by domain {id}"), source })
    }

    /// What QEMU itself takes up on its host: what the guest ever wrote to, and a little more; not what is in huge pages or swapped out.
    pub async fn resident(&self, id: InstanceId) -> Result<ByteSize, Error> {
        self.of_running(id, "tell the memory that is taken up by", resident).await
    }

    async fn of_running<T: Send + 'static>(
        &self,
        id: InstanceId,
        what: &str,
        question: impl Fn(&Domain) -> Result<T, Fault> + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let answer = self
            .read(format!("{what} domain {id}"), move |connection| match lookup(connection, id)? {
                Some(domain) => or_gone(question(&domain)),
                None => Ok(None),
            })
            .await?;
        answer.ok_or(Error::NoDomain { id })
    }
}

fn resident(domain: &Domain) -> Result<ByteSize, Fault> {
    let statistics = domain.memory_stats(0)?;
    let rss = statistics.iter().find(|statistic| statistic.tag == sys::VIR_DOMAIN_MEMORY_STAT_RSS);
    // QEMU's process is its own; libvirt leaves it out only if it cannot read /proc.
    Ok(rss.map_or(ByteSize::b(u64::MAX), |rss| ByteSize::kib(rss.val)))
}
