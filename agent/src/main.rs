//! `vmferry-agent`: arguments, configuration, build, serve, stop.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use jiff::Timestamp;
use sd_notify::NotifyState;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};
use vmferry_agent::{
    config::{self, Config},
    firewall::Firewall,
    hypervisor::LibvirtHost,
    journal,
    libvirt::Libvirt,
    migrations::Migrations,
    register,
    serve::Port,
    storage::{iscsi, rbd, receivers::Receivers},
    tunnel::{self, Grants, Listeners},
    turns::Concurrency,
};
use vmferry_core::{
    id::HostName,
    identity::{Identity, Role},
};

/// How often the certificate files are looked at.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(2);

/// How often records that have been kept long enough are looked for.
const FORGET_INTERVAL: Duration = Duration::from_secs(3600);

/// How long probe files lie beside disks if nobody says that they were seen. A check takes less.
const PROBE_LIFE: Duration = Duration::from_secs(60);

/// How long calls that run may go on when the agent is told to stop. What moves through its tunnel then fails, and stays
/// on its source.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// VMFerry's agent: the privileged half of a migration, one on every hypervisor.
///
/// Listens on one TCP port (mutual TLS) and drives the host's libvirt. Its configuration says which host it is on; its
/// certificate must say the same.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Only says whether the configuration can be used.
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What the agent starts itself again for.
#[derive(Debug, Subcommand)]
enum Part {
    /// Looks at RBD images.
    #[command(name = rbd::ARGUMENT, hide = true)]
    LookAtRbd,
    /// Looks at LUNs.
    #[command(name = iscsi::ARGUMENT, hide = true)]
    LookAtIscsi,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(part) = arguments.part {
        let answered = match part {
            Part::LookAtRbd => rbd::answer(),
            Part::LookAtIscsi => iscsi::answer(),
        };
        return match answered {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("vmferry-agent: {error}");
                ExitCode::FAILURE
            }
        };
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
            .and_then(|credentials| judge_identity(&config.name, credentials.identity()));
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
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
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
async fn run(config: Config) -> anyhow::Result<()> {
    let (credentials, reload) = vmferry_transport::watch_files(config.tls.clone(), CERTIFICATE_INTERVAL).await?;
    let identity = credentials.borrow().identity().clone();
    judge_identity(&config.name, &identity)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}; is another agent running?", config.listen))?;
    std::fs::create_dir_all(tunnel::DIRECTORY).with_context(|| format!("cannot make {}", tunnel::DIRECTORY))?;
    tokio::spawn(reload);

    let receivers = Arc::new(Receivers::default());
    let firewall = Arc::new(Firewall::new());
    let libvirt = Libvirt::new(&config.libvirt_uri);
    let grants = Arc::new(Grants::new(
        config.libvirt_socket.clone(),
        libvirt.clone(),
        Arc::clone(&receivers),
        Arc::clone(&firewall),
        config.direct.as_ref().map(|direct| direct.end.clone()),
    ));
    let host = LibvirtHost::new(
        &config,
        libvirt,
        Listeners::new(credentials.clone()),
        Arc::clone(&grants),
        receivers,
        firewall,
    );
    let keep_records = config.keep_records;
    let oldest = move || Timestamp::now().checked_sub(keep_records).unwrap_or(Timestamp::MIN);
    let concurrency = Concurrency { incoming: config.capacity.incoming, outgoing: config.capacity.outgoing };
    let _alone = journal::hold(&config.state_directory)?;
    let migrations = Migrations::start(Arc::new(host), &config.state_directory, oldest(), PROBE_LIFE, concurrency)?;
    let migrations = Arc::new(migrations);
    tokio::spawn({
        let migrations = Arc::clone(&migrations);
        async move {
            loop {
                tokio::time::sleep(FORGET_INTERVAL).await;
                migrations.forget(oldest());
            }
        }
    });
    tokio::spawn({
        let migrations = Arc::clone(&migrations);
        async move { migrations.host().warm_up().await }
    });
    tokio::spawn({
        let migrations = Arc::clone(&migrations);
        async move { migrations.host().keep_networks().await }
    });
    let port = Port { credentials, migrations, zone: config.zone.clone(), grants };

    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone())?);
    info!("{identity} is ready on {}", config.listen);
    sd_notify::notify(&[NotifyState::Ready]).context("cannot tell systemd that the agent is ready")?;
    let registered = config.etcd.map(|etcd| tokio::spawn(register::keep(etcd, stop.clone())));
    let served = port.serve(listener, stop.clone());
    tokio::pin!(served);
    tokio::select! {
        served = &mut served => served?,
        // Streams are calls too: one that watches a migration may have long to go.
        () = async { stop.cancelled().await; tokio::time::sleep(DRAIN_LIMIT).await } => {
            info!("stopping with calls unanswered after {DRAIN_LIMIT:?}");
        }
    }
    if let Some(registered) = registered {
        registered.await.context("the registration in etcd")?;
    }
    info!("stopped");
    Ok(())
}

/// The certificate must be this host's agent's.
fn judge_identity(name: &HostName, identity: &Identity) -> anyhow::Result<()> {
    anyhow::ensure!(
        identity.role == Role::Agent && identity.name == name.as_str(),
        "the certificate is for {identity}, but this is the agent of {name}; issue one with `vmferry pki issue agent {name}`"
    );
    Ok(())
}

fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping");
        stop.cancel();
    })
}
