//! Two coordinators at once: one drives, and the other changes nothing of it.

use tokio::{runtime::Handle, task::block_in_place};

use super::*;

/// Another coordinator gets ahead of the flow, between its checks and its pre.
struct Overtaken<'a> {
    rig: &'a Rig,
    by: Order,
    both_hosts: bool,
}

impl Watch for Overtaken<'_> {
    fn phase(&self, phase: Phase) {
        if phase != Phase::Pre {
            return;
        }
        let ahead = async {
            let hosts = self.rig.hosts();
            let plan = flow::check(&hosts, &self.by, &Unwatched).await.expect("checked");
            let Plan { leaving, resolved, .. } = plan;
            let half = Half::Source { resolved: resolved.clone() };
            hosts.source.pre(&self.by, &half).await.expect("it is the first");
            if self.both_hosts {
                let half = Half::Destination { leaving: Box::new(leaving), resolved };
                hosts.destination.pre(&self.by, &half).await.expect("it is the first");
            }
        };
        block_in_place(|| Handle::current().block_on(ahead));
    }

    fn progress(&self, _: Progress) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}

impl Rig {
    /// The migrations that are open on both hosts.
    fn open(&self) -> Vec<Order> {
        let open = [&self.source, &self.destination].into_iter().flat_map(|host| host.records(true));
        open.map(|record| record.order).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_second_with_another_id_is_refused_and_told_the_first() {
    let rig = Rig::for_many();
    let mut by = rig.order.clone();
    by.id = "0197a000-0000-7000-8000-000000000002".parse().expect("valid");
    let overtaken = Overtaken { rig: &rig, by: by.clone(), both_hosts: false };
    let failure = Box::pin(flow::run(&rig.hosts(), &rig.order, &overtaken)).await.expect_err("it is taken");
    let Failure::NotStarted(error) = failure else { panic!("{failure:?}") };
    assert_eq!(error.reason, Reason::InstanceMigrating);
    assert!(error.message.contains(&by.id.to_string()), "{error}");
    assert_eq!(rig.open(), [by]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_second_with_the_same_order_is_told_so_and_takes_nothing_back() {
    let rig = Rig::for_many();
    let overtaken = Overtaken { rig: &rig, by: rig.order.clone(), both_hosts: true };
    let failure = Box::pin(flow::run(&rig.hosts(), &rig.order, &overtaken)).await.expect_err("it is driven");
    assert!(matches!(&failure, Failure::NotStarted(error) if error.reason == Reason::InstanceMigrating), "{failure:?}");
    assert_eq!(rig.open(), [rig.order.clone(), rig.order.clone()], "both halves of the first are open");
    let ended = Box::pin(flow::resolve(&rig.hosts(), &rig.order, &Unwatched)).await;
    assert!(matches!(ended, Err(Failure::RolledBack { .. })), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_second_with_the_same_id_and_another_order_takes_nothing_back() {
    let rig = Rig::for_many();
    let mut by = rig.order.clone();
    by.limits.policy = named("gentle").expect("built in");
    let overtaken = Overtaken { rig: &rig, by: by.clone(), both_hosts: true };
    let failure = Box::pin(flow::run(&rig.hosts(), &rig.order, &overtaken)).await.expect_err("it is taken");
    assert!(matches!(&failure, Failure::NotStarted(error) if error.reason == Reason::InstanceMigrating), "{failure:?}");
    assert_eq!(rig.open().len(), 2, "both halves of the first are open");
    assert!(rig.open().iter().all(|order| order.id == by.id));
    let ended = Box::pin(flow::resolve(&rig.hosts(), &by, &Unwatched)).await;
    assert!(matches!(ended, Err(Failure::RolledBack { .. })), "{ended:?}");
}
