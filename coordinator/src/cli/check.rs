use clap::Args;

use super::{Cold, Limits, Target, Which};

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
    /// Whose.
    #[command(flatten)]
    pub(crate) which: Which,
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
