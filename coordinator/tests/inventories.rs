//! Hosts that are not in the file: real DNS and a real etcd, pretended agents.

use serde_json::Value;
use vmferry_tests::{dns::NameServer, etcd::Etcd};

use crate::cluster::{Cluster, said};

fn names(document: &Value) -> Vec<&str> {
    let rows = document["hypervisors"].as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter().map(|row| row["name"].as_str().expect("a name")).collect()
}

/// What the user is told besides the table.
async fn told(cluster: &Cluster) -> String {
    let output = cluster.start("hypervisors").wait_with_output().await.expect("ran");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn srv(target: &str, port: &str) -> String {
    format!("--srv-host=_vmferry._tcp.example.org,{target},{port}")
}

#[tokio::test]
async fn hosts_are_found_in_dns_and_remembered_while_it_is_away() {
    let cluster = Cluster::new().await;
    let mut records = Vec::new();
    for (name, address) in cluster.hosts() {
        let (host, port) = address.rsplit_once(':').expect("HOST:PORT");
        records.push(srv(&format!("{name}.example.org"), port));
        records.push(format!("--host-record={name}.example.org,{host},::1"));
    }
    records.push(srv("node-99.example.org", "7443"));
    let server = NameServer::start(&records).expect("dnsmasq");
    let how = |names: &str| {
        format!("[dns]\nsrv = \"_vmferry._tcp.example.org\"\nservers = [\"{}\"]\n{names}", server.address())
    };
    cluster.find_hosts(&how(""));
    let (code, document) = cluster.json("hypervisors").await;
    assert_eq!((code, names(&document)), (0, vec!["node-28", "node-31"]), "{document:#}");
    let warnings = told(&cluster).await;
    assert!(
        warnings.contains("the SRV record of _vmferry._tcp.example.org for node-99.example.org:7443 is skipped"),
        "{warnings}"
    );

    // The certificates have the short names: whoever answers to another is not trusted.
    cluster.find_hosts(&how("names = \"full\"\n"));
    let (code, document) = cluster.json("hypervisors").await;
    assert_eq!((code, document["hypervisors"][0]["reason"].as_str()), (7, Some("AGENT_UNTRUSTED")), "{document:#}");
    assert_eq!(names(&document), ["node-28.example.org", "node-31.example.org"]);

    cluster.find_hosts(&how(""));
    let place = format!("DNS at _vmferry._tcp.example.org ({})", server.address());
    drop(server);
    let (code, document) = cluster.json("hypervisors").await;
    assert_eq!((code, names(&document)), (0, vec!["node-28", "node-31"]), "{document:#}");
    let warnings = told(&cluster).await;
    assert!(
        warnings.contains(&format!("{place} does not answer")) && warnings.contains(": 2 hosts as of "),
        "{warnings}"
    );
}

#[tokio::test]
async fn many_records_and_none_are_answers_too() {
    let cluster = Cluster::new().await;
    let many = 300;
    let mut records: Vec<_> = (0..many).map(|n| srv(&format!("node-{n:03}.example.org"), "1")).collect();
    records
        .extend((0..many).map(|n| format!("--host-record=node-{n:03}.example.org,127.1.{}.{}", n / 200, n % 200 + 1)));
    records.push("--host-record=empty.example.org,127.0.0.1".into());
    records.push("--local=/example.org/".into());
    let server = NameServer::start(&records).expect("dnsmasq");
    let find = |name: &str| {
        cluster.find_hosts(&format!("[dns]\nsrv = \"{name}\"\nservers = [\"{}\"]\n", server.address()));
    };
    find("_vmferry._tcp.example.org");
    // More than fits into a datagram. Nobody listens there: all are rows.
    let (code, document) = cluster.json("hypervisors").await;
    assert_eq!((code, names(&document).len()), (7, many), "{document:#}");
    let told = [
        ("empty.example.org", "has no SRV records there; correct `dns.srv`"),
        ("none.example.org", "has no such name; correct `dns.srv`"),
        ("elsewhere.test", "answers only REFUSED"),
    ];
    for (name, words) in told {
        find(name);
        let (code, document) = cluster.json("hypervisors").await;
        assert_eq!((code, document["error"]["reason"].as_str()), (7, Some("INVENTORY_UNAVAILABLE")), "{document:#}");
        let message = document["error"]["message"].as_str().expect("a message");
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_found_in_etcd_with_what_is_wrong_there() {
    let cluster = Cluster::new().await;
    let hosts = cluster.hosts();
    let mut etcd = Etcd::on_loopback().expect("etcd");
    cluster.find_hosts(&format!("[etcd]\nendpoints = [\"{}\"]\n", etcd.url()));
    let warnings = told(&cluster).await;
    assert!(warnings.contains("has no hosts below /vmferry/hosts/"), "{warnings}");

    let put = |name: &str, value: &str| {
        etcd.ctl(&["put", &format!("/vmferry/hosts/{name}"), value]).expect("written");
    };
    for (name, address) in &hosts {
        put(name, &format!("{{\"address\":\"{address}\"}}"));
    }
    put("node-99", "gibberish");
    put("node-00", &format!("{{\"address\":\"{}\"}}", hosts[0].1));
    cluster.name_host(&hosts[1].0, &hosts[1].1);
    let (code, document) = cluster.json("hypervisors").await;
    // The file's first; of two that share an address its certificate says which it is, and the other hides it from nobody.
    assert_eq!(names(&document), ["node-31", "node-00", "node-28"], "{code} {document:#}");
    let rows = &document["hypervisors"];
    assert_eq!((rows[1]["reason"].as_str(), rows[2]["state"].as_str()), (Some("AGENT_UNTRUSTED"), Some("up")));
    let warnings = told(&cluster).await;
    let both = format!("has the address {}, as node-00 of etcd at {}", hosts[0].1, etcd.url());
    for words in ["the key /vmferry/hosts/node-99 of etcd at ", &both, "the inventory has node-28 at the same address"]
    {
        assert!(warnings.contains(words), "{words} in {warnings}");
    }
    etcd.ctl(&["del", "/vmferry/hosts/node-00"]).expect("deleted");
    etcd.ctl(&["del", "/vmferry/hosts/node-99"]).expect("deleted");
    let warnings = told(&cluster).await;
    assert!(warnings.contains("node-00 at ") && warnings.contains("no longer among the hosts of etcd"), "{warnings}");

    etcd.stop().expect("stopped");
    let (code, document) = cluster.json("hypervisors").await;
    assert_eq!((code, names(&document)), (0, vec!["node-31", "node-28"]), "{document:#}");
    assert!(document.get("warnings").is_none() && document.get("error").is_none(), "{document:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_at_two_addresses_is_a_row_for_each_and_only_the_first_is_called() {
    let cluster = Cluster::new().await;
    let hosts = cluster.hosts();
    let etcd = Etcd::on_loopback().expect("etcd");
    // As the file has it, and as the impostor says.
    cluster.say(&format!("[etcd]\nendpoints = [\"{}\"]\n", etcd.url()));
    etcd.ctl(&["put", "/vmferry/hosts/node-31", &format!("{{\"address\":\"{}\"}}", hosts[0].1)]).expect("written");
    let (code, document) = cluster.json("hypervisors").await;
    assert_eq!((code, names(&document)), (0, vec!["node-28", "node-31", "node-31"]), "{document:#}");
    let row = |number: usize, key: &str| document["hypervisors"][number][key].as_str().unwrap_or_default().to_owned();
    assert_eq!([row(1, "state"), row(2, "state"), row(2, "reason")], ["up", "down", "INVENTORY_CONFLICT"]);
    assert_eq!([row(1, "address"), row(2, "address")], [hosts[1].1.clone(), hosts[0].1.clone()]);
    let warnings = told(&cluster).await;
    assert_eq!(warnings.matches("is left out").count(), 1, "{warnings}");
    cluster.vmferry("migrate web --to node-31").await.success();

    // The same through a coordinator.
    let text = std::fs::read_to_string(cluster.inventory("inventory")).expect("written");
    let (_, hosts) = text.split_once("[[host]]").expect("it has hosts");
    let service = cluster.serve_hosts_of(&format!("[[host]]{hosts}")).await;
    let (code, relayed) = cluster.json(&format!("--coordinator {} hypervisors", service.address)).await;
    assert_eq!((code, names(&relayed)), (0, vec!["node-28", "node-31", "node-31"]), "{relayed:#}");
    assert_eq!(relayed["hypervisors"][2]["reason"].as_str(), Some("INVENTORY_CONFLICT"), "{relayed:#}");
}
