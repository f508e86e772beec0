use std::{
    fs,
    net::{TcpListener, UdpSocket},
    path::PathBuf,
};

use super::*;

fn host(name: &str, address: &str) -> Endpoint {
    Endpoint { host: name.parse().expect("a name"), address: address.into() }
}

/// An inventory with `more` in it, and a cache beside it.
struct Home(tempfile::TempDir);

impl Home {
    fn new(more: &str) -> Self {
        let home = Self(tempfile::tempdir().expect("a directory"));
        fs::write(home.0.path().join("x.pem"), "").expect("written");
        home.write(more);
        home
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("inventory.toml")
    }

    fn write(&self, more: &str) {
        let text = format!("[tls]\nca = \"x.pem\"\ncertificate = \"x.pem\"\nkey = \"x.pem\"\n{more}");
        fs::write(self.path(), text).expect("written");
    }

    fn source(&self) -> Source {
        let places = Places { named: Some(self.path()), ..Places::default() };
        Source::new(places, Cache::new(Some(self.0.path().join("cache"))))
    }
}

/// A port of this machine on which nobody listens.
fn dead_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port()
}

#[tokio::test]
async fn a_file_alone_asks_nobody() {
    let home = Home::new("[[host]]\nname = \"node-28\"\naddress = \"192.0.2.10:7443\"\n");
    let loaded = home.source().load().await.expect("usable");
    assert_eq!(loaded.inventory.hosts, [host("node-28", "192.0.2.10:7443")]);
    assert!(loaded.warnings.is_empty() && !home.0.path().join("cache").exists());
}

#[tokio::test]
async fn of_a_source_that_is_away_its_last_word_counts_and_without_one_nothing_is_done() {
    let port = dead_port();
    let home = Home::new(&format!("[etcd]\nendpoints = [\"http://127.0.0.1:{port}\"]\n"));
    let error = home.source().load().await.expect_err("nobody knows").to_string();
    for words in [&format!("etcd at http://127.0.0.1:{port}"), "refused", "nobody has asked it yet", "[[host]]"] {
        assert!(error.contains(words), "{words} in {error}");
    }
    let source = home.source();
    let settings = source.places.read().expect("valid").etcd.expect("given");
    let then = Timestamp::now() - Duration::from_secs(12 * 60);
    source.cache.remember(&source_of(&settings), &[host("node-28", "192.0.2.10:7443")], then);
    let loaded = home.source().load().await.expect("remembered");
    assert_eq!(loaded.inventory.hosts, [host("node-28", "192.0.2.10:7443")]);
    let warning = loaded.warnings[0].to_string();
    assert!(warning.contains("does not answer") && warning.contains(": 1 host as of 12 min "), "{warning}");
    // Another prefix is another source.
    home.write(&format!("[etcd]\nendpoints = [\"http://127.0.0.1:{port}\"]\nprefix = \"/other/\"\n"));
    home.source().load().await.expect_err("nothing is known of it");
}

#[tokio::test(start_paused = true)]
async fn a_name_server_that_says_nothing_is_waited_for_for_a_while() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let server = silent.local_addr().expect("bound");
    let home = Home::new(&format!("[dns]\nsrv = \"_vmferry._tcp.example.org\"\nservers = [\"{server}\"]\n"));
    let error = home.source().load().await.expect_err("nobody knows").to_string();
    for words in ["DNS at _vmferry._tcp.example.org", &server.to_string(), "does not answer"] {
        assert!(error.contains(words), "{words} in {error}");
    }
}

#[tokio::test]
async fn whoever_follows_sees_what_changes_in_the_file_and_keeps_what_was_when_it_is_wrong() {
    let one = "[[host]]\nname = \"node-28\"\naddress = \"192.0.2.10:7443\"\n";
    let home = Home::new(one);
    let (mut seen, task) = home.source().follow().await.expect("usable");
    tokio::time::pause();
    let task = tokio::spawn(task);
    assert_eq!(seen.borrow_and_update().inventory.hosts.len(), 1);
    home.write(&format!("{one}[[host]]\nname = \"node-31\"\naddress = \"192.0.2.11:7443\"\n"));
    seen.changed().await.expect("it goes on");
    assert_eq!(seen.borrow_and_update().inventory.hosts.len(), 2);
    home.write("[[host]]\n");
    seen.changed().await.expect("it goes on");
    {
        let loaded = seen.borrow_and_update();
        assert_eq!(loaded.inventory.hosts.len(), 2);
        assert!(loaded.warnings[0].to_string().contains("host[1].name is missing"), "{:?}", loaded.warnings);
    }
    drop(seen);
    task.await.expect("it ends when nobody follows");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_hears_of_hosts_that_come_and_go_and_keeps_them_while_etcd_is_away() {
    let mut etcd = vmferry_tests::etcd::Etcd::on_loopback().expect("etcd");
    let home = Home::new(&format!("[etcd]\nendpoints = [\"{}\"]\n", etcd.url()));
    // Without files: what it heard itself is enough.
    let source = Source::new(home.source().places, Cache::new(None));
    let (mut seen, task) = source.follow().await.expect("usable");
    let task = tokio::spawn(task);
    assert!(seen.borrow_and_update().inventory.hosts.is_empty());
    // The watch may begin a moment after the first look; then a change is told by the look after it.
    let put = |etcd: &vmferry_tests::etcd::Etcd, number: u8| {
        let value = format!("{{\"address\":\"192.0.2.{number}:7443\"}}");
        etcd.ctl(&["put", &format!("/vmferry/hosts/node-{number}"), &value]).expect("written");
    };
    let quickly = REFRESH / 3;
    let count = |count: usize| move |loaded: &Loaded| loaded.inventory.hosts.len() == count;
    put(&etcd, 28);
    tokio::time::timeout(quickly, seen.wait_for(count(1))).await.expect("at once").expect("it goes on");
    put(&etcd, 31);
    tokio::time::timeout(quickly, seen.wait_for(count(2))).await.expect("at once").expect("it goes on");
    etcd.ctl(&["del", "/vmferry/hosts/node-28"]).expect("deleted");
    tokio::time::timeout(quickly, seen.wait_for(count(1))).await.expect("at once").expect("it goes on");

    etcd.stop().expect("stopped");
    let away = |loaded: &Loaded| loaded.warnings.iter().any(|warning| warning.to_string().contains("1 host as of"));
    tokio::time::timeout(quickly, seen.wait_for(away)).await.expect("at once").expect("it goes on");
    assert_eq!(seen.borrow().inventory.hosts, [host("node-31", "192.0.2.31:7443")]);
    etcd.start().expect("started");
    put(&etcd, 32);
    tokio::time::timeout(REFRESH, seen.wait_for(count(2))).await.expect("soon").expect("it goes on");
    drop(seen);
    tokio::time::timeout(REFRESH, task).await.expect("soon").expect("it ends when nobody follows");
}
