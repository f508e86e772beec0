//! Room that is promised: never twice, whoever asks at the same time, and to nobody any more once a migration is over.

use futures::future::join_all;
use vmferry_agent::hypervisor::{Housing as _, Hypervisor as _};
use vmferry_core::{
    affinity::{AffinityPolicy, Membership},
    agent::{CallError, Leaving},
    domain_xml::{Definition, metadata::affinity},
    host::{Capacity, Claim, Claims, Taken},
    id::{InstanceId, MigrationId},
};

use super::*;

/// What the guest may have.
const MEMORY: ByteSize = ByteSize::mib(256);

fn capacity(guests: u64) -> Capacity {
    Capacity { memory: ByteSize::b(MEMORY.as_u64() * guests), vcpus: 64, instances: None, incoming: 64, outgoing: 64 }
}

impl Rig {
    /// What is taken of the destination.
    async fn taken(&self) -> Taken {
        let claims = self.destination.gate().claims(None);
        self.destination.host().space(&claims).await.expect("nothing fails").taken
    }

    /// Another guest of that size, without disks, that wants to come to the destination.
    async fn admit_another(&self, number: u128, like: &Half) -> Result<(), CallError> {
        self.admit_member(number, &[], like).await
    }

    /// The same, in those affinity groups.
    async fn admit_member(&self, number: u128, said: &[Membership], like: &Half) -> Result<(), CallError> {
        let Half::Destination { leaving, .. } = like else { panic!("{like:?}") };
        let instance = InstanceId(uuid::Uuid::from_u128(number));
        let xml = format!(
            "<domain type='qemu'><name>other-{number}</name><uuid>{instance}</uuid><memory unit='MiB'>256</memory>
             <vcpu>1</vcpu><metadata>{}</metadata><os><type arch='x86_64' machine='q35'>hvm</type></os><devices/></domain>",
            affinity::write(said)
        );
        let definition = Definition::parse(&xml).expect("valid");
        let leaving = Box::new(Leaving { definition, filters: Vec::new(), ..Leaving::clone(leaving) });
        let order = self.order_of(number);
        let half = Half::Destination { leaving, resolved: Vec::new() };
        let migration = self.destination.open(&order, Side::Destination, "vmferry://test/coordinator/other".into())?;
        migration.pre(&half).await.map(drop)
    }

