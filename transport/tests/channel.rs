//! gRPC over it, with the health service as the agent.

use rcgen::{ExtendedKeyUsagePurpose, SanType};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, service::interceptor::InterceptedService, transport::Server};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use vmferry_core::identity::{Identity, Role};
use vmferry_transport::{Accepted, Callee, Credentials, DialError, Distrust, Fault, accept, channel, untrusted};

use crate::support::{Ca, LIMIT, expired, identity, listen};

const AGENT: &str = "vmferry://test/agent/node-1";
const COORDINATOR: &str = "vmferry://test/coordinator/alice";

/// Serves health on a port, and says who asks.
async fn serve(credentials: Credentials) -> (std::net::SocketAddr, mpsc::UnboundedReceiver<Identity>) {
    let (listener, address) = listen().await;
    let (connections, incoming) = mpsc::channel::<Result<Accepted, std::io::Error>>(1);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(accepted) = accept(&credentials, tcp, LIMIT).await {
                connections.send(Ok(accepted)).await.expect("the server runs");
            }
        }
    });
    let (callers, seen) = mpsc::unbounded_channel();
    let who = move |request: Request<()>| {
        let caller = request.extensions().get::<Identity>().ok_or_else(|| Status::internal("no identity"))?;
        callers.send(caller.clone()).map_err(|_| Status::internal("nobody listens"))?;
        Ok(request)
    };
    let (_, health) = tonic_health::server::health_reporter();
    let serving = Server::builder()
        .add_service(InterceptedService::new(health, who))
        .serve_with_incoming(ReceiverStream::new(incoming));
    tokio::spawn(async move { serving.await.expect("serves") });
    (address, seen)
}

async fn call(credentials: Credentials, address: std::net::SocketAddr) -> Result<(), Status> {
    call_as(Callee::Agent("node-1".into()), credentials, address).await
}

async fn call_as(callee: Callee, credentials: Credentials, address: std::net::SocketAddr) -> Result<(), Status> {
    let (channel, reached) = channel(credentials.fixed(), callee, &address.to_string(), LIMIT);
    assert!(!reached.get());
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await.map(drop);
    assert_eq!(reached.get(), answer.is_ok());
    answer
}

#[tokio::test]
async fn a_call_arrives_with_the_callers_identity() {
    let ca = Ca::new();
    let (address, mut seen) = serve(ca.credentials(AGENT)).await;
    call(ca.credentials(COORDINATOR), address).await.expect("answered");
    assert_eq!(seen.recv().await, Some(identity(Role::Coordinator, "alice")));
}

#[tokio::test]
async fn a_refused_client_finds_the_reason_in_the_status() {
    let ca = Ca::new();
    let (address, mut seen) = serve(ca.credentials(AGENT)).await;
    let status = call(ca.issue(COORDINATOR, expired).load(), address).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(untrusted(&status), Some(Distrust::OfUs(Fault::Expired)));
    assert!(seen.try_recv().is_err(), "no call came through");
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_found_in_the_status() {
    let (listener, address) = listen().await;
    drop(listener);
    let status = call(Ca::new().credentials(COORDINATOR), address).await.expect_err("nobody there");
    assert_eq!(status.code(), Code::Unavailable);
    let chain = std::iter::successors(Some(&status as &dyn std::error::Error), |error| error.source());
    let found = chain.filter_map(|error| error.downcast_ref::<DialError>()).next().expect("a dial error");
    assert!(matches!(found, DialError::Unreachable { callee, .. } if callee.name() == "node-1"));
    assert_eq!(untrusted(&status), None);
}

#[tokio::test]
async fn a_coordinator_is_called_by_a_name_that_its_certificate_is_for() {
    let ca = Ca::new();
    let fleet = ca.issue(COORDINATOR, |params| {
        params.subject_alt_names.push(SanType::DnsName("fleet.example.org".try_into().expect("ASCII")));
    });
    let fleet = fleet.load();
    assert_eq!(fleet.names(), ["alice", "fleet.example.org"]);
    let (address, _seen) = serve(fleet).await;
    let called = |callee| call_as(callee, ca.credentials("vmferry://test/viewer/wall"), address);
    for name in ["alice", "fleet.example.org"] {
        called(Callee::Coordinator(name.into())).await.expect("it is for this name");
    }
    let status = called(Callee::Coordinator("elsewhere".into())).await.expect_err("not its name");
    assert_eq!(untrusted(&status), Some(Distrust::OfPeer(Fault::WrongName)));
    // Whoever means an agent gets no coordinator, and the other way round.
    let status = called(Callee::Agent("alice".into())).await.expect_err("no agent");
    assert!(matches!(untrusted(&status), Some(Distrust::OfPeer(Fault::WrongIdentity(Some(_))))), "{status:?}");
    let (address, _) = serve(ca.credentials(AGENT)).await;
    let status = call_as(Callee::Coordinator("node-1".into()), ca.credentials(COORDINATOR), address).await;
    let status = status.expect_err("no coordinator");
    assert!(matches!(untrusted(&status), Some(Distrust::OfPeer(Fault::WrongIdentity(Some(_))))), "{status:?}");
}

#[test]
fn a_certificate_that_is_for_clients_only_serves_under_no_name() {
    let client = Ca::new().issue(COORDINATOR, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert!(client.load().names().is_empty());
}
