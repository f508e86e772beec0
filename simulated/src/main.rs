//! `simulated-agent`: VMFerry's agent as it is, on a host that is simulated. For tests of fleets; in no package.
//!
//! Real are the process, its port with mutual TLS, its calls, its journal and claims, its turns, and the tunnel between two of them:
//! everything above [`Hypervisor`](vmferry_agent::hypervisor::Hypervisor). Simulated are the guests. Each is a file in the directory
//! of the host that it runs on; it moves by being renamed from one to the other, so that anybody can count them at any time. Its
//! memory takes the time that it would take, but only a small part of it is really sent.
//!
//! Guests run, and move live; they are never off.

mod far;
mod guests;
mod host;
mod job;

use std::{fs, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use bytesize::ByteSize;
use clap::Parser;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use tracing_subscriber::EnvFilter;
use vmferry_agent::{
    config::Config,
    firewall::Firewall,
    libvirt::Libvirt,
    process::Process,
    storage::receivers::Receivers,
    tunnel::{self, Carriers, Grants, Listeners},
};

use crate::{
    guests::Guests,
    host::{Hardware, SimulatedHost},
};

/// VMFerry's agent on a simulated host. For tests only.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file, as an agent's. What its `[libvirt]` names as socket is made.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The directory that has one for each host, by its name, with a file for each guest.
    #[arg(long, value_name = "DIRECTORY")]
    world: PathBuf,
    /// Memory of the host.
    #[arg(long, value_name = "SIZE", default_value = "64GiB")]
    memory: ByteSize,
    /// Its logical CPUs.
    #[arg(long, value_name = "NUMBER", default_value_t = 16)]
    cpus: u32,
    /// What its network carries per second.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    bandwidth: ByteSize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("simulated-agent: {problems}");
            return ExitCode::from(2);
        }
    };
    let filter = EnvFilter::try_from_env("VMFERRY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match own_sockets().and_then(|()| run(config, arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("simulated-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Migrations have their sockets at the same paths on every host: each needs a file system of its own there. Before there are threads.
fn own_sockets() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace of its own needs root")?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).context("cannot unshare mounts")?;
    fs::create_dir_all(tunnel::DIRECTORY)?;
    mount(Some("simulated"), tunnel::DIRECTORY, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
        .with_context(|| format!("cannot mount {}", tunnel::DIRECTORY))
}

#[tokio::main]
async fn run(config: Config, arguments: Arguments) -> anyhow::Result<()> {
    let process = Process::begin(config).await?;
    let config = process.config();
    let guests = Arc::new(Guests::open(&arguments.world, config.name.clone())?);
    far::serve(&config.libvirt_socket, Arc::clone(&guests))?;
    let carriers = Arc::new(Carriers::within(process.credentials()));
    let grants = Arc::new(Grants::new(
        Arc::clone(&carriers),
        config.libvirt_socket.clone(),
        // Asked only of guests that were switched to postcopy, which none of these is.
        Libvirt::new(&config.libvirt_uri),
        Arc::new(Receivers::default()),
        Arc::new(Firewall::new()),
        None,
    ));
    let hardware = Hardware { memory: arguments.memory, cpus: arguments.cpus, bandwidth: arguments.bandwidth };
    let listeners = Listeners::new(process.credentials(), carriers);
    let host = SimulatedHost::new(config, hardware, guests, listeners, Arc::clone(&grants));
    let migrations = process.take_up(host)?;
    Ok(process.serve(migrations, grants).await?)
}
