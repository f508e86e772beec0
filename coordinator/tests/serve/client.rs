//! The crate `vmferry-client`, as programs use it.

use std::{fs, time::Duration};

use tokio::time::{sleep, timeout};
use vmferry_client::{Client, Config, Wish, agent::Outcome};

use super::{ID, OPS, wish};
use crate::cluster::{Cluster, Service};

fn config(cluster: &Cluster, service: &Service) -> Config {
    let name = "fleet".into();
    Config { name, ..Config::new(&service.address, &cluster.certificates(OPS)) }
}

#[tokio::test]
async fn what_became_of_a_migration_is_told_only_as_far_as_it_can_be_known() {
    let mut cluster = Cluster::new().await;
    let service = cluster.serve().await;
    let client = Client::connect(&config(&cluster, &service)).await.expect("certificates");
    let id = ID.parse().expect("valid");

    cluster.world().refuses = true;
    let refused = client.migrate_as(id, wish(), |_| {}).await.expect_err("refused");
    assert_eq!((refused.reason.to_string().as_str(), refused.migration), ("MEMORY_SHORT", None));
    let nonsense = client.migrate_as(id, Wish::default(), |_| {}).await.expect_err("no wish");
    assert_eq!(nonsense.migration, None);
    cluster.world().refuses = false;

    // It may be there, and go on.
    cluster.stop(0).await;
    let later = cluster.serve().await;
    let client = Client::connect(&config(&cluster, &later)).await.expect("certificates");
    let unknown = client.migrate_as(id, wish(), |_| {}).await.expect_err("its source is silent");
    assert_eq!((unknown.reason.to_string().as_str(), unknown.migration), ("AGENT_UNREACHABLE", Some(id)));
    assert!(unknown.message.contains("ask again with the same id"), "{unknown}");
}

#[tokio::test]
async fn certificates_that_are_replaced_are_taken_up() {
    let (cluster, elsewhere) = (Cluster::new().await, Cluster::new().await);
    let service = cluster.serve().await;
    let ours = tempfile::tempdir().expect("a directory");
    let replace = |by: &Cluster| {
        for file in ["ca.pem", "cert.pem", "key.pem"] {
            let new = ours.path().join(format!("{file}.new"));
            fs::copy(by.certificates(OPS).join(file), &new).expect("copied");
            fs::rename(new, ours.path().join(file)).expect("replaced");
        }
    };
    replace(&elsewhere);
    let config = Config { name: "fleet".into(), ..Config::new(&service.address, ours.path()) };
    let client = Client::connect(&config).await.expect("certificates");
    let strangers = client.list_inventory().await.expect_err("of another CA");
    assert_eq!(strangers.reason.to_string(), "COORDINATOR_UNTRUSTED");
    replace(&cluster);
    let trusted = async {
        while client.list_inventory().await.is_err() {
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(Duration::from_secs(20), trusted).await.expect("it looks every two seconds");
    let ended = client.migrate(wish(), |_| {}).await.expect("ended");
    assert_eq!(ended.outcome(), Outcome::Completed);
}
