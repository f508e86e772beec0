use std::{collections::BTreeMap, fs::Permissions, future::pending, os::unix::fs::PermissionsExt as _, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, UnixListener},
    task::JoinHandle,
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use vmferry_proto::{
    carrier::{
        CloseRequest, CloseResponse, CutRequest, CutResponse, GrantRequest, GrantResponse, ListRequest, ListResponse,
        OpenRequest, OpenResponse, Socket,
        carrier_service_server::{CarrierService, CarrierServiceServer},
    },
    v1::TunnelChannel,
};
use vmferry_transport::{CertificateFiles, accept, offers};

use super::{
    carriage::{Carriage, NotCarried},
    carrier::PROTOCOL,
    carriers::Apart,
    *,
};

const LIMIT: Duration = Duration::from_secs(10);
const ID: &str = "0197a000-0000-7000-8000-000000000001";
const OTHER: &str = "0197a000-0000-7000-8000-000000000002";
const LET_IN: &str = "0197a000-0000-7000-8000-000000000003";

/// A directory with certificates of two agents.
fn pki() -> TempDir {
    let directory = TempDir::new().expect("a directory");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
    for name in ["node-1", "node-2", "node-3"] {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a DNS name");
        let identity = format!("vmferry://test/agent/{name}");
        params.subject_alt_names.push(SanType::URI(identity.as_str().try_into().expect("ASCII")));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &ca).expect("a certificate");
        let files = files(&directory, name);
        fs::create_dir(directory.path().join(name)).expect("made");
        fs::write(&files.ca, ca.pem()).expect("written");
        fs::write(&files.certificate, certificate.pem()).expect("written");
        fs::write(&files.key, key.serialize_pem()).expect("written");
        fs::set_permissions(&files.key, Permissions::from_mode(0o600)).expect("changed");
    }
    directory
}

fn files(pki: &TempDir, name: &str) -> CertificateFiles {
    CertificateFiles::in_directory(&pki.path().join(name))
}

fn credentials(pki: &TempDir, name: &str) -> Credentials {
    vmferry_transport::load(&files(pki, name)).expect("usable")
}

fn id(text: &str) -> MigrationId {
    text.parse().expect("a UUID")
}

fn way_out(migration: &str, address: &str, socket: &Path) -> OpenRequest {
    OpenRequest {
        migration_id: migration.to_owned(),
        destination_host: "node-2".to_owned(),
        destination_address: address.to_owned(),
        sockets: vec![Socket {
            path: socket.display().to_string(),
            channel: TunnelChannel::Libvirt.into(),
            ..Socket::default()
        }],
    }
}

fn way_in(migration: &str, libvirt_socket: &Path) -> GrantRequest {
    GrantRequest {
        migration_id: migration.to_owned(),
        source_host: "node-1".to_owned(),
        libvirt_socket: libvirt_socket.display().to_string(),
    }
}

fn carriage(pki: &TempDir, name: &str) -> Arc<Carriage> {
    Arc::new(Carriage::new(credentials(pki, name).fixed()))
}

/// What is said at one end is heard at the other, both ways.
async fn assert_carried(one: &mut UnixStream, other: &mut UnixStream) {
    for (from, to) in [(true, b"there"), (false, b"again")] {
        let (from, heard) = if from { (&mut *one, &mut *other) } else { (&mut *other, &mut *one) };
        from.write_all(to).await.expect("written");
        let mut bytes = [0; 5];
        heard.read_exact(&mut bytes).await.expect("read");
        assert_eq!(&bytes, to);
    }
}

