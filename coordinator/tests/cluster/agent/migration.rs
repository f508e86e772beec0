//! Its half of a migration.

use super::*;

#[async_trait]
impl v1::migration_service_server::MigrationService for Agent {
    async fn check(&self, request: Request<v1::CheckRequest>) -> Result<Response<v1::CheckResponse>, Status> {
        let request = request.into_inner();
        self.world().checks += 1;
        let finding = match self.world().refuses && request.side() == v1::Side::Destination {
            false => Finding::Passed { detail: "as it should be".into() },
            true => Finding::Refused(Refusal {
                reason: Reason::MemoryShort,
                message: "web needs 256.0 MiB, node-31 has 12.0 MiB".into(),
                remedy: "choose another host".into(),
            }),
        };
        let check = |subject: &str, finding| Check {
            host: self.name.parse().expect("valid"),
            subject: subject.into(),
            finding,
        };
        let knows = Finding::Passed { detail: "whichever is asked for".into() };
        let checks = vec![check("memory", finding).into(), check(HANDOVER, knows).into()];
        let leaving = (request.side() == v1::Side::Source).then(|| Leaving {
            instance: self.instance(),
            domain_xml: DOMAIN.into(),
            definition: Definition::parse(DOMAIN).expect("valid"),
            qemu_version: 7_002_022,
            shown: Shown::default(),
            members: Default::default(),
            filters: vec![],
            autostart: false,
        });
        Ok(Response::new(v1::CheckResponse { checks, leaving: leaving.map(Into::into), resolved: vec![] }))
    }

    async fn end_check(&self, _: Request<v1::EndCheckRequest>) -> Result<Response<v1::EndCheckResponse>, Status> {
        Ok(Response::new(v1::EndCheckResponse {}))
    }

    async fn measure(&self, _: Request<v1::MeasureRequest>) -> Result<Response<v1::MeasureResponse>, Status> {
        let mib = |mib: u64| mib << 20;
        Ok(Response::new(v1::MeasureResponse {
            memory_bytes: mib(1_024),
            resident_bytes: mib(512),
            dirty_rate_bytes_per_second: mib(self.world().writes),
            path_bytes_per_second: mib(100),
            usual_bytes_per_second: None,
        }))
    }

    async fn admit(&self, request: Request<v1::AdmitRequest>) -> Result<Response<v1::AdmitResponse>, Status> {
        if self.world().is_old && self.name == "node-28" {
            return Err(Status::unimplemented("admit"));
        }
        *self.world().admissions.entry(self.name).or_default() += 1;
        let request = request.into_inner();
        let side = if request.side() == v1::Side::Source { Side::Source } else { Side::Destination };
        let order = order(request.order);
        if request.hold.is_some_and(|hold| hold.seconds > 0) {
            sleep(Duration::from_millis(50)).await;
        }
        let mut world = self.world();
        if world.aborted_waiters.contains(&order.id) {
            drop(world);
            return Err(self.error(Reason::MigrationAborted, "the migration of web was aborted while it waited"));
        }
        if world.full != Some(self.name) {
            world.waiters.retain(|id, waiter| *id != order.id || waiter.waiting.host.as_str() != self.name);
            return Ok(Response::new(Admission::Turn.into()));
        }
        let host = self.name.parse().expect("valid");
        let waiting = Waiting { host, side, limit: 1, busy: vec!["db".into()], before: vec![] };
        let waiter = Waiter {
            requested_by: "vmferry://default/coordinator/ops".into(),
            waited: Duration::from_secs(3),
            has_turn: false,
            waiting: waiting.clone(),
            order,
        };
        world.waiters.insert(waiter.order.id, waiter);
        Ok(Response::new(Admission::Waiting(waiting).into()))
    }

    async fn withdraw(&self, request: Request<v1::WithdrawRequest>) -> Result<Response<v1::WithdrawResponse>, Status> {
        let id = order(request.into_inner().order).id;
        let mut world = self.world();
        if world.full == Some(self.name) {
            world.waiters.remove(&id);
        }
        Ok(Response::new(v1::WithdrawResponse {}))
    }

    async fn list_waiting(
        &self,
        _: Request<v1::ListWaitingRequest>,
    ) -> Result<Response<v1::ListWaitingResponse>, Status> {
        let world = self.world();
        let here = world.waiters.values().filter(|_| world.full == Some(self.name));
        Ok(Response::new(v1::ListWaitingResponse { waiters: here.cloned().map(Into::into).collect() }))
    }

