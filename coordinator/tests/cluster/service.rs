//! `vmferry serve`, running.

use std::{path::PathBuf, time::Duration};

use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines, copy_bidirectional},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStderr},
    task::{JoinHandle, JoinSet},
};
use tonic::{Request, Status, metadata::MetadataValue, service::interceptor::InterceptedService, transport::Channel};
use vmferry_proto::{authorize::HOST, fleet::fleet_service_client::FleetServiceClient};
use vmferry_transport::{Callee, CertificateFiles, channel, load};

use super::{Cluster, send};

/// A coordinator that serves. It dies with the value.
pub(crate) struct Service {
    pub(crate) address: String,
    pub(crate) child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Cluster {
    /// One more.
    pub(crate) async fn serve(&self) -> Service {
        self.serve_by(&self.inventory("coordinator-fleet")).await
    }

    /// One that reaches node-28 over a wire that can be cut.
    pub(crate) async fn serve_over_a_wire(&self) -> (Service, Wire) {
        let inventory = std::fs::read_to_string(self.inventory("coordinator-fleet")).expect("written");
        let (_, rest) = inventory.split_once("name = \"node-28\"\naddress = \"").expect("it is there");
        let (address, _) = rest.split_once('"').expect("an address");
        let (wire, near) = Wire::to(address.to_owned()).await;
        let path = self.inventory("over-a-wire");
        std::fs::write(&path, inventory.replace(address, &near)).expect("written");
        (self.serve_by(&path).await, wire)
    }

    /// One whose hosts are where `how` says.
    pub(crate) async fn serve_hosts_of(&self, how: &str) -> Service {
        let inventory = std::fs::read_to_string(self.inventory("coordinator-fleet")).expect("written");
        let (tls, _) = inventory.split_once("[[host]]").expect("it has hosts");
        let path = self.inventory("elsewhere");
        std::fs::write(&path, format!("{tls}{how}")).expect("written");
        self.serve_by(&path).await
    }

    async fn serve_by(&self, inventory: &str) -> Service {
        self.serve_at(inventory, "127.0.0.1:0").await
    }

    /// One that listens there.
    pub(crate) async fn serve_at(&self, inventory: &str, listen: &str) -> Service {
        let mut child = self.start(&format!("serve --inventory {inventory} --listen {listen}"));
        let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
        let address = loop {
            let line = log.next_line().await.expect("readable").expect("it does not end");
            if let Some((_, ready)) = line.split_once("is ready on ") {
                break ready.split(',').next().expect("an address").to_owned();
            }
        };
        Service { address, child, log }
    }

    /// From now on those that serve have a certificate for this name.
    pub(crate) fn renew(&self, name: &str) {
        self.pki(&format!("issue coordinator fleet-2 --address {name}"));
        for file in ["cert.pem", "key.pem"] {
            let [new, old] =
                ["coordinator-fleet-2", "coordinator-fleet"].map(|of| self.directory().join("pki").join(of));
            std::fs::rename(new.join(file), old.join(file)).expect("replaced");
        }
    }

    /// Where the certificate of `holder` is.
    pub(crate) fn certificates(&self, holder: &str) -> PathBuf {
        self.directory().join("pki").join(holder)
    }

    /// A connection to it with the certificate of `holder`.
    pub(crate) fn dial(&self, service: &Service, holder: &str) -> Channel {
        self.dial_as("fleet", service, holder)
    }

    /// The same by another name.
    pub(crate) fn dial_as(&self, name: &str, service: &Service, holder: &str) -> Channel {
        let files = CertificateFiles::in_directory(&self.certificates(holder));
        let credentials = load(&files).expect("issued");
        let callee = Callee::Coordinator(name.into());
        channel(credentials.fixed(), callee, &service.address, Duration::from_secs(5)).0
    }

    /// What programs call.
    pub(crate) fn client(&self, service: &Service, holder: &str) -> FleetServiceClient<Channel> {
        FleetServiceClient::new(self.dial(service, holder))
    }
}

impl Service {
    pub(crate) fn send(&self, signal: Signal) {
        send(signal, &self.child);
    }

    /// Its exit code, and what it has said since it was ready.
    pub(crate) async fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        while let Ok(Some(line)) = self.log.next_line().await {
            said += &line;
            said.push('\n');
        }
        (self.child.wait().await.expect("waited").code(), said)
    }
}

/// Everything that goes through ends with the value.
pub(crate) struct Wire(JoinHandle<()>);

impl Wire {
    async fn to(far: String) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let near = listener.local_addr().expect("bound").to_string();
        let carrying = tokio::spawn(async move {
            let mut carried = JoinSet::new();
            while let Ok((mut tcp, _)) = listener.accept().await {
                let far = far.clone();
                carried.spawn(async move {
                    let mut far = TcpStream::connect(far).await.expect("the agent listens");
                    _ = copy_bidirectional(&mut tcp, &mut far).await;
                });
            }
        });
        (Self(carrying), near)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection on which every request is for this host's agent.
pub(crate) fn naming(
    channel: Channel,
    host: &str,
) -> InterceptedService<Channel, impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone + use<>> {
    let host: MetadataValue<_> = host.parse().expect("ASCII");
    InterceptedService::new(channel, move |mut request: Request<()>| {
        request.metadata_mut().insert(HOST, host.clone());
        Ok(request)
    })
}
