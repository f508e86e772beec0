//! An agent that pretends. What all agents of a test know is one [`World`].

mod group;
mod host;
mod instance;
mod migration;

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytesize::ByteSize;
use futures::{Stream, stream::unfold};
use jiff::Timestamp;
use tokio::{net::TcpListener, sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait, transport::Server};
use vmferry_core::{
    affinity::Membership,
    agent::{CallError, Leaving, Sighting},
    compatibility::{Check, Finding, HANDOVER, Refusal},
    convergence::{GuestLimits, Policy},
    disk::Shown,
    domain_xml::{
        Definition,
        metadata::{VolumeLabel, interfaces::InterfaceLabel},
    },
    host::{Capacity, Cordon, Host, LastCordon, Offers, Pages, Room, Taken, Uncordoned, host_policies},
    id::{InstanceId, MigrationId},
    identity::Asker,
    instance::{Disk, DiskDevice, DiskSource, Instance, InstanceState, Vif, VifAttachment, VolumeAttachment},
    leftovers::{Leftover, LeftoverName, Removal},
    migration::{Cause, Order, Outcome, Phase, PhaseSpan, Progress, Record, Side, Statistics, Steering, Story},
    policy::{GroupReport, Member, Memberships, Told},
    reason::Reason,
    turns::{Admission, Waiter, Waiting},
    volume::Attachment,
};
use vmferry_proto::{authorize, convert::wire_duration, status::from_call_error, v1};
use vmferry_transport::{Credentials, accept};

use super::Misbehaviour;

pub(crate) const INSTANCE: &str = "ed831ace-39ef-4960-8bae-a035d292c305";
const DOMAIN: &str = "<domain type='kvm'><name>web</name><uuid>ed831ace-39ef-4960-8bae-a035d292c305</uuid>\
    <memory unit='MiB'>256</memory><vcpu>2</vcpu><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>\
    <devices/></domain>";

/// How often the pretended job tells of itself, and how often until it is over.
const SAMPLE: Duration = Duration::from_millis(20);
const SAMPLES: u64 = 10;

