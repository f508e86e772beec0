use clap::Args;
use vmferry_core::id::HostName;

/// Which hosts come into question.
#[derive(Debug, Args)]
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
    /// The one host that comes into question, if the user has named one and left nothing to choose.
    pub(crate) fn only(&self) -> Option<&HostName> {
        match (self.to.as_slice(), &self.zone, self.exclude.as_slice()) {
            ([only], None, []) => Some(only),
            _ => None,
        }
    }
}
