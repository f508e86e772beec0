//! What is told of a connection before anything of it is read.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use vmferry_transport::{Protocol, accept, dial, offers};

use crate::support::{Ca, LIMIT};

const AGENT: &str = "vmferry://test/agent/node-1";

/// What a client of ours says first, as it is on the wire.
async fn first_words(ca: &Ca, protocol: Protocol) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound").to_string();
    let credentials = ca.credentials(AGENT);
    let dialing = tokio::spawn(async move { dial(&credentials, &address, "node-1", protocol, LIMIT).await.map(drop) });
    let (mut tcp, _) = listener.accept().await.expect("accepted");
    let mut words = vec![0; 5];
    tcp.read_exact(&mut words).await.expect("a record's head");
    let length = usize::from(u16::from_be_bytes([words[3], words[4]]));
    words.resize(5 + length, 0);
    tcp.read_exact(&mut words[5..]).await.expect("the record");
    dialing.abort();
    words
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
    (client, listener.accept().await.expect("accepted").0)
}

#[tokio::test]
async fn what_is_offered_is_told_and_the_handshake_is_still_whole() {
    let ca = Ca::new();
    for protocol in [Protocol::Tunnel, Protocol::Agents] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound").to_string();
        let credentials = ca.credentials(AGENT);
        let dialing = tokio::spawn({
            let credentials = credentials.clone();
            async move { dial(&credentials, &address, "node-1", protocol, LIMIT).await }
        });
        let (tcp, _) = listener.accept().await.expect("accepted");
        assert_eq!(offers(&tcp, Protocol::Tunnel).await.expect("told"), protocol == Protocol::Tunnel);
        let accepted = accept(&credentials, tcp, LIMIT).await.expect("a whole handshake");
        assert_eq!(accepted.protocol, protocol);
        dialing.await.expect("no panic").expect("dialed");
    }
}

#[tokio::test]
async fn a_message_in_pieces_is_waited_for() {
    let words = first_words(&Ca::new(), Protocol::Tunnel).await;
    let (mut client, server) = pair().await;
    let told = tokio::spawn(async move { offers(&server, Protocol::Tunnel).await });
    for piece in words.chunks(100) {
        assert!(!told.is_finished(), "too early");
        client.write_all(piece).await.expect("written");
        client.flush().await.expect("written");
        tokio::task::yield_now().await;
    }
    assert!(timeout(LIMIT, told).await.expect("in time").expect("no panic").expect("told"));
}

#[tokio::test]
async fn what_is_no_handshake_offers_nothing() {
    let (mut client, server) = pair().await;
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
    assert!(!offers(&server, Protocol::Tunnel).await.expect("told"));

    let (client, server) = pair().await;
    drop(client);
    assert!(!offers(&server, Protocol::Tunnel).await.expect("told"), "one that is gone");

    let (_client, server) = pair().await;
    let told = timeout(Duration::from_millis(50), offers(&server, Protocol::Tunnel)).await;
    assert!(told.is_err(), "one that says nothing has said nothing");
}
