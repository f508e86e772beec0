//! Every way in which VMFerry says no, or fails: one stable code each.
//!
//! The codes travel in `google.rpc.ErrorInfo.reason`, stand in records and JSON, and have a paragraph each in
//! `docs/errors.md` (a test finds the missing one).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal,)+) => {
        /// A stable code for why something was refused or failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[$doc])* #[serde(rename = $code)] $variant,)+
        }

        impl Reason {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The code as it travels.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)+
                }
            }
        }
    };
}

reasons! {
    // Refusals of the source's checks.
    /// The domain is not running.
    InstanceShutoff = "INSTANCE_SHUTOFF",
    /// The domain is paused.
    InstancePaused = "INSTANCE_PAUSED",
    /// The domain crashed or is in a state that cannot be moved.
    InstanceNotRunnable = "INSTANCE_NOT_RUNNABLE",
    /// libvirt does not keep the domain's definition when it stops.
    InstanceTransient = "INSTANCE_TRANSIENT",
    /// The memory of the domain, which is off, is saved on its host.
    InstanceSaved = "INSTANCE_SAVED",
    /// The guest keeps state in files of its host that a cold migration does not carry.
    HostState = "HOST_STATE",
    /// A migration of the instance has not ended.
    InstanceMigrating = "INSTANCE_MIGRATING",
    /// Another libvirt job works on the domain.
    InstanceBusy = "INSTANCE_BUSY",
    /// libvirt does not migrate domains with snapshots.
    SnapshotsPresent = "SNAPSHOTS_PRESENT",
    /// The guest holds a device or a resource of its host.
    HostDevice = "HOST_DEVICE",
    /// A disk of a kind that this version does not move.
    DiskKindUnsupported = "DISK_KIND_UNSUPPORTED",
    /// A disk that is written to through a cache that only its host sees.
    DiskCacheUnsafe = "DISK_CACHE_UNSAFE",
    /// What a definition's metadata say of its volumes cannot be read.
    VolumeLabelInvalid = "VOLUME_LABEL_INVALID",
    /// What a definition's metadata say of its vifs cannot be read, or is not so.
    VifLabelInvalid = "VIF_LABEL_INVALID",
    /// A volume cannot be reached.
    VolumeUnreachable = "VOLUME_UNREACHABLE",
    /// The storage system does not accept the user or the secret.
    VolumeLoginRefused = "VOLUME_LOGIN_REFUSED",
    /// The storage system does not have the volume.
    VolumeMissing = "VOLUME_MISSING",
    /// A host does not have the secret that opens a volume.
    VolumeSecretMissing = "VOLUME_SECRET_MISSING",
    /// A host does not have a program that storage needs.
    StorageToolMissing = "STORAGE_TOOL_MISSING",
    /// Two disks of the guest are one file or one volume, and write to it.
    DiskUsedTwice = "DISK_USED_TWICE",
    /// A vif names a filter that libvirt on its host does not have.
    FilterMissing = "FILTER_MISSING",
    /// libvirt on the host has no driver for network filters.
    FilterDriverMissing = "FILTER_DRIVER_MISSING",
    /// The source's agent cannot look at a disk's file.
    ProbeFailed = "PROBE_FAILED",
    /// The migration would do to the guest what its own limits forbid.
    GuestLimits = "GUEST_LIMITS",
    /// What a definition's metadata say of its live migrations cannot be read.
    LimitsLabelInvalid = "LIMITS_LABEL_INVALID",
    /// What a definition's metadata say of its affinity groups cannot be read.
    AffinityLabelInvalid = "AFFINITY_LABEL_INVALID",
    /// A host's QEMU cannot send or take memory over several streams.
    StreamsUnsupported = "STREAMS_UNSUPPORTED",
    /// A host's agent does not know the strict hand-over, or it is not to be had together with something else that was asked for.
    HandoverUnsupported = "HANDOVER_UNSUPPORTED",
    /// A host is not configured for the direct path.
    DirectPathMissing = "DIRECT_PATH_MISSING",
    /// A host's QEMU lacks what its own TLS needs.
    MigrationTlsMissing = "MIGRATION_TLS_MISSING",
    /// What would be done is not what was planned.
    PlanDiffers = "PLAN_DIFFERS",
    /// Source and destination are the same host.
    SameHost = "SAME_HOST",

    // Refusals of the destination's checks.
    /// A domain with this UUID or name is there already.
    DomainExists = "DOMAIN_EXISTS",
    /// Not enough free memory.
    MemoryShort = "MEMORY_SHORT",
    /// No guest shall come to the host.
    HostCordoned = "HOST_CORDONED",
    /// All vCPUs that the host may promise are promised.
    CpusShort = "CPUS_SHORT",
    /// The host has as many guests as it takes.
    HostFull = "HOST_FULL",
    /// Not enough free huge pages of the guest's size.
    HugepagesShort = "HUGEPAGES_SHORT",
    /// The guest is pinned to CPUs that the host does not have, or that are off.
    CpuPinUnavailable = "CPU_PIN_UNAVAILABLE",
    /// The emulator cannot give the guest so many vCPUs.
    TooManyVcpus = "TOO_MANY_VCPUS",
    /// The guest's CPU cannot be given by this host.
    CpuIncompatible = "CPU_INCOMPATIBLE",
    /// The host cannot run guests of this architecture or virtualisation type.
    VirtTypeMissing = "VIRT_TYPE_MISSING",
    /// The machine type is unknown to the host's QEMU.
    MachineTypeMissing = "MACHINE_TYPE_MISSING",
    /// A host cannot do its part of a postcopy, or not take it up again.
    PostcopyUnavailable = "POSTCOPY_UNAVAILABLE",
    /// The host's QEMU is older than the source's.
    HypervisorTooOld = "HYPERVISOR_TOO_OLD",
    /// A bridge or network that the guest needs is missing.
    NetworkMissing = "NETWORK_MISSING",
    /// Packets of the guest would not fit.
    MtuTooSmall = "MTU_TOO_SMALL",
    /// Another guest has the MAC address there.
    MacInUse = "MAC_IN_USE",
    /// Another guest's policy gives it the address there.
    AddressInUse = "ADDRESS_IN_USE",
    /// A filter of libvirt's is another there.
    FilterDiffers = "FILTER_DIFFERS",
    /// A disk that is written to is not the same file there.
    DiskNotShared = "DISK_NOT_SHARED",
    /// An image that nobody writes to is another there.
    DiskDiffers = "DISK_DIFFERS",
    /// There is no room for the disks that would be copied.
    DiskSpaceShort = "DISK_SPACE_SHORT",
    /// A volume is another there, or of another size.
    VolumeDiffers = "VOLUME_DIFFERS",
    /// Another domain has the volume there.
    VolumeInUse = "VOLUME_IN_USE",
    /// The guest would be with those it must be apart from, or apart from those it must be with.
    AffinityViolated = "AFFINITY_VIOLATED",

    // Refusals of the scheduler alone: no host knows of them by itself.
    /// The host was left out by whoever asked.
    HostExcluded = "HOST_EXCLUDED",
    /// The host is in another zone than was asked for.
    ZoneDiffers = "ZONE_DIFFERS",
    /// The host's agent is too old to say what it has for guests.
    RoomUnknown = "ROOM_UNKNOWN",

    // Errors of calls.
    /// No instance has this name or UUID.
    InstanceNotFound = "INSTANCE_NOT_FOUND",
    /// More than one instance has this name.
    InstanceAmbiguous = "INSTANCE_AMBIGUOUS",
    /// No host of the inventory has this name.
    HostNotFound = "HOST_NOT_FOUND",
    /// No migration has this id.
    MigrationNotFound = "MIGRATION_NOT_FOUND",
    /// The phase does not follow from what was done so far.
    PhaseOutOfOrder = "PHASE_OUT_OF_ORDER",
    /// The request is not understood.
    InvalidRequest = "INVALID_REQUEST",
    /// The agent cannot be reached.
    AgentUnreachable = "AGENT_UNREACHABLE",
    /// What the inventory has its hosts from does not answer, and nobody remembers them.
    InventoryUnavailable = "INVENTORY_UNAVAILABLE",
    /// Another host of the inventory has the name already, at another address.
    InventoryConflict = "INVENTORY_CONFLICT",
    /// A certificate was not accepted, on either side.
    AgentUntrusted = "AGENT_UNTRUSTED",
    /// The coordinator through which agents are called cannot be reached.
    CoordinatorUnreachable = "COORDINATOR_UNREACHABLE",
    /// A certificate was not accepted, by that coordinator or of it.
    CoordinatorUntrusted = "COORDINATOR_UNTRUSTED",
    /// The coordinator that was asked is being stopped.
    CoordinatorStopping = "COORDINATOR_STOPPING",
    /// The caller's role may not do this.
    PermissionDenied = "PERMISSION_DENIED",
    /// libvirt does not answer or failed.
    LibvirtFailed = "LIBVIRT_FAILED",
    /// The journal cannot be written or read.
    JournalFailed = "JOURNAL_FAILED",
    /// A disk could not be made or copied.
    CopyFailed = "COPY_FAILED",
    /// A volume could not be connected or disconnected.
    VolumeConnectFailed = "VOLUME_CONNECT_FAILED",
    /// A link, a bridge or a port of a logical network could not be made, changed or removed.
    NetworkFailed = "NETWORK_FAILED",
    /// The host has no nftables, or none that filters bridges.
    FirewallMissing = "FIREWALL_MISSING",
    /// A filter could not be put in place, taken away or read.
    FirewallFailed = "FIREWALL_FAILED",
    /// The tunnel could not be opened.
    TunnelFailed = "TUNNEL_FAILED",
    /// The migration job failed before the guest was handed over.
    MigrationFailed = "MIGRATION_FAILED",
    /// The migration job failed while the guest was being handed over.
    HandoverFailed = "HANDOVER_FAILED",
    /// The guest did not shut itself down in time.
    ShutdownIgnored = "SHUTDOWN_IGNORED",
    /// The guest could not be started.
    StartFailed = "START_FAILED",
    /// The source has released the guest, and its destination has not said that it runs there.
    ResumeUnanswered = "RESUME_UNANSWERED",
    /// The policy ended a migration that did not come to its end in time.
    NotConverging = "NOT_CONVERGING",
    /// The migration was aborted.
    MigrationAborted = "MIGRATION_ABORTED",
    /// It is too late to abort: the guest is on the destination.
    TooLateToAbort = "TOO_LATE_TO_ABORT",
    /// The guest does not move just now, so its job cannot be told anything.
    NothingToSteer = "NOTHING_TO_STEER",
    /// The coordinator went away before the job began.
    CoordinatorLost = "COORDINATOR_LOST",
    /// Somebody else drives the migration by now.
    LeaseLost = "LEASE_LOST",
    /// The agent was restarted while the job ran.
    AgentRestarted = "AGENT_RESTARTED",
    /// The host sends or takes as many migrations as it may.
    TooManyMigrations = "TOO_MANY_MIGRATIONS",
    /// The two hosts' facts do not yet tell where the guest runs.
    RunnerUnknown = "RUNNER_UNKNOWN",
    /// The guest runs on the destination, and a part of its memory is still on the source.
    PostcopyUnfinished = "POSTCOPY_UNFINISHED",
    /// The guest stopped, or its source did, while its memory was on both hosts.
    PostcopyLost = "POSTCOPY_LOST",
    /// The guest runs nowhere.
    NotRunning = "NOT_RUNNING",
    /// The guest runs on both hosts.
    RunsTwice = "RUNS_TWICE",
    /// A fault inside VMFerry.
    Internal = "INTERNAL",
}

impl Reason {
    /// Whether it says nothing about a host's state, because no answer came.
    pub fn is_silence(self) -> bool {
        matches!(
            self,
            Self::AgentUnreachable
                | Self::AgentUntrusted
                | Self::CoordinatorUnreachable
                | Self::CoordinatorUntrusted
                | Self::CoordinatorStopping
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A code that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown reason `{0}`")]
pub struct UnknownReason(pub String);

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == text).ok_or_else(|| UnknownReason(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_and_is_documented() {
        let documentation = include_str!("../../docs/errors.md");
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(*reason));
            assert!(documentation.contains(&format!("### `{reason}`")), "docs/errors.md has no paragraph on {reason}");
        }
    }
}
