//! What the hosts say to whoever resolves a migration.

use vmferry_core::resolution::{DestinationMark, Domain, End, GuestCopy, SourceMark, Way};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn each_host_says_how_far_it_is_and_looking_changes_nothing() {
    let rig = Rig::by(STRICT, Faults::none());
    let (hosts, order) = (rig.hosts(), &rig.order);
    let told = async || {
        let source = hosts.source.source_facts(order, Duration::ZERO).await.expect("it answers");
        let destination = hosts.destination.destination_facts(order, Duration::ZERO).await.expect("it answers");
        ((source.mark, source.seen.copy()), (destination.mark, destination.seen.copy(), destination.way))
    };
    let nothing = (DestinationMark::Nothing, GuestCopy::None, Way::Cut);
    assert_eq!(told().await, ((SourceMark::Nothing, GuestCopy::Runs), nothing));
    assert!(!rig.is_open(), "nobody has begun it by asking");

    rig.get_ready().await;
    let ready = (DestinationMark::Ready, GuestCopy::None, Way::Open);
    assert_eq!(told().await, ((SourceMark::Ready, GuestCopy::Runs), ready));

    hosts.source.migrate(order, &relocations(), &|_| {}).await.expect("it moves");
    let runs = |mark, way| (mark, GuestCopy::Runs, way);
    assert_eq!(
        told().await,
        ((SourceMark::Moved, GuestCopy::None), runs(DestinationMark::Resuming, Way::Open)),
        "the destination has said so"
    );

    rig.resolve().await.expect("forward");
    let over = runs(DestinationMark::Ended(End::Forward), Way::Cut);
    assert_eq!(told().await, ((SourceMark::Ended(End::Forward), GuestCopy::None), over));
    rig.assert_invariants("looked at");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_source_says_so_also_after_a_restart() {
    let mut rig = strict::waiting().await;
    let mark =
        async |rig: &Rig| rig.hosts().source.source_facts(&rig.order, Duration::ZERO).await.expect("it answers").mark;
    rig.world.calm();
    assert_eq!(mark(&rig).await, SourceMark::Released);
    let there = rig.hosts().destination.destination_facts(&rig.order, Duration::ZERO).await.expect("it answers");
    assert_eq!((there.mark, there.seen.domain), (DestinationMark::Ready, Domain::Paused));
    rig.restart(Side::Source);
    let told = async {
        while mark(&rig).await != SourceMark::Moved {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told).await.expect("the next agent has told the destination");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_says_nothing_of_an_order_that_is_not_its_own() {
    let rig = Rig::new(Faults::none());
    let refused = rig.hosts().source.destination_facts(&rig.order, Duration::ZERO).await.expect_err("it is the source");
    assert_eq!(refused.reason, Reason::InvalidRequest);
    rig.get_ready().await;
    let mut other = rig.order.clone();
    other.limits.policy = named("gentle").expect("built in");
    let refused = rig.hosts().source.source_facts(&other, Duration::ZERO).await.expect_err("it is another order");
    assert_eq!(refused.reason, Reason::InvalidRequest);
}
