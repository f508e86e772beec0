//! `vmferry.coordinator.v1`: one function per call.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};
use vmferry_core::{
    id::HostName,
    identity::{Asker, Identity},
    migration::{Outcome, Steering},
    reason::Reason,
};
use vmferry_proto::{
    convert::{Invalid, required},
    fleet::{self, fleet_service_server::FleetService, migrate_response::Event},
    status::from_call_error,
    v1,
};

use super::{
    drive::{Drive, Seen},
    drives::{Drives, stopping},
    emptying::{self, Stops},
    onlookers, planning,
    relay::whose_own,
    wire,
    wish::{chosen_id, not_understood},
};
use crate::{
    client::{RemoteAgent, Which},
    command::queue::while_it_waited,
    exit::Failed,
    find,
    fleet::{Ending, Newest},
};

/// What answers.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) fleet: Newest,
    pub(super) drives: Arc<Drives>,
    /// This coordinator's name.
    pub(super) name: HostName,
    /// From then on nothing is begun.
    pub(super) stop: CancellationToken,
    /// From then on nothing is told any more.
    pub(super) end: CancellationToken,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Whose wish it is.
fn asker<T>(request: &Request<T>) -> Result<Identity, Failed> {
    let asker = request.extensions().get::<Asker>().cloned();
    let asker = asker.ok_or_else(|| "a caller without identity may call nothing".to_owned()).and_then(whose_own);
    asker.map(|asker| asker.identity).map_err(|message| Failed::because(Reason::PermissionDenied, message))
}

impl Calls {
    fn status(&self, failed: Failed) -> Status {
        wire::status(failed, &self.name)
    }

    fn stops(&self) -> Stops {
        Stops { name: self.name.clone(), stop: self.stop.clone(), end: self.end.clone() }
    }

    async fn abort(&self, asker: Identity, wanted: &str) -> Result<fleet::Ended, Failed> {
        let ended = match self.drives.meant(wanted)? {
            Some(drive) => self.abort_drive(drive, asker).await?,
            None => match self.fleet.get().end_wait(wanted, |agent| agent.on_behalf_of(&asker)).await? {
                Ending::Waited(order) => wire::ended(&order, &Err(while_it_waited(&order)), None)
                    .unwrap_or_else(|error| wire::not_begun(error.into(), &self.name)),
                Ending::Begun(migration, silent) if self.fleet.get().is_settled(&migration, &silent) => {
                    wire::past_end(&migration)
                }
                Ending::Begun(migration, _) => {
                    let drive = self.drives.resolve(migration.order, asker.clone());
                    self.abort_drive(drive, asker).await?
                }
            },
        };
        let is_over =
            [Outcome::Completed, Outcome::CompletedWithWarnings].map(v1::Outcome::from).contains(&ended.outcome());
        if is_over {
            let message = format!("too late to abort: {}; to bring it back, migrate it back", ended.message);
            return Err(Failed::because(Reason::TooLateToAbort, message));
        }
        Ok(ended)
    }

    async fn abort_drive(&self, drive: Arc<Drive>, asker: Identity) -> Result<fleet::Ended, Failed> {
        let id = drive.id;
        // Whoever asked for it: it ends though they go away.
        let drives = Arc::clone(&self.drives);
        let aborted = tokio::spawn(async move { drives.abort(&drive, &asker).await });
        tokio::select! {
            ended = aborted => match ended.map_err(|error| Failed::because(Reason::Internal, error.to_string()))? {
                Err(failed) if failed.reason == Some(Reason::MigrationAborted) => Ok(wire::not_begun(failed, &self.name)),
                ended => ended,
            },
            () = self.end.cancelled() => Err(stopping(&self.name, id).into()),
        }
    }

    async fn steer(&self, asker: &Identity, request: fleet::SteerMigrationRequest) -> Result<(), Failed> {
        let steering: Steering = required(request.steering, "steering").map_err(not_understood)?;
        let steering = steering.judged().map_err(|invalid| Failed::usage(invalid.to_string()))?;
        let order = self.fleet.get().moving(&request.migration).await?;
        let source = self.fleet.get().agent_at(&order.source).on_behalf_of(asker);
        Ok(source.steer(order.id, steering).await?)
    }
}

/// What is new since so many events and samples.
fn news((told, sampled): &mut (usize, u64), seen: &Seen) -> Vec<Event> {
    let mut events = seen.told[*told..].to_vec();
    *told = seen.told.len();
    if let (count, Some(progress)) = seen.samples
        && *sampled < count
    {
        *sampled = count;
        events.push(Event::Progress(progress.into()));
    }
    events
}

