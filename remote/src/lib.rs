//! One host's agent, by gRPC.
//!
//! Phases are idempotent, so silence is answered by asking again for a while: an agent that is being restarted is back
//! within seconds, and what it was doing goes on or is told.

pub mod chain;
mod error;
mod lease;
mod look;
mod onlooker;
mod patience;
mod phases;
mod queue;
mod relayed;
mod silence;

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};
use tonic::{Response, Status, service::interceptor::InterceptedService, transport::Channel};
use vmferry_core::{
    agent::CallError,
    convergence::Measured,
    id::MigrationId,
    identity::Identity,
    migration::{Endpoint, Order, Record, Side, Steering},
};
use vmferry_proto::{
    convert::Invalid,
    v1::{self, migration_service_client::MigrationServiceClient},
};
use vmferry_transport::{Callee, Credentials, Reached};

pub use error::{Unserved, from_status};
pub use lease::Lease;
pub use onlooker::Seen;
use patience::{Patience, may_pass};
use relayed::{AgentChannel, Label};
pub use relayed::{Coordinator, Known, Relay};
use silence::Silence;

/// How long connecting may take, TLS and all. Less than any call's deadline, so that its reason is seen.
const CONNECT: Duration = Duration::from_secs(4);
/// A look at a host, for a row of a table. More than an agent's own patience with libvirt, so that its reason is seen.
const LOOK: Duration = Duration::from_secs(12);
/// A look at a migration, retries included.
const ASK: Duration = Duration::from_secs(20);
/// A host's checks.
const CHECK: Duration = Duration::from_secs(20);
/// A phase that does things, retries included.
const PHASE: Duration = Duration::from_secs(60);

/// A phase that may start a guest: more than an agent's own patience with libvirt, so that its reason is seen.
const START: Duration = Duration::from_secs(150);

/// How long an agent that was heard before is waited for: it may be restarting.
const RESTART: Duration = Duration::from_secs(15);
/// The same, while nothing is lost yet by giving up.
const PREPARING: Duration = Duration::from_secs(3);

/// How long a migration that is driven may stay before its job: each host may take a phase's time to get ready, and the source may not be
/// heard for a while before it is told to begin. With some time to spare.
pub const PREPARED: Duration = PHASE.saturating_mul(2).saturating_add(RESTART.saturating_mul(2));

/// A history may be long; tonic's own limit is 4 MiB.
const MESSAGE_LIMIT: usize = 64 << 20;

/// The agent of one host. Clones share the connection, which is made when first used and again after a break.
#[derive(Debug, Clone)]
pub struct RemoteAgent {
    place: Place,
    /// What is at the other end of the connection: the agent, or the coordinator that is asked for it.
    connection: Channel,
    /// Another one for calls that are passed on: those who do not read what they are answered hold up nobody else's.
    relayed: Channel,
    /// Whether that was reached.
    reached: Reached,
    label: Label,
    /// What it is called under by who drives a migration.
    lease: Option<Lease>,
    /// Of the host, whichever clone asks.
    silence: Silence,
}

/// Where an agent is.
#[derive(Debug, Clone)]
pub struct Place {
    endpoint: Endpoint,
    /// Through whom it is called.
    through: Option<Arc<Coordinator>>,
}

impl RemoteAgent {
    /// Calls nobody yet.
    pub fn new(credentials: watch::Receiver<Credentials>, endpoint: Endpoint) -> Self {
        let callee = Callee::Agent(endpoint.host.to_string());
        let (relayed, _) = vmferry_transport::channel(credentials.clone(), callee.clone(), &endpoint.address, CONNECT);
        let (connection, reached) = vmferry_transport::channel(credentials, callee, &endpoint.address, CONNECT);
        Self {
            place: Place { endpoint, through: None },
            connection,
            relayed,
            reached,
            label: Label::default(),
            lease: None,
            silence: Silence::none(),
        }
    }

    /// The same through a coordinator.
    pub fn through(relay: &Relay, endpoint: Endpoint) -> Self {
        let label = Label::to(&endpoint.host);
        let through = Some(Arc::clone(&relay.coordinator));
        let (connection, reached) = (relay.channel.clone(), relay.reached.clone());
        Self {
            place: Place { endpoint, through },
            relayed: connection.clone(),
            connection,
            reached,
            label,
            lease: None,
            silence: Silence::none(),
        }
    }

