use std::time::Duration;

use clap::{Args, ValueEnum};
use vmferry_core::migration::Priority;

/// What is done while its hosts send or take as many others as they may.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Queue")]
pub(crate) struct Queue {
    /// Before whom it comes while it waits for its turn; who has a turn keeps it
    #[arg(long, value_enum, value_name = "PRIORITY", default_value_t = Urgency::Normal)]
    pub(crate) priority: Urgency,
    /// How long it may wait for its turn; without: for as long as it takes
    #[arg(long, value_name = "TIME", conflicts_with = "no_wait", value_parser = humantime::parse_duration)]
    pub(crate) queue_timeout: Option<Duration>,
    /// It does not wait for its turn: if it is not now, it does not move
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// Before whom a migration comes while it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Urgency {
    /// After all others
    Low,
    /// In the order in which they came
    Normal,
    /// Before all others
    High,
}

impl From<Urgency> for Priority {
    fn from(urgency: Urgency) -> Self {
        match urgency {
            Urgency::Low => Self::Low,
            Urgency::Normal => Self::Normal,
            Urgency::High => Self::High,
        }
    }
}

impl Queue {
    /// How long it may wait; `None`: for as long as it takes.
    pub(crate) fn patience(&self) -> Option<Duration> {
        if self.no_wait { Some(Duration::ZERO) } else { self.queue_timeout }
    }
}
