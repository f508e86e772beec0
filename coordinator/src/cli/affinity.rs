use clap::{Args, Subcommand};
use vmferry_core::affinity::{AffinityPolicy, GroupName};

use super::Which;

/// What can be done with an instance's affinity groups.
#[derive(Debug, Subcommand)]
pub(crate) enum Affinity {
    /// Shows which affinity groups it is in
    Show(Which),
    /// Puts it into a group, or changes what being in it means
    ///
    /// It is written into the metadata of the instance's definition, and moves with it. It moves nobody: it counts from the next
    /// move on.
    Set(SetAffinity),
    /// Takes it out of a group
    Unset(UnsetAffinity),
}

const POLICIES: &str = "\
Examples:
  vmferry instance affinity set db-1 --group db --policy anti-affinity
  vmferry instance affinity set web --group shop --policy soft-affinity
  vmferry instance affinity unset web --group shop

affinity            only where another of the group is, if it has another
anti-affinity       only where no other of the group is
soft-affinity       rather where others of the group are
soft-anti-affinity  rather where fewer of the group are";

/// `instance affinity set`
#[derive(Debug, Args)]
#[command(after_help = POLICIES)]
pub(crate) struct SetAffinity {
    /// Which instance is meant.
    #[command(flatten)]
    pub(crate) instance: Which,
    /// The group
    #[arg(long, value_name = "NAME")]
    pub(crate) group: GroupName,
    /// What being in it means for this instance
    #[arg(long, value_name = "POLICY")]
    pub(crate) policy: AffinityPolicy,
}

/// `instance affinity unset`
#[derive(Debug, Args)]
pub(crate) struct UnsetAffinity {
    /// Which instance is meant.
    #[command(flatten)]
    pub(crate) instance: Which,
    /// The group
    #[arg(long, value_name = "NAME", required_unless_present = "all")]
    pub(crate) group: Option<GroupName>,
    /// All groups, also if they cannot be read
    #[arg(long, conflicts_with = "group")]
    pub(crate) all: bool,
}