#[tokio::test]
async fn bytes_go_from_socket_to_socket_while_the_port_is_opened_late_and_only_for_the_source() {
    let (pki, directory) = (pki(), TempDir::new().expect("a directory"));
    let [here, there] = ["here.sock", "libvirt.sock"].map(|name| directory.path().join(name));
    let libvirt = UnixListener::bind(&there).expect("bound");
    let port = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = port.local_addr().expect("bound");
    drop(port);

    let source = carriage(&pki, "node-1");
    source.open(way_out(ID, &address.to_string(), &here)).expect("opened");
    source.open(way_out(ID, "nowhere", &there)).expect("it is open already, and stays as it is");
    let mut client = UnixStream::connect(&here).await.expect("connected");

    // The agent of the destination is back.
    let port = TcpListener::bind(address).await.expect("bound");
    let destination = carriage(&pki, "node-2");
    destination.grant(way_in(ID, &there)).expect("granted");
    let serving = tokio::spawn({
        let (destination, credentials) = (Arc::clone(&destination), credentials(&pki, "node-2"));
        async move {
            loop {
                let (tcp, _) = port.accept().await.expect("accepted");
                assert!(offers(&tcp, Protocol::Tunnel).await.expect("told"));
                let accepted = accept(&credentials, tcp, LIMIT).await.expect("trusted");
                let destination = Arc::clone(&destination);
                tokio::spawn(async move { destination.serve(accepted.stream, accepted.identity).await });
            }
        }
    });
    let (mut server, _) = libvirt.accept().await.expect("accepted");
    assert_carried(&mut client, &mut server).await;
    assert_eq!(source.list()[0].streams, 1);

    // Nobody else gets in, whatever he knows.
    let stranger = carriage(&pki, "node-3");
    let elsewhere = directory.path().join("elsewhere.sock");
    stranger.open(way_out(ID, &address.to_string(), &elsewhere)).expect("opened");
    let mut refused = UnixStream::connect(&elsewhere).await.expect("connected");
    assert_eq!(refused.read(&mut [0]).await.expect("closed"), 0);

    // What is open has its last words, and nothing is opened any more.
    destination.close(id(ID), Duration::from_secs(3600));
    let mut late = UnixStream::connect(&here).await.expect("connected");
    assert_eq!(late.read(&mut [0]).await.expect("closed"), 0);
    assert_carried(&mut client, &mut server).await;
    drop(client);
    assert_eq!(server.read(&mut [0]).await.expect("closed"), 0);
    drop(server);
    while !destination.list().is_empty() {
        tokio::task::yield_now().await;
    }

    source.close(id(ID), Duration::ZERO);
    assert!(source.list().is_empty());
    while UnixStream::connect(&here).await.is_ok() {
        tokio::task::yield_now().await;
    }
    serving.abort();
}

#[tokio::test(start_paused = true)]
async fn what_has_nothing_to_carry_for_a_while_carries_nothing_any_more() {
    let pki = pki();
    let carriage = carriage(&pki, "node-2");
    let nowhere = Path::new("/nonexistent");
    carriage.grant(way_in(ID, nowhere)).expect("granted");
    let left = tokio::spawn({
        let carriage = Arc::clone(&carriage);
        async move { carriage.left(Duration::from_secs(60)).await }
    });
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!left.is_finished(), "there is something to carry");
    carriage.close(id(ID), Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(59)).await;
    carriage.grant(way_in(OTHER, nowhere)).expect("granted");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!left.is_finished(), "there is something else to carry");
    carriage.close(id(OTHER), Duration::ZERO);
    left.await.expect("no panic");
    assert!(matches!(carriage.grant(way_in(ID, nowhere)), Err(NotCarried::Leaving)));
    assert!(matches!(carriage.open(way_out(ID, "nowhere", nowhere)), Err(NotCarried::Leaving)));
}

/// As another process would carry, in this one; until it is aborted.
async fn carrier_at(pki: &TempDir, directory: &Path) -> JoinHandle<()> {
    fs::create_dir_all(directory).expect("made");
    let (files, own) = (files(pki, "node-1"), directory.to_owned());
    let carrier = tokio::spawn(async move {
        carrier::run(&own, files).await.expect("it carries");
        pending().await
    });
    while UnixStream::connect(carrier::control_socket(directory)).await.is_err() {
        tokio::task::yield_now().await;
    }
    carrier
}

