//! Calling an agent, or a coordinator.

use std::{fmt, io, time::Duration};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client};

use crate::{Credentials, Distrust, Protocol, READ_BUFFER, Stream, untrusted};

/// Who is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Callee {
    /// The agent of the host with this name.
    Agent(String),
    /// A coordinator whose certificate is for this DNS name or address.
    Coordinator(String),
}

impl Callee {
    /// The name that its certificate must be for.
    pub fn name(&self) -> &str {
        match self {
            Self::Agent(name) | Self::Coordinator(name) => name,
        }
    }

    fn program(&self) -> &'static str {
        match self {
            Self::Agent(_) => "vmferry-agent",
            Self::Coordinator(_) => "`vmferry serve`",
        }
    }
}

impl fmt::Display for Callee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(host) => write!(f, "the agent of {host}"),
            Self::Coordinator(name) => write!(f, "the coordinator {name}"),
        }
    }
}

/// Why an agent or a coordinator could not be called. What is displayed is whole, the reason and then what to do; so there is no `source()`
/// that would say it again.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody answered there.
    #[error("cannot reach {callee} at {address}: {reason}; {}", .reason.remedy(.callee))]
    Unreachable {
        /// Who was called.
        callee: Callee,
        /// HOST:PORT as it was dialed.
        address: String,
        /// How it failed.
        reason: Unreachable,
    },
    /// Somebody answered, and one of the two does not trust the other.
    #[error("no trust between us and {callee} at {address}: {reason}; {}", .reason.remedy(.callee.name()))]
    Untrusted {
        /// Who was called.
        callee: Callee,
        /// HOST:PORT as it was dialed.
        address: String,
        /// Who refused whom, and why.
        reason: Distrust,
    },
}

/// How reaching somebody failed.
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
    #[error("the connection broke before there was an answer ({0})")]
    Broken(io::Error),
}

impl Unreachable {
    fn remedy(&self, callee: &Callee) -> String {
        match self {
            Self::Unresolved(_) => "check the address; it must be HOST:PORT".into(),
            Self::Refused => format!("check the port, and start {} there if it does not run", callee.program()),
            Self::Failed(_) | Self::Silent(_) => {
                "check the address, the route and firewalls, and that the host is up".into()
            }
            Self::Broken(_) => format!("check that the address is that of {callee}, and look into its log"),
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
    call(credentials, address, &Callee::Agent(host.to_owned()), protocol, limit).await
}

/// Connects to whom is meant, and returns once it is certain who answers, as [`dial`] does. Coordinators speak gRPC only.
pub(crate) async fn call(
    credentials: &Credentials,
    address: &str,
    callee: &Callee,
    protocol: Protocol,
    limit: Duration,
) -> Result<Stream, DialError> {
    let unreachable = |reason| DialError::Unreachable { callee: callee.clone(), address: address.to_owned(), reason };
    let distrusted = |reason| DialError::Untrusted { callee: callee.clone(), address: address.to_owned(), reason };
    let broken = |error: io::Error| match untrusted(&error) {
        Some(distrust) => distrusted(distrust),
        None => unreachable(Unreachable::Broken(error)),
    };

    let called = async {
        let tcp = connect(address).await.map_err(unreachable)?;
        let name = ServerName::try_from(callee.name().to_owned())
            .map_err(|error| unreachable(Unreachable::Unresolved(io::Error::other(error))))?;
        let connector = TlsConnector::from(match callee {
            Callee::Agent(_) => credentials.client_config(protocol),
            Callee::Coordinator(_) => credentials.coordinator_client_config(),
        });
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
