use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use vmferry_core::{
    agent::{CallError, CheckReport, Finished, Half, Leaving, Rollback},
    convergence::{Measured, usual},
    id::MigrationId,
    identity::{Asker, Role},
    migration::{Endpoint, Order, Progress, Side},
    reason::Reason,
};
use vmferry_proto::{
    authorize::EPOCH,
    convert::{Invalid, all, duration, required, wire_duration, wire_guest},
    status::from_call_error,
    v1::{self, migrate_response::Event, migration_service_server::MigrationService},
};

use crate::{
    hypervisor::{Fault, Served},
    migration::Migration,
    migrations::Migrations,
    phase,
};

pub(super) struct Service<H> {
    migrations: Arc<Migrations<H>>,
    /// The agent is to end: nothing is held back any more, and no stream is kept open.
    stop: CancellationToken,
    /// How long a lease lasts that is not renewed.
    lease: Duration,
}

/// What one agent may ask of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peers {
    /// How things are.
    Ask,
    /// To bring a migration to its end, which only the source's does.
    CarryOn,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl<H: Served> Service<H> {
    pub(super) fn new(migrations: Arc<Migrations<H>>, stop: CancellationToken, lease: Duration) -> Self {
        Self { migrations, stop, lease }
    }

    fn invalid(&self, invalid: Invalid) -> Status {
        self.status(Fault::new(Reason::InvalidRequest, format!("the request is not understood: {invalid}")))
    }

    fn status(&self, fault: Fault) -> Status {
        from_call_error(&self.migrations.call_error(fault))
    }

    fn order(&self, order: Option<v1::Order>) -> Result<Order, Status> {
        let names_policy =
            order.as_ref().and_then(|order| order.limits.as_ref()).is_some_and(|limits| limits.policy.is_some());
        let mut order: Order = required(order, "order").map_err(|invalid| self.invalid(invalid))?;
        if !names_policy {
            // A repeat is the same order, whatever the configuration says by now.
            let begun = self.migrations.get(order.id).map(|migration| migration.state().order().limits.policy.clone());
            order.limits.policy = begun.unwrap_or_else(|_| self.migrations.host().policies().swap_remove(0).policy);
        }
        Ok(order)
    }

    fn side(&self, side: v1::Side) -> Result<Side, Status> {
        side.try_into().map_err(|invalid| self.invalid(invalid))
    }

    fn leaving(&self, leaving: Option<v1::Leaving>) -> Result<Option<Leaving>, Status> {
        leaving.map(TryInto::try_into).transpose().map_err(|invalid| self.invalid(invalid))
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        Caller::of(request).map_err(|invalid| self.invalid(invalid))
    }

    /// An agent may ask about a migration that names its host as the other one's; and carry it on, if that is the source.
    fn may(&self, caller: &Caller, order: &Order, what: Peers) -> Result<(), Status> {
        let Some(peer) = &caller.agent else { return Ok(()) };
        let here = self.migrations.host().name();
        let is = |endpoint: &Endpoint, other: &Endpoint| endpoint.host == *here && other.host.as_str() == peer;
        let is_destinations = is(&order.destination, &order.source);
        if is_destinations || what == Peers::Ask && is(&order.source, &order.destination) {
            return Ok(());
        }
        let message = format!(
            "the agent of {peer} may not ask this of {here} for migration {}: only its coordinator may, and the agent of its source",
            order.id
        );
        Err(self.status(Fault::new(Reason::PermissionDenied, message)))
    }

    /// A step of who drives it, unless somebody else does by now.
    fn hear(&self, caller: &Caller, migration: &Migration) -> Result<(), Status> {
        match caller.epoch {
            Some(epoch) => migration.hear(epoch, &caller.asker).map_err(|fault| self.status(fault)),
            None => {
                migration.hear_of();
                Ok(())
            }
        }
    }

    /// The same of a person, who need not drive it.
    fn obey(&self, caller: &Caller, id: MigrationId) -> Result<(), Status> {
        match (caller.epoch, self.migrations.get(id)) {
            (Some(_), Ok(migration)) => self.hear(caller, &migration),
            _ => Ok(()),
        }
    }

    /// The migration that a phase of its driver is about.
    fn driven(&self, caller: &Caller, order: &Order) -> Result<Migration, Status> {
        self.may(caller, order, Peers::CarryOn)?;
        let migration = self.migrations.of(order).map_err(status)?;
        self.hear(caller, &migration)?;
        Ok(migration)
    }

    fn id(&self, id: &str) -> Result<MigrationId, Status> {
        id.parse().map_err(|_| self.invalid(Invalid { field: "migration_id" }))
    }

    fn migration(&self, id: &str) -> Result<Migration, Status> {
        let id = self.id(id)?;
        self.migrations.get(id).map_err(|error| from_call_error(&error))
    }
}

