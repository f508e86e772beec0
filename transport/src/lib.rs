//! Mutual TLS between VMFerry's parts.
//!
//! TLS 1.3 only, client certificates always, one port: ALPN chooses what a connection carries ([`Protocol`]). Both sides
//! check, inside the handshake, that the other's certificate names an [`Identity`] of their own cluster; a client also
//! checks that it is the very agent it meant, or a coordinator.
//!
//! - [`load`] reads certificates into [`Credentials`]; [`watch_files`] keeps them fresh.
//! - [`dial`] and [`channel`] reach an agent, the latter a coordinator's service as well; [`accept`] is the server's side,
//!   and [`listen`] has many served at once; [`listen_but`] leaves what carries a migration to somebody else, who is found
//!   by [`offers`], before anything was read.
//! - [`untrusted`] finds, in any error of a connection, that it was about trust, and whose fault it was.
//!
//! [`Identity`]: vmferry_core::identity::Identity

mod accept;
mod certificate;
mod channel;
mod credentials;
mod dial;
mod files;
mod listen;
mod offers;
mod reload;
mod trust;
mod verify;

pub use accept::{AcceptError, Accepted, accept};
pub use certificate::{CertificateFacts, IdentityError, peer_identity};
pub use channel::{Reached, channel};
pub use credentials::{Credentials, load};
pub use dial::{Callee, DialError, Unreachable, dial};
pub use files::{CertificateFiles, Error, read_certificates, read_private};
pub use listen::{listen, listen_but};
pub use offers::offers;
pub use reload::watch_files;
pub use trust::{Distrust, Fault, untrusted};

use tokio::{io::BufReader, net::TcpStream};

/// A connection between two parts of VMFerry, whichever side it is seen from.
pub type Stream = tokio_rustls::TlsStream<BufReader<TcpStream>>;

/// How much is read from a socket at once. rustls alone reads 4 KiB at a time, which costs a receiver up to a third more CPU.
const READ_BUFFER: usize = 64 * 1024;

/// What a connection carries, as chosen by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// gRPC: the calls of agents and coordinators.
    Grpc,
    /// The raw byte stream of one migration. It may be carried by another process than the agent's.
    Tunnel,
    /// What the agents of a migration's two hosts say to each other.
    Agents,
}

impl Protocol {
    /// All there are, in the server's order of preference.
    pub const ALL: [Self; 3] = [Self::Grpc, Self::Tunnel, Self::Agents];

    /// The name in ALPN.
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::Grpc => b"h2",
            Self::Tunnel => b"vmferry-tunnel/1",
            Self::Agents => b"vmferry-agents/1",
        }
    }

    /// The protocol that was agreed upon, if it is one of ours.
    pub fn from_alpn(alpn: Option<&[u8]>) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| alpn == Some(protocol.alpn()))
    }
}
