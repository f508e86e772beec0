//! How long it is asked, and how often something is tried, until people are told: of hosts that go on saying the same.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use vmferry_core::{
    agent::{Agent, CallError, CheckReport, Finished, Half, Leaving, Pair, Rollback, Sighting},
    domain_xml::rewrite::Relocation,
    flow::{self, Completed, Failure, Watch},
    id::HostName,
    migration::{Endpoint, Handover, Kind, Limits, Order, Phase, Progress, Record, Side, Statistics},
    reason::Reason,
    resolution::{DestinationFacts, DestinationMark, Domain, Job, Seen, SourceFacts, SourceMark, Way},
    turns::Admission,
};

const MOVING: Seen = Seen { domain: Domain::Running, job: Job::Outgoing, qemu: None };
const RUNS: Seen = Seen { domain: Domain::Running, job: Job::None, qemu: None };
const STOPPED: Seen = Seen { domain: Domain::PausedToMove, job: Job::None, qemu: None };
const ARRIVING: Seen = Seen { domain: Domain::PausedToMove, job: Job::Incoming, qemu: None };
const ABSENT: Seen = Seen { domain: Domain::Absent, job: Job::None, qemu: None };

/// A host that goes on saying the same.
struct Same {
    name: HostName,
    source: SourceFacts,
    destination: DestinationFacts,
    /// What the job is said to have come to.
    moved: Reason,
    /// Whether it takes its half back.
    goes_back: bool,
    calls: Mutex<Vec<&'static str>>,
}

impl Same {
    fn new(name: &str, ours: Seen, theirs: Seen) -> Self {
        Self {
            name: name.parse().expect("valid"),
            source: SourceFacts { seen: ours, mark: SourceMark::Moving },
            destination: DestinationFacts { seen: theirs, mark: DestinationMark::Ready, way: Way::Open },
            moved: Reason::LibvirtFailed,
            goes_back: true,
            calls: Mutex::default(),
        }
    }

    fn called(&self, what: &'static str) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    fn times(&self, what: &str) -> usize {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|call| **call == what).count()
    }

    fn error(&self, reason: Reason) -> CallError {
        CallError { host: self.name.clone(), reason, message: format!("{} says no", self.name) }
    }
}

impl Agent for Same {
    fn host(&self) -> &HostName {
        &self.name
    }

    async fn check(&self, _: &Order, _: Side, _: Option<&Leaving>) -> Result<CheckReport, CallError> {
        Err(self.error(Reason::Internal))
    }

    async fn end_check(&self, _: &Order) -> Result<(), CallError> {
        Ok(())
    }

    async fn admit(&self, _: &Order, _: Side, _: Duration) -> Result<Admission, CallError> {
        Ok(Admission::Turn)
    }

    async fn withdraw(&self, _: &Order) -> Result<(), CallError> {
        Ok(())
    }

    async fn pre(&self, _: &Order, _: &Half) -> Result<Vec<Relocation>, CallError> {
        Err(self.error(Reason::Internal))
    }

    async fn migrate(
        &self,
        _: &Order,
        _: &[Relocation],
        _: &(dyn Fn(Progress) + Sync),
    ) -> Result<Statistics, CallError> {
        self.called("migrate");
        Err(self.error(self.moved))
    }

    async fn start(&self, _: &Order) -> Result<Duration, CallError> {
        self.called("start");
        Err(self.error(Reason::AgentUnreachable))
    }

    async fn post(&self, _: &Order, _: Side) -> Result<Finished, CallError> {
        self.called("post");
        Err(self.error(Reason::PhaseOutOfOrder))
    }

    async fn cleanup(&self, _: &Order, _: &Rollback) -> Result<Finished, CallError> {
        self.called("cleanup");
        if self.goes_back { Ok(Finished::default()) } else { Err(self.error(Reason::PhaseOutOfOrder)) }
    }

    async fn locate(&self, _: &Order) -> Result<Sighting, CallError> {
        Ok(Sighting::Running)
    }

    async fn source_facts(&self, _: &Order, hold: Duration) -> Result<SourceFacts, CallError> {
        self.called(if hold.is_zero() { "asked" } else { "asked to wait" });
        Ok(self.source)
    }

    async fn destination_facts(&self, _: &Order, _: Duration) -> Result<DestinationFacts, CallError> {
        Ok(self.destination)
    }

