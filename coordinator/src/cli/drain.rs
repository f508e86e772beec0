use std::{num::NonZeroU32, time::Duration};

use bytesize::ByteSize;
use clap::Args;
use vmferry_core::{
    drain,
    id::HostName,
    migration::{Path, Streams},
};

use super::{Target, limits::bandwidth};
use crate::journey::Asked;

const DRAIN_EXAMPLES: &str = "\
Examples:
  vmferry drain node-28 --dry-run                  the order, the destinations, how long it takes, and what is in the way
  vmferry drain node-28 --reason 'new disks'
  vmferry drain node-28 --zone nova2 --parallel 2
  vmferry drain node-28 --bandwidth 500MiB/s       all moves together send no more than that
  vmferry undrain node-28 --return                 when the host is back: brings home who left it since

The host is cordoned first: nobody comes to it until `vmferry undrain` or `vmferry uncordon`. Guests that run move while they run;
none is ever stopped. Those that cannot move are skipped and told at the end with all reasons, those that are off stay.
Ctrl-C begins no further move and waits for those that run; a second Ctrl-C leaves at once, and they go on without us.
The same command again goes on where this one, or one on another machine, has stopped.

Exit codes: 0, no guest that runs is left on the host; 3, none of them can move; 9, some of them are still there.";

/// `drain`
#[derive(Debug, Args)]
#[command(after_help = DRAIN_EXAMPLES)]
pub(crate) struct Drain {
    /// The host that its guests shall leave
    #[arg(value_name = "HOST")]
    pub(crate) host: HostName,
    /// Why: others see it in `vmferry hypervisors`. A host that is cordoned already stays so for the reason it was
    #[arg(long, value_name = "TEXT", default_value = "it is drained")]
    pub(crate) reason: String,
    /// Says what would be done and how long it would take, and changes nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Where to.
    #[command(flatten)]
    pub(crate) target: Target,
    /// How much at the same time.
    #[command(flatten)]
    pub(crate) pace: Pace,
}

const UNDRAIN_EXAMPLES: &str = "\
Examples:
  vmferry undrain node-28            guests may come to it again
  vmferry undrain node-28 --return   and those that have left it since it was cordoned come home";

/// `undrain`
#[derive(Debug, Args)]
#[command(after_help = UNDRAIN_EXAMPLES)]
pub(crate) struct Undrain {
    /// The host to which guests may come again
    #[arg(value_name = "HOST")]
    pub(crate) host: HostName,
    /// Moves back the guests that have left it since it was cordoned, wherever they are now
    #[arg(long = "return")]
    pub(crate) bring_back: bool,
    /// How much at the same time.
    #[command(flatten)]
    pub(crate) pace: Pace,
}

/// How much may be done at the same time, and what each move may cost.
#[derive(Debug, Args)]
#[command(next_help_heading = "Moves")]
pub(crate) struct Pace {
    /// Moves at the same time
    #[arg(long, value_name = "N", default_value = "4")]
    pub(crate) parallel: NonZeroU32,
    /// Migrations that come to one host at the same time, whoever has ordered them
    #[arg(long, value_name = "N", default_value = "2")]
    pub(crate) per_destination: NonZeroU32,
    /// How much all moves together may send per second: it is divided among those that run; without: as much as goes
    #[arg(long, value_name = "RATE", value_parser = bandwidth)]
    pub(crate) bandwidth: Option<ByteSize>,
    /// How each comes to its end while its guest writes; `auto`: the gentlest by which it arrives. Without: its own, or `default`
    #[arg(long, value_name = "NAME")]
    pub(crate) policy: Option<String>,
    /// The longest time for which QEMU may let a guest stand still, whatever the policy says
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) max_downtime: Option<Duration>,
    /// When the policy takes its last step, counted from the beginning of each move
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) deadline: Option<Duration>,
}

impl Pace {
    /// How much at the same time.
    pub(crate) fn limits(&self) -> drain::Limits {
        drain::Limits { parallel: self.parallel, per_destination: self.per_destination, bandwidth: self.bandwidth }
    }

    /// What each move may cost, as for one that is asked for by itself.
    pub(crate) fn each(&self) -> Asked {
        Asked {
            policy: self.policy.clone(),
            max_downtime: self.max_downtime,
            deadline: self.deadline,
            postcopy: false,
            bandwidth: self.limits().share(),
            streams: Streams::ONE,
            path: Path::Tunnel,
            handover: None,
        }
    }
}
