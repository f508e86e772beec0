//! Hosts that are down in different ways, among many that are not.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use nix::sys::socket::{Backlog, listen};

use crate::cluster::{Cluster, said};

/// What connecting to a host that does not answer may take, and took when each was waited for to its end.
const CONNECT: Duration = Duration::from_secs(4);

/// Somebody who listens and takes no connection. The kernel does, as many as may wait.
fn silent() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

/// An address that answers no packet, as of a host without power: as many connections wait there as may.
struct BlackHole {
    address: SocketAddr,
    _kept: (TcpListener, Vec<TcpStream>),
}

impl BlackHole {
    fn new() -> Self {
        let listener = silent();
        listen(&listener, Backlog::new(0).expect("valid")).expect("listening");
        let address = listener.local_addr().expect("bound");
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            assert!(stream.as_raw_fd() > 2 && waiting.len() < 16, "{address} takes whatever comes");
            waiting.push(stream);
        }
        Self { address, _kept: (listener, waiting) }
    }
}

#[tokio::test]
async fn dead_hosts_cost_their_own_rows_and_hardly_any_time() {
    let mut cluster = Cluster::new().await;
    for name in ["node-32", "node-33", "node-34", "node-35", "node-36", "node-37", "node-38", "node-39"] {
        cluster.add(name).await;
    }
    let (silent, black): (Vec<_>, Vec<_>) = (0..3).map(|_| (silent(), BlackHole::new())).unzip();
    for (number, listener) in silent.iter().enumerate() {
        cluster.name_host(&format!("silent-{number}"), &listener.local_addr().expect("bound").to_string());
    }
    for (number, hole) in black.iter().enumerate() {
        cluster.name_host(&format!("black-{number}"), &hole.address.to_string());
    }

    let began = Instant::now();
    let (code, document) = cluster.json("hypervisors").await;
    let took = began.elapsed();
    assert_eq!(code, 0, "{document:#}");
    let rows = document["hypervisors"].as_array().expect("rows");
    assert_eq!(rows.len(), 16, "{document:#}");
    for row in rows {
        let name = row["name"].as_str().expect("a name");
        let expected = if name.starts_with("node-") { ("up", None) } else { ("down", Some("AGENT_UNREACHABLE")) };
        assert_eq!((row["state"].as_str().expect("a state"), row["reason"].as_str()), expected, "{row:#}");
    }
    assert!(took < CONNECT, "{took:?}");
}

#[tokio::test]
async fn a_host_that_is_slow_but_there_is_waited_for() {
    let mut cluster = Cluster::new().await;
    cluster.add("node-32").await;
    cluster.world().slow_host = Some(("node-32", Duration::from_secs(3)));
    let (code, document) = cluster.json("hypervisors").await;
    assert_eq!((code, document["hypervisors"][2]["state"].as_str()), (0, Some("up")), "{document:#}");
}

#[tokio::test]
async fn where_most_are_dead_nobody_is_given_up_early() {
    let cluster = Cluster::new().await;
    let silent: Vec<_> = (0..3).map(|_| silent()).collect();
    for (number, listener) in silent.iter().enumerate() {
        cluster.name_host(&format!("silent-{number}"), &listener.local_addr().expect("bound").to_string());
    }
    let began = Instant::now();
    let (code, document) = cluster.json("hypervisors").await;
    assert_eq!(code, 0, "{document:#}");
    assert!(began.elapsed() >= CONNECT, "two of five may be all that is left of a network");
}

#[tokio::test]
async fn a_migration_is_ended_though_the_inventory_has_a_host_of_it_no_longer() {
    for is_dead in [false, true] {
        let mut cluster = Cluster::new().await;
        let id = cluster.left_behind().await;
        let (name, address) = cluster.hosts().remove(1);
        cluster.find_hosts(&format!("[[host]]\nname = \"{name}\"\naddress = \"{address}\"\n"));
        if is_dead {
            cluster.stop(0).await;
            let output = cluster.vmferry(&format!("watch {id}")).await.code(7).get_output().clone();
            assert!(said(&output).contains("cannot reach the agent of node-28"), "{}", said(&output));
            continue;
        }
        let (code, aborted) = cluster.json(&format!("abort {id}")).await;
        assert_eq!((code, aborted["outcome"].as_str()), (0, Some("aborted_rolled_back")), "{aborted}");
    }
}
