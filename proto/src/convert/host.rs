mod room;

use bytesize::ByteSize;
use vmferry_core::host::{Host, HostPolicy};

use super::{Invalid, invalid, required, timestamp, wire_timestamp};
use crate::v1;

impl From<Host> for v1::Host {
    fn from(host: Host) -> Self {
        Self {
            name: host.name.to_string(),
            zone: host.zone,
            agent_version: host.agent_version,
            libvirt_version: host.libvirt_version,
            qemu_version: host.qemu_version,
            architecture: host.architecture,
            cpu_model: host.cpu_model,
            cpus: host.cpus,
            memory_total_bytes: host.memory_total.as_u64(),
            memory_available_bytes: host.memory_available.as_u64(),
            instances_active: host.instances_active,
            instances_total: host.instances_total,
            migrations_active: host.migrations_active,
            certificate_expires: Some(wire_timestamp(host.certificate_expires)),
            cordon: host.cordon.map(Into::into),
            room: host.room.map(Into::into),
            answered: host.answered.map(wire_timestamp),
        }
    }
}

impl TryFrom<v1::Host> for Host {
    type Error = Invalid;

    fn try_from(host: v1::Host) -> Result<Self, Invalid> {
        let expires = host.certificate_expires.ok_or(Invalid { field: "host.certificate_expires" })?;
        Ok(Self {
            name: host.name.parse().map_err(invalid("host.name"))?,
            zone: host.zone,
            agent_version: host.agent_version,
            libvirt_version: host.libvirt_version,
            qemu_version: host.qemu_version,
            architecture: host.architecture,
            cpu_model: host.cpu_model,
            cpus: host.cpus,
            memory_total: ByteSize::b(host.memory_total_bytes),
            memory_available: ByteSize::b(host.memory_available_bytes),
            instances_active: host.instances_active,
            instances_total: host.instances_total,
            migrations_active: host.migrations_active,
            certificate_expires: timestamp(expires, "host.certificate_expires")?,
            cordon: host.cordon.map(TryInto::try_into).transpose()?,
            room: host.room.map(TryInto::try_into).transpose()?,
            answered: host.answered.map(|answered| timestamp(answered, "host.answered")).transpose()?,
        })
    }
}

impl From<HostPolicy> for v1::HostPolicy {
    fn from(HostPolicy { policy, configured }: HostPolicy) -> Self {
        Self { policy: Some(policy.into()), configured }
    }
}

impl TryFrom<v1::HostPolicy> for HostPolicy {
    type Error = Invalid;

    fn try_from(known: v1::HostPolicy) -> Result<Self, Invalid> {
        Ok(Self { policy: required(known.policy, "policy")?, configured: known.configured })
    }
}

#[cfg(test)]
mod tests {
    use vmferry_core::convergence::Policy;

    use super::*;

    #[test]
    fn a_hosts_policies_come_back_as_they_went() {
        for policy in Policy::all_named() {
            let known = HostPolicy { configured: policy.may_suspend(), policy };
            assert_eq!(v1::HostPolicy::from(known.clone()).try_into(), Ok(known));
        }
        assert!(HostPolicy::try_from(v1::HostPolicy::default()).is_err());
    }
}