#[async_trait]
impl FleetService for Calls {
    async fn list_inventory(
        &self,
        _: Request<fleet::ListInventoryRequest>,
    ) -> Result<Response<fleet::ListInventoryResponse>, Status> {
        let fleet = self.fleet.get();
        let inventory = fleet.inventory();
        Ok(Response::new(fleet::ListInventoryResponse {
            hosts: inventory.hosts.iter().cloned().map(Into::into).collect(),
            policies: inventory.policies.iter().cloned().map(Into::into).collect(),
            warnings: fleet.warnings(),
            left_out: fleet.left_out().map(wire::host).collect(),
        }))
    }

    async fn list_hosts(
        &self,
        _: Request<fleet::ListHostsRequest>,
    ) -> Result<Response<fleet::ListHostsResponse>, Status> {
        let fleet = self.fleet.get();
        let mut answers = fleet.gather(|agent: RemoteAgent| async move { agent.facts().await }).await;
        fleet.explain(&mut answers);
        let hosts = answers.into_iter().chain(fleet.left_out()).map(wire::host).collect();
        Ok(Response::new(fleet::ListHostsResponse { hosts }))
    }

    async fn list_instances(
        &self,
        _: Request<fleet::ListInstancesRequest>,
    ) -> Result<Response<fleet::ListInstancesResponse>, Status> {
        let (instances, _, silent) = self.fleet.get().instances().await.map_err(|failed| self.status(failed))?;
        Ok(Response::new(fleet::ListInstancesResponse {
            instances: find::guests(instances).into_iter().map(Into::into).collect(),
            unreachable: wire::unreachable(silent),
        }))
    }

