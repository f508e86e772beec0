use clap::{Args, Subcommand};
use vmferry_core::id::HostName;

const EXAMPLES: &str = "\
Examples:
  vmferry groups                        who is in which group, on all hosts
  vmferry groups sync                   tells every host of the members on all others
  vmferry groups sync --forget node-9   node-9 is gone for good, and its guests with it
  vmferry groups -o json | jq -r '.members[] | select(.group == \"web\") | .addresses[]'

Who is in a group is said by `vmferry instance policy set --group`, which tells all hosts at
once. It is kept in the instance's metadata; each host remembers what it was told of the others.";

/// `groups`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct Groups {
    /// Without: lists them.
    #[command(subcommand)]
    pub(crate) command: Option<GroupsCommand>,
}

/// What can be done with groups.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupsCommand {
    /// Tells every host which guests of the others are in groups
    ///
    /// Needed after a host could not be reached, was reinstalled or was added, and after a guest's metadata were changed or a guest
    /// was undefined by other means than vmferry. A host that does not answer keeps what it knows, and of its own guests counts
    /// what the others remember.
    Sync(SyncGroups),
}

/// `groups sync`
#[derive(Debug, Args)]
pub(crate) struct SyncGroups {
    /// A host that does not answer and never will: nobody on it is in a group any more; may be repeated
    #[arg(long, value_name = "HOST")]
    pub(crate) forget: Vec<HostName>,
}
