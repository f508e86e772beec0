//! An agent's side of the processes that carry its tunnels.
//!
//! There is one of the agent's own version, for what is new; and for as long as they have something to carry, those of other versions.
//! What is closed or cut is so in all of them. Where a connection leads is told only by what is said in it, so that all who are let in
//! by others are let in by the own one as well.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    future::Future,
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::{TcpStream, UnixStream},
    sync::{Mutex, watch},
    time::timeout,
};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};
use tower::service_fn;
use tracing::{info, warn};
use uuid::Uuid;
use vmferry_core::id::MigrationId;
use vmferry_proto::carrier::{
    CloseRequest, CutRequest, GrantRequest, ListRequest, ListResponse, OpenRequest,
    carrier_service_client::CarrierServiceClient,
};
use vmferry_transport::{Accepted, Credentials};

use super::{
    carriage::Carriage,
    carrier::{self, SPOKEN},
    handing,
};
use crate::storage::tool::Tool;

/// Where each process that carries has its directory.
const DIRECTORY: &str = "/run/vmferry/carriers";

/// How long one may take to start, and to answer.
const LIMIT: Duration = Duration::from_secs(10);

type Client = CarrierServiceClient<Channel>;

/// Why an agent cannot work with what carries tunnels.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An agent of another version has started it.
    #[error(
        "what carries tunnels in {directory} speaks protocol {theirs}, which vmferry-agent {version} does not know (it knows {} to {}): install a \
         version that does, until the migrations are over whose bytes it carries; or end it ({remedy}), which cuts their tunnels: guests whose memory \
         is on the way stay on their sources",
        SPOKEN.start(),
        SPOKEN.end()
    )]
    Foreign {
        /// Where it is asked.
        directory: String,
        /// What it speaks; 0: it does not say.
        theirs: u32,
        /// The agent's own version.
        version: String,
        /// The command that ends it.
        remedy: String,
    },
    /// There is no telling.
    #[error("cannot see what carries tunnels in {directory}")]
    Unseen {
        /// Where.
        directory: String,
        /// Why not.
        source: io::Error,
    },
}

/// What carries this host's tunnels.
#[derive(Debug)]
pub struct Carriers {
    here: Arc<Carriage>,
    apart: Option<Apart>,
}

/// Processes beside the agent.
#[derive(Debug)]
pub(super) struct Apart {
    directory: PathBuf,
    version: String,
    config: PathBuf,
    /// Those that are known to run, by the names of their directories.
    known: Mutex<BTreeMap<String, Client>>,
}

impl Carriers {
    /// The agent's own process carries all: it ends with the agent.
    pub fn within(credentials: watch::Receiver<Credentials>) -> Self {
        Self { here: Arc::new(Carriage::new(credentials)), apart: None }
    }

    /// Processes beside it do, which read the agent's `config`. Those that an earlier agent has started go on.
    ///
    /// # Errors
    /// One of them speaks otherwise than this agent. What it carries could neither be closed nor cut, so that nothing could be taken back.
    pub async fn beside(credentials: watch::Receiver<Credentials>, config: &Path) -> Result<Self, Error> {
        Self::with(credentials, Apart::new(Path::new(DIRECTORY), env!("CARGO_PKG_VERSION"), config)).await
    }

    pub(super) async fn with(credentials: watch::Receiver<Credentials>, apart: Apart) -> Result<Self, Error> {
        let let_in = apart.find().await?;
        let carriers = Self { apart: Some(apart), ..Self::within(credentials) };
        for granted in let_in {
            let migration = granted.migration_id.clone();
            if let Err(error) = carriers.grant(granted).await {
                warn!(
                    "the source of migration {migration} opens no more streams until its migration is taken up: {error}"
                );
            }
        }
        Ok(carriers)
    }

    pub(super) async fn open(&self, request: OpenRequest) -> io::Result<()> {
        let Some(apart) = &self.apart else { return self.here.open(request).map_err(io::Error::other) };
        let open = |mut client: Client| {
            let request = request.clone();
            async move { client.open(request).await }
        };
        // Sockets stay with whom has them.
        match apart.carrying(&request.migration_id).await {
            Some(_) => Ok(()),
            None => apart.of_current(open).await.map(drop),
        }
    }

    pub(super) async fn grant(&self, request: GrantRequest) -> io::Result<()> {
        let Some(apart) = &self.apart else { return self.here.grant(request).map_err(io::Error::other) };
        let grant = |mut client: Client| {
            let request = request.clone();
            async move { client.grant(request).await }
        };
        apart.of_current(grant).await.map(drop)
    }

