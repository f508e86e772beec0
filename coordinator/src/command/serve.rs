//! `vmferry serve`: from the inventory to a port, until somebody stops it.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    select,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;
use vmferry_core::{
    id::HostName,
    identity::{Identity, Role},
};
use vmferry_remote::chain::chain;
use vmferry_transport::Credentials;

use super::cannot_watch_signals;
use crate::{
    cli,
    exit::{Exit, Failed},
    fleet::Newest,
    interrupt::Interrupts,
    inventory::Source,
    service::{Drives, Port},
};

/// How often the certificate files are looked at.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(2);

/// How long migrations and calls that run may go on when it is told to stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// How long the last words may take on their way.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves until it is told to stop.
pub(crate) async fn run(source: Source, args: &cli::Serve) -> Result<Exit, Failed> {
    start_logging();
    let (loaded, following) = source.follow().await?;
    let inventory = loaded.borrow().inventory.clone();
    if inventory.coordinator.is_some() {
        let message = "a coordinator that serves calls the agents itself: it needs the hosts, and no other coordinator";
        return Err(Failed::usage(format!("{message}; leave out --coordinator and [coordinator]")));
    }
    let watched = vmferry_transport::watch_files(inventory.tls.clone(), CERTIFICATE_INTERVAL).await;
    let (credentials, reload) = watched.map_err(|error| Failed::usage(chain(&error)))?;
    let identity = judge(&credentials.borrow())?;
    let name: HostName = identity.name.parse().map_err(|error| Failed::usage(format!("{identity}: {error}")))?;
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        Failed::usage(format!(
            "cannot listen on {}: {error}; is another one running? --listen names another",
            args.listen
        ))
    })?;
    let at = listener.local_addr().unwrap_or(args.listen);
    let mut interrupts = Interrupts::take_over().map_err(cannot_watch_signals)?;
    tokio::spawn(reload);
    tokio::spawn(following);

    let hosts = inventory.hosts.len();
    let (fleet, taking_up) = Newest::follow(loaded, &credentials);
    tokio::spawn(taking_up);
    let drives = Drives::new(fleet.clone());
    let (stop, end) = (CancellationToken::new(), CancellationToken::new());
    let port = Port { credentials, fleet, drives: Arc::clone(&drives), name, stop: stop.clone(), end: end.clone() };
    let mut served = tokio::spawn(port.serve(listener));
    info!("{identity} is ready on {at}, for {hosts} hosts");

    select! {
        served = &mut served => return Err(ended_by_itself(served)),
        () = interrupts.next() => {}
    }
    info!("stopping");
    stop.cancel();
    let drained = async {
        drives.idle().await;
        // Streams are calls too: one that looks on at an agent may have long to go.
        _ = (&mut served).await;
    };
    let is_drained = select! {
        () = drained => true,
        () = sleep(DRAIN_LIMIT) => false,
        () = interrupts.next() => return Ok(Exit::Interrupted),
    };
    if !is_drained {
        for id in drives.ids() {
            warn!("migration {id} goes on without us: vmferry migrations resolve {id} waits for its end");
        }
        end.cancel();
        _ = timeout(LAST_WORDS, &mut served).await;
    }
    info!("stopped");
    Ok(Exit::Done)
}

/// The certificate must be a coordinator's that others can call.
fn judge(credentials: &Credentials) -> Result<Identity, Failed> {
    let identity = credentials.identity();
    let remedy = "issue one with `vmferry pki issue coordinator NAME --address HOST`, HOST as clients call it";
    if identity.role != Role::Coordinator {
        return Err(Failed::usage(format!("the certificate is for {identity}, which is no coordinator; {remedy}")));
    }
    if credentials.names().is_empty() {
        return Err(Failed::usage(format!("the certificate of {identity} is for no address to serve at; {remedy}")));
    }
    Ok(identity.clone())
}

type Served = Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>;

fn ended_by_itself(served: Served) -> Failed {
    let why = match served {
        Ok(Ok(())) => "nothing is accepted any more".to_owned(),
        Ok(Err(error)) => chain(&error),
        Err(error) => error.to_string(),
    };
    Failed { exit: Exit::Failed, ..Failed::usage(format!("serving ended: {why}")) }
}

/// To stderr, where systemd takes it from.
fn start_logging() {
    let filter = EnvFilter::try_from_env("VMFERRY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // With -v there is one already.
    _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).try_init();
}