    async fn pre(&self, request: Request<v1::PreRequest>) -> Result<Response<v1::PreResponse>, Status> {
        let requested_by = request.extensions().get::<Asker>().map(Asker::to_string).unwrap_or_default();
        let request = request.into_inner();
        let side = if request.side() == v1::Side::Source { Side::Source } else { Side::Destination };
        let order = order(request.order);
        self.lock(&order)?;
        let record = Record {
            side,
            requested_by,
            driver: None,
            started: Timestamp::now(),
            ended: None,
            phases: vec![],
            outcome: None,
            cause: None,
            statistics: None,
            guest: None,
            pending: vec![],
            warnings: vec![],
            story: Default::default(),
            order,
        };
        let id = record.order.id;
        self.world().records.entry((self.name.to_owned(), id)).or_insert(record);
        self.begin(id, Phase::Pre)?;
        let preparing = self.world().preparing;
        if side == Side::Source {
            sleep(preparing).await;
        }
        let refusal = {
            let mut world = self.world();
            let ours = world.pre_refusals.iter().position(|(host, _)| *host == self.name);
            ours.map(|ours| world.pre_refusals.remove(ours).1)
        };
        match refusal {
            Some(reason) => Err(self.error(reason, "another one came before")),
            None => Ok(Response::new(v1::PreResponse::default())),
        }
    }

    type MigrateStream = Pin<Box<dyn Stream<Item = Result<v1::MigrateResponse, Status>> + Send>>;

