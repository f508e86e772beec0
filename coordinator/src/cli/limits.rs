use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use vmferry_core::migration::{FLOOR, Handover, Path, Streams};

use crate::journey::Asked;

/// What a live migration may cost, and how it comes to its end.
#[derive(Debug, Args)]
#[command(next_help_heading = "Live migration")]
pub(crate) struct Limits {
    /// How it comes to its end while the guest writes; `vmferry policies` lists them. `auto`: the gentlest by which it will
    /// arrive, by what is measured before. Without: the instance's own, or `default`
    #[arg(long, value_name = "NAME", conflicts_with = "cold")]
    pub(crate) policy: Option<String>,
    /// The longest time for which QEMU may let the guest stand still, whatever the policy says
    #[arg(long, value_name = "TIME", conflicts_with = "cold", value_parser = humantime::parse_duration)]
    pub(crate) max_downtime: Option<Duration>,
    /// When the policy takes its last step, counted from the beginning of libvirt's job
    #[arg(long, value_name = "TIME", conflicts_with = "cold", value_parser = humantime::parse_duration)]
    pub(crate) deadline: Option<Duration>,
    /// It may be switched to postcopy by hand (`vmferry force-complete --how postcopy`), whatever the policy says
    #[arg(long, conflicts_with = "cold")]
    pub(crate) postcopy: bool,
    /// How much may be sent per second, memory and disks each: 100MiB/s; without: as much as goes
    #[arg(long, value_name = "RATE", conflicts_with = "cold", value_parser = bandwidth)]
    pub(crate) bandwidth: Option<ByteSize>,
    /// Over how many streams memory is sent at once: each may keep a CPU of each host busy; 1 to 16
    #[arg(long, value_name = "NUMBER", conflicts_with = "cold", default_value_t = Streams::ONE)]
    pub(crate) streams: Streams,
    /// Which way memory and disks take; direct needs hosts that are configured for it
    #[arg(long, value_enum, value_name = "WAY", conflicts_with = "cold", default_value_t = DataPath::Tunnel)]
    pub(crate) path: DataPath,
    /// Who lets the guest run on its destination, and when. Without: strict, unless it may be switched to postcopy
    #[arg(long, value_enum, value_name = "HOW", conflicts_with = "cold")]
    pub(crate) handover: Option<HandOver>,
}

impl Limits {
    /// What is asked for.
    pub(crate) fn asked(&self) -> Asked {
        Asked {
            policy: self.policy.clone(),
            max_downtime: self.max_downtime,
            deadline: self.deadline,
            postcopy: self.postcopy,
            bandwidth: self.bandwidth,
            streams: self.streams,
            path: self.path.into(),
            handover: self.handover.map(Into::into),
        }
    }
}

/// Who lets a guest run on its destination, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HandOver {
    /// The agents, once the copy that it leaves behind can never run again: it never runs twice, whatever is lost
    Strict,
    /// libvirt, at once: if its last answer is lost, the guest may go on where it was as well
    Fast,
}

impl From<HandOver> for Handover {
    fn from(handover: HandOver) -> Self {
        match handover {
            HandOver::Strict => Self::Strict,
            HandOver::Fast => Self::Fast,
        }
    }
}

/// Which way memory and disks take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DataPath {
    /// Through the agents' one port
    Tunnel,
    /// From QEMU to QEMU, by QEMU's own TLS and with its certificates
    Direct,
}

impl From<DataPath> for Path {
    fn from(path: DataPath) -> Self {
        match path {
            DataPath::Tunnel => Self::Tunnel,
            DataPath::Direct => Self::Direct,
        }
    }
}

/// Reads `100MiB/s`; the `/s` may be left out.
pub(crate) fn bandwidth(text: &str) -> Result<ByteSize, String> {
    let size = text.trim();
    let size = size.strip_suffix("/s").unwrap_or(size).trim_end();
    let bandwidth: ByteSize = size.parse().map_err(|_| format!("`{text}` is no rate; write 100MiB/s or 1GiB/s"))?;
    if bandwidth < FLOOR {
        return Err(format!("{text} is too little: write {FLOOR}/s or more"));
    }
    Ok(bandwidth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_size_per_second() {
        for text in ["100MiB/s", "100 MiB", "104857600"] {
            assert_eq!(bandwidth(text), Ok(ByteSize::mib(100)), "{text}");
        }
        for wrong in ["", "fast", "0", "-1MiB/s", "1KiB/s", "100MiB/h", "100MiB/s/s"] {
            assert!(bandwidth(wrong).is_err(), "{wrong}");
        }
    }
}
