//! The process that carries tunnels. An agent starts it when it first has something to carry; it outlives the agent, and ends when
//! there has been nothing to carry for a while (docs/decisions/0009-the-tunnel-outlives-the-agent.md).
//!
//! ```text
//!  agent ──▶ control.sock: open, grant, close, cut ──▶ Carriage ◀── TCP connections ◀── sockets.sock ◀── agent's port
//! ```
//!
//! Of the agent's configuration it reads only where the certificates are. They are read again when they change, as the agent does.

use std::{
    fs,
    io::{self, Write as _},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{net::UnixListener, sync::Semaphore};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::Server};
use tracing::{info, warn};
use vmferry_proto::carrier::{
    CloseRequest, CloseResponse, CutRequest, CutResponse, GrantRequest, GrantResponse, ListRequest, ListResponse,
    OpenRequest, OpenResponse,
    carrier_service_server::{CarrierService, CarrierServiceServer},
};
use vmferry_transport::{CertificateFiles, Protocol, accept};

use super::{
    REQUEST_LIMIT,
    carriage::{Carriage, NotCarried, migration_of},
    handing,
};

/// As which part of the program it runs.
pub const ARGUMENT: &str = "carry";

/// Which form of its control it speaks, an agent as well as what carries. See `ListResponse` in `proto/vmferry/carrier/v1`.
pub(super) const PROTOCOL: u32 = 1;
/// What an agent can work with: processes that carry outlive the agents that have started them, and so there are older ones.
pub(super) const SPOKEN: RangeInclusive<u32> = 1..=PROTOCOL;

/// What it says on its standard output when it can be asked.
pub(super) const READY: &str = "ready";

/// How processes that carry are called.
pub const NAME: &std::ffi::CStr = c"vmferry-carrier";

/// How often the certificate files are looked at.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(2);
/// How long there must have been nothing to carry before it ends.
const IDLE: Duration = Duration::from_secs(60);

/// Connections that may be in their handshake at once: far fewer than a process may have open files.
const HANDSHAKES: usize = 8192;
/// How long agents may take to hang up when it ends.
const HANG_UP: Duration = Duration::from_secs(5);

/// Where it is asked, in its directory.
pub(super) fn control_socket(directory: &Path) -> PathBuf {
    directory.join("control.sock")
}

/// Where it is handed connections, in its directory.
pub(super) fn handing_socket(directory: &Path) -> PathBuf {
    directory.join("sockets.sock")
}

/// Leaves the agent's session: what ends that, a terminal say, does not end this. Before there are threads.
pub fn leave_session() -> io::Result<()> {
    nix::unistd::setsid()?;
    Ok(nix::sys::prctl::set_name(NAME)?)
}

/// Carries until there is nothing to carry any more. `directory` is its own, and root's; it is removed in the end.
pub async fn run(directory: &Path, certificates: CertificateFiles) -> anyhow::Result<()> {
    let (credentials, reload) = vmferry_transport::watch_files(certificates, CERTIFICATE_INTERVAL).await?;
    tokio::spawn(reload);
    let carriage = Arc::new(Carriage::new(credentials));
    let control = UnixListener::bind(control_socket(directory))?;
    let sockets = UnixListener::bind(handing_socket(directory))?;
    tokio::spawn(take_connections(sockets, Arc::clone(&carriage)));
    info!("carries tunnels, in {}", directory.display());
    {
        let mut out = io::stdout();
        // Who has started it may be gone.
        _ = writeln!(out, "{READY}").and_then(|()| out.flush());
    }
    let left = CancellationToken::new();
    tokio::spawn({
        let (carriage, left) = (Arc::clone(&carriage), left.clone());
        async move { (carriage.left(IDLE).await, left.cancel()) }
    });
    let served = Server::builder()
        .add_service(CarrierServiceServer::new(Service(carriage)))
        .serve_with_incoming_shutdown(UnixListenerStream::new(control), left.clone().cancelled_owned());
    tokio::select! {
        served = served => served?,
        // An agent that is stopped does not hang up.
        () = async { left.cancelled().await; tokio::time::sleep(HANG_UP).await } => {}
    }
    info!("there is nothing to carry any more");
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

async fn take_connections(listener: UnixListener, carriage: Arc<Carriage>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    // It is never closed.
    while let Ok(turn) = Arc::clone(&handshakes).acquire_owned().await {
        let unix = match listener.accept().await {
            Ok((unix, _)) => unix,
            Err(error) => {
                // Out of file descriptors, mostly: a pause lets some be closed.
                warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let carriage = Arc::clone(&carriage);
        tokio::spawn(async move {
            let tcp = match handing::take(&unix).await {
                Ok(tcp) => tcp,
                Err(error) => return warn!("no connection was handed over: {error}"),
            };
            let accepted = accept(&carriage.credentials(), tcp, REQUEST_LIMIT).await;
            drop(turn);
            match accepted {
                Ok(accepted) if accepted.protocol == Protocol::Tunnel => {
                    carriage.serve(accepted.stream, accepted.identity).await;
                }
                Ok(accepted) => warn!("connection refused: {} wants no tunnel", accepted.identity),
                Err(error) => warn!("connection refused: {error}"),
            }
        });
    }
}

struct Service(Arc<Carriage>);

impl From<NotCarried> for Status {
    fn from(error: NotCarried) -> Self {
        match error {
            NotCarried::Leaving => Self::unavailable(error.to_string()),
            NotCarried::Invalid(_) => Self::invalid_argument(error.to_string()),
            NotCarried::Io(_) => Self::internal(error.to_string()),
        }
    }
}

#[tonic::async_trait]
impl CarrierService for Service {
    async fn open(&self, request: Request<OpenRequest>) -> Result<Response<OpenResponse>, Status> {
        self.0.open(request.into_inner())?;
        Ok(Response::new(OpenResponse {}))
    }

    async fn grant(&self, request: Request<GrantRequest>) -> Result<Response<GrantResponse>, Status> {
        self.0.grant(request.into_inner())?;
        Ok(Response::new(GrantResponse {}))
    }

    async fn close(&self, request: Request<CloseRequest>) -> Result<Response<CloseResponse>, Status> {
        let CloseRequest { migration_id, last_words_seconds } = request.into_inner();
        self.0.close(migration_of(&migration_id)?, Duration::from_secs(last_words_seconds.into()));
        Ok(Response::new(CloseResponse {}))
    }

    async fn cut(&self, request: Request<CutRequest>) -> Result<Response<CutResponse>, Status> {
        let CutRequest { migration_id, memory_only } = request.into_inner();
        self.0.cut(migration_of(&migration_id)?, memory_only);
        Ok(Response::new(CutResponse {}))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Ok(Response::new(ListResponse { carried: self.0.list(), protocol: PROTOCOL }))
    }
}