    async fn get_instance(
        &self,
        request: Request<fleet::GetInstanceRequest>,
    ) -> Result<Response<fleet::GetInstanceResponse>, Status> {
        let request = request.into_inner();
        let host = match request.host.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|_| self.status(not_understood(Invalid { field: "host" })))?),
        };
        let found = self.fleet.get().instance(&request.instance, host.as_ref()).await;
        let (instance, _, silent) = found.map_err(|failed| self.status(failed))?;
        Ok(Response::new(fleet::GetInstanceResponse {
            instance: Some(instance.into()),
            unreachable: wire::unreachable(silent),
        }))
    }

    async fn list_migrations(
        &self,
        request: Request<fleet::ListMigrationsRequest>,
    ) -> Result<Response<fleet::ListMigrationsResponse>, Status> {
        let active_only = request.into_inner().active_only;
        // Of one that has ended on one host only, both halves are told.
        let known = self.fleet.get().migrations(Which::All).await;
        let (mut migrations, silent) = known.map_err(|failed| self.status(failed))?;
        migrations.retain(|migration| !active_only || migration.is_open());
        Ok(Response::new(fleet::ListMigrationsResponse {
            migrations: migrations.into_iter().map(wire::migration).collect(),
            unreachable: wire::unreachable(silent),
        }))
    }

    async fn get_migration(
        &self,
        request: Request<fleet::GetMigrationRequest>,
    ) -> Result<Response<fleet::GetMigrationResponse>, Status> {
        let found = self.fleet.get().whole_migration(&request.into_inner().migration).await;
        let (migration, silent) = found.map_err(|failed| self.status(failed))?;
        Ok(Response::new(fleet::GetMigrationResponse {
            migration: Some(wire::migration(migration)),
            unreachable: wire::unreachable(silent),
        }))
    }

    async fn check(&self, request: Request<fleet::CheckRequest>) -> Result<Response<fleet::CheckResponse>, Status> {
        let asker = asker(&request).map_err(|failed| self.status(failed))?;
        let checked = Box::pin(planning::check(&self.fleet.get(), &asker, request.into_inner())).await;
        checked.map(Response::new).map_err(|failed| self.status(failed))
    }

    async fn plan(&self, request: Request<fleet::PlanRequest>) -> Result<Response<fleet::PlanResponse>, Status> {
        let asker = asker(&request).map_err(|failed| self.status(failed))?;
        let planned = Box::pin(planning::plan(&self.fleet.get(), &asker, request.into_inner().wish)).await;
        planned.map(Response::new).map_err(|failed| self.status(failed))
    }

    type MigrateStream = Responses<fleet::MigrateResponse>;

    async fn migrate(&self, request: Request<fleet::MigrateRequest>) -> Result<Response<Self::MigrateStream>, Status> {
        let asker = asker(&request).map_err(|failed| self.status(failed))?;
        let fleet::MigrateRequest { migration_id, wish } = request.into_inner();
        let id = chosen_id(&migration_id).map_err(|failed| self.status(failed))?;
        let wish = wish.ok_or_else(|| self.status(not_understood(Invalid { field: "wish" })))?;
        if self.stop.is_cancelled() {
            return Err(from_call_error(&stopping(&self.name, id)));
        }
        let drive = self.drives.migrate(id, wish, asker).map_err(|failed| self.status(failed))?;
        let (sender, events) = mpsc::channel(16);
        let (mut seen, name, end) = (drive.watch(), self.name.clone(), self.end.clone());
        tokio::spawn(async move {
            let mut told = (0, 0);
            let event = |event| fleet::MigrateResponse { event: Some(event) };
            loop {
                let now = seen.borrow_and_update().clone();
                for news in news(&mut told, &now) {
                    // Who went away needs to be told nothing; the migration goes on.
                    if sender.send(Ok(event(news))).await.is_err() {
                        return;
                    }
                }
                if let Some(ended) = now.end {
                    let last = ended.map(|ended| event(Event::Ended(ended)));
                    _ = sender.send(last.map_err(|failed| wire::status(failed, &name))).await;
                    return;
                }
                tokio::select! {
                    changed = seen.changed() => if changed.is_err() { return },
                    () = end.cancelled() => {
                        _ = sender.send(Err(from_call_error(&stopping(&name, id)))).await;
                        return;
                    }
                    () = sender.closed() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(events).boxed()))
    }

    type WatchMigrationStream = Responses<fleet::WatchMigrationResponse>;

    async fn watch_migration(
        &self,
        request: Request<fleet::WatchMigrationRequest>,
    ) -> Result<Response<Self::WatchMigrationStream>, Status> {
        let fleet::WatchMigrationRequest { migration, after } = request.into_inner();
        let (migration, _) = self.fleet.get().migration_of(&migration).await.map_err(|failed| self.status(failed))?;
        let order = migration.order;
        let source = self.fleet.get().agent_at(&order.source);
        let (sender, responses) = mpsc::channel(onlookers::BEHIND);
        let (name, stop) = (self.name.clone(), self.stop.clone());
        tokio::spawn(async move {
            let watched = tokio::select! {
                watched = onlookers::tell(&source, order.id, after, &sender) => watched,
                // It can be watched at another coordinator, from where this one was.
                () = stop.cancelled() => Err(stopping(&name, order.id).into()),
                () = sender.closed() => return,
            };
            if let Err(failed) = watched {
                _ = sender.send(Err(wire::status(failed, &name))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(responses).boxed()))
    }

    async fn abort_migration(
        &self,
        request: Request<fleet::AbortMigrationRequest>,
    ) -> Result<Response<fleet::AbortMigrationResponse>, Status> {
        let asker = asker(&request).map_err(|failed| self.status(failed))?;
        let aborted = self.abort(asker, &request.into_inner().migration).await;
        let ended = Some(aborted.map_err(|failed| self.status(failed))?);
        Ok(Response::new(fleet::AbortMigrationResponse { ended }))
    }

    async fn steer_migration(
        &self,
        request: Request<fleet::SteerMigrationRequest>,
    ) -> Result<Response<fleet::SteerMigrationResponse>, Status> {
        let asker = asker(&request).map_err(|failed| self.status(failed))?;
        self.steer(&asker, request.into_inner()).await.map_err(|failed| self.status(failed))?;
        Ok(Response::new(fleet::SteerMigrationResponse {}))
    }

    type DrainStream = Responses<fleet::DrainResponse>;

    async fn drain(&self, request: Request<fleet::DrainRequest>) -> Result<Response<Self::DrainStream>, Status> {
        let asker = asker(&request).map_err(|failed| self.status(failed))?;
        let drained = emptying::drain(&self.drives, &asker, self.stops(), request.into_inner());
        let events = Box::pin(drained).await.map_err(|failed| self.status(failed))?;
        Ok(Response::new(events.boxed()))
    }

    type UndrainStream = Responses<fleet::UndrainResponse>;

    async fn undrain(&self, request: Request<fleet::UndrainRequest>) -> Result<Response<Self::UndrainStream>, Status> {
        let asker = asker(&request).map_err(|failed| self.status(failed))?;
        let filled = emptying::undrain(&self.drives, &asker, self.stops(), request.into_inner());
        let events = Box::pin(filled).await.map_err(|failed| self.status(failed))?;
        Ok(Response::new(events.boxed()))
    }

    async fn cordon(&self, request: Request<fleet::CordonRequest>) -> Result<Response<fleet::CordonResponse>, Status> {
        let asker = asker(&request).map_err(|failed| self.status(failed))?;
        let closed = emptying::cordon(&self.fleet.get(), &asker, request.into_inner()).await;
        closed.map(Response::new).map_err(|failed| self.status(failed))
    }

    async fn uncordon(
        &self,
        request: Request<fleet::UncordonRequest>,
    ) -> Result<Response<fleet::UncordonResponse>, Status> {
        let asker = asker(&request).map_err(|failed| self.status(failed))?;
        let opened = emptying::uncordon(&self.fleet.get(), &asker, request.into_inner()).await;
        opened.map(Response::new).map_err(|failed| self.status(failed))
    }
}
