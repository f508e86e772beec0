use std::net::SocketAddr;

use clap::Args;

const EXAMPLES: &str = "\
Examples:
  vmferry pki issue coordinator fleet --address fleet.example.org
  vmferry serve --inventory /etc/vmferry/inventory.toml
  vmferry --coordinator fleet.example.org:7444 instances    from elsewhere

The certificate of the inventory must be a coordinator's that is for a name or address
(--address), at which others call it. It says on stderr what it does; VMFERRY_LOG filters that.
SIGTERM and SIGINT stop it: migrations that end within 10 s are waited for, others go on without
it. A second one stops it at once.";

/// `serve`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Serve {
    /// Where it listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:7444")]
    pub(crate) listen: SocketAddr,
}
