//! What migrations leave whose journals are lost.

use std::fs;

use tokio_util::sync::CancellationToken;
use vmferry_agent::hypervisor::Examining as _;
use vmferry_core::leftovers::{Kind as Left, LeftoverName, Removal};

use super::*;

/// The destination's agent dies once it is ready for a guest, and its journal is lost. The source's half is open.
async fn lost() -> Rig {
    let mut rig = Rig::new(Faults::none());
    rig.get_ready().await;
    let journal = rig.world.state_directory("destination").join(format!("journal/{}.jsonl", rig.order.id));
    fs::remove_file(journal).expect("it was written");
    rig.restart(Side::Destination);
    rig
}

async fn names(migrations: &Migrations<Fake>) -> Vec<LeftoverName> {
    let found = migrations.leftovers().await.expect("looked at");
    assert!(found.iter().all(|finding| finding.leftover.removable), "{found:?}");
    found.iter().map(|finding| finding.leftover.name()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_is_removed_once_it_is_named_and_what_is_in_hand_is_not() {
    let rig = lost().await;
    let directory = LeftoverName { kind: Left::Directory, subject: format!("/run/{}", rig.order.id) };
    assert_eq!(names(&rig.source).await, [], "its migration goes on");
    assert_eq!(names(&rig.destination).await, std::slice::from_ref(&directory));

    let other = LeftoverName { subject: "/run/other".into(), ..directory.clone() };
    let same_elsewhere = LeftoverName { kind: Left::Link, ..directory.clone() };
    let removed = rig.destination.remove_leftovers(&[other, same_elsewhere]).await;
    assert_eq!(removed.expect("looked at"), [Removal::NotFound, Removal::NotFound]);
    assert_eq!(names(&rig.destination).await.len(), 1, "nothing was named that is there");
    // What the source has of it is in use, whoever names it.
    let removed = rig.source.remove_leftovers(std::slice::from_ref(&directory)).await;
    assert_eq!(removed.expect("looked at"), [Removal::NotFound]);
    assert_eq!(rig.source.host().holdings().await.expect("seen").directories.len(), 1);

    let twice = [directory.clone(), directory.clone()];
    let removed = rig.destination.remove_leftovers(&twice).await.expect("looked at");
    assert_eq!(removed, [Removal::Removed, Removal::Removed]);
    assert_eq!(names(&rig.destination).await, []);
    let removed = rig.destination.remove_leftovers(&twice).await.expect("looked at");
    assert_eq!(removed, [Removal::NotFound, Removal::NotFound]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_tidies_up_by_itself_after_what_it_has_no_journal_of() {
    let rig = lost().await;
    // Once, and no more.
    let stopped = CancellationToken::new();
    stopped.cancel();
    rig.source.keep_tidy(stopped.clone()).await;
    rig.destination.keep_tidy(stopped).await;
    assert_eq!(names(&rig.destination).await, []);
    assert!(rig.destination.host().holdings().await.expect("seen").directories.is_empty());
    assert_eq!(rig.source.host().holdings().await.expect("seen").directories.len(), 1, "its migration goes on");
}
