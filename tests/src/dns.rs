//! A real name server on loopback.

use std::{
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};

use crate::wait;

/// dnsmasq, which knows what it is told and nothing else. Ends with the value.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    child: Child,
}

impl NameServer {
    /// With these options of dnsmasq, such as `--srv-host=…` and `--host-record=…`. Returns when it answers.
    pub fn start(records: &[String]) -> Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new("dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="]);
        command.args(["--listen-address=127.0.0.1", "--bind-interfaces", "--log-facility=-"]);
        if nix::unistd::geteuid().is_root() {
            command.arg("--user=root");
        }
        command.arg(format!("--port={}", address.port())).args(records);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("cannot start dnsmasq (Debian: dnsmasq-base)")?;
        let server = Self { address, child };
        wait::until("dnsmasq to listen", wait::SOON, || Ok(std::net::TcpStream::connect(address).ok()))?;
        Ok(server)
    }

    /// Where it is asked, by UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