    pub(super) async fn close(&self, migration: MigrationId, last_words: Duration) -> io::Result<()> {
        let Some(apart) = &self.apart else {
            self.here.close(migration, last_words);
            return Ok(());
        };
        let last_words_seconds = u32::try_from(last_words.as_secs()).unwrap_or(u32::MAX);
        let request = CloseRequest { migration_id: migration.to_string(), last_words_seconds };
        let close = |mut client: Client| {
            let request = request.clone();
            async move { client.close(request).await }
        };
        apart.of_all(close).await.map(drop)
    }

    pub(super) async fn cut(&self, migration: MigrationId, memory_only: bool) -> io::Result<()> {
        let Some(apart) = &self.apart else {
            self.here.cut(migration, memory_only);
            return Ok(());
        };
        let request = CutRequest { migration_id: migration.to_string(), memory_only };
        let cut = |mut client: Client| {
            let request = request.clone();
            async move { client.cut(request).await }
        };
        apart.of_all(cut).await.map(drop)
    }

    /// Whether a stream of the migration's memory is open.
    pub(super) async fn carries_memory(&self, migration: MigrationId) -> bool {
        let id = migration.to_string();
        let carried = match &self.apart {
            Some(apart) => apart.list().await,
            None => self.here.list(),
        };
        carried.iter().any(|carried| carried.migration_id == id && carried.memory_streams > 0)
    }

    /// Hands over a connection that offers a tunnel; gives back one for which nobody is there. What carries checks whose it is.
    pub(crate) async fn take(&self, tcp: TcpStream) -> Option<TcpStream> {
        match &self.apart {
            Some(apart) => apart.take(tcp).await,
            None => Some(tcp),
        }
    }

    /// Serves a tunnel that nobody beside the agent takes.
    pub(crate) async fn serve(&self, accepted: Accepted) {
        self.here.serve(accepted.stream, accepted.identity).await;
    }
}

impl Apart {
    /// Those below a directory; new ones are of this version, and read this configuration.
    pub(super) fn new(directory: &Path, version: &str, config: &Path) -> Self {
        let known = Mutex::default();
        Self { directory: directory.to_owned(), version: version.to_owned(), config: config.to_owned(), known }
    }

    /// Finds those that run, and removes what is left of others. Who is let in by those of other versions.
    async fn find(&self) -> Result<Vec<GrantRequest>, Error> {
        let directory = || self.directory.display().to_string();
        let unseen = |source| Error::Unseen { directory: directory(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).map_err(unseen)?;
        let (mut known, mut let_in) = (self.known.lock().await, Vec::new());
        for entry in fs::read_dir(&self.directory).map_err(unseen)? {
            let Ok(name) = entry.map_err(unseen)?.file_name().into_string() else { continue };
            let client = self.client(&name);
            let list = |mut client: Client| async move { client.list(ListRequest {}).await };
            let listed = match asked(&list, client.clone()).await {
                Err(status) if is_gone(&status) => {
                    self.remove(&name);
                    continue;
                }
                // It is another service.
                Err(status) if status.code() == Code::Unimplemented => ListResponse::default(),
                Ok(listed) => listed,
                // Whatever it says, it is there.
                Err(status) => {
                    warn!("{name} carries tunnels, and does not say which: {}", status.message());
                    known.insert(name, client);
                    continue;
                }
            };
            if !SPOKEN.contains(&listed.protocol) {
                return Err(self.foreign(&name, listed.protocol).await);
            }
            info!("{name} still carries the tunnels of {} migrations", listed.carried.len());
            if !self.is_current(&name) {
                let_in.extend(listed.carried.into_iter().filter_map(|carried| carried.granted));
            }
            known.insert(name, client);
        }
        Ok(let_in)
    }

    async fn foreign(&self, name: &str, theirs: u32) -> Error {
        let directory = self.directory.join(name);
        let connected = UnixStream::connect(carrier::control_socket(&directory)).await;
        let pid = connected.and_then(|connected| connected.peer_cred()).ok().and_then(|process| process.pid());
        Error::Foreign {
            directory: directory.display().to_string(),
            theirs,
            version: self.version.clone(),
            remedy: pid
                .map_or_else(|| format!("pkill -x {}", carrier::NAME.to_string_lossy()), |pid| format!("kill {pid}")),
        }
    }

    /// Asks who carries what is new: one of this version, started if there is none.
    async fn of_current<T, F>(&self, call: impl Fn(Client) -> F) -> io::Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut known = self.known.lock().await;
        let current = known.iter().rev().find(|(name, _)| self.is_current(name));
        if let Some((name, client)) = current.map(|(name, client)| (name.clone(), client.clone())) {
            match asked(&call, client).await {
                // It has ended, or is about to.
                Err(status) if is_gone(&status) => {
                    known.remove(&name);
                    self.remove(&name);
                }
                answer => return answer.map_err(failed),
            }
        }
        let (name, client) = self.start().await?;
        known.insert(name, client.clone());
        asked(&call, client).await.map_err(failed)
    }

