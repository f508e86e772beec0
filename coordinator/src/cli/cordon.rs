//! `cordon`, `uncordon`

use clap::Args;
use vmferry_core::id::HostName;

const EXAMPLES: &str = "\
Examples:
  vmferry cordon node-28 --reason 'a fan fails, ticket 4711'
  vmferry cordon node-28 node-31 --reason 'new kernel'
  vmferry uncordon node-28 node-31

Guests that the host has stay there, and may leave. No other comes, also if the host is named
with --to; one whose move has got ready there already still arrives. The host's agent keeps it,
across restarts, until `vmferry uncordon`. `vmferry hypervisors` shows it.

Exit codes: 0, all hosts are; 7, no host could be told; 9, some of them.";

/// `cordon`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Cordon {
    /// The hosts to which no guest shall come
    #[arg(value_name = "HOST", required = true)]
    pub(crate) hosts: Vec<HostName>,
    /// Why, for whoever wants to move a guest there
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
}

/// `uncordon`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Uncordon {
    /// The hosts to which guests may come again
    #[arg(value_name = "HOST", required = true)]
    pub(crate) hosts: Vec<HostName>,
}