    fn order_of(&self, number: u128) -> Order {
        Order {
            id: MigrationId(uuid::Uuid::from_u128(number)),
            instance: InstanceId(uuid::Uuid::from_u128(number)),
            instance_name: format!("other-{number}"),
            ..self.order.clone()
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_come_at_once_no_more_are_let_in_than_there_is_room_for() {
    for places in [0, 1, 7] {
        let rig = Rig::for_many();
        let (_, half) = rig.check().await;
        rig.world.give(capacity(places));
        let answers = join_all((1..=24).map(|number| rig.admit_another(number, &half))).await;
        let (let_in, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(let_in.len() as u64, places, "{refused:?}");
        for refusal in refused {
            let refusal = refusal.expect_err("refused");
            assert_eq!(refusal.reason, Reason::MemoryShort, "{refusal:?}");
        }
        let taken = rig.taken().await;
        assert_eq!((taken.memory, taken.vcpus), (capacity(places).memory, u32::try_from(places).expect("few")));

        // Each way out gives the room back: of those that were let in as of those that were not.
        let cause = because(&rig.order, Reason::CoordinatorLost);
        for number in 1..=24 {
            let migration = rig.destination.of(&rig.order_of(number)).expect("opened");
            migration.cleanup(rollback(Side::Destination, &cause)).await.expect("taken back");
        }
        assert_eq!(rig.destination.gate().claims(None), Claims::default());
        assert_eq!(rig.taken().await, Taken::default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_counts_those_that_are_on_their_way() {
    let plenty = capacity(64);
    for (given, reason) in [
        (Capacity { vcpus: 1, ..plenty }, Reason::CpusShort),
        (Capacity { instances: Some(1), ..plenty }, Reason::HostFull),
        (Capacity { memory: MEMORY, ..plenty }, Reason::MemoryShort),
    ] {
        let rig = Rig::for_many();
        let (_, half) = rig.check().await;
        rig.world.give(given);
        rig.admit_another(1, &half).await.expect("there is room for one");
        let refused = rig.admit_another(2, &half).await.expect_err("and for no more");
        assert_eq!(refused.reason, reason, "{refused:?}");
        assert_eq!(refused.host, *rig.destination.host().name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_that_must_be_apart_one_is_let_in_however_many_come_at_once() {
    let said = |policy| [Membership { group: "db".parse().expect("valid"), policy }];
    let rig = Rig::for_many();
    let (_, half) = rig.check().await;
    rig.world.give(capacity(64));
    let apart = said(AffinityPolicy::AntiAffinity);
    let answers = join_all((1..=24).map(|number| rig.admit_member(number, &apart, &half))).await;
    let (let_in, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((let_in.len(), refused.len()), (1, 23));
    for refusal in refused {
        assert_eq!(refusal.expect_err("refused").reason, Reason::AffinityViolated);
    }
    rig.admit_member(30, &said(AffinityPolicy::SoftAntiAffinity), &half).await.expect("it would only rather not");
    rig.admit_another(31, &half).await.expect("it is in no group");

    // Who has gone again keeps nobody out.
    let cause = because(&rig.order, Reason::CoordinatorLost);
    for number in (1..=24).chain([30]) {
        let migration = rig.destination.of(&rig.order_of(number)).expect("opened");
        migration.cleanup(rollback(Side::Destination, &cause)).await.expect("taken back");
    }
    rig.admit_member(40, &apart, &half).await.expect("it is alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn room_that_is_gone_since_the_checks_is_missed_in_pre_and_the_guest_stays() {
    let rig = Rig::for_many();
    let (source_half, destination_half) = rig.check().await;
    rig.world.give(capacity(0));
    let hosts = rig.hosts();
    hosts.source.pre(&rig.order, &source_half).await.expect("ready");
    let refused = hosts.destination.pre(&rig.order, &destination_half).await.expect_err("no room");
    assert_eq!(refused.reason, Reason::MemoryShort);
    // There is room again, but a repeat hears what the first call heard.
    rig.world.give(capacity(9));
    let again = hosts.destination.pre(&rig.order, &destination_half).await.expect_err("it was refused");
    assert_eq!(again, refused);
    assert_eq!(rig.destination.gate().claims(None).coming.len(), 0);
    let ended = rig.resolve().await.expect_err("it did not move");
    assert_eq!(ended.outcome(), Some(Outcome::FailedRolledBack));
    rig.assert_invariants("refused in pre");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_takes_its_room_once_from_pre_until_long_after_post() {
    for way in WAYS {
        let (rig, kind) = (Rig::by(way, Faults::none()), way.0);
        let expected = if kind == (Kind::Cold { shutdown: None }) { 0 } else { 1 };
        rig.get_ready().await;
        assert_eq!(rig.taken().await.instances, expected, "{way:?}, on its way");
        assert_eq!(rig.taken().await.incoming, 1);
        let hosts = rig.hosts();
        hosts.source.migrate(&rig.order, &relocations(), &|_| {}).await.expect("moved");
        if kind.shutdown().is_some() {
            hosts.destination.start(&rig.order).await.expect("started");
        }
        assert_eq!(rig.taken().await.instances, expected, "{way:?}, there, and not final yet");
        rig.resolve().await.expect("forward");
        assert_eq!(rig.taken().await.instances, expected, "{way:?}, there");
        assert_eq!(rig.taken().await.incoming, 0);
        rig.assert_invariants("after it has moved");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_of_a_guest_that_is_off_meanwhile_keeps_its_room() {
    let rig = Rig::by(COLD, Faults::none());
    rig.get_ready().await;
    let claims = rig.source.gate().claims(None);
    assert_eq!((claims.returning, claims.outgoing), ([rig.order.instance].into(), 1));
    rig.resolve().await.expect_err("it had not begun to move");
    rig.assert_invariants("taken back");
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_outlive_the_agent() {
    let mut rig = Rig::for_many();
    let (_, half) = rig.check().await;
    for number in 1..=3 {
        rig.admit_another(number, &half).await.expect("there is room");
    }
    let claims = rig.destination.gate().claims(None);
    let claim = |number| Claim { memory: MEMORY, vcpus: 1, name: format!("other-{number}"), ..Claim::default() };
    assert_eq!(claims.coming.values().cloned().collect::<Vec<_>>(), [1, 2, 3].map(claim));
    // The new process can do nothing to its host yet, so it cannot give anything up.
    let before = rig.world.steps();
    rig.restart_blind(Side::Destination);
    while rig.world.steps() < before + 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(rig.destination.gate().claims(None), claims);
    rig.world.calm();
    rig.restart(Side::Destination);
    rig.quiet().await;
    assert_eq!(rig.destination.gate().claims(None), Claims::default(), "none of them was on its way any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_cordoned_after_the_checks_takes_nobody_in() {
    let rig = Rig::for_many();
    let (source_half, destination_half) = rig.check().await;
    rig.destination.gate().close("its fans fail", "vmferry://test/coordinator/ops").expect("written");
    let plan = flow::check(&rig.hosts(), &rig.order, &Unwatched).await.expect("checked");
    let refused: Vec<_> = plan.checks.iter().filter_map(Check::refusal).map(|refusal| refusal.reason).collect();
    assert_eq!(refused, [Reason::HostCordoned]);

    let hosts = rig.hosts();
    hosts.source.pre(&rig.order, &source_half).await.expect("ready");
    let refused = hosts.destination.pre(&rig.order, &destination_half).await.expect_err("cordoned");
    assert_eq!(refused.reason, Reason::HostCordoned);
    assert!(refused.message.contains("its fans fail"), "{refused:?}");
    rig.resolve().await.expect_err("it did not move");
    rig.assert_invariants("cordoned before pre");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_was_let_in_arrives_and_guests_of_a_cordoned_host_leave() {
    let mut rig = Rig::for_many();
    rig.get_ready().await;
    for migrations in [&rig.source, &rig.destination] {
        migrations.gate().close("its fans fail", "vmferry://test/coordinator/ops").expect("written");
    }
    rig.restart(Side::Source);
    assert!(rig.source.gate().cordon().is_some(), "it outlives the agent");
    // The restart has ended the first: from a host that is cordoned still.
    rig.resolve().await.expect_err("its source was restarted");
    rig.destination.gate().open().expect("written");
    rig.order.id = "0197a000-0000-7000-8000-000000000002".parse().expect("valid");
    rig.get_ready().await;
    rig.destination.gate().close("its disk fails", "vmferry://test/coordinator/ops").expect("written");
    let hosts = rig.hosts();
    hosts.source.migrate(&rig.order, &relocations(), &|_| {}).await.expect("moved");
    rig.resolve().await.expect("forward");
    assert_eq!(rig.world.sees("destination"), Sighting::Running);
    assert_eq!(rig.destination.gate().claims(None), Claims::default());
}
