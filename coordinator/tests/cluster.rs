//! A cluster without hypervisors: real certificates, real TLS, real gRPC, and agents that only pretend to move a guest.

mod agent;
mod faulty;
mod service;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::{Output, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use assert_cmd::{assert::Assert, cargo::cargo_bin};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    task::JoinHandle,
    time::sleep,
};
use vmferry_transport::{CertificateFiles, load};

pub(crate) use agent::INSTANCE;
use agent::World;
pub(crate) use faulty::{Lossy, Misbehaviour};
pub(crate) use service::{Service, naming};

/// Two hosts, node-28 and node-31, and one instance, web, on the first.
pub(crate) struct Cluster {
    home: TempDir,
    world: Arc<Mutex<World>>,
    agents: Vec<JoinHandle<()>>,
}

impl Cluster {
    pub(crate) async fn new() -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into()).await
    }

    /// All of whose agents listen there.
    pub(crate) async fn at(ip: IpAddr) -> Self {
        let mut cluster =
            Self { home: TempDir::new().expect("a directory"), world: Arc::default(), agents: Vec::new() };
        cluster.pki("init");
        cluster.pki("issue coordinator ops");
        cluster.pki("issue viewer dashboard");
        cluster.pki("issue coordinator fleet --address 127.0.0.1 --address ::1");
        let mut hosts = String::new();
        for name in ["node-28", "node-31"] {
            cluster.pki(&format!("issue agent {name}"));
            let listener = TcpListener::bind((ip, 0)).await.expect("a port");
            let address = listener.local_addr().expect("bound");
            hosts += &format!("[[host]]\nname = \"{name}\"\naddress = \"{address}\"\n");
            let files = CertificateFiles::in_directory(&cluster.directory().join(format!("pki/agent-{name}")));
            let credentials = load(&files).expect("issued");
            cluster.agents.push(tokio::spawn(agent::serve(name, credentials, listener, Arc::clone(&cluster.world))));
        }
        for role in ["coordinator-ops", "viewer-dashboard", "coordinator-fleet"] {
            let files: String = [("ca", "ca"), ("certificate", "cert"), ("key", "key")]
                .map(|(key, file)| format!("{key} = \"pki/{role}/{file}.pem\"\n"))
                .concat();
            let inventory = format!("[tls]\n{files}{hosts}");
            fs::write(cluster.directory().join(format!("{role}.toml")), inventory).expect("written");
        }
        let (inventory, ours) = (cluster.directory().join("inventory.toml"), cluster.directory());
        fs::copy(ours.join("coordinator-ops.toml"), inventory).expect("copied");
        cluster
    }

    /// One host more, with an agent, in the inventory of the coordinator.
    pub(crate) async fn add(&mut self, name: &'static str) {
        self.pki(&format!("issue agent {name}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        self.name_host(name, &listener.local_addr().expect("bound").to_string());
        let files = CertificateFiles::in_directory(&self.directory().join(format!("pki/agent-{name}")));
        let credentials = load(&files).expect("issued");
        self.agents.push(tokio::spawn(agent::serve(name, credentials, listener, Arc::clone(&self.world))));
    }

    /// One host more in the inventory of the coordinator, whatever is there.
    pub(crate) fn name_host(&self, name: &str, address: &str) {
        self.say(&format!("[[host]]\nname = \"{name}\"\naddress = \"{address}\"\n"));
    }

    /// From now on the inventories of coordinators say this, too.
    pub(crate) fn say(&self, more: &str) {
        for file in ["inventory.toml", "coordinator-fleet.toml"] {
            let path = self.directory().join(file);
            let text = fs::read_to_string(&path).expect("written before");
            fs::write(path, text + more).expect("written");
        }
    }

    fn directory(&self) -> PathBuf {
        self.home.path().join(".config/vmferry")
    }

    fn pki(&self, arguments: &str) {
        let mut command = assert_cmd::Command::new(cargo_bin("vmferry"));
        command.env_clear().env("HOME", self.home.path()).arg("pki").args(arguments.split(' ')).assert().success();
    }

    /// The inventory of the holder of another certificate.
    pub(crate) fn inventory(&self, holder: &str) -> String {
        self.directory().join(format!("{holder}.toml")).display().to_string()
    }

    /// What the agents pretend.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no test panics with it")
    }

    /// Where its hosts are: names and addresses, as the inventory has them.
    pub(crate) fn hosts(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.directory().join("inventory.toml")).expect("written before");
        let values: Vec<_> = text
            .lines()
            .skip_while(|line| *line != "[[host]]")
            .filter_map(|line| Some(line.split_once(" = ")?.1.trim_matches('"').to_owned()))
            .collect();
        values.chunks_exact(2).map(|host| (host[0].clone(), host[1].clone())).collect()
    }

    /// From now on the inventory of the coordinator has no hosts of its own, but this.
    pub(crate) fn find_hosts(&self, how: &str) {
        let path = self.directory().join("inventory.toml");
        let text = fs::read_to_string(&path).expect("written before");
        let (tls, _) = text.split_once("[[host]]").unwrap_or((&text, ""));
        let (tls, _) = tls.split_once("[dns]").unwrap_or((tls, ""));
        let (tls, _) = tls.split_once("[etcd]").unwrap_or((tls, ""));
        fs::write(path, format!("{tls}{how}")).expect("written");
    }

    /// From now on nothing listens at the host with this number.
    pub(crate) async fn stop(&mut self, number: usize) {
        let agent = self.agents.remove(number);
        agent.abort();
        let _ = agent.await;
    }

    /// The binary, running.
    #[expect(clippy::disallowed_methods, reason = "a test may start what it tests")]
    pub(crate) fn start(&self, arguments: &str) -> Child {
        Command::new(cargo_bin("vmferry"))
            .env_clear()
            .env("HOME", self.home.path())
            .args(arguments.split(' '))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("built")
    }

    /// The binary, run to its end.
    pub(crate) async fn vmferry(&self, arguments: &str) -> Assert {
        Assert::new(self.start(arguments).wait_with_output().await.expect("ran"))
    }

    /// The same with JSON: the exit code and the document.
    pub(crate) async fn json(&self, arguments: &str) -> (i32, Value) {
        let output = self.start(&format!("{arguments} --output json")).wait_with_output().await.expect("ran");
        let document = serde_json::from_slice(&output.stdout);
        (output.status.code().expect("not killed"), document.unwrap_or_else(|_| panic!("{}", said(&output))))
    }

    /// The id of a migration whose coordinator was killed while the guest moved.
    pub(crate) async fn left_behind(&self) -> String {
        self.world().is_slow = true;
        let mut running = self.start("migrate web --to node-31");
        self.moving().await;
        running.kill().await.expect("killed");
        let (_, open) = self.json("migrations --active").await;
        open["migrations"][0]["id"].as_str().expect("an id").to_owned()
    }

    /// Waits until the guest moves.
    pub(crate) async fn moving(&self) {
        while !self.world().is_moving {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// As Ctrl-C, or as `kill`.
pub(crate) fn send(signal: Signal, child: &Child) {
    let pid = child.id().expect("it runs");
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("sent");
}

/// Everything on stderr and stdout.
pub(crate) fn said(output: &Output) -> String {
    [&output.stderr, &output.stdout].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}
