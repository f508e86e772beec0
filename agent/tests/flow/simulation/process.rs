//! What runs on simulated hosts: agents, a coordinator, libvirt.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Connected};
use turmoil::net::{TcpListener, TcpStream};
use vmferry_agent::{migrations::Migrations, serve::migration_calls};
use vmferry_core::{
    agent::Pair,
    flow::{self, Completed, Failure, Watch},
    identity::{Identity, Role},
    migration::{Order, Phase, Progress},
    reason::Reason,
};
use vmferry_proto::authorize;

use super::remote::{PORT, Remote};
use crate::{
    ONE_AT_A_TIME,
    fake::{Fake, World},
};

/// How long probe files lie about if nobody says that they were seen.
const PROBE_LIFE: Duration = Duration::from_secs(5);
/// What drivers are granted. Nobody takes over by himself here.
const LEASE: Duration = Duration::from_secs(10);
/// How long somebody waits before he has a migration resolved again.
const RESOLVE_AGAIN: Duration = Duration::from_secs(3);

/// What an agent's process has in memory, as long as there is one.
pub(super) type Memory = Arc<Mutex<Option<Arc<Migrations<Fake>>>>>;

/// Which coordinator it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// Who moves the guest.
    Mover,
    /// Who comes after it has died.
    Successor,
    /// Who has it resolved although the first one lives.
    Second,
}

/// An agent's process: it takes up its journals, serves its calls, and has its end of the tunnel.
pub(super) async fn agent(world: Arc<World>, host: &'static str, memory: Memory) -> turmoil::Result {
    let fake = Arc::new(Fake::new(host, Arc::clone(&world)));
    let directory = world.state_directory(host);
    let migrations = Migrations::start(fake, &directory, Timestamp::MIN, PROBE_LIFE, ONE_AT_A_TIME)?;
    let migrations = Arc::new(migrations);
    *memory.lock().expect("nobody panics with it") = Some(Arc::clone(&migrations));
    let listener = TcpListener::bind((IpAddr::from([0, 0, 0, 0]), PORT)).await?;
    let (sender, incoming) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if sender.send(Ok::<_, io::Error>(Caller(stream))).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(world.hear_releases());
    Server::builder()
        .layer(authorize::Layer::new(host.parse()?))
        .add_service(migration_calls(migrations, CancellationToken::new(), LEASE))
        .serve_with_incoming(ReceiverStream::new(incoming))
        .await?;
    Ok(())
}

/// Somebody who moves the guest; or, where another one has begun it, who has it resolved, until it is over.
pub(super) async fn coordinator(world: Arc<World>, order: Order, role: Who) -> turmoil::Result {
    let hosts = Pair { source: Remote(order.source.host.clone()), destination: Remote(order.destination.host.clone()) };
    let watch = Noting(&world);
    let drives = |is_driven| {
        if role != Who::Second {
            world.drive(is_driven);
        }
    };
    let mut begins = role == Who::Mover;
    loop {
        drives(true);
        let ended = match begins {
            true => Box::pin(flow::run(&hosts, &order, &watch)).await,
            false => Box::pin(flow::resolve(&hosts, &order, &watch)).await,
        };
        if matches!(ended, Err(Failure::Held { reason: Reason::NotRunning, .. })) && world.is_calm() {
            world.mend_by_hand();
        }
        let what = if begins { "the move" } else { "resolve" };
        world.note(&format!("{what}: {}", told(&ended)));
        drives(false);
        sleep(RESOLVE_AGAIN).await;
        // Who has moved it looks at it again when all is quiet.
        while begins && !world.is_calm() {
            sleep(RESOLVE_AGAIN).await;
        }
        begins = false;
    }
}

fn told(ended: &Result<Completed, Failure>) -> String {
    match ended {
        Ok(completed) => completed.outcome().to_string(),
        Err(Failure::RolledBack { cause, .. }) => format!("rolled back: {}", cause.reason),
        Err(Failure::Held { reason, .. }) => format!("held: {reason}"),
        Err(Failure::NotStarted(error)) => format!("not started: {}", error.reason),
        Err(Failure::Refused(_)) => "refused".to_owned(),
    }
}

/// Somebody who wants it to end.
pub(super) async fn aborter(order: Order) -> turmoil::Result {
    _ = Remote(order.source.host.clone()).abort(&order).await;
    std::future::pending().await
}

struct Noting<'a>(&'a World);

impl Watch for Noting<'_> {
    fn phase(&self, phase: Phase) {
        self.0.note(&format!("phase: {phase}"));
    }

    fn progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}

/// A connection of a coordinator's. What TLS would say of it is simulated.
struct Caller(TcpStream);

impl Connected for Caller {
    type ConnectInfo = Identity;

    fn connect_info(&self) -> Identity {
        Identity { cluster: "simulated".into(), role: Role::Coordinator, name: "somebody".into() }
    }
}

impl AsyncRead for Caller {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Caller {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
