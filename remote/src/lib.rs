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
mod queue;
mod relayed;
mod silence;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use tonic::{Code, Response, Status, service::interceptor::InterceptedService, transport::Channel};
use vmferry_core::{
    agent::{Agent, CallError, CheckReport, Finished, Half, Leaving, Rollback, Sighting},
    convergence::Measured,
    domain_xml::rewrite::Relocation,
    id::{HostName, MigrationId},
    identity::Identity,
    migration::{Endpoint, Order, Progress, Record, Side, Statistics, Steering},
    reason::Reason,
    resolution::{DestinationFacts, SourceFacts},
    turns::Admission,
};
use vmferry_proto::{
    convert::{Invalid, duration, guest, wire_duration},
    v1::{self, migrate_response, migration_service_client::MigrationServiceClient},
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

    /// What the host knows; `None`: its agent is of an earlier version and does not know the question.
    async fn guest_facts(
        &self,
        order: &Order,
        side: Side,
        hold: Duration,
    ) -> Result<Option<v1::GetFactsResponse>, CallError> {
        let request = v1::GetFactsRequest {
            order: Some(order.clone().into()),
            side: wire(side),
            hold: Some(wire_duration(hold)),
        };
        let ask = || {
            let (mut client, request) = (self.phases(), request.clone());
            async move {
                match client.get_facts(request).await {
                    // What an agent does not know it lets nobody call. Who may not ask hears so by the questions that follow.
                    Err(status) if matches!(status.code(), Code::PermissionDenied | Code::Unimplemented) => {
                        Ok(Response::new(None))
                    }
                    answer => answer.map(|answer| answer.map(Some)),
                }
            }
        };
        self.repeated(ASK, RESTART, ask).await
    }

    /// One go at the job's stream. `heard` is set with each event.
    async fn follow(
        &self,
        order: &Order,
        relocations: &[Relocation],
        progress: &(dyn Fn(Progress) + Sync),
        heard: &AtomicBool,
    ) -> Result<Statistics, CallError> {
        let broken = |status: Status| error::from_status(&status, &self.place);
        let relocations = relocations.iter().cloned().map(Into::into).collect();
        let request = v1::MigrateRequest { order: Some(order.clone().into()), relocations };
        let mut events = self.phases().migrate(request).await.map_err(broken)?.into_inner();
        while let Some(event) = events.message().await.map_err(broken)? {
            heard.store(true, Ordering::Relaxed);
            self.silence.ends();
            match event.event {
                Some(migrate_response::Event::Progress(sample)) => progress(self.read(Some(sample))?),
                Some(migrate_response::Event::Completed(statistics)) => return self.read(Some(statistics)),
                None => {} // An event that this version does not know.
            }
        }
        Err(error::cut_short(&self.place))
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

impl Agent for RemoteAgent {
    fn host(&self) -> &HostName {
        &self.place.endpoint.host
    }

    async fn check(&self, order: &Order, side: Side, leaving: Option<&Leaving>) -> Result<CheckReport, CallError> {
        let request = v1::CheckRequest {
            order: Some(order.clone().into()),
            side: wire(side),
            leaving: leaving.cloned().map(Into::into),
        };
        let once = || {
            let (mut client, request) = (self.phases(), request.clone());
            async move { client.check(request).await }
        };
        let answer = match self.within(CHECK, once()).await {
            // The connection may have been an old one. More than one new try would only keep the user waiting.
            Err(error) if may_pass(&error) => self.within(CHECK, once()).await?,
            answer => answer?,
        };
        // Whoever has judged nothing has found nothing in order, either.
        if answer.checks.is_empty() {
            return Err(error::nonsense(&self.place, &Invalid { field: "checks" }));
        }
        Ok(CheckReport {
            checks: answer.checks.into_iter().map(|check| self.read(Some(check))).collect::<Result<_, _>>()?,
            leaving: answer.leaving.map(|leaving| self.read(Some(leaving))).transpose()?,
            resolved: answer.resolved.into_iter().map(|disk| self.read(Some(disk))).collect::<Result<_, _>>()?,
        })
    }

    async fn end_check(&self, order: &Order) -> Result<(), CallError> {
        let request = v1::EndCheckRequest { order: Some(order.clone().into()) };
        self.within(LOOK, self.phases().end_check(request)).await.map(drop)
    }

    async fn admit(&self, order: &Order, side: Side, hold: Duration) -> Result<Admission, CallError> {
        self.ask_for_turn(order, side, hold).await
    }

    async fn keep_turn(&self, order: &Order, side: Side) -> Infallible {
        self.ask_to_keep_turn(order, side).await
    }

    async fn withdraw(&self, order: &Order) -> Result<(), CallError> {
        self.give_up_turn(order).await
    }

    async fn pre(&self, order: &Order, half: &Half) -> Result<Vec<Relocation>, CallError> {
        let (leaving, resolved) = match half.clone() {
            Half::Source { resolved } => (None, resolved),
            Half::Destination { leaving, resolved } => (Some((*leaving).into()), resolved),
        };
        let resolved = resolved.into_iter().map(Into::into).collect();
        let request = v1::PreRequest { order: Some(order.clone().into()), side: wire(half.side()), leaving, resolved };
        let pre = || {
            let (mut client, request) = (self.phases(), request.clone());
            async move { client.pre(request).await }
        };
        self.lease.iter().for_each(Lease::begin);
        let answer = self.driven(self.repeated(PHASE, PREPARING, pre)).await?;
        answer.relocations.into_iter().map(|relocation| self.read(Some(relocation))).collect()
    }

    async fn migrate(
        &self,
        order: &Order,
        relocations: &[Relocation],
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Statistics, CallError> {
        let mut patience = Patience::new(RESTART);
        loop {
            let heard = AtomicBool::new(false);
            match self.driven(self.follow(order, relocations, progress, &heard)).await {
                Ok(statistics) => return Ok(statistics),
                Err(error) => {
                    if heard.into_inner() {
                        patience = Patience::new(RESTART);
                    }
                    // The job goes on without us; the repeated call joins it.
                    self.bear(error, &mut patience).await?;
                }
            }
        }
    }

    async fn start(&self, order: &Order) -> Result<Duration, CallError> {
        let request = v1::StartRequest { order: Some(order.clone().into()) };
        let start = || {
            let (mut client, request) = (self.phases(), request.clone());
            async move { client.start(request).await }
        };
        let answer = self.driven(self.repeated(START, RESTART, start)).await?;
        duration(answer.took, "took").map_err(|invalid| error::nonsense(&self.place, &invalid))
    }

    async fn post(&self, order: &Order, side: Side) -> Result<Finished, CallError> {
        let request = v1::PostRequest { order: Some(order.clone().into()), side: wire(side) };
        let post = || {
            let (mut client, request) = (self.phases(), request.clone());
            async move { client.post(request).await }
        };
        let answer = self.driven(self.repeated(PHASE, RESTART, post)).await?;
        Ok(Finished { guest: guest(answer.guest()), complaints: answer.warnings })
    }

    async fn cleanup(&self, order: &Order, rollback: &Rollback) -> Result<Finished, CallError> {
        let request = v1::CleanupRequest {
            order: Some(order.clone().into()),
            side: wire(rollback.side),
            cause: Some(rollback.cause.clone().into()),
            destination_released: rollback.released,
            source_keeps: rollback.kept,
        };
        let cleanup = || {
            let (mut client, request) = (self.phases(), request.clone());
            async move { client.cleanup(request).await }
        };
        let limit = if order.kind.is_cold() { START } else { PHASE };
        let answer = self.driven(self.repeated(limit, RESTART, cleanup)).await?;
        Ok(Finished { guest: guest(answer.guest()), complaints: answer.leftovers })
    }

    async fn locate(&self, order: &Order) -> Result<Sighting, CallError> {
        let request = v1::LocateRequest { order: Some(order.clone().into()) };
        let locate = || {
            let (mut client, request) = (self.phases(), request.clone());
            async move { client.locate(request).await }
        };
        let answer = self.repeated(ASK, RESTART, locate).await?;
        self.read(Some(answer.sighting()))
    }

    async fn source_facts(&self, order: &Order, hold: Duration) -> Result<SourceFacts, CallError> {
        match self.guest_facts(order, Side::Source, hold).await? {
            Some(facts) => self.read(Some(facts)),
            None => Ok(SourceFacts::of_earlier(self.locate(order).await?, self.record(order).await?.as_ref())),
        }
    }

    async fn destination_facts(&self, order: &Order, hold: Duration) -> Result<DestinationFacts, CallError> {
        match self.guest_facts(order, Side::Destination, hold).await? {
            Some(facts) => self.read(Some(facts)),
            None => Ok(DestinationFacts::of_earlier(self.locate(order).await?, self.record(order).await?.as_ref())),
        }
    }

    async fn record(&self, order: &Order) -> Result<Option<Record>, CallError> {
        let request = v1::GetMigrationRequest { migration_id: order.id.to_string() };
        let get = || {
            let (mut client, request) = (self.phases(), request.clone());
            async move { client.get_migration(request).await }
        };
        match self.repeated(ASK, RESTART, get).await {
            Ok(answer) => self.read(answer.migration).map(Some),
            Err(error) if error.reason == Reason::MigrationNotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
