use bytesize::ByteSize;
use vmferry_core::instance::{Disk, DiskDevice, DiskSource, Instance, InstanceState};

use super::{Invalid, invalid};
use crate::v1::{self, disk};

impl From<Instance> for v1::Instance {
    fn from(instance: Instance) -> Self {
        Self {
            id: instance.id.to_string(),
            name: instance.name,
            state: v1::InstanceState::from(instance.state).into(),
            host: instance.host.to_string(),
            memory_bytes: instance.memory.as_u64(),
            vcpus: instance.vcpus,
            persistent: instance.persistent,
            disks: instance.disks.into_iter().map(Into::into).collect(),
            vifs: instance.vifs.into_iter().map(Into::into).collect(),
            migration_id: instance.migration.map(|id| id.to_string()),
            problems: instance.problems,
            limits: Some(instance.limits).filter(|limits| !limits.is_empty()).map(Into::into),
            affinity: instance.affinity.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Instance> for Instance {
    type Error = Invalid;

    fn try_from(instance: v1::Instance) -> Result<Self, Invalid> {
        Ok(Self {
            state: instance.state().try_into()?,
            id: instance.id.parse().map_err(invalid("instance.id"))?,
            name: instance.name,
            host: instance.host.parse().map_err(invalid("instance.host"))?,
            memory: ByteSize::b(instance.memory_bytes),
            vcpus: instance.vcpus,
            persistent: instance.persistent,
            disks: instance.disks.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            vifs: instance.vifs.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            migration: instance
                .migration_id
                .map(|id| id.parse())
                .transpose()
                .map_err(invalid("instance.migration_id"))?,
            problems: instance.problems,
            limits: instance.limits.map(TryInto::try_into).transpose()?.unwrap_or_default(),
            affinity: instance.affinity.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<InstanceState> for v1::InstanceState {
    fn from(state: InstanceState) -> Self {
        match state {
            InstanceState::Active => Self::Active,
            InstanceState::Paused => Self::Paused,
            InstanceState::Shutoff => Self::Shutoff,
            InstanceState::Migrating => Self::Migrating,
            InstanceState::Crashed => Self::Crashed,
            InstanceState::Suspended => Self::Suspended,
        }
    }
}

impl TryFrom<v1::InstanceState> for InstanceState {
    type Error = Invalid;

    fn try_from(state: v1::InstanceState) -> Result<Self, Invalid> {
        Ok(match state {
            v1::InstanceState::Unspecified => return Err(Invalid { field: "instance.state" }),
            v1::InstanceState::Active => Self::Active,
            v1::InstanceState::Paused => Self::Paused,
            v1::InstanceState::Shutoff => Self::Shutoff,
            v1::InstanceState::Migrating => Self::Migrating,
            v1::InstanceState::Crashed => Self::Crashed,
            v1::InstanceState::Suspended => Self::Suspended,
        })
    }
}

impl From<Disk> for v1::Disk {
    fn from(disk: Disk) -> Self {
        let device = match disk.device {
            DiskDevice::Disk => v1::DiskDevice::Disk,
            DiskDevice::Cdrom => v1::DiskDevice::Cdrom,
            DiskDevice::Floppy => v1::DiskDevice::Floppy,
            DiskDevice::Lun => v1::DiskDevice::Lun,
        };
        let source = match disk.source {
            DiskSource::Empty => None,
            DiskSource::File { path } => Some(disk::Source::File(path)),
            DiskSource::Block { path } => Some(disk::Source::Block(path)),
            DiskSource::Network { protocol, name } => Some(disk::Source::Network(v1::NetworkDisk { protocol, name })),
            DiskSource::Other { kind } => Some(disk::Source::Other(kind)),
        };
        Self {
            target: disk.target,
            device: device.into(),
            source,
            read_only: disk.read_only,
            volume: disk.volume.map(Into::into),
        }
    }
}

impl TryFrom<v1::Disk> for Disk {
    type Error = Invalid;

    fn try_from(disk: v1::Disk) -> Result<Self, Invalid> {
        Ok(Self {
            device: match disk.device() {
                v1::DiskDevice::Unspecified => return Err(Invalid { field: "disk.device" }),
                v1::DiskDevice::Disk => DiskDevice::Disk,
                v1::DiskDevice::Cdrom => DiskDevice::Cdrom,
                v1::DiskDevice::Floppy => DiskDevice::Floppy,
                v1::DiskDevice::Lun => DiskDevice::Lun,
            },
            target: disk.target,
            source: match disk.source {
                None => DiskSource::Empty,
                Some(disk::Source::File(path)) => DiskSource::File { path },
                Some(disk::Source::Block(path)) => DiskSource::Block { path },
                Some(disk::Source::Network(v1::NetworkDisk { protocol, name })) => {
                    DiskSource::Network { protocol, name }
                }
                Some(disk::Source::Other(kind)) => DiskSource::Other { kind },
            },
            read_only: disk.read_only,
            volume: disk.volume.map(TryInto::try_into).transpose()?,
        })
    }
}