#[tokio::test]
async fn a_process_of_a_former_version_keeps_what_it_carries_and_gets_nothing_new() {
    let (pki, directory) = (pki(), TempDir::new().expect("a directory"));
    let [former, current] = ["0.0.1-0197a", "0.0.2-0197b"].map(|name| directory.path().join(name));
    let old = carrier_at(&pki, &former).await;
    let apart = |version: &str| Apart::new(directory.path(), version, Path::new("/nonexistent"));
    let credentials = credentials(&pki, "node-1").fixed();

    // An agent of the former version has opened something, and is gone.
    let before = Carriers::with(credentials.clone(), apart("0.0.1")).await.expect("found");
    let socket = directory.path().join("one.sock");
    before.open(way_out(ID, "127.0.0.1:1", &socket)).await.expect("opened");
    before.grant(way_in(LET_IN, Path::new("/run/libvirt"))).await.expect("granted");
    drop(before);

    let new = carrier_at(&pki, &current).await;
    fs::create_dir(directory.path().join("0.0.0-dead")).expect("made");
    let carriers = Carriers::with(credentials, apart("0.0.2")).await.expect("found");
    assert!(!directory.path().join("0.0.0-dead").exists(), "a leftover of a process that has died");
    // What is open stays where it is.
    carriers.open(way_out(ID, "127.0.0.1:1", &directory.path().join("two.sock"))).await.expect("it is open");
    assert!(!directory.path().join("two.sock").exists());
    carriers.grant(way_in(OTHER, Path::new("/nonexistent"))).await.expect("granted");
    let carried = async |name: &str| {
        let list = apart("").client(name).list(ListRequest {}).await.expect("it answers").into_inner();
        list.carried.into_iter().map(|carried| (carried.migration_id.clone(), carried)).collect::<BTreeMap<_, _>>()
    };
    assert!(carried("0.0.1-0197a").await.contains_key(ID));
    // Connections are the current one's from now on: whoever was let in by the former one is let in there, too.
    let of_current = carried("0.0.2-0197b").await;
    assert_eq!(of_current.keys().collect::<Vec<_>>(), [OTHER, LET_IN]);
    assert_eq!(of_current[LET_IN].granted, Some(way_in(LET_IN, Path::new("/run/libvirt"))));

    // Whoever has it closes it, and if that are two, both.
    for migration in [ID, LET_IN] {
        carriers.close(id(migration), Duration::ZERO).await.expect("closed");
    }
    assert_eq!(carried("0.0.1-0197a").await.len(), 0);
    assert_eq!(carried("0.0.2-0197b").await.into_keys().collect::<Vec<_>>(), [OTHER]);
    carriers.close(id(ID), Duration::ZERO).await.expect("closed already");

    // One that has died carries nothing.
    old.abort();
    new.abort();
    while UnixStream::connect(carrier::control_socket(&current)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    carriers.close(id(OTHER), Duration::ZERO).await.expect("cut with it");
    assert!(!carriers.carries_memory(id(OTHER)).await);
}

/// What a later version may have made of a process that carries.
struct Later;

#[tonic::async_trait]
impl CarrierService for Later {
    async fn open(&self, _: Request<OpenRequest>) -> Result<Response<OpenResponse>, Status> {
        panic!("nobody asks it for anything")
    }

    async fn grant(&self, _: Request<GrantRequest>) -> Result<Response<GrantResponse>, Status> {
        panic!("nobody asks it for anything")
    }

    async fn close(&self, _: Request<CloseRequest>) -> Result<Response<CloseResponse>, Status> {
        panic!("nobody asks it for anything")
    }

    async fn cut(&self, _: Request<CutRequest>) -> Result<Response<CutResponse>, Status> {
        panic!("nobody asks it for anything")
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Ok(Response::new(ListResponse { protocol: PROTOCOL + 1, ..ListResponse::default() }))
    }
}

#[tokio::test]
async fn an_agent_does_not_work_with_what_speaks_otherwise_and_leaves_it_alone() {
    let pki = pki();
    let (_, unknown) = tonic_health::server::health_reporter();
    let later = Server::builder().add_service(CarrierServiceServer::new(Later));
    let another = Server::builder().add_service(unknown);
    for (server, theirs) in [(later, PROTOCOL + 1), (another, 0)] {
        let directory = TempDir::new().expect("a directory");
        let own = directory.path().join("9.0.0-0197a");
        fs::create_dir(&own).expect("made");
        let socket = UnixListener::bind(carrier::control_socket(&own)).expect("bound");
        let serving = tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(socket)));
        let apart = Apart::new(directory.path(), "0.0.2", Path::new("/nonexistent"));

        let refused = Carriers::with(credentials(&pki, "node-1").fixed(), apart).await.expect_err("it is foreign");
        let CarriersError::Foreign { theirs: said, .. } = &refused else { panic!("{refused}") };
        assert_eq!(*said, theirs);
        let said = refused.to_string();
        let remedy = format!("(kill {})", std::process::id());
        for part in [own.display().to_string().as_str(), "vmferry-agent 0.0.2", "1 to 1", remedy.as_str()] {
            assert!(said.contains(part), "no `{part}` in: {said}");
        }
        assert!(carrier::control_socket(&own).exists(), "it is in use");
        serving.abort();
    }
}
