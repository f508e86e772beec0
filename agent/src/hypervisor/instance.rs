use vmferry_core::{domain_xml::metadata::limits::LimitsError, id::HostName, instance::Instance};

use crate::libvirt::DomainReading;

/// A domain of that host, as people see it; without the sizes of its volumes.
pub fn instance_of(host: HostName, domain: DomainReading) -> Instance {
    let definition = domain.definition;
    let name = &domain.name;
    let volumes = definition.labels.err().map(|error| {
        format!(
            "what the definition says of its volumes cannot be read: {error}; \
             remove it (vmferry volumes unset {name} --all) and say it again (vmferry volumes set)"
        )
    });
    let vifs = definition.interfaces.err().map(|error| {
        format!(
            "what the definition says of its vifs cannot be read, so that none is filtered: {error}; \
             remove it (vmferry instance policy unset {name} --all) and say it again (vmferry instance policy set)"
        )
    });
    let limits = definition.limits.as_ref().err().map(|error: &LimitsError| {
        format!(
            "what the definition says of its live migrations cannot be read, so that none begins: {error}; \
             remove it (vmferry instance limits unset {name}) and say it again (vmferry instance limits set)"
        )
    });
    let affinity = definition.affinity.as_ref().err().map(|error| {
        format!(
            "what the definition says of its affinity groups cannot be read, so that it goes nowhere: {error}; \
             remove it (vmferry instance affinity unset {name} --all) and say it again (vmferry instance affinity set)"
        )
    });
    Instance {
        id: domain.id,
        name: domain.name,
        state: domain.state,
        host,
        memory: definition.memory,
        vcpus: definition.vcpus,
        persistent: domain.persistent,
        disks: definition.disks.into_iter().map(|disk| disk.disk).collect(),
        vifs: definition.vifs,
        migration: None,
        problems: volumes.into_iter().chain(vifs).chain(limits).chain(affinity).collect(),
        limits: definition.limits.unwrap_or_default(),
        affinity: definition.affinity.unwrap_or_default(),
    }
}
