//! Who gets through, and what the others are told.

use std::{io, sync::Arc};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use rustls::{ClientConfig, pki_types::ServerName, version::TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsConnector, client::TlsStream};
use vmferry_core::identity::Role;
use vmferry_transport::{
    AcceptError, Accepted, Credentials, DialError, Distrust, Fault, IdentityError, Protocol, Stream, Unreachable, dial,
    untrusted,
};

use crate::support::{Ca, LIMIT, accept_one, connect, expired, identity, listen};

const AGENT: &str = "vmferry://test/agent/node-1";
const COORDINATOR: &str = "vmferry://test/coordinator/alice";

/// What each side makes of a tunnel connection, the client's first read included.
struct Outcome {
    client: Result<Stream, Distrust>,
    server: Result<Accepted, Distrust>,
}

async fn meet(client: &Credentials, server: &Credentials) -> Outcome {
    let (address, accepted) = accept_one(server.clone()).await;
    let dialed = dial(client, &address.to_string(), "node-1", Protocol::Tunnel, LIMIT).await;
    let client = match dialed {
        Ok(mut stream) => {
            // Sent at once, as tunnels do: a refusal must be readable all the same.
            stream.write_all(&[1; 100_000]).await.ok();
            Ok(stream)
        }
        Err(error) => Err(untrusted(&error).expect("about trust")),
    };
    let server = accepted.await.expect("no panic").map_err(|error| untrusted(&error).expect("about trust"));
    let client = match client {
        Ok(mut stream) if server.is_err() => {
            let error = stream.read_u8().await.expect_err("refused");
            Err(untrusted(&error).unwrap_or_else(|| panic!("about trust: {error}")))
        }
        client => client,
    };
    Outcome { client, server }
}

fn reason<T>(result: Result<T, Distrust>) -> Distrust {
    match result {
        Ok(_) => panic!("refused"),
        Err(distrust) => distrust,
    }
}

#[tokio::test]
async fn two_of_one_cluster_talk_and_know_each_other() {
    let ca = Ca::new();
    for (protocol, caller, role) in [
        (Protocol::Tunnel, "vmferry://test/agent/node-2", Role::Agent),
        (Protocol::Tunnel, COORDINATOR, Role::Coordinator),
    ] {
        let (address, accepted) = accept_one(ca.credentials(AGENT)).await;
        let mut client =
            dial(&ca.credentials(caller), &address.to_string(), "node-1", protocol, LIMIT).await.expect("dialed");
        let mut server = accepted.await.expect("no panic").expect("accepted");
        assert_eq!(server.identity, identity(role, caller.rsplit('/').next().expect("a name")));
        assert_eq!(server.protocol, protocol);

        client.write_all(b"ping").await.expect("written");
        client.flush().await.expect("written");
        let mut heard = [0; 4];
        server.read_exact(&mut heard).await.expect("read");
        assert_eq!(&heard, b"ping");
    }
}

#[tokio::test]
async fn a_grpc_caller_waits_for_the_servers_first_word() {
    let ca = Ca::new();
    let (address, accepted) = accept_one(ca.credentials(AGENT)).await;
    let speak = tokio::spawn(async move {
        let mut server = accepted.await.expect("no panic").expect("accepted");
        server.write_all(b"hello").await.expect("written");
        server.flush().await.expect("written");
        server
    });
    let mut client = dial(&ca.credentials(COORDINATOR), &address.to_string(), "node-1", Protocol::Grpc, LIMIT)
        .await
        .expect("dialed");
    let mut heard = [0; 5];
    client.read_exact(&mut heard).await.expect("read");
    assert_eq!(&heard, b"hello", "the first word is still there");
    assert_eq!(speak.await.expect("no panic").protocol, Protocol::Grpc);
}

/// The cluster's CA made twice, under one name; and somebody else's.
fn two_unrelated_cas() -> [(Ca, Ca); 2] {
    [(Ca::new(), Ca::new()), (Ca::new(), Ca::called("another company"))]
}

#[tokio::test]
async fn an_agent_of_an_unknown_ca_is_refused_and_told() {
    for (ours, theirs) in two_unrelated_cas() {
        let outcome = meet(&theirs.credentials(COORDINATOR), &ours.credentials(AGENT)).await;
        assert_eq!(reason(outcome.client), Distrust::OfPeer(Fault::UnknownIssuer));
        assert_eq!(reason(outcome.server), Distrust::OfUs(Fault::UnknownIssuer));
    }
}

#[tokio::test]
async fn a_client_of_an_unknown_ca_is_refused_and_told() {
    for (ours, theirs) in two_unrelated_cas() {
        // It trusts the agent's CA, but its own certificate is another's.
        let mut issued = theirs.issue(COORDINATOR, |_| {});
        issued.ca += &ours.pem();
        let outcome = meet(&issued.load(), &ours.credentials(AGENT)).await;
        assert_eq!(reason(outcome.client), Distrust::OfUs(Fault::UnknownIssuer));
        assert_eq!(reason(outcome.server), Distrust::OfPeer(Fault::UnknownIssuer));
    }
}

