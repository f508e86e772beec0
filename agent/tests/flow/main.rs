//! The whole flow on two agents whose hosts are in memory: every step fails in turn, every call is lost in turn, every
//! agent dies in turn between journal and step; after each, the invariants of the design hold.
//!
//! Everything above the edge is the real thing: flow, migrations, journals on disk, phases.

mod claims;
mod cold;
mod died;
mod facts;
mod fake;
mod lease;
mod leftovers;
mod phases;
mod races;
mod resolved;
mod simulation;
mod story;
mod strict;
mod turns;

use std::{sync::Arc, time::Duration};

use bytesize::ByteSize;
use fake::{Fake, Faults, Local, Trouble, World, relocations};
use jiff::Timestamp;
use tempfile::TempDir;
use vmferry_agent::{migrations::Migrations, turns::Concurrency};
use vmferry_core::{
    agent::{Agent as _, Finished, Half, Pair, Rollback, Sighting},
    compatibility::Check,
    convergence::named,
    flow::{self, Completed, Failure, Plan, Watch},
    host::Claims,
    migration::{
        Cause, Endpoint, Fallback, Handover, Kind, Limits, Order, Outcome, Phase, Progress, Shutdown, Side, Steering,
    },
    reason::Reason,
};

const SHUTDOWN: Shutdown = Shutdown { deadline: Duration::from_secs(1), fallback: Fallback::GiveUp };
/// While it runs, and libvirt hands it over.
const LIVE: (Kind, Handover) = (Kind::Live, Handover::Fast);
/// While it runs, and its source releases it.
const STRICT: (Kind, Handover) = (Kind::Live, Handover::Strict);
/// It is shut down, and started again.
const COLD: (Kind, Handover) = (Kind::Cold { shutdown: Some(SHUTDOWN) }, Handover::Fast);
/// It is off, and stays so.
const OFF: (Kind, Handover) = (Kind::Cold { shutdown: None }, Handover::Fast);
/// Every way to move.
const WAYS: [(Kind, Handover); 4] = [LIVE, STRICT, COLD, OFF];
/// Longer than any check takes here, and short enough to be waited for.
const PROBE_LIFE: Duration = Duration::from_secs(1);

const ONE_AT_A_TIME: Concurrency = Concurrency { incoming: 1, outgoing: 1 };
const MANY_AT_A_TIME: Concurrency = Concurrency { incoming: 64, outgoing: 64 };

/// Two agents and the world they act on.
struct Rig {
    world: Arc<World>,
    /// Until the end.
    _directory: TempDir,
    source: Migrations<Fake>,
    destination: Migrations<Fake>,
    order: Order,
    places: Concurrency,
}

struct Unwatched;

impl Watch for Unwatched {
    fn phase(&self, _: Phase) {}
    fn progress(&self, _: Progress) {}
    fn is_cancelled(&self) -> bool {
        false
    }
}

impl Rig {
    fn new(faults: Faults) -> Self {
        Self::of(Kind::Live, faults)
    }

    /// No migration waits for another.
    fn for_many() -> Self {
        Self::with(Kind::Live, Faults::none(), MANY_AT_A_TIME)
    }

    fn of(kind: Kind, faults: Faults) -> Self {
        Self::by((kind, Handover::Fast), faults)
    }

    fn by((kind, handover): (Kind, Handover), faults: Faults) -> Self {
        let mut rig = Self::with(kind, faults, ONE_AT_A_TIME);
        rig.order.limits.handover = handover;
        rig
    }

