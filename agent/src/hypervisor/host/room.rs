//! What this host has for guests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::{Mutex, PoisonError},
};

use bytesize::ByteSize;
use vmferry_core::{
    domain_xml::{HostCapabilities, cpu_list},
    host::{Claims, Offers, Pages, Resident, Room, Space},
    network::NetworkName,
    reason::Reason,
    volume::SecretName,
};

use super::LibvirtHost;
use crate::{
    config::{self, Config},
    hypervisor::{Fault, Housing},
    libvirt::DomainReading,
    network::bridges,
};

const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages";
const CPUS_ON: &str = "/sys/devices/system/cpu/online";
const KVM: &str = "kvm";

/// What the configuration gives to guests, and what is asked for only once.
#[derive(Debug)]
pub(super) struct Housekeeping {
    capacity: config::Capacity,
    networks: BTreeSet<NetworkName>,
    secrets: BTreeSet<SecretName>,
    /// With how many connections to libvirt had been opened then: another libvirt may have others.
    cpu_models: Mutex<Option<(u64, BTreeSet<String>)>>,
}

impl Housekeeping {
    pub(super) fn new(config: &Config) -> Self {
        let by_uuid = config.secrets.0.iter().filter_map(|secret| secret.uuid.map(SecretName::Uuid));
        let by_usage = config.secrets.0.iter().filter_map(|secret| secret.usage.clone().map(SecretName::Usage));
        Self {
            capacity: config.capacity,
            networks: config.networks.iter().map(|network| network.name.clone()).collect(),
            secrets: by_uuid.chain(by_usage).collect(),
            cpu_models: Mutex::default(),
        }
    }
}

impl LibvirtHost {
    /// What the host has for guests, of whom these are there.
    pub(super) async fn room(
        &self,
        capabilities: HostCapabilities,
        domains: &[DomainReading],
        claims: &Claims,
    ) -> Result<(Room, Space), Fault> {
        let unreadable =
            |error| Fault::new(Reason::Internal, format!("cannot list the bridges of {}: {error}", self.name));
        let (cpu_models, libvirt_networks, bridges) = futures::try_join!(
            self.cpu_models(&capabilities),
            async { Ok::<_, Fault>(self.libvirt.active_networks().await?) },
            async { bridges().await.map_err(unreadable) },
        )?;
        let space = self.space_among(domains, claims)?;
        let offers = Offers {
            machines: capabilities.machines.into(),
            cpu_models: cpu_models.into(),
            networks: self.housekeeping.networks.clone(),
            bridges: bridges.into_iter().collect(),
            libvirt_networks: libvirt_networks.into_iter().collect(),
            secrets: self.housekeeping.secrets.clone(),
            pages: space.pages.clone(),
            cpus: space.cpus.clone(),
            groups: space.group_sizes(),
        };
        Ok((Room { capacity: space.capacity, taken: space.taken, offers }, space))
    }

    fn space_among(&self, domains: &[DomainReading], claims: &Claims) -> Result<Space, Fault> {
        let Memory { total, available, page_size } = memory()?;
        let unreadable = |what: &str, error: io::Error| {
            Fault::new(Reason::Internal, format!("cannot read {what} of {}: {error}", self.name))
        };
        let cpus = cpus(Path::new(CPUS_ON)).map_err(|error| unreadable(CPUS_ON, error))?;
        let pages = pages(Path::new(HUGE_PAGES)).map_err(|error| unreadable(HUGE_PAGES, error))?;
        let residents: Vec<_> =
            domains.iter().map(|domain| Resident::new(domain.id, domain.sighting, &domain.definition)).collect();
        let capacity = self.housekeeping.capacity.of(total, cpus.len());
        let space = Space { capacity, memory_available: available, pages, page_size, cpus, ..Space::default() };
        Ok(space.after(&residents, claims))
    }

