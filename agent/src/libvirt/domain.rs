//! Questions about domains, and the single steps on them that are not the migration itself.

use std::time::Duration;

use tokio::time::Instant;
use virt::domain::Domain;
use virt_sys as sys;
use vmferry_core::{
    agent::Sighting,
    id::InstanceId,
    resolution::{self, Seen},
};

use super::{
    DomainReading, Error, Fault, Libvirt, Standing, ffi,
    reading::{Job, Moment, Raw, job, lookup, or_gone},
};

/// Between two looks at a job whose end is waited for.
const JOB_POLL: Duration = Duration::from_millis(250);
/// How long an aborted job may take to end: it waits for QEMU to resume the guest.
const ABORT_LIMIT: Duration = Duration::from_secs(10);

impl Libvirt {
    /// All domains, running or not.
    pub async fn domains(&self) -> Result<Vec<DomainReading>, Error> {
        let domains = self
            .read("list its domains", |connection| {
                let mut readings = Vec::new();
                for domain in connection.list_all_domains(0)? {
                    // One that has gone since is none.
                    readings.extend(or_gone(Raw::read(&domain))?);
                }
                Ok(readings)
            })
            .await?;
        Ok(domains
            .into_iter()
            .filter_map(|raw| {
                let id = raw.id();
                // One domain that we do not understand must not hide the others.
                raw.understand().inspect_err(|error| tracing::warn!(%id, %error, "domain left out of the list")).ok()
            })
            .collect())
    }

    /// The domain with this UUID or name. `None` only if libvirt says that there is none.
    pub async fn domain(&self, name_or_uuid: &str) -> Result<Option<DomainReading>, Error> {
        // No domain has such a name, and `virt` panics on it.
        if name_or_uuid.contains('\0') {
            return Ok(None);
        }
        let asked = format!("read domain {name_or_uuid}");
        let (name, id) = (name_or_uuid.to_owned(), name_or_uuid.parse::<InstanceId>().ok());
        let raw = self
            .read(asked.clone(), move |connection| {
                let mut domain = id.map_or(Ok(None), |id| lookup(connection, id))?;
                if domain.is_none() {
                    domain = or_gone(connection.lookup_domain_by_name(&name).map_err(Fault::from))?;
                }
                Ok(domain.map(|domain| or_gone(Raw::read(&domain))).transpose()?.flatten())
            })
            .await?;
        raw.map(Raw::understand).transpose().map_err(|source| Error::Unreadable { asked, source })
    }

    /// The definition as the destination's libvirt will get it; of the running guest while it runs.
    /// With the passwords of its displays.
    pub async fn migratable_xml(&self, id: InstanceId) -> Result<String, Error> {
        self.xml(id, sys::VIR_DOMAIN_XML_MIGRATABLE).await
    }

    /// The same, as the guest will be when it is started again.
    pub async fn persistent_migratable_xml(&self, id: InstanceId) -> Result<String, Error> {
        self.xml(id, sys::VIR_DOMAIN_XML_MIGRATABLE | sys::VIR_DOMAIN_XML_INACTIVE).await
    }

    async fn xml(&self, id: InstanceId, flags: sys::virDomainXMLFlags) -> Result<String, Error> {
        let asked = format!("give the migratable definition of domain {id}");
        let xml = self
            .read(asked, move |connection| {
                let Some(domain) = lookup(connection, id)? else { return Ok(None) };
                or_gone(domain.xml_desc(flags).map_err(Fault::from))
            })
            .await?;
        xml.ok_or(Error::NoDomain { id })
    }

    /// The name of the job that runs on the domain. A domain that is not there has none.
    pub async fn job(&self, id: InstanceId) -> Result<Option<String>, Error> {
        self.read(format!("tell the job of domain {id}"), move |connection| {
            let Some(domain) = lookup(connection, id)? else { return Ok(None) };
            let job = or_gone(if domain.is_active()? { job(&domain) } else { Ok(None) })?;
            Ok(job.flatten().map(|job| job.to_string()))
        })
        .await
    }

