use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};

use super::limits::bandwidth;

const SET_EXAMPLES: &str = "\
Examples:
  vmferry set web max-downtime=500ms          the migration of web that goes on
  vmferry set 0190f5fe bandwidth=1GiB/s       by the beginning of its id
  vmferry set web bandwidth=unlimited deadline=20min";

/// A migration that goes on.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The instance that moves, the migration, or the beginning of its id
    #[arg(value_name = "MIGRATION")]
    pub(crate) migration: String,
}

/// `set`
#[derive(Debug, Args)]
#[command(after_help = SET_EXAMPLES)]
pub(crate) struct SetLimits {
    /// Which.
    #[command(flatten)]
    pub(crate) which: Which,
    /// max-downtime=TIME: for how long QEMU may let the guest stand still, in place of what its policy says;
    /// bandwidth=RATE or bandwidth=unlimited: how much of its memory may be sent per second;
    /// deadline=TIME: when its policy takes its last step, counted from the beginning of libvirt's job
    #[arg(value_name = "WHAT=VALUE", required = true, value_parser = limit)]
    pub(crate) limits: Vec<Limit>,
}

/// One thing that is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// For how long QEMU may let the guest stand still.
    MaxDowntime(Duration),
    /// How much may be sent per second; `None`: as much as goes.
    Bandwidth(Option<ByteSize>),
    /// When its policy takes its last step.
    Deadline(Duration),
}

const FORCE_EXAMPLES: &str = "\
Examples:
  vmferry force-complete web                  stops web until the rest is sent
  vmferry force-complete 0190f5fe --how postcopy   goes on where it arrives at once; no way back";

/// `force-complete`
#[derive(Debug, Args)]
#[command(after_help = FORCE_EXAMPLES)]
pub(crate) struct ForceComplete {
    /// Which.
    #[command(flatten)]
    pub(crate) which: Which,
    /// By what means
    #[arg(long, value_enum, value_name = "HOW", default_value_t = How::Suspend)]
    pub(crate) how: How,
}

/// How a migration is brought to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum How {
    /// The guest goes on where it arrives at once, and what is left is sent after it; its policy must allow it (--postcopy)
    Postcopy,
    /// The guest is stopped where it is; what is left is sent, and it goes on where it arrives
    Suspend,
}

fn limit(text: &str) -> Result<Limit, String> {
    let known = "write max-downtime=TIME, bandwidth=RATE or deadline=TIME";
    let (what, value) = text.split_once('=').ok_or_else(|| format!("`{text}` sets nothing; {known}"))?;
    let time = || humantime::parse_duration(value).map_err(|error| format!("`{value}`: {error}"));
    match what {
        "max-downtime" => Ok(Limit::MaxDowntime(time()?)),
        "deadline" => Ok(Limit::Deadline(time()?)),
        "bandwidth" if value == "unlimited" => Ok(Limit::Bandwidth(None)),
        "bandwidth" => Ok(Limit::Bandwidth(Some(bandwidth(value)?))),
        _ => Err(format!("`{what}` cannot be set; {known}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_set_is_read_and_nothing_else() {
        assert_eq!(limit("max-downtime=500ms"), Ok(Limit::MaxDowntime(Duration::from_millis(500))));
        assert_eq!(limit("bandwidth=unlimited"), Ok(Limit::Bandwidth(None)));
        assert_eq!(limit("bandwidth=1GiB/s"), Ok(Limit::Bandwidth(Some(ByteSize::gib(1)))));
        assert_eq!(limit("deadline=2min"), Ok(Limit::Deadline(Duration::from_secs(120))));
        for wrong in
            ["", "bandwidth", "bandwidth=", "bandwidth=0", "max-downtime=-5ms", "speed=1GiB/s", "deadline=soon"]
        {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
    }
}
