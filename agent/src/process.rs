//! What an agent's process does, whichever hypervisor it drives: takes up what it knows, serves, stops.

use std::{fs::File, io, net::SocketAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use sd_notify::NotifyState;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tracing::info;
use vmferry_core::{
    id::HostName,
    identity::{Identity, Role},
};
use vmferry_transport::Credentials;

use crate::{
    config::Config,
    hypervisor::Served,
    journal,
    migrations::Migrations,
    register,
    serve::Port,
    takeover::{self, Caller},
    tunnel::{self, Grants},
    turns::Concurrency,
    watchdog,
};

/// How often the certificate files are looked at.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(2);

/// How often records that have been kept long enough are looked for.
const FORGET_INTERVAL: Duration = Duration::from_secs(3600);

/// How long probe files lie beside disks if nobody says that they were seen. A check takes less.
const PROBE_LIFE: Duration = Duration::from_secs(60);

/// How long calls that run may go on when the agent is told to stop. What moves goes on without it: see [`tunnel::carrier`].
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Why an agent cannot start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] vmferry_transport::Error),
    /// They are somebody else's.
    #[error(
        "the certificate is for {identity}, but this is the agent of {name}; issue one with `vmferry pki issue agent {name}`"
    )]
    Identity {
        /// Whose.
        identity: Identity,
        /// Who this is.
        name: HostName,
    },
    /// It has no port.
    #[error("cannot listen on {address}; is another agent running?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Something of the system is not to be had.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// What it knew cannot be read.
    #[error(transparent)]
    Journal(#[from] journal::Error),
    /// Its port broke.
    #[error(transparent)]
    Served(#[from] tonic::transport::Error),
    /// What says in etcd that it is there has panicked.
    #[error("the registration in etcd")]
    Registration(#[from] tokio::task::JoinError),
}

/// An agent that has its port and its identity, and drives nothing yet.
#[derive(Debug)]
pub struct Process {
    config: Config,
    credentials: watch::Receiver<Credentials>,
    identity: Identity,
    listener: TcpListener,
    /// No other agent works with the same journals as long as this is open.
    alone: File,
}

impl Process {
    /// Reads the certificates, and takes the port and the journals so that nobody else does: who calls waits until it is served.
    pub async fn begin(config: Config) -> Result<Self, Error> {
        let (credentials, reload) = vmferry_transport::watch_files(config.tls.clone(), CERTIFICATE_INTERVAL).await?;
        let identity = credentials.borrow().identity().clone();
        judge_identity(&config.name, &identity)?;
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|source| Error::Listen { address: config.listen, source })?;
        std::fs::create_dir_all(tunnel::DIRECTORY)
            .map_err(|source| Error::System { action: "make the directory of migrations", source })?;
        let alone = journal::hold(&config.state_directory)?;
        tokio::spawn(reload);
        Ok(Self { config, credentials, identity, listener, alone })
    }

    /// How it is configured.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// As whom it calls and is called; the newest.
    pub fn credentials(&self) -> watch::Receiver<Credentials> {
        self.credentials.clone()
    }

    /// Takes up the migrations that the journals tell of, and forgets those that ended long ago, now and from now on.
    pub fn take_up<H: Served>(&self, host: H) -> Result<Arc<Migrations<H>>, Error> {
        let keep_records = self.config.keep_records;
        let oldest = move || Timestamp::now().checked_sub(keep_records).unwrap_or(Timestamp::MIN);
        let capacity = &self.config.capacity;
        let concurrency = Concurrency { incoming: capacity.incoming, outgoing: capacity.outgoing };
        let state = &self.config.state_directory;
        let migrations = Arc::new(Migrations::start(Arc::new(host), state, oldest(), PROBE_LIFE, concurrency)?);
        tokio::spawn({
            let migrations = Arc::clone(&migrations);
            async move {
                loop {
                    tokio::time::sleep(FORGET_INTERVAL).await;
                    migrations.forget(oldest());
                }
            }
        });
        Ok(migrations)
    }

    /// Serves until it is told to stop by a signal, and then until the calls that run have been answered, but not for long. `grants`
    /// are those of the migrations' host.
    pub async fn serve<H: Served>(self, migrations: Arc<Migrations<H>>, grants: Arc<Grants>) -> Result<(), Error> {
        let Self { config, credentials, identity, listener, alone: _alone } = self;
        let caller = Caller { identity: identity.clone(), credentials: credentials.clone() };
        tokio::spawn(takeover::keep(Arc::clone(&migrations), caller, config.lease));
        let port = Port { credentials, migrations, zone: config.zone.clone(), lease: config.lease, grants };
        let stop = CancellationToken::new();
        tokio::spawn(stop_on_signal(stop.clone())?);
        info!("{identity} is ready on {}", config.listen);
        sd_notify::notify(&[NotifyState::Ready])
            .map_err(|source| Error::System { action: "tell systemd that the agent is ready", source })?;
        tokio::spawn(watchdog::feed());
        let registered = config.etcd.map(|etcd| tokio::spawn(register::keep(etcd, stop.clone())));
        let served = port.serve(listener, stop.clone());
        tokio::pin!(served);
        tokio::select! {
            served = &mut served => served?,
            // A phase may have long to go; the next agent takes it up.
            () = async { stop.cancelled().await; tokio::time::sleep(DRAIN_LIMIT).await } => {
                info!("stopping with calls unanswered after {DRAIN_LIMIT:?}");
            }
        }
        if let Some(registered) = registered {
            registered.await?;
        }
        info!("stopped");
        Ok(())
    }
}

/// The certificate must be this host's agent's.
pub fn judge_identity(name: &HostName, identity: &Identity) -> Result<(), Error> {
    if identity.role == Role::Agent && identity.name == name.as_str() {
        return Ok(());
    }
    Err(Error::Identity { identity: identity.clone(), name: name.clone() })
}

fn stop_on_signal(stop: CancellationToken) -> Result<impl Future<Output = ()>, Error> {
    let unheard = |source| Error::System { action: "listen for signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(unheard)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unheard)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping");
        _ = sd_notify::notify(&[NotifyState::Stopping]);
        stop.cancel();
    })
}