    /// The same agent, called as the wish of somebody else.
    pub fn on_behalf_of(&self, identity: &Identity) -> Self {
        Self { label: self.label.clone().on_behalf_of(identity), ..self.clone() }
    }

    /// The connection for calls that are passed on as they are.
    pub fn relayed(&self) -> Channel {
        self.relayed.clone()
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whether what is at the other end of the connection has answered to its name yet, whatever it says to a call. A
    /// coordinator that has says itself what is with the agent.
    pub fn is_reached(&self) -> bool {
        self.reached.get()
    }

    /// Of a call that is not waited for any longer, though its time is not over: others have answered all the while.
    pub fn overdue(&self, waited: Duration) -> CallError {
        error::overdue(&self.place, waited)
    }

    /// Why the host was not heard, while it is asked again; `None`: it was, or nobody has asked.
    pub fn silence(&self) -> watch::Receiver<Option<CallError>> {
        self.silence.watch()
    }

    /// Which host it is, and where.
    pub fn endpoint(&self) -> &Endpoint {
        &self.place.endpoint
    }

    /// The host's halves of migrations.
    pub async fn migrations(&self, which: Which) -> Result<Vec<Record>, CallError> {
        let request = v1::ListMigrationsRequest { active_only: which == Which::Active };
        let mut client = self.phases();
        let answer = self.within(LOOK, client.list_migrations(request)).await?;
        answer.migrations.into_iter().map(|migration| self.read(Some(migration))).collect()
    }

    /// Ends the job of a migration that leaves this host. Not repeated: the caller knows for how long it makes sense.
    pub async fn abort(&self, id: MigrationId) -> Result<(), CallError> {
        let request = v1::AbortRequest { migration_id: id.to_string() };
        let mut client = self.phases();
        self.within(LOOK, client.abort(request)).await?;
        Ok(())
    }

    /// What a guest of this host writes to, and what the way to its destination carries.
    pub async fn measure(&self, order: &Order) -> Result<Measured, CallError> {
        let request = v1::MeasureRequest { order: Some(order.clone().into()) };
        let mut client = self.phases();
        Ok(self.within(CHECK, client.measure(request)).await?.into())
    }

    /// Tells the job of a migration that leaves this host something else than its order says.
    pub async fn steer(&self, id: MigrationId, steering: Steering) -> Result<(), CallError> {
        let request = v1::SteerRequest { migration_id: id.to_string(), steering: Some(steering.into()) };
        let mut client = self.phases();
        self.within(ASK, client.steer(request)).await?;
        Ok(())
    }

    fn phases(&self) -> MigrationServiceClient<AgentChannel> {
        MigrationServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    fn channel(&self) -> AgentChannel {
        InterceptedService::new(self.connection.clone(), self.label.clone())
    }

    /// One call with a deadline.
    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CallError> {
        match timeout(limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(error::from_status(&status, &self.place)),
            Err(_) => Err(error::silent(&self.place, limit)),
        }
    }

    /// A call, and again as long as nobody answers and `patience` lasts; all within `limit`.
    async fn repeated<T, F>(&self, limit: Duration, patience: Duration, call: impl Fn() -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let repeated = async {
            let mut patience = Patience::new(patience);
            loop {
                match call().await {
                    Ok(response) => {
                        self.silence.ends();
                        return Ok(response.into_inner());
                    }
                    Err(status) => self.bear(error::from_status(&status, &self.place), &mut patience).await?,
                }
            }
        };
        timeout(limit, repeated).await.unwrap_or_else(|_| Err(error::silent(&self.place, limit)))
    }

    async fn bear(&self, error: CallError, patience: &mut Patience) -> Result<(), CallError> {
        match may_pass(&error) {
            true => self.silence.goes_on(&error),
            false => self.silence.ends(),
        }
        patience.bear(error).await
    }

    /// From wire to core; what cannot mean anything is an error of that host's agent.
    fn read<T, U>(&self, value: Option<T>) -> Result<U, CallError>
    where
        U: TryFrom<T, Error = Invalid>,
    {
        vmferry_proto::convert::required(value, "answer").map_err(|invalid| error::nonsense(&self.place, &invalid))
    }
}

/// Which migrations are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those that have not ended.
    Active,
    /// All that the journal has.
    All,
}

fn wire(side: Side) -> i32 {
    v1::Side::from(side).into()
}
