use std::time::Duration;

use clap::{Args, ValueEnum};
use vmferry_core::{
    instance::InstanceState,
    migration::{Fallback, Kind, Shutdown},
};

/// Whether the guest is off while it moves, and how it gets there.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cold migration")]
pub(crate) struct Cold {
    /// Shuts the instance down, moves it, and starts it again: its guest sees a reboot. One that is off is moved as it is and
    /// stays off
    #[arg(long)]
    pub(crate) cold: bool,
    /// How long the guest may take to shut itself down
    #[arg(
        long,
        requires = "cold",
        value_name = "TIME",
        default_value = "60s",
        value_parser = humantime::parse_duration
    )]
    pub(crate) shutdown_timeout: Duration,
    /// What is done if it takes longer
    #[arg(
        long,
        requires = "cold",
        value_enum,
        value_name = "WHAT",
        default_value_t = ShutdownFallback::PowerOff
    )]
    pub(crate) shutdown_fallback: ShutdownFallback,
}

/// What is done with a guest that does not shut itself down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShutdownFallback {
    /// Its power is cut, as if its plug were pulled
    PowerOff,
    /// It runs on where it is, and does not move
    GiveUp,
}

impl Cold {
    /// How an instance in this state moves.
    pub(crate) fn kind(&self, state: InstanceState) -> Kind {
        if !self.cold {
            return Kind::Live;
        }
        let fallback = match self.shutdown_fallback {
            ShutdownFallback::PowerOff => Fallback::PowerOff,
            ShutdownFallback::GiveUp => Fallback::GiveUp,
        };
        // In any other state the checks say what is to be done about it.
        let runs = state != InstanceState::Shutoff;
        Kind::Cold { shutdown: runs.then_some(Shutdown { deadline: self.shutdown_timeout, fallback }) }
    }
}