    /// The models of CPUs that guests of the host's own architecture can have under KVM. Empty: there is no KVM.
    async fn cpu_models(&self, capabilities: &HostCapabilities) -> Result<BTreeSet<String>, Fault> {
        if !capabilities.offers(&capabilities.architecture, KVM) {
            return Ok(BTreeSet::new());
        }
        let known = || self.housekeeping.cpu_models.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = self.libvirt.opened();
        if let Some((when, models)) = &*known()
            && *when == opened
        {
            return Ok(models.clone());
        }
        let models = self.libvirt.cpu_models(&capabilities.architecture, KVM).await?;
        *known() = Some((opened, models.clone()));
        Ok(models)
    }
}

impl Housing for LibvirtHost {
    async fn space(&self, claims: &Claims) -> Result<Space, Fault> {
        self.space_among(&self.libvirt.domains().await?, claims)
    }
}

pub(super) struct Memory {
    pub(super) total: ByteSize,
    available: ByteSize,
    /// The size of huge pages that the kernel prefers, in KiB.
    page_size: Option<u64>,
}

/// From the kernel: libvirt's own total leaves out memory that its NUMA cells do not show.
pub(super) fn memory() -> Result<Memory, Fault> {
    let unknown = |what: String| Fault::new(Reason::Internal, format!("cannot read the host's memory: {what}"));
    let meminfo = <procfs::Meminfo as procfs::Current>::current().map_err(|error| unknown(error.to_string()))?;
    let available = meminfo.mem_available.ok_or_else(|| unknown("the kernel does not say what is available".into()))?;
    let page_size = meminfo.hugepagesize.map(|bytes| bytes >> 10);
    Ok(Memory { total: ByteSize::b(meminfo.mem_total), available: ByteSize::b(available), page_size })
}

/// The numbers of the CPUs that are on.
fn cpus(file: &Path) -> io::Result<BTreeSet<u32>> {
    let text = fs::read_to_string(file)?;
    cpu_list(text.trim()).ok_or_else(|| io::Error::other(format!("`{text}` is no list of CPUs")))
}

/// Huge pages by their size in KiB: one directory a size. A kernel without them has none.
fn pages(directory: &Path) -> io::Result<BTreeMap<u64, Pages>> {
    let sizes = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        sizes => sizes?,
    };
    let mut found = BTreeMap::new();
    for size in sizes {
        let size = size?;
        let name = size.file_name();
        let name = name.to_str().and_then(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB"));
        let Some(kibibytes) = name.and_then(|number| number.parse().ok()) else { continue };
        let read = |file: &str| {
            let text = fs::read_to_string(size.path().join(file))?;
            text.trim().parse::<u64>().map_err(|error| io::Error::other(format!("{file}: `{text}`: {error}")))
        };
        // What is reserved has an owner who has not touched it yet.
        let free = read("free_hugepages")?.saturating_sub(read("resv_hugepages")?);
        found.insert(kibibytes, Pages { total: read("nr_hugepages")?, free });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_own_files_are_read() {
        assert!(!cpus(Path::new(CPUS_ON)).expect("Linux has it").is_empty());
        for (size, pages) in pages(Path::new(HUGE_PAGES)).expect("readable, if there are any") {
            assert!(size >= 64 && pages.free <= pages.total, "{size}: {pages:?}");
        }
    }

    #[test]
    fn reserved_pages_are_not_free() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let size = directory.path().join("hugepages-2048kB");
        fs::create_dir(&size).expect("made");
        for (file, text) in [("nr_hugepages", "64\n"), ("free_hugepages", "40\n"), ("resv_hugepages", "30\n")] {
            fs::write(size.join(file), text).expect("written");
        }
        fs::create_dir(directory.path().join("something else")).expect("made");
        assert_eq!(pages(directory.path()).expect("read"), [(2_048, Pages { total: 64, free: 10 })].into());
        assert_eq!(pages(&directory.path().join("missing")).expect("none"), BTreeMap::new());
        fs::write(size.join("nr_hugepages"), "many").expect("written");
        assert!(pages(directory.path()).is_err());
    }
}
