use clap::Args;
use vmferry_core::id::HostName;

use crate::journey;

/// Which hosts come into question.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Destination")]
pub(crate) struct Target {
    /// The host it shall run on; of several, the best of them; without: the best of all
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub(crate) to: Vec<HostName>,
    /// Only hosts of this availability zone; without: its own zone's rather than others'
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// Not this host; may be said more than once
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub(crate) exclude: Vec<HostName>,
}

impl Target {
    /// What is asked for.
    pub(crate) fn target(&self) -> journey::Target {
        let Self { to, zone, exclude } = self.clone();
        journey::Target { to, zone, exclude }
    }
}