    /// Asks all. Of one that has ended nothing is left to be asked for.
    async fn of_all<T, F>(&self, call: impl Fn(Client) -> F) -> io::Result<Vec<T>>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut known = self.known.lock().await;
        let mut answers = Vec::new();
        for (name, client) in known.clone() {
            match asked(&call, client).await {
                Ok(answer) => answers.push(answer),
                Err(status) if is_gone(&status) => {
                    known.remove(&name);
                    self.remove(&name);
                }
                Err(status) => return Err(failed(status)),
            }
        }
        Ok(answers)
    }

    async fn list(&self) -> Vec<vmferry_proto::carrier::Carried> {
        let list = |mut client: Client| async move { client.list(ListRequest {}).await };
        let lists = self.of_all(list).await.unwrap_or_else(|error| {
            warn!("what is carried is not known: {error}");
            Vec::new()
        });
        lists.into_iter().flat_map(|list| list.carried).collect()
    }

    async fn carrying(&self, migration: &str) -> Option<vmferry_proto::carrier::Carried> {
        self.list().await.into_iter().find(|carried| carried.migration_id == migration)
    }

    async fn take(&self, tcp: TcpStream) -> Option<TcpStream> {
        let current = {
            let known = self.known.lock().await;
            known.keys().rev().find(|name| self.is_current(name)).cloned()
        };
        let Some(name) = current else { return Some(tcp) };
        let handed = async {
            let unix = UnixStream::connect(carrier::handing_socket(&self.directory.join(&name))).await?;
            handing::hand(&unix, &tcp).await
        };
        match timeout(LIMIT, handed).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => {
                warn!("{name} does not take connections: {error}");
                Some(tcp)
            }
            Err(_) => {
                warn!("{name} does not take connections: no answer within {LIMIT:?}");
                Some(tcp)
            }
        }
    }

    async fn start(&self) -> io::Result<(String, Client)> {
        // Ordered by their age.
        let name = format!("{}-{}", self.version, Uuid::now_v7().simple());
        let directory = self.directory.join(&name);
        DirBuilder::new().mode(0o700).create(&directory)?;
        let started = timeout(LIMIT, self.spawn(&directory)).await;
        let started = started.unwrap_or_else(|_| Err(io::Error::other(format!("it is not ready within {LIMIT:?}"))));
        if let Err(error) = started {
            self.remove(&name);
            return Err(io::Error::other(format!(
                "the process that carries tunnels does not start ({error}); the agent's log may say why"
            )));
        }
        info!("{name} carries tunnels");
        let client = self.client(&name);
        Ok((name, client))
    }

    async fn spawn(&self, directory: &Path) -> io::Result<()> {
        let texts = [self.config.display().to_string(), directory.display().to_string()];
        let [config, directory] = texts.each_ref().map(String::as_str);
        // The very program that runs, wherever its file is by now.
        let tool = Tool::new("/proc/self/exe").args(["--config", config, carrier::ARGUMENT, directory]);
        let mut child = tool.command().kill_on_drop(false).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().ok_or_else(|| io::Error::other("it has no output"))?;
        match BufReader::new(out).lines().next_line().await? {
            Some(line) if line == carrier::READY => Ok(()),
            _ => Err(io::Error::other(format!("it ended: {}", child.wait().await?))),
        }
    }

    /// Connects when it is first asked.
    pub(super) fn client(&self, name: &str) -> Client {
        let socket = carrier::control_socket(&self.directory.join(name));
        let connector = service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The URI is only what HTTP/2 calls the authority.
        CarrierServiceClient::new(Endpoint::from_static("http://carrier").connect_with_connector_lazy(connector))
    }

    fn is_current(&self, name: &str) -> bool {
        name.rsplit_once('-').is_some_and(|(version, _)| version == self.version)
    }

    fn remove(&self, name: &str) {
        match fs::remove_dir_all(self.directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!("{name} has ended, and is not removed: {error}")
            }
            _ => {}
        }
    }
}

async fn answered<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    match timeout(LIMIT, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {LIMIT:?}"))),
    }
}

/// Asks, and once more over a new connection if the one that there was breaks: whether anybody is there is known then.
async fn asked<T, F>(call: &impl Fn(Client) -> F, client: Client) -> Result<T, Status>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    match answered(call(client.clone())).await {
        Err(status) if matches!(status.code(), Code::Cancelled | Code::Unknown) => answered(call(client)).await,
        answer => answer,
    }
}

/// Nobody is there, or is about to leave.
fn is_gone(status: &Status) -> bool {
    status.code() == Code::Unavailable
}

fn failed(status: Status) -> io::Error {
    io::Error::other(status.message().to_owned())
}