    /// Whether the domain is just being moved away, whoever has asked for it.
    pub async fn is_leaving(&self, id: InstanceId) -> Result<bool, Error> {
        self.read(format!("tell the job of domain {id}"), move |connection| {
            let Some(domain) = lookup(connection, id)? else { return Ok(false) };
            let job = or_gone(if domain.is_active()? { job(&domain) } else { Ok(None) })?;
            Ok(job.flatten() == Some(Job::MigrationOut))
        })
        .await
    }

    /// Waits until no job runs on the domain; aborts it once after `limit` and then gives it 10 s more. Errors of
    /// libvirt meanwhile are waited out: a libvirt that restarts ends its jobs.
    pub async fn await_job_end(&self, id: InstanceId, limit: Duration) -> Result<(), Error> {
        let start = Instant::now();
        let mut aborted = false;
        loop {
            let job = self.job(id).await;
            if let Ok(None) = job {
                return Ok(());
            }
            let waited = start.elapsed();
            if waited >= limit + ABORT_LIMIT {
                return job.and_then(|job| match job {
                    Some(job) => Err(Error::JobRuns { id, job, limit: limit + ABORT_LIMIT }),
                    None => Ok(()),
                });
            }
            if waited >= limit && !aborted && job.is_ok() {
                aborted = self.abort_job(id).await.inspect_err(|error| tracing::debug!(%error, "not aborted")).is_ok();
            }
            tokio::time::sleep(JOB_POLL).await;
        }
    }

    /// Asks the job that runs on the domain to end. Returns before it has; fails when there is none.
    pub async fn abort_job(&self, id: InstanceId) -> Result<(), Error> {
        let asked = format!("abort the job of domain {id}");
        let found = self
            .change(asked, move |connection| match lookup(connection, id)? {
                Some(domain) => or_gone(ffi::abort_job(&domain)),
                None => Ok(None),
            })
            .await?;
        found.ok_or(Error::NoDomain { id })
    }

    /// Forgets the definition of a domain that does not run. There being none is success; one that is active stays.
    ///
    /// Its NVRAM and TPM state stay where they are: they may be shared, or the only copy. A domain with snapshots,
    /// checkpoints or a saved state is refused by libvirt: that is more than a leftover of a migration.
    pub async fn undefine(&self, id: InstanceId) -> Result<(), Error> {
        let done = self
            .change(format!("undefine domain {id}"), move |connection| {
                let Some(domain) = lookup(connection, id)? else { return Ok(true) };
                let Some(active) = or_gone(domain.is_active().map_err(Fault::from))? else { return Ok(true) };
                if active {
                    return Ok(false);
                }
                or_gone(undefine(&domain)).map(|_| true)
            })
            .await?;
        if done { Ok(()) } else { Err(Error::Active { id }) }
    }

