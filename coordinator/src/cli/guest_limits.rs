use std::time::Duration;

use clap::{Args, Subcommand};
use vmferry_core::convergence::{GuestLimits, May};

use super::Which;

/// What can be done with an instance's own limits.
#[derive(Debug, Subcommand)]
pub(crate) enum OwnLimits {
    /// Shows what its live migrations may cost it, whoever asks for them
    Show(Which),
    /// Says what its live migrations may cost it, in the place of what was said before
    ///
    /// It is written into the metadata of the instance's definition, and moves with it. The agent of its source refuses what goes
    /// beyond it, by a policy and by hand.
    Set(SetOwnLimits),
    /// Forgets all of it, also if it cannot be read
    Unset(Which),
}

const SET_EXAMPLES: &str = "\
Examples:
  vmferry instance limits set db --max-downtime 200ms --postcopy never
  vmferry instance limits set build --policy must-finish
  vmferry instance limits set web --max-downtime 200ms --suspend allowed --policy must-finish

An instance with --max-downtime is never stopped before all is sent, since that may take much
longer, unless --suspend allowed says so. One with --postcopy allowed may be switched by hand,
as with `migrate --postcopy`: only to hosts that can take it up again.";

/// `instance limits set`
#[derive(Debug, Args)]
#[command(after_help = SET_EXAMPLES)]
pub(crate) struct SetOwnLimits {
    /// Which instance is meant.
    #[command(flatten)]
    pub(crate) instance: Which,
    /// What is said of it.
    #[command(flatten)]
    pub(crate) said: Said,
}

/// One of them at least.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Said {
    /// The policy of a migration that names none; `vmferry policies` lists them
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// The longest time for which QEMU may let it stand still, whatever a policy says
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_downtime: Option<Duration>,
    /// Whether it may be switched to postcopy: never, or allowed; without: as the policy says
    #[arg(long, value_name = "MAY")]
    postcopy: Option<May>,
    /// Whether it may be stopped before all is sent: never, or allowed; without: as the policy says, never with --max-downtime
    #[arg(long, value_name = "MAY")]
    suspend: Option<May>,
}

impl Said {
    /// As limits.
    pub(crate) fn limits(&self) -> GuestLimits {
        let Self { policy, max_downtime, postcopy, suspend } = self;
        GuestLimits { policy: policy.clone(), max_downtime: *max_downtime, postcopy: *postcopy, suspend: *suspend }
    }
}
