//! The flow's way to an agent on another simulated host: the real calls, over the simulated network.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep, timeout};
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};
use tower::service_fn;
use turmoil::net::TcpStream;
use vmferry_core::{
    agent::{Agent, CallError, CheckReport, Finished, Half, Leaving, Rollback, Sighting},
    domain_xml::rewrite::Relocation,
    id::HostName,
    migration::{Order, Progress, Record, Side, Statistics},
    reason::Reason,
    resolution::{DestinationFacts, SourceFacts},
    turns::Admission,
};
use vmferry_proto::{
    convert::{Invalid, all, duration, guest, required, wire_duration},
    status::to_call_error,
    v1::{self, migrate_response::Event, migration_service_client::MigrationServiceClient},
};

/// Where a simulated agent is called.
pub(super) const PORT: u16 = 1;

/// How long a call may take, and how long silence is borne: as a coordinator's, and shorter.
const CALL: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(500);
const CONNECT: Duration = Duration::from_secs(2);

type Client = MigrationServiceClient<Channel>;

/// An agent on another host.
pub(super) struct Remote(pub(super) HostName);

impl Remote {
    /// Each call has a connection of its own, so that what one has lost does not hold up the next.
    async fn connect(&self) -> Result<Client, Status> {
        let host = self.0.to_string();
        let connector = service_fn(move |_| {
            let host = host.clone();
            async move { TcpStream::connect((host.as_str(), PORT)).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://simulated").connect_timeout(CONNECT);
        let channel = timeout(CONNECT, endpoint.connect_with_connector(connector)).await;
        let channel = channel.map_err(|_| Status::unavailable("nobody is there"))?;
        channel.map(MigrationServiceClient::new).map_err(|error| Status::unavailable(error.to_string()))
    }

    async fn once<T, F: Future<Output = Result<T, Status>>>(
        &self,
        call: impl FnOnce(Client) -> F,
    ) -> Result<T, CallError> {
        let answer = async { call(self.connect().await?).await };
        match timeout(CALL, answer).await {
            Ok(answer) => {
                answer.map_err(|status| to_call_error(&status, &self.0, |status| self.silent(status.message())))
            }
            Err(_) => Err(self.silent("no answer")),
        }
    }

    /// Again, as long as nobody answers.
    async fn call<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        call: impl Fn(Client) -> F,
    ) -> Result<T, CallError> {
        let begun = Instant::now();
        loop {
            match self.once(&call).await {
                Err(error) if error.is_silence() && begun.elapsed() < PATIENCE => sleep(AGAIN).await,
                answer => return answer.map(Response::into_inner),
            }
        }
    }

    fn silent(&self, why: &str) -> CallError {
        let message = format!("{} is not heard: {why}", self.0);
        CallError { host: self.0.clone(), reason: Reason::AgentUnreachable, message }
    }

    fn read<T>(&self, read: Result<T, Invalid>) -> Result<T, CallError> {
        read.map_err(|invalid| CallError {
            host: self.0.clone(),
            reason: Reason::Internal,
            message: invalid.to_string(),
        })
    }

    async fn facts(&self, order: &Order, side: Side, hold: Duration) -> Result<v1::GetFactsResponse, CallError> {
        let request = v1::GetFactsRequest {
            order: wire(order),
            side: v1::Side::from(side).into(),
            hold: Some(wire_duration(hold)),
        };
        self.call(|mut client| {
            let request = request.clone();
            async move { client.get_facts(request).await }
        })
        .await
    }

    pub(super) async fn abort(&self, order: &Order) -> Result<(), CallError> {
        let request = v1::AbortRequest { migration_id: order.id.to_string() };
        self.once(|mut client| async move { client.abort(request).await }).await.map(drop)
    }
}

fn wire(order: &Order) -> Option<v1::Order> {
    Some(order.clone().into())
}

impl Agent for Remote {
    fn host(&self) -> &HostName {
        &self.0
    }

    async fn check(&self, order: &Order, side: Side, leaving: Option<&Leaving>) -> Result<CheckReport, CallError> {
        let leaving = leaving.cloned().map(Into::into);
        let request = v1::CheckRequest { order: wire(order), side: v1::Side::from(side).into(), leaving };
        let answer = self.call(|mut client| {
            let request = request.clone();
            async move { client.check(request).await }
        });
        let answer = answer.await?;
        Ok(CheckReport {
            checks: self.read(all(answer.checks))?,
            leaving: self.read(answer.leaving.map(TryInto::try_into).transpose())?,
            resolved: self.read(all(answer.resolved))?,
        })
    }

    async fn end_check(&self, order: &Order) -> Result<(), CallError> {
        let request = v1::EndCheckRequest { order: wire(order) };
        self.once(|mut client| async move { client.end_check(request).await }).await.map(drop)
    }

    async fn admit(&self, order: &Order, side: Side, hold: Duration) -> Result<Admission, CallError> {
        let (side, hold) = (v1::Side::from(side).into(), Some(wire_duration(hold)));
        let request = v1::AdmitRequest { order: wire(order), side, hold };
        let answer = self.call(|mut client| {
            let request = request.clone();
            async move { client.admit(request).await }
        });
        let answer = answer.await?;
        self.read(answer.try_into())
    }

    async fn withdraw(&self, order: &Order) -> Result<(), CallError> {
        let request = v1::WithdrawRequest { order: wire(order) };
        self.once(|mut client| async move { client.withdraw(request).await }).await.map(drop)
    }

    async fn pre(&self, order: &Order, half: &Half) -> Result<Vec<Relocation>, CallError> {
        let (leaving, resolved) = match half.clone() {
            Half::Source { resolved } => (None, resolved),
            Half::Destination { leaving, resolved } => (Some((*leaving).into()), resolved),
        };
        let resolved = resolved.into_iter().map(Into::into).collect();
        let side = v1::Side::from(half.side()).into();
        let request = v1::PreRequest { order: wire(order), side, leaving, resolved };
        let answer = self.call(|mut client| {
            let request = request.clone();
            async move { client.pre(request).await }
        });
        let answer = answer.await?;
        self.read(all(answer.relocations))
    }

    async fn migrate(
        &self,
        order: &Order,
        relocations: &[Relocation],
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Statistics, CallError> {
        let relocations: Vec<_> = relocations.iter().cloned().map(Into::into).collect();
        let begun = Instant::now();
        loop {
            let request = v1::MigrateRequest { order: wire(order), relocations: relocations.clone() };
            let followed = self.once(|mut client| async move {
                let mut events = client.migrate(request).await?.into_inner();
                while let Some(event) = events.message().await? {
                    match event.event {
                        Some(Event::Completed(statistics)) => return Ok(statistics),
                        Some(Event::Progress(sample)) => _ = sample.try_into().map(progress),
                        None => {}
                    }
                }
                Err(Status::unavailable("cut short"))
            });
            match followed.await {
                Err(error) if error.is_silence() && begun.elapsed() < PATIENCE => sleep(AGAIN).await,
                statistics => return self.read(required(Some(statistics?), "statistics")),
            }
        }
    }

    async fn start(&self, order: &Order) -> Result<Duration, CallError> {
        let request = v1::StartRequest { order: wire(order) };
        let answer = self.call(|mut client| {
            let request = request.clone();
            async move { client.start(request).await }
        });
        let answer = answer.await?;
        self.read(duration(answer.took, "took"))
    }

    async fn post(&self, order: &Order, side: Side) -> Result<Finished, CallError> {
        let request = v1::PostRequest { order: wire(order), side: v1::Side::from(side).into() };
        let answer = self.call(|mut client| {
            let request = request.clone();
            async move { client.post(request).await }
        });
        let answer = answer.await?;
        Ok(Finished { guest: guest(answer.guest()), complaints: answer.warnings })
    }

    async fn cleanup(&self, order: &Order, rollback: &Rollback) -> Result<Finished, CallError> {
        let request = v1::CleanupRequest {
            order: wire(order),
            side: v1::Side::from(rollback.side).into(),
            cause: Some(rollback.cause.clone().into()),
            destination_released: rollback.released,
            source_keeps: rollback.kept,
        };
        let answer = self.call(|mut client| {
            let request = request.clone();
            async move { client.cleanup(request).await }
        });
        let answer = answer.await?;
        Ok(Finished { guest: guest(answer.guest()), complaints: answer.leftovers })
    }

    async fn locate(&self, order: &Order) -> Result<Sighting, CallError> {
        let request = v1::LocateRequest { order: wire(order) };
        let answer = self.call(|mut client| {
            let request = request.clone();
            async move { client.locate(request).await }
        });
        let answer = answer.await?;
        self.read(answer.sighting().try_into())
    }

    async fn source_facts(&self, order: &Order, hold: Duration) -> Result<SourceFacts, CallError> {
        let facts = self.facts(order, Side::Source, hold).await?;
        self.read(facts.try_into())
    }

    async fn destination_facts(&self, order: &Order, hold: Duration) -> Result<DestinationFacts, CallError> {
        let facts = self.facts(order, Side::Destination, hold).await?;
        self.read(facts.try_into())
    }

    async fn record(&self, order: &Order) -> Result<Option<Record>, CallError> {
        let request = v1::GetMigrationRequest { migration_id: order.id.to_string() };
        let answer = self.call(|mut client| {
            let request = request.clone();
            async move { client.get_migration(request).await }
        });
        match answer.await {
            Ok(answer) => self.read(required(answer.migration, "migration")).map(Some),
            Err(error) if error.reason == Reason::MigrationNotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
