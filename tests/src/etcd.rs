//! A real etcd of one member, on loopback or where the operator of a testbed is, that can be stopped and started again.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{Testbed, network, pki, process::run, wait};

/// An etcd. Ends with the value.
#[derive(Debug)]
pub struct Etcd {
    directory: PathBuf,
    /// Where nothing else removes it.
    _own: Option<TempDir>,
    namespace: Option<String>,
    url: String,
    peer_url: String,
    /// A directory with `ca.pem`, `cert.pem` and `key.pem`: etcd's own, and etcdctl's.
    tls: Option<PathBuf>,
    child: Option<Child>,
}

impl Etcd {
    /// On two free ports of this machine, for all who are on it.
    pub fn on_loopback() -> Result<Self> {
        let own = tempfile::tempdir()?;
        let port = || Ok::<_, anyhow::Error>(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let mut etcd = Self {
            directory: own.path().to_owned(),
            _own: Some(own),
            namespace: None,
            url: format!("http://127.0.0.1:{}", port()?),
            peer_url: format!("http://127.0.0.1:{}", port()?),
            tls: None,
            child: None,
        };
        etcd.start()?;
        Ok(etcd)
    }

    /// At the operator's address of a testbed, for those who have a certificate of its CA.
    pub fn in_fabric(testbed: &Testbed) -> Result<Self> {
        let layout = testbed.layout();
        let directory = layout.run_dir().join("etcd");
        fs::create_dir(&directory)?;
        let mut etcd = Self {
            directory,
            _own: None,
            namespace: Some(layout.fabric()),
            url: format!("https://{}:2379", network::OPERATOR),
            peer_url: "http://127.0.0.1:2380".into(),
            tls: Some(pki::issue_to_server(testbed, "etcd", network::OPERATOR)?),
            child: None,
        };
        etcd.start()?;
        Ok(etcd)
    }

    /// Where clients find it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Starts it with what it had before, and returns when it answers.
    pub fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.directory.join("log"))?;
        let mut command = self.command("etcd");
        command.arg("--data-dir").arg(self.directory.join("data"));
        command.args(["--listen-client-urls", &self.url, "--advertise-client-urls", &self.url]);
        command.args(["--listen-peer-urls", &self.peer_url, "--initial-advertise-peer-urls", &self.peer_url]);
        command.args(["--initial-cluster", &format!("default={}", self.peer_url), "--log-level", "warn"]);
        if let Some(tls) = &self.tls {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(tls.join("ca.pem"));
            command.arg("--cert-file").arg(tls.join("cert.pem")).arg("--key-file").arg(tls.join("key.pem"));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("cannot start etcd (Debian: etcd-server)")?);
        let answers = wait::until("etcd to answer", wait::SOON, || Ok(self.ctl(&["endpoint", "health"]).ok()));
        answers.map(drop).with_context(|| fs::read_to_string(self.directory.join("log")).unwrap_or_default())
    }

    /// Ends it at once. What it has is kept.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Ends it, and all that it has is gone.
    pub fn lose(&mut self) -> Result<()> {
        self.stop()?;
        Ok(fs::remove_dir_all(self.directory.join("data"))?)
    }

    /// `etcdctl ARGUMENTS`
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command("etcdctl");
        command.args(["--endpoints", &self.url, "--dial-timeout=2s", "--command-timeout=3s"]);
        if let Some(tls) = &self.tls {
            command.arg("--cacert").arg(tls.join("ca.pem"));
            command.arg("--cert").arg(tls.join("cert.pem")).arg("--key").arg(tls.join("key.pem"));
        }
        run(command.args(arguments))
    }

    /// The keys below a prefix, each with its value, in order.
    pub fn pairs(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        let text = self.ctl(&["get", "--prefix", prefix])?;
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        Ok(lines.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
    }

    fn command(&self, program: &str) -> Command {
        match &self.namespace {
            Some(namespace) => network::command_in(namespace, program),
            None => Command::new(program),
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may be gone with its testbed.
        let _ = self.stop();
    }
}