    /// Makes libvirt keep the definition of a running domain. One that it keeps already is success.
    pub async fn make_persistent(&self, id: InstanceId) -> Result<(), Error> {
        let found = self
            .change(format!("make domain {id} persistent"), move |connection| {
                let Some(domain) = lookup(connection, id)? else { return Ok(None) };
                if domain.is_persistent()? {
                    return Ok(Some(()));
                }
                // With its secrets: without, the guest would lose its console's password when it is next started.
                // They go from libvirt to libvirt.
                let xml = domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE)?;
                connection.define_domain_xml(&xml)?;
                Ok(Some(()))
            })
            .await?;
        found.ok_or(Error::NoDomain { id })
    }

    /// What is to be seen of the guest now.
    pub async fn sighting(&self, id: InstanceId) -> Result<Sighting, Error> {
        Ok(self.moment(id).await?.map_or(Sighting::Absent, |moment| moment.sighting()))
    }

    /// The same as facts by which a live migration is resolved. QEMU is not asked besides: that would mark the domain as tainted.
    pub async fn seen(&self, id: InstanceId) -> Result<Seen, Error> {
        let absent = Seen { domain: resolution::Domain::Absent, job: resolution::Job::None, qemu: None };
        Ok(self.moment(id).await?.map_or(absent, |moment| moment.seen()))
    }

    /// How far a guest is here that was switched to postcopy.
    pub async fn standing(&self, id: InstanceId) -> Result<Standing, Error> {
        Ok(self.moment(id).await?.map_or(Standing::Gone, |moment| moment.standing()))
    }

    async fn moment(&self, id: InstanceId) -> Result<Option<Moment>, Error> {
        self.read(format!("look for domain {id}"), move |connection| match lookup(connection, id)? {
            Some(domain) => or_gone(Moment::read(&domain)),
            None => Ok(None),
        })
        .await
    }

    /// Destroys what is left here of a guest that was switched to postcopy, all of which is on its destination. There being nothing is
    /// success.
    pub async fn destroy_if_departing(&self, id: InstanceId) -> Result<(), Error> {
        self.change(format!("destroy what is left of domain {id}"), move |connection| {
            let Some(domain) = lookup(connection, id)? else { return Ok(()) };
            match or_gone(Moment::read(&domain))? {
                Some(moment) if moment.sighting() == Sighting::Departing => destroy(&domain),
                Some(_) | None => Ok(()),
            }
        })
        .await
    }

    /// Lets a guest go on that libvirt has stopped to hand it over, and moves no more. One that is as its user left it stays so.
    pub async fn let_go_on(&self, id: InstanceId) -> Result<(), Error> {
        self.change(format!("let domain {id} go on"), move |connection| {
            let Some(domain) = lookup(connection, id)? else { return Ok(()) };
            let Some(moment) = or_gone(Moment::read(&domain))? else { return Ok(()) };
            let seen = moment.seen();
            match (seen.domain, seen.job) {
                (resolution::Domain::PausedToMove, resolution::Job::None) => {
                    or_gone(domain.resume().map(drop).map_err(Fault::from)).map(drop)
                }
                (resolution::Domain::PausedToMove, _) => {
                    let message = "libvirt still moves it".to_owned();
                    Err(Fault { code: sys::VIR_ERR_OPERATION_INVALID, message })
                }
                _ => Ok(()),
            }
        })
        .await
    }

    /// Destroys a guest that is arriving and has not run here. There being none, or none active, is success; one that
    /// may have run stays.
    ///
    /// libvirt has no way to destroy *only if*: between the look and the blow the source's job could resume the guest
    /// here. Call this only when no job runs on the source.
    pub async fn destroy_if_arriving(&self, id: InstanceId) -> Result<(), Error> {
        let sighting = self
            .change(format!("destroy arriving domain {id}"), move |connection| {
                let Some(domain) = lookup(connection, id)? else { return Ok(Sighting::Absent) };
                let Some(moment) = or_gone(Moment::read(&domain))? else { return Ok(Sighting::Absent) };
                let sighting = moment.sighting();
                if sighting == Sighting::Arriving {
                    destroy(&domain)?;
                }
                Ok(sighting)
            })
            .await?;
        match sighting {
            Sighting::Absent | Sighting::Shutoff | Sighting::Arriving => Ok(()),
            Sighting::Running | Sighting::Paused | Sighting::Departing | Sighting::Incomplete => {
                Err(Error::NotArriving { id, sighting })
            }
        }
    }
}

fn undefine(domain: &Domain) -> Result<(), Fault> {
    let flags = sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM | sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM;
    match domain.undefine_flags(flags).map_err(Fault::from) {
        // Before 8.9 libvirt did not know how to keep a TPM's state.
        Err(fault) if fault.is(&[sys::VIR_ERR_INVALID_ARG]) => {
            Ok(domain.undefine_flags(sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)?)
        }
        answer => answer,
    }
}

fn destroy(domain: &Domain) -> Result<(), Fault> {
    match domain.destroy().map_err(Fault::from) {
        // Gone by itself meanwhile, as it does when the connection from the source breaks.
        Err(fault) if fault.is(&[sys::VIR_ERR_NO_DOMAIN, sys::VIR_ERR_OPERATION_INVALID]) => Ok(()),
        answer => answer,
    }
}
