//! Where there is nothing but IPv6.

use std::net::Ipv6Addr;

use nix::sys::signal::Signal;
use vmferry_client::{Client, Config, agent::Outcome};
use vmferry_tests::{dns::NameServer, etcd::Etcd};

use super::{OPS, wish};
use crate::cluster::{Cluster, said};

#[tokio::test(flavor = "multi_thread")]
async fn addresses_in_brackets_are_read_called_and_shown_wherever_they_are_from() {
    let cluster = Cluster::at(Ipv6Addr::LOCALHOST.into()).await;
    let hosts = cluster.hosts();
    assert!(hosts.iter().all(|(_, address)| address.starts_with("[::1]:")), "{hosts:?}");
    let service = cluster.serve_at(&cluster.inventory("coordinator-fleet"), "[::1]:0").await;
    assert!(service.address.starts_with("[::1]:"), "{}", service.address);

    let etcd = Etcd::on_loopback().expect("etcd");
    let mut records = vec!["--local=/example.org/".to_owned()];
    for (name, address) in &hosts {
        let (_, port) = address.rsplit_once(':').expect("HOST:PORT");
        records.push(format!("--srv-host=_vmferry._tcp.example.org,{name}.example.org,{port}"));
        records.push(format!("--host-record={name}.example.org,::1"));
        // As another would write it.
        let value = format!("{{\"address\":\"[0:0::1]:{port}\"}}");
        etcd.ctl(&["put", &format!("/vmferry/hosts/{name}"), &value]).expect("written");
    }
    let server = NameServer::start(&records).expect("dnsmasq");
    let by_dns = format!("[dns]\nsrv = \"_vmferry._tcp.example.org\"\nservers = [\"{}\"]\n", server.address());
    let by_etcd = format!("[etcd]\nendpoints = [\"{}\"]\n", etcd.url());
    let shown = async |arguments: &str| {
        let (code, document) = cluster.json(arguments).await;
        let rows = document["hypervisors"].as_array().cloned().unwrap_or_default();
        assert!(code == 0 && rows.len() == 2 && rows.iter().all(|row| row["state"] == "up"), "{document:#}");
        rows.iter().map(|row| row["address"].as_str().expect("an address").to_owned()).collect::<Vec<_>>()
    };
    let addresses: Vec<_> = hosts.iter().map(|(_, address)| address.clone()).collect();
    assert_eq!(shown("hypervisors").await, addresses);
    assert_eq!(shown(&format!("--coordinator {} hypervisors", service.address)).await, addresses);
    cluster.find_hosts(&by_dns);
    assert_eq!(shown("hypervisors").await, addresses);
    cluster.find_hosts(&by_etcd);
    assert!(shown("hypervisors").await.iter().all(|address| address.starts_with("[0:0::1]:")));
    // Both ways of writing them are the same hosts.
    cluster.find_hosts(&format!("{by_dns}{by_etcd}"));
    assert_eq!(shown("hypervisors").await, addresses);
    let output = cluster.vmferry("hypervisors").await.success().get_output().clone();
    assert!(!said(&output).contains("warning: node-"), "{}", said(&output));

    // A certificate for the address, by the client's own rule.
    let config = Config::new(&service.address, &cluster.certificates(OPS));
    let client = Client::connect(&config).await.expect("certificates");
    let ended = client.migrate(wish(), |_| {}).await.expect("ended");
    assert_eq!(ended.outcome(), Outcome::Completed);

    let address = service.address.clone();
    service.send(Signal::SIGKILL);
    service.end().await;
    let output = cluster.vmferry(&format!("--coordinator {address} instances")).await.code(7).get_output().clone();
    let words = format!("cannot reach the coordinator ::1 at {address}");
    assert!(said(&output).contains(&words), "{}", said(&output));
    let output = cluster.vmferry("--coordinator fd00::1:7443 instances").await.code(2).get_output().clone();
    assert!(said(&output).contains("[2001:db8::10]:7443"), "the remedy shows brackets: {}", said(&output));
}
