//! Calling an agent.

use std::{io, time::Duration};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client};

use crate::{Credentials, Distrust, Protocol, READ_BUFFER, Stream, untrusted};

/// Why an agent could not be called. What is displayed is whole, the reason and then what to do; so there is no `source()`
/// that would say it again.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody answered there.
    #[error("cannot reach the agent of {host} at {address}: {reason}; {}", .reason.remedy())]
    Unreachable {
        /// The agent's name.
        host: String,
        /// HOST:PORT as it was dialed.
        address: String,
        /// How it failed.
        reason: Unreachable,
    },
    /// Somebody answered, and one of the two does not trust the other.
    #[error("no trust between us and the agent of {host} at {address}: {reason}; {}", .reason.remedy(.host))]
    Untrusted {
        /// The agent's name.
        host: String,
        /// HOST:PORT as it was dialed.
        address: String,
        /// Who refused whom, and why.
        reason: Distrust,
    },
}

/// How reaching an agent failed.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// The address has no IP address, or no port.
    #[error("the address cannot be resolved ({0})")]
    Unresolved(io::Error),
    /// Nothing listens on the port.
    #[error("connection refused")]
    Refused,
    /// No connection, for another reason.
    #[error("cannot connect ({0})")]
    Failed(io::Error),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// The connection was made and broke before anything was agreed.
    #[error("the connection broke before the agent answered ({0})")]
    Broken(io::Error),
}

impl Unreachable {
    fn remedy(&self) -> &'static str {
        match self {
            Self::Unresolved(_) => "check the address; it must be HOST:PORT",
            Self::Refused => "check the port, and start vmferry-agent there if it does not run",
            Self::Failed(_) | Self::Silent(_) => "check the address, the route and firewalls, and that the host is up",
            Self::Broken(_) => "check that the address is the agent's, and look into the agent's log",
        }
    }
}

/// Connects to the agent called `host` at `address` (HOST:PORT), and returns once it is certain that it is that agent.
///
/// For [`Protocol::Grpc`] it is also certain by then that the agent accepts us. A tunnel's server speaks only when asked,
/// so there a refusal may come with the first read: see [`untrusted`]. `limit` bounds everything together.
pub async fn dial(
    credentials: &Credentials,
    address: &str,
    host: &str,
    protocol: Protocol,
    limit: Duration,
) -> Result<Stream, DialError> {
    let unreachable = |reason| DialError::Unreachable { host: host.to_owned(), address: address.to_owned(), reason };
    let distrusted = |reason| DialError::Untrusted { host: host.to_owned(), address: address.to_owned(), reason };
    let broken = |error: io::Error| match untrusted(&error) {
        Some(distrust) => distrusted(distrust),
        None => unreachable(Unreachable::Broken(error)),
    };

    let called = async {
        let tcp = connect(address).await.map_err(unreachable)?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| unreachable(Unreachable::Unresolved(io::Error::other(error))))?;
        let connector = TlsConnector::from(credentials.client_config(protocol));
        let mut stream = connector.connect(name, BufReader::with_capacity(READ_BUFFER, tcp)).await.map_err(broken)?;
        if Protocol::from_alpn(stream.get_ref().1.alpn_protocol()) != Some(protocol) {
            return Err(distrusted(Distrust::NoCommonProtocol));
        }
        if protocol == Protocol::Grpc {
            first_word(&mut stream).await.map_err(broken)?;
        }
        Ok(Stream::from(stream))
    };
    timeout(limit, called).await.unwrap_or_else(|_| Err(unreachable(Unreachable::Silent(limit))))
}

async fn connect(address: &str) -> Result<TcpStream, Unreachable> {
    let resolved: Vec<_> = lookup_host(address).await.map_err(Unreachable::Unresolved)?.collect();
    let tcp = TcpStream::connect(resolved.as_slice()).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Unreachable::Refused,
        _ => Unreachable::Failed(error),
    })?;
    tcp.set_nodelay(true).map_err(Unreachable::Failed)?;
    Ok(tcp)
}

/// Waits until there is something to read, and leaves it there. HTTP/2 servers speak first, and only to those they accepted:
/// so a refusal is found here, where its reason is still known. h2 would hand it on as a mere text.
async fn first_word(stream: &mut client::TlsStream<BufReader<TcpStream>>) -> io::Result<()> {
    match stream.fill_buf().await? {
        [] => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
