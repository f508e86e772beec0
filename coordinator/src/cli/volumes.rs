use clap::{Args, Subcommand};
use vmferry_core::id::HostName;

const EXAMPLES: &str = "\
Examples:
  vmferry volumes                      of all hosts
  vmferry volumes --host node-28       of the instances on one
  vmferry volumes set web vdb --id 7bf75168 --name data
  vmferry volumes unset web vdb";

/// `volumes`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct Volumes {
    /// Without: lists them.
    #[command(subcommand)]
    pub(crate) command: Option<VolumesCommand>,
    /// Only those of the instances on this host
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<HostName>,
}

/// What can be done with volumes.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumesCommand {
    /// Says what a disk is as a volume: its id, and how hosts reach it
    ///
    /// It is written into the metadata of the instance's definition, of the one that runs and of the one that starts next, and
    /// moves with the instance. What was said of the disk before is replaced as a whole.
    ///
    /// A block device of the host can move only if it is said how hosts reach it: the destination attaches it there.
    /// Of a disk that QEMU opens itself (rbd, iscsi) the definition says that already; more portals can be added here.
    Set(Box<Set>),
    /// Forgets what was said of a disk
    Unset(Unset),
}

const SET_EXAMPLES: &str = "\
Examples:
  vmferry volumes set web vda --id 5a272756 --name root --bootable
  vmferry volumes set web vdb --id 7bf75168 --name data \\
    --iscsi-target iqn.2026-11.org.example:san --lun 3 \\
    --portal 192.0.2.1:3260 --portal 192.0.2.2:3260 --user web --secret san-web
  vmferry volumes set web vdc --id 9c01f2aa --rbd vms/archive \\
    --monitor 192.0.2.9:6789 --user libvirt --secret 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01

Secrets are named, never given: each host has its own, see [[secret]] in its agent's configuration.";

/// `volumes set`
#[derive(Debug, Args)]
#[command(after_help = SET_EXAMPLES)]
pub(crate) struct Set {
    /// Name, UUID, or the beginning of one of them
    #[arg(value_name = "INSTANCE")]
    pub(crate) instance: String,
    /// The disk in the instance: vdb
    #[arg(value_name = "TARGET")]
    pub(crate) target: String,
    /// The host it is on, if several have one of that name
    #[arg(long, value_name = "HOST")]
    pub(crate) from: Option<HostName>,
    /// The volume's id, in the words of whoever made it
    #[arg(long)]
    pub(crate) id: String,
    /// Its name, for people
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) name: String,
    /// A guest can start from it
    #[arg(long)]
    pub(crate) bootable: bool,
    /// The iSCSI target that it is a LUN of
    #[arg(long, value_name = "IQN", requires_all = ["lun", "portals"], help_heading = "iSCSI")]
    pub(crate) iscsi_target: Option<String>,
    /// Its logical unit number
    #[arg(long, value_name = "N", requires = "iscsi_target", help_heading = "iSCSI")]
    pub(crate) lun: Option<u16>,
    /// Where the target is served, the preferred portal first; may be repeated
    #[arg(long = "portal", value_name = "ADDRESS:PORT", requires = "iscsi_target", help_heading = "iSCSI")]
    pub(crate) portals: Vec<String>,
    /// As whom to log in; without: as the host is called
    #[arg(long, value_name = "IQN", requires = "iscsi_target", help_heading = "iSCSI")]
    pub(crate) initiator: Option<String>,
    /// The image in the Ceph cluster
    #[arg(long, value_name = "POOL/IMAGE", conflicts_with = "iscsi_target", help_heading = "Ceph RBD")]
    pub(crate) rbd: Option<String>,
    /// A monitor of the cluster; may be repeated. Without: those of the host's ceph.conf
    #[arg(long = "monitor", value_name = "ADDRESS:PORT", requires = "rbd", help_heading = "Ceph RBD")]
    pub(crate) monitors: Vec<String>,
    /// The user: CHAP's, or cephx's without `client.`
    #[arg(long, requires = "secret", help_heading = "Login")]
    pub(crate) user: Option<String>,
    /// The name of the user's secret, as libvirt and the agents know it
    #[arg(long, value_name = "UUID|USAGE", requires = "user", help_heading = "Login")]
    pub(crate) secret: Option<String>,
}

/// `volumes unset`
#[derive(Debug, Args)]
pub(crate) struct Unset {
    /// Name, UUID, or the beginning of one of them
    #[arg(value_name = "INSTANCE")]
    pub(crate) instance: String,
    /// The disk in the instance: vdb
    #[arg(value_name = "TARGET", required_unless_present = "all")]
    pub(crate) target: Option<String>,
    /// Forgets what was said of all its disks, also if it cannot be read
    #[arg(long, conflicts_with = "target")]
    pub(crate) all: bool,
    /// The host it is on, if several have one of that name
    #[arg(long, value_name = "HOST")]
    pub(crate) from: Option<HostName>,
}