/// Who asks for a phase or a step, and under which epoch it drives, if it says so.
struct Caller {
    asker: String,
    epoch: Option<u64>,
    /// Of an agent: its host.
    agent: Option<String>,
}

impl Caller {
    fn of<T>(request: &Request<T>) -> Result<Self, Invalid> {
        let epoch = request.metadata().get(EPOCH);
        let epoch = epoch.map(|epoch| epoch.to_str().ok().and_then(|epoch| epoch.parse().ok()));
        let agent = request.extensions().get::<Asker>().filter(|asker| asker.identity.role == Role::Agent);
        Ok(Self {
            asker: asker(request),
            epoch: epoch.map(|epoch| epoch.ok_or(Invalid { field: EPOCH })).transpose()?,
            agent: agent.map(|asker| asker.identity.name.clone()),
        })
    }
}

/// Who asks.
pub(super) fn asker<T>(request: &Request<T>) -> String {
    request.extensions().get::<Asker>().map(Asker::to_string).unwrap_or_default()
}

fn status(error: CallError) -> Status {
    from_call_error(&error)
}

#[tonic::async_trait]
impl<H: Served> MigrationService for Service<H> {
    async fn check(&self, request: Request<v1::CheckRequest>) -> Result<Response<v1::CheckResponse>, Status> {
        let request = request.into_inner();
        let side = self.side(request.side())?;
        let leaving = self.leaving(request.leaving)?;
        let order = self.order(request.order)?;
        let CheckReport { checks, leaving, resolved } =
            Box::pin(self.migrations.check(&order, side, leaving.as_ref())).await.map_err(status)?;
        let checks = checks.into_iter().map(Into::into).collect();
        let resolved = resolved.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::CheckResponse { checks, leaving: leaving.map(Into::into), resolved }))
    }

    async fn end_check(&self, request: Request<v1::EndCheckRequest>) -> Result<Response<v1::EndCheckResponse>, Status> {
        let order = self.order(request.into_inner().order)?;
        self.migrations.end_check(&order).await.map_err(status)?;
        Ok(Response::new(v1::EndCheckResponse {}))
    }

    async fn measure(&self, request: Request<v1::MeasureRequest>) -> Result<Response<v1::MeasureResponse>, Status> {
        let order = self.order(request.into_inner().order)?;
        let measured =
            phase::measure::source(self.migrations.host(), &order).await.map_err(|fault| self.status(fault))?;
        let usual = usual(&self.migrations.records(false), &order);
        Ok(Response::new(Measured { usual, ..measured }.into()))
    }

    async fn admit(&self, request: Request<v1::AdmitRequest>) -> Result<Response<v1::AdmitResponse>, Status> {
        let requested_by = asker(&request);
        let request = request.into_inner();
        let side = self.side(request.side())?;
        let hold = request.hold.map(|hold| duration(Some(hold), "hold")).transpose();
        let hold = hold.map_err(|invalid| self.invalid(invalid))?.unwrap_or_default();
        let order = self.order(request.order)?;
        let held = self.migrations.admit(&order, side, &requested_by, hold);
        let admission = match self.stop.run_until_cancelled(held).await {
            Some(admission) => admission,
            None => self.migrations.admit(&order, side, &requested_by, Duration::ZERO).await,
        };
        Ok(Response::new(admission.map_err(status)?.into()))
    }

    async fn withdraw(&self, request: Request<v1::WithdrawRequest>) -> Result<Response<v1::WithdrawResponse>, Status> {
        let order = self.order(request.into_inner().order)?;
        self.migrations.withdraw(order.id);
        Ok(Response::new(v1::WithdrawResponse {}))
    }

    async fn pre(&self, request: Request<v1::PreRequest>) -> Result<Response<v1::PreResponse>, Status> {
        let caller = self.caller(&request)?;
        let request = request.into_inner();
        let side = self.side(request.side())?;
        let resolved = all(request.resolved).map_err(|invalid| self.invalid(invalid))?;
        let half = match side {
            Side::Source => Half::Source { resolved },
            Side::Destination => {
                let leaving = required(request.leaving, "leaving").map_err(|invalid| self.invalid(invalid))?;
                Half::Destination { leaving: Box::new(leaving), resolved }
            }
        };
        let order = self.order(request.order)?;
        let migration = self.migrations.open(&order, side, caller.asker.clone()).map_err(status)?;
        self.hear(&caller, &migration)?;
        let relocations = migration.pre(&half).await.map_err(status)?;
        Ok(Response::new(v1::PreResponse { relocations: relocations.into_iter().map(Into::into).collect() }))
    }

    type MigrateStream = Responses<v1::MigrateResponse>;

    async fn migrate(&self, request: Request<v1::MigrateRequest>) -> Result<Response<Self::MigrateStream>, Status> {
        let caller = self.caller(&request)?;
        let request = request.into_inner();
        let order = self.order(request.order)?;
        let relocations = all(request.relocations).map_err(|invalid| self.invalid(invalid))?;
        let migration = self.driven(&caller, &order)?;
        let (sender, events) = mpsc::channel(16);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let mut samples = migration.watch_samples();
            let moved = migration.migrate(relocations);
            tokio::pin!(moved);
            let last = loop {
                tokio::select! {
                    biased;
                    result = &mut moved => {
                        break result.map(|statistics| Event::Completed(statistics.into())).map_err(status);
                    }
                    Ok(()) = samples.changed() => {
                        let newest = samples.borrow_and_update().newest();
                        let Some(sample) = newest else { continue };
                        let event = v1::MigrateResponse { event: Some(Event::Progress(sample.into())) };
                        // A caller that went away cancels nothing: the job is the migration's own.
                        _ = sender.try_send(Ok(event));
                    }
                    // The job goes on without us; whoever follows it asks the next agent.
                    () = stop.cancelled() => return,
                }
            };
            _ = sender.send(last.map(|event| v1::MigrateResponse { event: Some(event) })).await;
        });
        Ok(Response::new(ReceiverStream::new(events).boxed()))
    }

    async fn start(&self, request: Request<v1::StartRequest>) -> Result<Response<v1::StartResponse>, Status> {
        let caller = self.caller(&request)?;
        let order = self.order(request.into_inner().order)?;
        let took = self.driven(&caller, &order)?.start_guest().await.map_err(status)?;
        Ok(Response::new(v1::StartResponse { took: Some(wire_duration(took)) }))
    }

    async fn post(&self, request: Request<v1::PostRequest>) -> Result<Response<v1::PostResponse>, Status> {
        let caller = self.caller(&request)?;
        let order = self.order(request.into_inner().order)?;
        let Finished { complaints: warnings, guest } = self.driven(&caller, &order)?.post().await.map_err(status)?;
        Ok(Response::new(v1::PostResponse { warnings, guest: wire_guest(guest).into() }))
    }

    async fn cleanup(&self, request: Request<v1::CleanupRequest>) -> Result<Response<v1::CleanupResponse>, Status> {
        let caller = self.caller(&request)?;
        let request = request.into_inner();
        let side = self.side(request.side())?;
        let cause = required(request.cause, "cause").map_err(|invalid| self.invalid(invalid))?;
        let rollback = Rollback { side, cause, released: request.destination_released, kept: request.source_keeps };
        let order = self.order(request.order)?;
        self.may(&caller, &order, Peers::CarryOn)?;
        let migration = self.migrations.to_clean_up(&order, &rollback, &caller.asker).await.map_err(status)?;
        self.hear(&caller, &migration)?;
        let Finished { complaints: leftovers, guest } = migration.cleanup(rollback).await.map_err(status)?;
        Ok(Response::new(v1::CleanupResponse { leftovers, guest: wire_guest(guest).into() }))
    }

    async fn locate(&self, request: Request<v1::LocateRequest>) -> Result<Response<v1::LocateResponse>, Status> {
        let caller = self.caller(&request)?;
        let order = self.order(request.into_inner().order)?;
        self.may(&caller, &order, Peers::Ask)?;
        let sighting = self.migrations.locate(order.instance).await.map_err(status)?;
        Ok(Response::new(v1::LocateResponse { sighting: v1::Sighting::from(sighting).into() }))
    }

    async fn get_facts(&self, request: Request<v1::GetFactsRequest>) -> Result<Response<v1::GetFactsResponse>, Status> {
        let caller = self.caller(&request)?;
        let request = request.into_inner();
        let side = self.side(request.side())?;
        let order = self.order(request.order)?;
        let hold = request.hold.map(|hold| duration(Some(hold), "hold")).transpose();
        let hold = hold.map_err(|invalid| self.invalid(invalid))?.unwrap_or_default();
        self.may(&caller, &order, Peers::Ask)?;
        let facts = async |hold| {
            Ok(match side {
                Side::Source => self.migrations.source_facts(&order, hold).await.map_err(status)?.into(),
                Side::Destination => self.migrations.destination_facts(&order, hold).await.map_err(status)?.into(),
            })
        };
        match self.stop.run_until_cancelled(facts(hold)).await {
            Some(told) => told.map(Response::new),
            None => facts(Duration::ZERO).await.map(Response::new),
        }
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let caller = self.caller(&request)?;
        let migration = self.migration(&request.into_inner().migration_id)?;
        self.may(&caller, migration.state().order(), Peers::CarryOn)?;
        if caller.epoch.is_none() {
            return Err(self.invalid(Invalid { field: EPOCH }));
        }
        self.hear(&caller, &migration)?;
        Ok(Response::new(v1::RenewResponse { lasts: Some(wire_duration(self.lease)) }))
    }

    async fn take_lease(
        &self,
        request: Request<v1::TakeLeaseRequest>,
    ) -> Result<Response<v1::TakeLeaseResponse>, Status> {
        let caller = self.caller(&request)?;
        let migration = self.migration(&request.into_inner().migration_id)?;
        let state = migration.state();
        if state.side() != Side::Source {
            let (id, source) = (state.order().id, &state.order().source.host);
            let message = format!("the lease of migration {id} is granted by its source: ask {source}");
            return Err(self.status(Fault::new(Reason::InvalidRequest, message)));
        }
        let epoch = migration.take_lease(&caller.asker).map_err(|fault| self.status(fault))?;
        Ok(Response::new(v1::TakeLeaseResponse { epoch }))
    }

    async fn abort(&self, request: Request<v1::AbortRequest>) -> Result<Response<v1::AbortResponse>, Status> {
        let caller = self.caller(&request)?;
        let id = self.id(&request.into_inner().migration_id)?;
        self.obey(&caller, id)?;
        self.migrations.abort(id, &caller.asker).map_err(status)?;
        Ok(Response::new(v1::AbortResponse {}))
    }

    async fn steer(&self, request: Request<v1::SteerRequest>) -> Result<Response<v1::SteerResponse>, Status> {
        let caller = self.caller(&request)?;
        let request = request.into_inner();
        let steering = required(request.steering, "steering").map_err(|invalid| self.invalid(invalid))?;
        let id = self.id(&request.migration_id)?;
        self.obey(&caller, id)?;
        self.migrations.steer(id, steering, &caller.asker).await.map_err(status)?;
        Ok(Response::new(v1::SteerResponse {}))
    }

    async fn list_waiting(
        &self,
        _: Request<v1::ListWaitingRequest>,
    ) -> Result<Response<v1::ListWaitingResponse>, Status> {
        let waiters = self.migrations.queued().into_iter().map(Into::into).collect();
        Ok(Response::new(v1::ListWaitingResponse { waiters }))
    }

    async fn list_migrations(
        &self,
        request: Request<v1::ListMigrationsRequest>,
    ) -> Result<Response<v1::ListMigrationsResponse>, Status> {
        let records = self.migrations.records(request.into_inner().active_only);
        let migrations = records.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::ListMigrationsResponse { migrations }))
    }

    async fn get_migration(
        &self,
        request: Request<v1::GetMigrationRequest>,
    ) -> Result<Response<v1::GetMigrationResponse>, Status> {
        let caller = self.caller(&request)?;
        let migration = self.migration(&request.into_inner().migration_id)?;
        self.may(&caller, migration.state().order(), Peers::Ask)?;
        let record = migration.whole_record();
        Ok(Response::new(v1::GetMigrationResponse { migration: Some(record.into()) }))
    }

    type WatchMigrationStream = Responses<v1::WatchMigrationResponse>;

    async fn watch_migration(
        &self,
        request: Request<v1::WatchMigrationRequest>,
    ) -> Result<Response<Self::WatchMigrationStream>, Status> {
        let v1::WatchMigrationRequest { migration_id, after: mut token } = request.into_inner();
        let migration = self.migration(&migration_id)?;
        let (sender, records) = mpsc::channel(16);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let (mut state, mut samples) = (migration.watch_state(), migration.watch_samples());
            let mut driver = migration.watch_driver();
            loop {
                state.mark_unchanged();
                driver.mark_unchanged();
                let record = migration.record();
                let ended = record.outcome.is_some();
                let news = samples.borrow_and_update().after(token);
                token = news.last().map_or(token, |(number, _)| *number);
                let record = v1::Migration::from(record);
                let response = |progress: Option<Progress>, token| v1::WatchMigrationResponse {
                    migration: Some(record.clone()),
                    progress: progress.map(Into::into),
                    token,
                };
                let news = news.into_iter().map(|(number, sample)| response(Some(sample), number));
                // The record as it is now comes last, so that a stream ends with what there is to know.
                for response in news.chain([response(None, token)]) {
                    if sender.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
                if ended {
                    return;
                }
                let changed = tokio::select! {
                    changed = state.changed() => changed,
                    changed = samples.changed() => changed,
                    changed = driver.changed() => changed,
                    () = sender.closed() => return,
                    () = stop.cancelled() => return,
                };
                if changed.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(records).boxed()))
    }
}