#[tokio::test]
async fn an_expired_client_is_refused_and_told() {
    let ca = Ca::new();
    let outcome = meet(&ca.issue(COORDINATOR, expired).load(), &ca.credentials(AGENT)).await;
    assert_eq!(reason(outcome.client), Distrust::OfUs(Fault::Expired));
    assert_eq!(reason(outcome.server), Distrust::OfPeer(Fault::Expired));
}

#[tokio::test]
async fn a_grpc_dial_reports_a_refusal_itself() {
    let ca = Ca::new();
    let (address, _accepted) = accept_one(ca.credentials(AGENT)).await;
    let expired = ca.issue(COORDINATOR, expired).load();
    let error = dial(&expired, &address.to_string(), "node-1", Protocol::Grpc, LIMIT).await.expect_err("refused");
    assert_eq!(untrusted(&error), Some(Distrust::OfUs(Fault::Expired)));
    let text = error.to_string();
    assert!(text.contains("node-1") && text.contains(&address.to_string()), "{text}");
}

#[tokio::test]
async fn an_expired_agent_is_refused_and_told() {
    let ca = Ca::new();
    let outcome = meet(&ca.credentials(COORDINATOR), &ca.issue(AGENT, expired).load()).await;
    assert_eq!(reason(outcome.client), Distrust::OfPeer(Fault::Expired));
    assert_eq!(reason(outcome.server), Distrust::OfUs(Fault::Expired));
}

#[tokio::test]
async fn another_agent_than_the_one_called_is_refused() {
    let ca = Ca::new();
    let outcome = meet(&ca.credentials(COORDINATOR), &ca.credentials("vmferry://test/agent/node-2")).await;
    assert_eq!(reason(outcome.client), Distrust::OfPeer(Fault::WrongName));
    assert_eq!(reason(outcome.server), Distrust::OfUs(Fault::WrongName));
}

#[tokio::test]
async fn a_dns_name_alone_does_not_make_an_agent() {
    let ca = Ca::new();
    let also_node_1 = |params: &mut CertificateParams| {
        params.subject_alt_names.push(rcgen::SanType::DnsName("node-1".try_into().expect("ASCII")));
    };
    for pretender in
        ["vmferry://test/agent/node-2", "vmferry://test/viewer/node-1", "vmferry://test/coordinator/node-1"]
    {
        let outcome = meet(&ca.credentials(COORDINATOR), &ca.issue(pretender, also_node_1).load()).await;
        let Distrust::OfPeer(Fault::WrongIdentity(Some(IdentityError::SomebodyElse { presented, .. }))) =
            reason(outcome.client)
        else {
            panic!("it says who that is");
        };
        assert_eq!(presented.to_string(), pretender);
        assert_eq!(reason(outcome.server), Distrust::OfUs(Fault::WrongIdentity(None)));
    }
}

#[tokio::test]
async fn an_agent_of_another_cluster_is_refused() {
    let ca = Ca::new();
    let outcome = meet(&ca.credentials(COORDINATOR), &ca.credentials("vmferry://other/agent/node-1")).await;
    assert!(matches!(
        reason(outcome.client),
        Distrust::OfPeer(Fault::WrongIdentity(Some(IdentityError::OtherCluster { .. })))
    ));
    assert_eq!(reason(outcome.server), Distrust::OfUs(Fault::WrongIdentity(None)));
}

/// A client that checks nothing of the kind itself, as any TLS client of the same CA.
async fn foreign_client(
    address: std::net::SocketAddr,
    config: ClientConfig,
) -> io::Result<TlsStream<tokio::net::TcpStream>> {
    let name = ServerName::try_from("node-1").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, connect(address).await).await
}

fn foreign_config(ca: &Ca, with_certificate: Option<&str>, alpn: &[&[u8]]) -> ClientConfig {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).expect("PEM")).expect("a CA");
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut config = match with_certificate {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let issued = ca.issue(identity, |_| {});
            let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("PEM")];
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

#[tokio::test]
async fn a_client_of_another_cluster_is_refused_and_told() {
    let ca = Ca::new();
    let (address, accepted) = accept_one(ca.credentials(AGENT)).await;
    let config = foreign_config(&ca, Some("vmferry://other/coordinator/alice"), &[b"h2"]);
    let mut client = foreign_client(address, config).await.expect("its half of the handshake");
    let error = client.read_u8().await.expect_err("refused");
    assert_eq!(untrusted(&error), Some(Distrust::OfUs(Fault::WrongIdentity(None))));
    let refusal = accepted.await.expect("no panic").map(drop).expect_err("refused");
    assert!(refusal.to_string().contains(&client.get_ref().0.local_addr().expect("an address").to_string()));
    assert!(matches!(
        untrusted(&refusal),
        Some(Distrust::OfPeer(Fault::WrongIdentity(Some(IdentityError::OtherCluster { .. }))))
    ));
}

