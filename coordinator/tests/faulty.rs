//! Agents that hang, answer garbage, or go away in the middle of what they say: each costs its own row, and no guest anything.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, Lossy, Misbehaviour};

/// More than a look at a host may take.
const LONG: Duration = Duration::from_secs(20);

/// What is said of a host that could not be listed.
fn reason<'a>(document: &'a Value, host: &str) -> Option<&'a str> {
    let silent = document["unreachable"].as_array()?.iter().find(|silent| silent["host"] == host)?;
    silent["reason"].as_str()
}

fn state<'a>(document: &'a Value, host: &str) -> [Option<&'a str>; 2] {
    let rows = document["hypervisors"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["name"] == host).unwrap_or_else(|| panic!("no row of {host}: {document:#}"));
    [row["state"].as_str(), row["reason"].as_str()]
}

async fn with_a_third(misbehaviour: Misbehaviour) -> Cluster {
    let mut cluster = Cluster::new().await;
    cluster.add("node-32").await;
    cluster.world().misbehaves = Some(("node-32", misbehaviour));
    cluster
}

#[tokio::test]
async fn an_agent_that_answers_nonsense_costs_its_own_row_only() {
    for (misbehaviour, expected) in [
        (Misbehaviour::Garbage, "AGENT_UNREACHABLE"),
        (Misbehaviour::Nothing, "INTERNAL"),
        (Misbehaviour::Breaks, "AGENT_UNREACHABLE"),
    ] {
        let cluster = with_a_third(misbehaviour).await;
        let (code, hosts) = cluster.json("hypervisors").await;
        assert_eq!((code, state(&hosts, "node-28")), (0, [Some("up"), None]), "{misbehaviour:?}: {hosts:#}");
        assert_eq!(state(&hosts, "node-32"), [Some("down"), Some(expected)], "{misbehaviour:?}: {hosts:#}");

        let (code, instances) = cluster.json("instances").await;
        assert_eq!((code, instances["instances"][0]["name"].as_str()), (0, Some("web")), "{instances:#}");
        assert_eq!(reason(&instances, "node-32"), Some(expected), "{misbehaviour:?}: {instances:#}");

        // Nobody is sent there, and it keeps nobody from going elsewhere.
        let (code, moved) = cluster.json("migrate web").await;
        assert_eq!((code, moved["runs_on"].as_str()), (0, Some("node-31")), "{misbehaviour:?}: {moved:#}");
    }
}

#[tokio::test]
async fn a_destination_that_answers_nonsense_gets_no_guest() {
    for misbehaviour in [Misbehaviour::Garbage, Misbehaviour::Nothing, Misbehaviour::Breaks] {
        let cluster = with_a_third(misbehaviour).await;
        let (code, document) = cluster.json("migrate web --to node-32").await;
        assert!([1, 3, 7].contains(&code), "{misbehaviour:?}: {document:#}");
        assert_eq!(document["runs_on"].as_str(), Some("node-28"), "{misbehaviour:?}: {document:#}");
        let message = document["message"].as_str().unwrap_or_default();
        assert!(message.contains("node-32") && message.contains("nothing was changed"), "{misbehaviour:?}: {message}");
        assert!(cluster.world().records.is_empty() && !cluster.world().on_destination);
    }
}

#[tokio::test]
async fn an_agent_that_hangs_is_not_waited_for_forever() {
    let cluster = with_a_third(Misbehaviour::Hangs).await;
    let began = Instant::now();
    let ((listed, hosts), (found, instances), (moved, ended)) =
        tokio::join!(cluster.json("hypervisors"), cluster.json("instances"), cluster.json("migrate web"));
    assert!(began.elapsed() < LONG * 2, "{:?}", began.elapsed());
    assert_eq!((listed, state(&hosts, "node-32")), (0, [Some("down"), Some("AGENT_UNREACHABLE")]), "{hosts:#}");
    assert_eq!(state(&hosts, "node-31"), [Some("up"), None], "{hosts:#}");
    assert_eq!((found, reason(&instances, "node-32")), (0, Some("AGENT_UNREACHABLE")), "{instances:#}");
    assert_eq!((moved, ended["runs_on"].as_str()), (0, Some("node-31")), "{ended:#}");
}

/// What came before the end is not taken for all there is.
#[tokio::test]
async fn a_connection_that_closes_in_the_middle_of_a_list_lists_nothing_of_that_host() {
    let mut cluster = Cluster::new().await;
    cluster.world().crowd = 2_000;
    let (_, address) = cluster.hosts().swap_remove(1);
    let (code, whole) = cluster.json("instances").await;
    assert_eq!((code, whole["instances"].as_array().map(Vec::len)), (0, Some(2_001)));

    let way = Lossy::to(address.clone(), 60_000).await;
    let hosts: String = cluster
        .hosts()
        .into_iter()
        .map(|(name, at)| {
            let at = if at == address { way.address.to_string() } else { at };
            format!("[[host]]\nname = \"{name}\"\naddress = \"{at}\"\n")
        })
        .collect();
    cluster.find_hosts(&hosts);
    let (code, cut) = cluster.json("instances").await;
    assert_eq!(code, 0, "{:#}", cut["unreachable"]);
    assert_eq!(cut["instances"].as_array().map(Vec::len), Some(1), "only what the other host has");
    assert_eq!(reason(&cut, "node-31"), Some("AGENT_UNREACHABLE"), "{:#}", cut["unreachable"]);
    // Whether there is another `web` there, nobody knows: that is said.
    let output = cluster.vmferry("migrate crowd-7 --to node-28").await.code(7).get_output().clone();
    assert!(crate::cluster::said(&output).contains("node-31"), "{}", crate::cluster::said(&output));
    cluster.stop(0).await;
}
