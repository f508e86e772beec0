//! Being called: the side of agents and of coordinators that serve.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;
use vmferry_core::identity::Identity;

use crate::{Credentials, Distrust, Fault, Protocol, READ_BUFFER, Stream, certificate::peer_identity, untrusted};

/// How much of a refused client's data is read away, and for how long, so that closing does not overtake the reason.
const LINGER_BYTES: u64 = 256 * 1024;
const LINGER: Duration = Duration::from_secs(1);

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The client did not finish the handshake in time.
    #[error("{peer} did not finish the TLS handshake within {limit:?}")]
    Slow {
        /// Where the connection came from.
        peer: SocketAddr,
        /// The time it had.
        limit: Duration,
    },
    /// One of the two does not trust the other, or the client speaks something else.
    #[error("no trust between us and {peer}: {reason}; {}", .reason.remedy(&.peer.to_string()))]
    Untrusted {
        /// Where the connection came from.
        peer: SocketAddr,
        /// Who refused whom, and why.
        reason: Distrust,
    },
    /// The connection broke.
    #[error("the connection from {peer} broke during the TLS handshake")]
    Broken {
        /// Where the connection came from.
        peer: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The connection was gone before it was looked at.
    #[error("a connection was gone before it was accepted")]
    Gone(#[source] io::Error),
}

/// A connection from one of ours. For tonic's `serve_with_incoming` it is a connection whose requests carry the client's
/// [`Identity`] in their extensions.
#[derive(Debug)]
pub struct Accepted {
    /// The bytes.
    pub stream: Stream,
    /// Who called.
    pub identity: Identity,
    /// What they want to speak.
    pub protocol: Protocol,
    /// Where from.
    pub peer: SocketAddr,
}

/// Does the server's part of the handshake, within `limit`. A client that is refused is told why, as far as TLS has a word for it.
pub async fn accept(credentials: &Credentials, tcp: TcpStream, limit: Duration) -> Result<Accepted, AcceptError> {
    let peer = tcp.peer_addr().map_err(AcceptError::Gone)?;
    tcp.set_nodelay(true).map_err(AcceptError::Gone)?;
    let acceptor = TlsAcceptor::from(credentials.server_config());
    let handshake = acceptor.accept(BufReader::with_capacity(READ_BUFFER, tcp)).into_fallible();
    let stream = match timeout(limit, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err((error, tcp))) => {
            linger(tcp).await;
            return Err(match untrusted(&error) {
                Some(reason) => AcceptError::Untrusted { peer, reason },
                None => AcceptError::Broken { peer, source: error },
            });
        }
        Err(_) => return Err(AcceptError::Slow { peer, limit }),
    };

    let untrusted = |reason| AcceptError::Untrusted { peer, reason };
    let session = stream.get_ref().1;
    // The handshake has checked the identity already.
    let identity = peer_identity(session.peer_certificates(), &credentials.identity().cluster)
        .map_err(|error| untrusted(Distrust::OfPeer(Fault::WrongIdentity(Some(error)))))?;
    // A client that asks for an unknown protocol was refused by the handshake; one that asks for none is here.
    let protocol = Protocol::from_alpn(session.alpn_protocol()).ok_or_else(|| untrusted(Distrust::NoCommonProtocol))?;
    Ok(Accepted { stream: stream.into(), identity, protocol, peer })
}

/// Closes after a refusal. Closing with data unread would reset the connection, and the client might never see the reason.
async fn linger(mut tcp: BufReader<TcpStream>) {
    let read_away = async {
        tcp.shutdown().await?;
        tokio::io::copy(&mut tcp.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    // The client is gone, or too slow to be told: nothing is lost.
    let _ = timeout(LINGER, read_away).await;
}

impl Connected for Accepted {
    type ConnectInfo = Identity;

    fn connect_info(&self) -> Identity {
        self.identity.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