    fn with(kind: Kind, faults: Faults, places: Concurrency) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let world = World::new(directory.path(), faults, at_rest(kind));
        let start = |host| start(&world, host, places);
        let (source, destination) = (start("source"), start("destination"));
        Self { world, _directory: directory, source, destination, order: moves(kind), places }
    }

    fn hosts(&self) -> Pair<Local<'_>, Local<'_>> {
        let local = |migrations| Local { migrations, world: &self.world };
        Pair { source: local(&self.source), destination: local(&self.destination) }
    }

    async fn run(&self) -> Result<Completed, Failure> {
        Box::pin(flow::run(&self.hosts(), &self.order, &Unwatched)).await
    }

    /// What each half needs for its pre.
    async fn check(&self) -> (Half, Half) {
        let plan = flow::check(&self.hosts(), &self.order, &Unwatched).await.expect("checked");
        assert!(!plan.is_refused(), "{plan:#?}");
        assert_eq!(self.world.leftovers(), Vec::<String>::new(), "a check leaves nothing");
        let Plan { leaving, resolved, .. } = plan;
        (Half::Source { resolved: resolved.clone() }, Half::Destination { leaving: Box::new(leaving), resolved })
    }

    /// Probe files that nobody said to remove go by themselves, soon; so does what a restarted agent finds.
    async fn quiet(&self) {
        for _ in 0..300 {
            if !self.is_unfinished() && self.world.leftovers().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Check and pre, well done.
    async fn get_ready(&self) {
        let hosts = self.hosts();
        let (source_half, destination_half) = self.check().await;
        hosts.source.pre(&self.order, &source_half).await.expect("ready");
        hosts.destination.pre(&self.order, &destination_half).await.expect("ready");
    }

    /// As `vmferry migrations resolve` does, after the faults have stopped.
    async fn resolve(&self) -> Result<Completed, Failure> {
        self.world.calm();
        flow::resolve(&self.hosts(), &self.order, &Unwatched).await
    }

    /// The agent's process is gone; a new one finds its journals.
    fn restart(&mut self, side: Side) {
        self.world.calm();
        self.begin_again(side);
    }

    /// The same, and the host says nothing to the new one.
    fn restart_blind(&mut self, side: Side) {
        self.world.stop();
        self.begin_again(side);
    }

    fn begin_again(&mut self, side: Side) {
        match side {
            Side::Source => {
                self.world.drop_process("source");
                self.source = start(&self.world, "source", self.places);
            }
            Side::Destination => {
                self.world.drop_process("destination");
                self.destination = start(&self.world, "destination", self.places);
            }
        }
    }

    fn is_open(&self) -> bool {
        !self.source.records(true).is_empty() || !self.destination.records(true).is_empty()
    }

    /// Whether `migrations resolve` has something to do.
    fn is_unfinished(&self) -> bool {
        let records = [self.source.records(false), self.destination.records(false)].concat();
        self.is_open() || records.iter().any(|record| !record.pending.is_empty())
    }

    fn assert_invariants(&self, case: &str) {
        assert_settled(&self.world, [&self.source, &self.destination], &self.order, case);
    }
}

/// I1 is asserted by the world at each change, I5 at each step.
fn assert_settled(world: &World, agents: [&Migrations<Fake>; 2], order: &Order, case: &str) {
    // Running, unless it was off.
    let as_before = at_rest(order.kind);
    let is_on_source = world.sees("source") == as_before;
    let is_on_destination = world.sees("destination") == as_before;
    assert!(is_on_source ^ is_on_destination, "I4, {case}: the guest is as it was, exactly once");
    assert_eq!(world.leftovers(), Vec::<String>::new(), "I2, {case}");
    for migrations in agents {
        let open = migrations.records(true);
        assert!(open.is_empty(), "I3, {case}: {open:?}");
        assert_eq!(migrations.gate().claims(None), Claims::default(), "I2, {case}: nothing stays promised");
        for record in migrations.records(false) {
            assert_eq!(record.pending, Vec::<String>::new(), "I2, {case}");
            let moved = matches!(record.outcome, Some(Outcome::Completed | Outcome::CompletedWithWarnings));
            assert_eq!(moved, is_on_destination, "the record tells the truth, {case}");
            assert!(record.guest.is_none_or(|guest| guest == as_before), "so it does of the guest, {case}: {record:?}");
        }
    }
    if is_on_destination {
        assert_eq!(world.sees("source"), Sighting::Absent, "I2, {case}: no definition stays behind");
        assert!(world.is_persistent("destination"), "I4, {case}: the definition is kept");
        let told = agents[0].records(false)[0].warnings.iter().any(|warning| warning.contains("groups sync"));
        let is_noted = world.noted().as_ref() == Some(&order.destination.host);
        assert!(is_noted || told, "{case}: the source knows whose guest it is now, or says that it does not");
    } else {
        assert_eq!(world.noted(), None, "{case}: it is the source's");
        assert_eq!(world.sees("destination"), Sighting::Absent, "I2, {case}");
    }
}

/// The guest shall move.
fn moves(kind: Kind) -> Order {
    let endpoint = |host: &str| Endpoint { host: host.parse().expect("valid"), address: "192.0.2.1:7443".into() };
    Order {
        id: "0197a000-0000-7000-8000-000000000001".parse().expect("valid"),
        instance: fake::INSTANCE.parse().expect("valid"),
        instance_name: "web".into(),
        source: endpoint("source"),
        destination: endpoint("destination"),
        kind,
        limits: Limits::default(),
        priority: Default::default(),
    }
}

/// What its host shows of a guest before and after a migration of this kind.
fn at_rest(kind: Kind) -> Sighting {
    if kind == (Kind::Cold { shutdown: None }) { Sighting::Shutoff } else { Sighting::Running }
}

fn ways_and(ways: &[(Kind, Handover)], troubles: [Trouble; 2]) -> impl Iterator<Item = ((Kind, Handover), Trouble)> {
    ways.iter().copied().flat_map(move |way| troubles.map(|trouble| (way, trouble)))
}

/// A cause as a coordinator would give it.
fn because(order: &Order, reason: Reason) -> Cause {
    Cause { reason, host: order.source.host.clone(), message: "for the test's own reasons".into() }
}

fn rollback(side: Side, cause: &Cause) -> Rollback {
    Rollback { side, cause: cause.clone(), released: false, kept: false }
}

fn start(world: &Arc<World>, host: &'static str, places: Concurrency) -> Migrations<Fake> {
    let directory = world.state_directory(host);
    let host = Arc::new(Fake::new(host, Arc::clone(world)));
    Migrations::start(host, &directory, Timestamp::MIN, PROBE_LIFE, places).expect("readable")
}