/// Where the guest is, what the hosts' journals say, and what shall go wrong.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) on_destination: bool,
    pub(crate) is_moving: bool,
    pub(crate) records: BTreeMap<(String, MigrationId), Record>,
    pub(crate) samples: u64,
    aborted: bool,
    /// The destination refuses.
    pub(crate) refuses: bool,
    /// The newest epoch under which somebody drives; 0: whoever comes first.
    pub(crate) epoch: u64,
    /// What these hosts say when they are to get ready, each time one of it.
    pub(crate) pre_refusals: Vec<(&'static str, Reason)>,
    /// How often a host was asked for what it is and has.
    pub(crate) facts: usize,
    /// How often a host was asked for its policies.
    pub(crate) policies_asked: usize,
    /// The job takes as long as it takes to abort it.
    pub(crate) is_slow: bool,
    /// The stream of the job breaks once.
    pub(crate) breaks: bool,
    /// Nobody hears an abort.
    pub(crate) is_deaf: bool,
    /// The job fails.
    pub(crate) fails: bool,
    /// Its policy gives the job up.
    pub(crate) expires: bool,
    /// What the guest writes to per second, in MiB.
    pub(crate) writes: u64,
    /// What the job was told.
    pub(crate) steered: Vec<Steering>,
    /// The destination takes its time to take back what it did.
    pub(crate) lingers: bool,
    /// The destination cannot take back what it did.
    pub(crate) leaves: bool,
    /// Whether the guest dies just before its migration ends, on either host.
    pub(crate) kills: bool,
    /// What was said of the guest's one disk.
    pub(crate) label: Option<VolumeLabel>,
    /// What was said of its one vif.
    pub(crate) vif: Option<InterfaceLabel>,
    /// The guests of node-31 that are in groups.
    pub(crate) others: Memberships,
    /// What each host remembers of others' groups.
    pub(crate) told: BTreeMap<String, Told>,
    /// How often hosts were told.
    pub(crate) tellings: usize,
    /// What somebody else says of the guest's vif as soon as a host is told of groups.
    pub(crate) meanwhile: Option<InterfaceLabel>,
    /// What node-28 has of former migrations.
    pub(crate) leftovers: Vec<Leftover>,
    /// What libvirt's edge says instead of the hosts' facts.
    pub(crate) is_without_libvirt: bool,
    /// What is said of the guest's live migrations.
    pub(crate) limits: GuestLimits,
    /// The affinity groups that the guest is said to be in.
    pub(crate) affinity: Vec<Membership>,
    /// What the configuration of node-28 has.
    pub(crate) policies: Vec<Policy>,
    /// node-28 is of a version that knows no policies, and no turns.
    pub(crate) is_old: bool,
    /// The hosts to which no guest shall come.
    pub(crate) cordons: BTreeMap<String, Cordon>,
    /// Those that were taken away last.
    pub(crate) last_cordons: BTreeMap<String, LastCordon>,
    /// By how many seconds the clock of node-31 is ahead.
    pub(crate) clock_ahead: i64,
    /// The host that has no place for a migration.
    pub(crate) full: Option<&'static str>,
    /// Those that wait for it.
    pub(crate) waiters: BTreeMap<MigrationId, Waiter>,
    /// Those that were aborted while they waited.
    aborted_waiters: Vec<MigrationId>,
    /// How often a host was asked for its half of the checks.
    pub(crate) checks: usize,
    /// A host whose facts take a while.
    pub(crate) slow_host: Option<(&'static str, Duration)>,
    /// A host that does not answer as it should.
    pub(crate) misbehaves: Option<(&'static str, Misbehaviour)>,
    /// How many guests more node-31 lists.
    pub(crate) crowd: u128,
    /// The guest's definition is on node-31, too, where it does not run.
    pub(crate) is_defined_twice: bool,
    /// How long the source takes to get ready.
    pub(crate) preparing: Duration,
    /// How often each host was asked for a turn.
    pub(crate) admissions: BTreeMap<&'static str, usize>,
}

#[derive(Clone)]
struct Agent {
    name: &'static str,
    world: Arc<Mutex<World>>,
}

pub(super) async fn serve(
    name: &'static str,
    credentials: Credentials,
    listener: TcpListener,
    world: Arc<Mutex<World>>,
) {
    let agent = Agent { name, world };
    let incoming = unfold((listener, credentials), |(listener, credentials)| async move {
        loop {
            let (tcp, _) = listener.accept().await.expect("a connection");
            if let Ok(accepted) = accept(&credentials, tcp, Duration::from_secs(5)).await {
                return Some((Ok::<_, io::Error>(accepted), (listener, credentials)));
            }
        }
    });
    let server = Server::builder()
        .layer(super::faulty::Layer { name, world: Arc::clone(&agent.world) })
        .layer(authorize::Layer::new(name.parse().expect("valid")))
        .add_service(v1::group_service_server::GroupServiceServer::new(agent.clone()))
        .add_service(v1::host_service_server::HostServiceServer::new(agent.clone()))
        .add_service(v1::instance_service_server::InstanceServiceServer::new(agent.clone()))
        .add_service(v1::migration_service_server::MigrationServiceServer::new(agent))
        .serve_with_incoming(incoming);
    Box::pin(server).await.expect("it serves until it is aborted");
}

impl Agent {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no agent panics with it")
    }

    fn instance(&self) -> Instance {
        let (disks, vifs) = (self.disks(), self.vifs());
        let world = self.world();
        Instance {
            id: INSTANCE.parse().expect("valid"),
            name: "web".into(),
            state: InstanceState::Active,
            host: self.name.parse().expect("valid"),
            memory: ByteSize::mib(256),
            vcpus: 2,
            persistent: true,
            disks,
            vifs,
            migration: None,
            problems: vec![],
            limits: world.limits.clone(),
            affinity: world.affinity.clone(),
        }
    }

    /// One, if somebody has said what it is.
    fn disks(&self) -> Vec<Disk> {
        let disk = |label: VolumeLabel| Disk {
            target: label.target,
            device: DiskDevice::Disk,
            source: DiskSource::Block { path: "/dev/sdb".into() },
            read_only: false,
            volume: Some(VolumeAttachment {
                id: Some(label.id),
                name: Some(label.name),
                bootable: Some(label.bootable),
                size: Some(ByteSize::gib(1)),
                attachment: Some(Attachment::ByHost),
                connection: label.connection,
            }),
        };
        self.world().label.clone().map(disk).into_iter().collect()
    }

    fn vifs(&self) -> Vec<Vif> {
        let said = self.world().vif.clone();
        vec![Vif {
            mac: "52:54:00:a0:00:01".into(),
            attachment: VifAttachment::Bridge { bridge: "br0".into() },
            model: "virtio".into(),
            network: said.as_ref().and_then(|label| label.network.clone()),
            policy: said.and_then(|label| label.policy),
            tap: Some("vnet0".into()),
            vlan: None,
            mtu: None,
        }]
    }

    fn has_guest(&self) -> bool {
        self.name == if self.world().on_destination { "node-31" } else { "node-28" }
    }

    fn error(&self, reason: Reason, message: &str) -> Status {
        let host = self.name.parse().expect("valid");
        from_call_error(&CallError { host, reason, message: message.into() })
    }

    fn record<T>(&self, id: MigrationId, change: impl FnOnce(&mut Record) -> T) -> Result<T, Status> {
        match self.world().records.get_mut(&(self.name.to_owned(), id)) {
            Some(record) => Ok(change(record)),
            None => Err(self.error(Reason::MigrationNotFound, "no such migration here")),
        }
    }

    fn begin(&self, id: MigrationId, phase: Phase) -> Result<(), Status> {
        let span = PhaseSpan { phase, started: Timestamp::now(), duration: None };
        self.record(id, |record| record.phases.push(span))
    }

    fn end(&self, id: MigrationId, outcome: Outcome, cause: Option<Cause>) -> Result<(), Status> {
        self.record(id, |record| {
            record.ended = Some(Timestamp::now());
            record.outcome = Some(outcome);
            record.cause = cause;
        })
    }

    /// The job: samples, then the guest is elsewhere.
    /// What is seen by one who looks on: each sample once.
    async fn look_on(
        self,
        id: MigrationId,
        after: u64,
        events: mpsc::Sender<Result<v1::WatchMigrationResponse, Status>>,
    ) {
        let mut token = after;
        loop {
            let Ok(record) = self.record(id, |record| record.clone()) else { return };
            let samples = self.world().samples;
            let has_ended = record.outcome.is_some();
            let mut responses = Vec::new();
            for number in token + 1..=samples {
                let remaining = ByteSize(SAMPLES.saturating_sub(number));
                let sample = Progress { total: ByteSize(SAMPLES), remaining, round: 1, ..Progress::default() };
                responses.push((Some(sample), number));
            }
            token = token.max(samples);
            responses.push((None, token));
            for (sample, token) in responses {
                let migration = Some(record.clone().into());
                let response = v1::WatchMigrationResponse { migration, progress: sample.map(Into::into), token };
                let breaks = std::mem::take(&mut self.world().breaks);
                let response = if breaks { Err(Status::unavailable("broken")) } else { Ok(response) };
                if events.send(response).await.is_err() || breaks {
                    return;
                }
            }
            if has_ended {
                return;
            }
            sleep(SAMPLE).await;
        }
    }

    async fn job(self, id: MigrationId, events: mpsc::Sender<Result<v1::MigrateResponse, Status>>) {
        let event = |event| Ok(v1::MigrateResponse { event: Some(event) });
        loop {
            sleep(SAMPLE).await;
            let (sample, end) = {
                let mut world = self.world();
                world.is_moving = true;
                world.samples += 1;
                let left = SAMPLES.saturating_sub(world.samples);
                let end = match () {
                    () if world.aborted => Some(Err(self.error(Reason::MigrationAborted, "aborted by the user"))),
                    () if world.breaks => {
                        world.breaks = false;
                        Some(Err(Status::unavailable("broken")))
                    }
                    () if world.expires => {
                        Some(Err(self.error(Reason::NotConverging, "web was not on node-31 in time")))
                    }
                    () if world.fails => Some(Err(self.error(Reason::MigrationFailed, "the job failed"))),
                    () if left == 0 && !world.is_slow => Some(Ok(())),
                    () => None,
                };
                (Progress { total: ByteSize(SAMPLES), remaining: ByteSize(left), round: 1, ..Progress::default() }, end)
            };
            let last = match end {
                None => event(v1::migrate_response::Event::Progress(sample.into())),
                Some(Err(status)) => Err(status),
                Some(Ok(())) => {
                    let statistics = Statistics {
                        total_time: SAMPLE * 10,
                        downtime: Duration::from_millis(74),
                        transferred: ByteSize::mib(268),
                        total: ByteSize::mib(272),
                        rounds: 2,
                    };
                    let goes_there = self.record(id, |record| {
                        record.statistics = Some(statistics);
                        record.order.destination.host.as_str() != "node-28"
                    });
                    self.world().on_destination = goes_there.unwrap_or(true);
                    event(v1::migrate_response::Event::Completed(statistics.into()))
                }
            };
            let is_last =
                !matches!(&last, Ok(v1::MigrateResponse { event: Some(v1::migrate_response::Event::Progress(_)) }));
            if events.send(last).await.is_err() || is_last {
                return;
            }
        }
    }
}

/// For some more guests like the one there is.
fn room() -> Room {
    let machine = ["x86_64", "kvm", "pc-q35-7.2"].map(str::to_owned);
    Room {
        capacity: Capacity { memory: ByteSize::gib(7), vcpus: 64, instances: None, incoming: 4, outgoing: 4 },
        taken: Taken { memory: ByteSize::mib(256), vcpus: 2, instances: 1, incoming: 0, outgoing: 0 },
        offers: Offers {
            machines: Arc::new([machine.into()].into()),
            networks: ["blue".parse().expect("valid")].into(),
            bridges: ["br0".into()].into(),
            pages: [(2_048, Pages { total: 64, free: 10 })].into(),
            ..Offers::default()
        },
    }
}

fn order(order: Option<v1::Order>) -> Order {
    vmferry_proto::convert::required(order, "order").expect("a coordinator of ours asks")
}
