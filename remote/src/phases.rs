//! The calls of the flow.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tonic::{Code, Response, Status};
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
    convert::{Invalid, duration, guest, wire_duration},
    v1::{self, migrate_response},
};

use super::{ASK, CHECK, LOOK, Lease, PHASE, PREPARING, Patience, RESTART, RemoteAgent, START, error, may_pass, wire};

impl RemoteAgent {
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