    async fn record(&self, order: &Order) -> Result<Option<Record>, CallError> {
        // The source's job was begun.
        let begun = vmferry_core::migration::PhaseSpan {
            phase: Phase::Migrate,
            started: jiff::Timestamp::UNIX_EPOCH,
            duration: None,
        };
        Ok(Some(Record {
            order: order.clone(),
            side: Side::Source,
            requested_by: "vmferry://c/coordinator/ops".into(),
            driver: None,
            started: jiff::Timestamp::UNIX_EPOCH,
            ended: None,
            phases: vec![begun],
            outcome: None,
            cause: None,
            statistics: None,
            guest: None,
            pending: vec![],
            warnings: vec![],
            story: Default::default(),
        }))
    }
}

struct Unwatched;

impl Watch for Unwatched {
    fn phase(&self, _: Phase) {}
    fn progress(&self, _: Progress) {}
    fn is_cancelled(&self) -> bool {
        false
    }
}

fn order(handover: Handover) -> Order {
    let endpoint = |host: &str| Endpoint { host: host.parse().expect("valid"), address: "192.0.2.1:7443".into() };
    Order {
        id: "0197a000-0000-7000-8000-000000000001".parse().expect("valid"),
        instance: "4dea22b3-1d52-d8f3-2516-782e98ab3fa0".parse().expect("valid"),
        instance_name: "web".into(),
        source: endpoint("node-28"),
        destination: endpoint("node-31"),
        kind: Kind::Live,
        limits: Limits { handover, ..Limits::default() },
        priority: Default::default(),
    }
}

/// Two hosts, with what is to be seen of the guest on each.
fn hosts(ours: Seen, theirs: Seen) -> Pair<Same, Same> {
    Pair { source: Same::new("node-28", ours, theirs), destination: Same::new("node-31", ours, theirs) }
}

async fn resolve(hosts: &Pair<Same, Same>, handover: Handover) -> Result<Completed, Failure> {
    flow::resolve(hosts, &order(handover), &Unwatched).await
}

fn held(ended: Result<Completed, Failure>) -> (Reason, String) {
    match ended {
        Err(Failure::Held { reason, message, .. }) => (reason, message),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_libvirt_does_not_decide_is_waited_for_and_told_then() {
    let hosts = hosts(STOPPED, ARRIVING);
    let (reason, message) = held(resolve(&hosts, Handover::Fast).await);
    assert_eq!(reason, Reason::RunnerUnknown);
    for words in ["libvirt is still busy with web", "node-28", "node-31", "vmferry migrations resolve 0197a000"] {
        assert!(message.contains(words), "{message}");
    }
    let (asked, waited) = (hosts.source.times("asked"), hosts.source.times("asked to wait"));
    assert_eq!((asked, waited), (1, 30), "the source holds its answers back");
    assert_eq!(hosts.source.times("cleanup") + hosts.destination.times("cleanup"), 0, "nothing was changed");
}

#[tokio::test]
async fn a_job_that_nobody_attends_any_more_is_ended_by_the_source() {
    let hosts = hosts(MOVING, ARRIVING);
    let ended = resolve(&hosts, Handover::Strict).await;
    assert!(matches!(ended, Err(Failure::RolledBack { .. })), "{ended:?}");
    assert_eq!(hosts.source.times("asked to wait"), 30, "it was given its time");
    assert_eq!((hosts.source.times("cleanup"), hosts.destination.times("cleanup")), (1, 1));
    // Its agent has said how the call ended: there is nothing to join.
    assert_eq!(hosts.source.times("migrate"), 1);
}

#[tokio::test]
async fn a_job_whose_answer_was_lost_is_joined_before_anything_else() {
    let mut hosts = hosts(MOVING, ARRIVING);
    hosts.source.moved = Reason::AgentUnreachable;
    _ = resolve(&hosts, Handover::Strict).await;
    assert_eq!(hosts.source.times("migrate"), 2);
}

#[tokio::test]
async fn hosts_that_refuse_what_their_facts_allow_are_not_asked_for_ever() {
    let mut pair = hosts(RUNS, ABSENT);
    (pair.source.goes_back, pair.destination.goes_back) = (false, false);
    let (reason, message) = held(resolve(&pair, Handover::Strict).await);
    assert_eq!(reason, Reason::RunnerUnknown);
    assert!(message.contains("node-31 says no") && message.contains("vmferry migrations resolve"), "{message}");
    assert_eq!(pair.source.times("cleanup"), 12);

    let pair = hosts(ABSENT, RUNS);
    let (reason, message) = held(resolve(&pair, Handover::Fast).await);
    assert_eq!(reason, Reason::RunnerUnknown);
    assert!(message.contains("node-31 says no"), "{message}");
    assert_eq!((pair.destination.times("post"), pair.source.times("post")), (12, 0), "the destination first");
}