#[tokio::test]
async fn a_client_without_certificate_learns_it_on_its_first_read() {
    let ca = Ca::new();
    let (address, accepted) = accept_one(ca.credentials(AGENT)).await;
    let mut client = foreign_client(address, foreign_config(&ca, None, &[b"h2"])).await.expect("its half");
    let error = client.read_u8().await.expect_err("refused");
    assert_eq!(untrusted(&error), Some(Distrust::OfUs(Fault::Missing)));
    let refusal = accepted.await.expect("no panic").map(drop).expect_err("refused");
    assert_eq!(untrusted(&refusal), Some(Distrust::OfPeer(Fault::Missing)));
}

#[test]
fn a_certificate_for_servers_only_is_of_no_use() {
    let ca = Ca::new();
    let issued = ca.issue(COORDINATOR, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let directory = tempfile::TempDir::new().expect("a directory");
    let error = vmferry_transport::load(&issued.write(directory.path())).expect_err("of no use");
    assert!(error.to_string().contains("cert.pem"), "{error}");
}

#[tokio::test]
async fn an_unknown_protocol_is_refused() {
    let ca = Ca::new();
    let (address, accepted) = accept_one(ca.credentials(AGENT)).await;
    let error =
        foreign_client(address, foreign_config(&ca, Some(COORDINATOR), &[b"http/1.1"])).await.expect_err("refused");
    assert_eq!(untrusted(&error), Some(Distrust::NoCommonProtocol));
    let refusal = accepted.await.expect("no panic").map(drop).expect_err("refused");
    assert_eq!(untrusted(&refusal), Some(Distrust::NoCommonProtocol));
}

#[tokio::test]
async fn no_protocol_at_all_is_refused() {
    let ca = Ca::new();
    let (address, accepted) = accept_one(ca.credentials(AGENT)).await;
    let client = foreign_client(address, foreign_config(&ca, Some(COORDINATOR), &[])).await;
    let refusal = accepted.await.expect("no panic").map(drop).expect_err("refused");
    assert_eq!(untrusted(&refusal), Some(Distrust::NoCommonProtocol));
    drop(client);
}

#[tokio::test]
async fn garbage_gets_the_connection_closed() {
    let (address, accepted) = accept_one(Ca::new().credentials(AGENT)).await;
    let mut client = connect(address).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: node-1\r\n\r\n").await.expect("written");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("closed in order");
    assert!(answer.len() < 16, "at most an alert");
    let refusal = accepted.await.expect("no panic").map(drop).expect_err("refused");
    assert!(matches!(untrusted(&refusal), Some(Distrust::NotTls(_))), "{refusal:?}");
}

#[tokio::test]
async fn silence_gets_the_connection_closed() {
    let (listener, address) = listen().await;
    let credentials = Ca::new().credentials(AGENT);
    let client = connect(address).await;
    let (tcp, _) = listener.accept().await.expect("a connection");
    let error = vmferry_transport::accept(&credentials, tcp, std::time::Duration::from_millis(50)).await;
    assert!(matches!(error, Err(AcceptError::Slow { .. })));
    drop(client);
}

#[tokio::test]
async fn a_closed_port_a_mute_server_and_a_bad_address_are_unreachable() {
    let client = Ca::new().credentials(COORDINATOR);
    let soon = std::time::Duration::from_millis(100);
    let (listener, mute) = listen().await;
    let (closed, refusing) = listen().await;
    drop(closed);

    let dialed = dial(&client, &mute.to_string(), "node-1", Protocol::Grpc, soon).await;
    assert!(matches!(dialed, Err(DialError::Unreachable { reason: Unreachable::Silent(_), .. })), "{dialed:?}");
    let dialed = dial(&client, &refusing.to_string(), "node-1", Protocol::Grpc, LIMIT).await;
    assert!(matches!(dialed, Err(DialError::Unreachable { reason: Unreachable::Refused, .. })), "{dialed:?}");
    let dialed = dial(&client, "127.0.0.1", "node-1", Protocol::Grpc, LIMIT).await;
    assert!(matches!(dialed, Err(DialError::Unreachable { reason: Unreachable::Unresolved(_), .. })), "{dialed:?}");

    let hang_up = tokio::spawn(async move { drop(listener.accept().await) });
    let dialed = dial(&client, &mute.to_string(), "node-1", Protocol::Grpc, LIMIT).await;
    assert!(dialed.is_err(), "{dialed:?}");
    hang_up.await.expect("no panic");
}
