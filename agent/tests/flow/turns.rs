//! Migrations that wait for their turn: one at a time comes, and one at a time leaves.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use vmferry_core::turns::{Admission, Waiting};

use super::*;

const BY: &str = "vmferry://test/coordinator/other";
const LONG: Duration = Duration::from_secs(10);

/// Another guest's migration between the same hosts.
fn another(rig: &Rig, number: u8) -> Order {
    let mut order = rig.order.clone();
    order.id = format!("0197a000-0000-7000-8000-0000000000{number:02x}").parse().expect("valid");
    order.instance = format!("4dea22b3-1d52-d8f3-2516-782e98ab3f{number:02x}").parse().expect("valid");
    order.instance_name = format!("db-{number}");
    order
}

async fn ask(migrations: &Migrations<Fake>, order: &Order, side: Side, hold: Duration) -> Result<bool, Reason> {
    let asked = migrations.admit(order, side, BY, hold).await;
    asked.map(|admission| admission == Admission::Turn).map_err(|error| error.reason)
}

/// Remembers why it waits; may be impatient.
#[derive(Default)]
struct Onlooker {
    reasons: Mutex<Vec<Waiting>>,
    is_cancelled: AtomicBool,
    phases: Mutex<Vec<Phase>>,
}

impl Onlooker {
    async fn waits(&self) {
        while self.reasons.lock().expect("no panic").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Watch for Onlooker {
    fn phase(&self, phase: Phase) {
        self.phases.lock().expect("no panic").push(phase);
    }
    fn waiting(&self, waiting: &Waiting) -> Duration {
        self.reasons.lock().expect("no panic").push(waiting.clone());
        Duration::MAX
    }
    fn progress(&self, _: Progress) {}
    fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_open_has_the_place_until_its_outcome_is_decided() {
    let rig = Rig::new(Faults::none());
    rig.get_ready().await;
    let other = another(&rig, 2);
    for (migrations, side) in [(&rig.source, Side::Source), (&rig.destination, Side::Destination)] {
        assert_eq!(ask(migrations, &other, side, Duration::ZERO).await, Ok(false));
        let waiter = migrations.waiters().pop().expect("it waits");
        assert_eq!((waiter.order, waiter.requested_by.as_str()), (other.clone(), BY));
        assert_eq!((waiter.waiting.side, waiter.waiting.busy), (side, vec!["web".to_owned()]));
        // Whoever does not ask is not let in either, and nothing of it is written down.
        let refused = migrations.open(&another(&rig, 3), side, BY.into()).expect_err("full");
        assert_eq!(refused.reason, Reason::TooManyMigrations);
        assert!(refused.message.contains("now web; db-2 is before it"), "{refused}");
        assert_eq!(migrations.records(false).len(), 1);
        assert_eq!(ask(migrations, &rig.order, side, Duration::ZERO).await, Ok(true), "what is open has its turn");
    }
    // The held answer comes as soon as there is a place.
    let (_, turn) = tokio::join!(rig.resolve(), ask(&rig.source, &other, Side::Source, LONG));
    assert_eq!(turn, Ok(true));
    assert_eq!(ask(&rig.destination, &other, Side::Destination, Duration::ZERO).await, Ok(true));
    rig.assert_invariants("another waited");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restarted_agent_takes_up_has_its_place_and_who_waited_asks_again() {
    let mut rig = Rig::new(Faults::none());
    rig.get_ready().await;
    rig.hosts().source.migrate(&rig.order, &relocations(), &|_| {}).await.expect("moved");
    let other = another(&rig, 2);
    assert_eq!(ask(&rig.source, &other, Side::Source, Duration::ZERO).await, Ok(false));
    rig.restart(Side::Source);
    assert!(rig.source.waiters().is_empty());
    assert_eq!(ask(&rig.source, &other, Side::Source, Duration::ZERO).await, Ok(false));
    rig.resolve().await.expect("forward");
    assert_eq!(ask(&rig.source, &other, Side::Source, Duration::ZERO).await, Ok(true));
    rig.assert_invariants("restarted while another waited");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_waits_for_each_host_and_checks_again() {
    for side in [Side::Source, Side::Destination] {
        let rig = Rig::new(Faults::none());
        let (other, migrations) = match side {
            Side::Source => (another(&rig, 2), &rig.source),
            Side::Destination => (another(&rig, 2), &rig.destination),
        };
        assert_eq!(ask(migrations, &other, side, Duration::ZERO).await, Ok(true));
        let onlooker = Onlooker::default();
        let (hosts, freed) = (rig.hosts(), async {
            onlooker.waits().await;
            if side == Side::Destination {
                // It has its turn on the source meanwhile.
                assert_eq!(ask(&rig.source, &another(&rig, 3), Side::Source, Duration::ZERO).await, Ok(false));
            }
            assert_eq!(rig.world.leftovers(), Vec::<String>::new(), "nothing is done for one that waits");
            assert!(!rig.is_open());
            migrations.withdraw(other.id);
        });
        let (ended, ()) = tokio::join!(flow::run(&hosts, &rig.order, &onlooker), freed);
        assert_eq!(ended.expect("it goes in the end").outcome(), Outcome::Completed);
        let reasons = onlooker.reasons.into_inner().expect("no panic");
        assert_eq!((reasons[0].side, reasons[0].busy.as_slice()), (side, &["db-2".to_owned()][..]));
        let phases = onlooker.phases.into_inner().expect("no panic");
        assert_eq!(phases, [Phase::Check, Phase::Check, Phase::Pre, Phase::Migrate, Phase::Post]);
        rig.assert_invariants("it waited");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_the_wait_changes_nothing_and_gives_every_turn_back() {
    for is_another in [false, true] {
        let rig = Rig::new(Faults::none());
        let other = another(&rig, 2);
        assert_eq!(ask(&rig.destination, &other, Side::Destination, Duration::ZERO).await, Ok(true));
        let onlooker = Onlooker::default();
        let (hosts, ends) = (rig.hosts(), async {
            onlooker.waits().await;
            if is_another {
                rig.destination.abort(rig.order.id, BY).expect("it waits there");
            } else {
                onlooker.is_cancelled.store(true, Ordering::Relaxed);
                rig.destination.withdraw(rig.order.id);
            }
        });
        let (ended, ()) = tokio::join!(flow::run(&hosts, &rig.order, &onlooker), ends);
        assert!(
            matches!(&ended, Err(Failure::NotStarted(error)) if error.reason == Reason::MigrationAborted),
            "{ended:?}"
        );
        assert!(rig.source.records(false).is_empty() && rig.destination.records(false).is_empty());
        assert!(rig.source.waiters().is_empty() && rig.destination.waiters().is_empty());
        // The turn that it had is another's at once.
        assert_eq!(ask(&rig.source, &other, Side::Source, Duration::ZERO).await, Ok(true));
        rig.assert_invariants("it did not want to wait");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_aborted_with_its_turn_begins_nothing() {
    let rig = Rig::new(Faults::none());
    let (source_half, _) = rig.check().await;
    assert_eq!(ask(&rig.source, &rig.order, Side::Source, Duration::ZERO).await, Ok(true));
    rig.source.abort(rig.order.id, BY).expect("it has not begun");
    assert_eq!(ask(&rig.source, &rig.order, Side::Source, Duration::ZERO).await, Err(Reason::MigrationAborted));
    let refused = rig.hosts().source.pre(&rig.order, &source_half).await.expect_err("aborted");
    assert_eq!(refused.reason, Reason::MigrationAborted);
    assert!(rig.source.records(false).is_empty());
    let unknown = rig.source.abort(another(&rig, 2).id, BY).expect_err("nobody knows it");
    assert_eq!(unknown.reason, Reason::MigrationNotFound);
    assert_eq!(ask(&rig.source, &another(&rig, 2), Side::Source, Duration::ZERO).await, Ok(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_begun_and_refused_migration_gives_its_other_turn_back() {
    let rig = Rig::new(Faults::none());
    // The order is meant for both hosts; the source never hears of it.
    assert_eq!(ask(&rig.destination, &rig.order, Side::Destination, Duration::ZERO).await, Ok(true));
    let other = another(&rig, 2);
    assert_eq!(ask(&rig.destination, &other, Side::Destination, Duration::ZERO).await, Ok(false));
    let cause = because(&rig.order, Reason::MigrationFailed);
    let unknown = rig.hosts().destination.cleanup(&rig.order, &rollback(Side::Destination, &cause)).await;
    assert_eq!(unknown.expect_err("it was never opened").reason, Reason::MigrationNotFound);
    assert_eq!(ask(&rig.destination, &other, Side::Destination, Duration::ZERO).await, Ok(true));
}