    async fn migrate(&self, request: Request<v1::MigrateRequest>) -> Result<Response<Self::MigrateStream>, Status> {
        let id = order(request.into_inner().order).id;
        self.begin(id, Phase::Migrate)?;
        let (events, stream) = mpsc::channel(1);
        tokio::spawn(self.clone().job(id, events));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn start(&self, request: Request<v1::StartRequest>) -> Result<Response<v1::StartResponse>, Status> {
        let id = order(request.into_inner().order).id;
        self.begin(id, Phase::Migrate)?;
        Ok(Response::new(v1::StartResponse { took: Some(wire_duration(Duration::from_millis(500))) }))
    }

    async fn post(&self, request: Request<v1::PostRequest>) -> Result<Response<v1::PostResponse>, Status> {
        let id = order(request.into_inner().order).id;
        self.begin(id, Phase::Post)?;
        self.end(id, Outcome::Completed, None)?;
        let guest = self.note_guest(id)?;
        Ok(Response::new(v1::PostResponse { warnings: vec![], guest }))
    }

    async fn cleanup(&self, request: Request<v1::CleanupRequest>) -> Result<Response<v1::CleanupResponse>, Status> {
        let request = request.into_inner();
        let id = order(request.order).id;
        let cause: Cause = vmferry_proto::convert::required(request.cause, "cause").expect("a coordinator of ours");
        self.begin(id, Phase::Cleanup)?;
        let lingers = self.name == "node-31" && self.world().lingers;
        if lingers {
            sleep(Duration::from_millis(600)).await;
        }
        self.end(id, vmferry_core::flow::rolled_back(&cause), Some(cause))?;
        let leaves = self.name == "node-31" && self.world().leaves;
        let left = |what: &str| if leaves { vec![what.to_owned()] } else { vec![] };
        self.record(id, |record| record.pending = left("remove its sockets"))?;
        let guest = self.note_guest(id)?;
        Ok(Response::new(v1::CleanupResponse { leftovers: left("node-31: could not remove its sockets: busy"), guest }))
    }

    async fn locate(&self, _: Request<v1::LocateRequest>) -> Result<Response<v1::LocateResponse>, Status> {
        let sighting = if self.has_guest() { Sighting::Running } else { Sighting::Absent };
        Ok(Response::new(v1::LocateResponse { sighting: v1::Sighting::from(sighting).into() }))
    }

    /// It is of an earlier version, which says what it sees and has recorded.
    async fn get_facts(&self, _: Request<v1::GetFactsRequest>) -> Result<Response<v1::GetFactsResponse>, Status> {
        Err(Status::unimplemented("GetFacts"))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let epoch = request.metadata().get("vmferry-epoch").expect("who renews says what");
        let epoch: u64 = epoch.to_str().expect("ASCII").parse().expect("a number");
        let id = request.into_inner().migration_id.parse().expect("valid");
        self.record(id, |_| ())?;
        let world = self.world();
        if epoch < world.epoch {
            let message = format!("migration {id} of web is driven by somebody else, under epoch {}", world.epoch);
            drop(world);
            return Err(self.error(Reason::LeaseLost, &message));
        }
        Ok(Response::new(v1::RenewResponse { lasts: Some(prost_types::Duration { seconds: 0, nanos: 30_000_000 }) }))
    }

    async fn take_lease(
        &self,
        request: Request<v1::TakeLeaseRequest>,
    ) -> Result<Response<v1::TakeLeaseResponse>, Status> {
        self.record(request.into_inner().migration_id.parse().expect("valid"), |_| ())?;
        let mut world = self.world();
        world.epoch = world.epoch.max(1) + 1;
        Ok(Response::new(v1::TakeLeaseResponse { epoch: world.epoch }))
    }

    async fn abort(&self, request: Request<v1::AbortRequest>) -> Result<Response<v1::AbortResponse>, Status> {
        let id = request.into_inner().migration_id.parse().expect("valid");
        {
            let mut world = self.world();
            if world.full == Some(self.name) && world.waiters.remove(&id).is_some() {
                world.aborted_waiters.push(id);
                return Ok(Response::new(v1::AbortResponse {}));
            }
        }
        self.record(id, |_| ())?;
        let mut world = self.world();
        world.aborted = !world.is_deaf;
        Ok(Response::new(v1::AbortResponse {}))
    }

    async fn steer(&self, request: Request<v1::SteerRequest>) -> Result<Response<v1::SteerResponse>, Status> {
        let request = request.into_inner();
        let id = request.migration_id.parse().expect("valid");
        self.record(id, |_| ())?;
        let steering = vmferry_proto::convert::required(request.steering, "steering").expect("a coordinator of ours");
        self.world().steered.push(steering);
        Ok(Response::new(v1::SteerResponse {}))
    }

    async fn list_migrations(
        &self,
        request: Request<v1::ListMigrationsRequest>,
    ) -> Result<Response<v1::ListMigrationsResponse>, Status> {
        let active_only = request.into_inner().active_only;
        let world = self.world();
        let ours = world.records.iter().filter(|((host, _), _)| host == self.name).map(|(_, record)| record.clone());
        // As agents do it.
        let listed = |record| Record { story: Story::default(), ..record };
        let migrations =
            ours.filter(|record| !active_only || record.ended.is_none()).map(listed).map(Into::into).collect();
        Ok(Response::new(v1::ListMigrationsResponse { migrations }))
    }

    async fn get_migration(
        &self,
        request: Request<v1::GetMigrationRequest>,
    ) -> Result<Response<v1::GetMigrationResponse>, Status> {
        let id = request.into_inner().migration_id.parse().expect("valid");
        let migration = self.record(id, |record| record.clone())?;
        Ok(Response::new(v1::GetMigrationResponse { migration: Some(migration.into()) }))
    }

    type WatchMigrationStream = Pin<Box<dyn Stream<Item = Result<v1::WatchMigrationResponse, Status>> + Send>>;

    async fn watch_migration(
        &self,
        request: Request<v1::WatchMigrationRequest>,
    ) -> Result<Response<Self::WatchMigrationStream>, Status> {
        let v1::WatchMigrationRequest { migration_id, after } = request.into_inner();
        let id = migration_id.parse().expect("valid");
        self.record(id, |_| ())?;
        let (events, stream) = mpsc::channel(1);
        tokio::spawn(self.clone().look_on(id, after, events));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

impl Agent {
    /// As agents do it: who has the guest at the end notes whether it runs.
    fn note_guest(&self, id: MigrationId) -> Result<i32, Status> {
        let dies = self.world().kills;
        let seen = if dies { Sighting::Shutoff } else { Sighting::Running };
        let guest = self.has_guest().then_some(seen);
        self.record(id, |record| record.guest = guest)?;
        Ok(vmferry_proto::convert::wire_guest(guest).into())
    }

    /// As agents do it: one migration of an instance at a time, and one order of a migration.
    fn lock(&self, order: &Order) -> Result<(), Status> {
        let world = self.world();
        let mut here = world.records.iter().filter(|((host, _), _)| host == self.name).map(|(_, record)| record);
        let refused = here.find_map(|record| match (record.order.id == order.id, record.order == *order) {
            (true, true) => None,
            (true, false) => Some((Reason::InvalidRequest, "it exists with another order".to_owned())),
            (false, _) if record.ended.is_some() => None,
            (false, _) => Some((
                Reason::InstanceMigrating,
                format!("web is already being moved by migration {}", record.order.id),
            )),
        });
        drop(world);
        refused.map_or(Ok(()), |(reason, message)| Err(self.error(reason, &message)))
    }
}
