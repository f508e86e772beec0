//! `vmferry-agent`: arguments, configuration, build, serve, stop.

use std::{path::Path, process::ExitCode, sync::Arc};

use clap::Parser as _;
use tracing::error;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};
use vmferry_agent::{
    arguments::{Arguments, Part},
    config::{self, Config},
    firewall::Firewall,
    hypervisor::LibvirtHost,
    journal,
    libvirt::Libvirt,
    process::{Process, judge_identity},
    storage::{iscsi, rbd, receivers::Receivers},
    tunnel::{Carriers, Grants, Listeners, carrier},
};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.part {
        Some(Part::LookAtRbd) => return ended(rbd::answer().map_err(Into::into)),
        Some(Part::LookAtIscsi) => return ended(iscsi::answer().map_err(Into::into)),
        Some(Part::Carry { directory }) => return ended(carry(&arguments.config, &directory)),
        None => {}
    }
    if arguments.open_migrations {
        return ended(open_migrations(&arguments.config));
    }
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("vmferry-agent: {problems}");
            return ExitCode::from(2);
        }
    };
    if arguments.check_config {
        let usable = vmferry_transport::load(&config.tls)
            .map_err(anyhow::Error::from)
            .and_then(|credentials| Ok(judge_identity(&config.name, credentials.identity())?));
        return match usable {
            Ok(()) => {
                println!("{} can be used", arguments.config.display());
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("vmferry-agent: {} cannot be used:\n  tls: {error:#}", arguments.config.display());
                ExitCode::from(2)
            }
        };
    }
    start_logging();
    match run(config, &arguments.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn ended(part: anyhow::Result<()>) -> ExitCode {
    match part {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmferry-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Needs no configuration that can be used: where there is none the journals are where they are by default.
fn open_migrations(config: &Path) -> anyhow::Result<()> {
    for journal in journal::open(&config::state_directory(config)?)? {
        println!("{journal}");
    }
    Ok(())
}

/// Carries tunnels until there is nothing to carry.
fn carry(config: &Path, directory: &Path) -> anyhow::Result<()> {
    let config = Config::load(config)?;
    carrier::leave_session()?;
    start_logging();
    tokio::runtime::Runtime::new()?.block_on(carrier::run(directory, config.tls))
}

/// Under systemd to the journal with its fields, else to stderr.
fn start_logging() {
    let filter = EnvFilter::try_from_env("VMFERRY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    match tracing_journald::layer().ok().filter(|_| under_systemd) {
        Some(journald) => registry.with(journald).init(),
        None => registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr)).init(),
    }
}

#[tokio::main]
async fn run(config: Config, path: &Path) -> anyhow::Result<()> {
    let process = Process::begin(config).await?;
    let config = process.config();
    let receivers = Arc::new(Receivers::default());
    let firewall = Arc::new(Firewall::new());
    let libvirt = Libvirt::new(&config.libvirt_uri);
    let carriers = Arc::new(Carriers::beside(process.credentials(), path).await?);
    let grants = Arc::new(Grants::new(
        Arc::clone(&carriers),
        config.libvirt_socket.clone(),
        libvirt.clone(),
        Arc::clone(&receivers),
        Arc::clone(&firewall),
        config.direct.as_ref().map(|direct| direct.end.clone()),
    ));
    let listeners = Listeners::new(process.credentials(), carriers);
    let host = LibvirtHost::new(config, libvirt, listeners, Arc::clone(&grants), receivers, firewall);
    let migrations = process.take_up(host)?;
    tokio::spawn({
        let migrations = Arc::clone(&migrations);
        async move { migrations.host().warm_up().await }
    });
    tokio::spawn({
        let migrations = Arc::clone(&migrations);
        async move { migrations.host().keep_networks().await }
    });
    Ok(process.serve(migrations, grants).await?)
}
