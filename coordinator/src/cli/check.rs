use clap::Args;
use vmferry_core::id::HostName;

use super::{Cold, Limits, Target};

const EXAMPLES: &str = "\
Examples:
  vmferry check web                    which hosts could take web, the best first, and why others could not
  vmferry check web --to node-31       whether this one could
  vmferry check web --zone nova2       those of a zone
  vmferry check web --all-hosts        asks also the hosts that are known to be unfit, so that each tells all its reasons
  vmferry check web -o json | jq -r '.hosts[] | select(.takes_it) | .host'

Exit codes: 0, some host could take it; 3, none could.";

/// `check`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Check {
    /// Name, UUID, or the beginning of one of them
    #[arg(value_name = "INSTANCE")]
    pub(crate) instance: String,
    /// The host it runs on, if several have one of that name
    #[arg(long, value_name = "HOST")]
    pub(crate) from: Option<HostName>,
    /// Asks every host that answers, not only those that could take it by what they have
    #[arg(long)]
    pub(crate) all_hosts: bool,
    /// Where to.
    #[command(flatten)]
    pub(crate) target: Target,
    /// What it may cost.
    #[command(flatten)]
    pub(crate) limits: Limits,
    /// Whether it is off meanwhile.
    #[command(flatten)]
    pub(crate) cold: Cold,
}
