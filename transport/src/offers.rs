//! What a client wants to speak, told before anything of it was read: whoever is given the connection then does the whole handshake.

use std::{io, os::fd::AsRawFd as _};

use nix::sys::socket::{MsgFlags, recv};
use rustls::server::Acceptor;
use tokio::{io::Interest, net::TcpStream};

use crate::Protocol;

/// The most of a first message that is looked at. A `ClientHello` of ours has less than 2 KiB.
const LOOKED_AT: usize = 16 * 1024;

/// Whether the client offers this protocol in the first message of its handshake, which stays in the socket. `false` too for what
/// is no such message: a handshake finds out what it is.
///
/// Waits for the whole message, and for no longer than the client keeps the connection open.
pub async fn offers(tcp: &TcpStream, protocol: Protocol) -> io::Result<bool> {
    let mut looked_at = vec![0; LOOKED_AT];
    let mut seen = 0;
    tcp.async_io(Interest::READABLE, || {
        let there = recv(tcp.as_raw_fd(), &mut looked_at, MsgFlags::MSG_PEEK)?;
        // There is nothing new, or the client has closed its side.
        let is_all = there == 0 || there == LOOKED_AT;
        if there == seen && !is_all {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        seen = there;
        match protocols(&looked_at[..there], protocol) {
            Some(offered) => Ok(offered),
            None if is_all => Ok(false),
            // The runtime asks again when more has come.
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    })
    .await
}

/// `None`: that cannot be told yet.
fn protocols(bytes: &[u8], protocol: Protocol) -> Option<bool> {
    let (mut acceptor, mut rest) = (Acceptor::default(), bytes);
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return Some(false);
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let offered = hello.alpn().is_some_and(|mut offered| offered.any(|name| name == protocol.alpn()));
                return Some(offered);
            }
            Err(_) => return Some(false),
        }
    }
    None
}
