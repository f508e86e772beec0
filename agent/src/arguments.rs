//! What the agent's program can be asked for: for itself, and for its manual.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::{
    config,
    storage::{iscsi, rbd},
    tunnel::carrier,
};

/// VMFerry's agent: the privileged half of a migration, one on every hypervisor.
///
/// Listens on one TCP port (mutual TLS) and drives the host's libvirt. Its configuration says which host it is on; its
/// certificate must say the same.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// Only says whether the configuration can be used.
    #[arg(long)]
    pub check_config: bool,
    /// Only lists the migrations that are open in this host's journals, a line for each, whether or not an agent runs
    #[arg(long, conflicts_with = "check_config")]
    pub open_migrations: bool,
    /// What else it may be.
    #[command(subcommand)]
    pub part: Option<Part>,
}

/// What the agent starts itself again for.
#[derive(Debug, Subcommand)]
pub enum Part {
    /// Looks at RBD images.
    #[command(name = rbd::ARGUMENT, hide = true)]
    LookAtRbd,
    /// Carries tunnels, also while there is no agent.
    #[command(name = carrier::ARGUMENT, hide = true)]
    Carry {
        /// A directory of its own.
        directory: PathBuf,
    },
    /// Looks at LUNs.
    #[command(name = iscsi::ARGUMENT, hide = true)]
    LookAtIscsi,
}
