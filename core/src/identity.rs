//! Who is at the other end: the identity that a certificate carries in its SAN URI.

use std::{fmt, str::FromStr};

/// What a certificate's holder may be to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Sequences migrations.
    Coordinator,
    /// Runs on a hypervisor; may open the tunnels that name it as source.
    Agent,
    /// Reads, changes nothing.
    Viewer,
}

impl Role {
    /// The word in the URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Agent => "agent",
            Self::Viewer => "viewer",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "coordinator" => Ok(Self::Coordinator),
            "agent" => Ok(Self::Agent),
            "viewer" => Ok(Self::Viewer),
            _ => Err(InvalidIdentity(text.to_owned())),
        }
    }
}

/// `vmferry://CLUSTER/ROLE/NAME`, as it stands in a certificate's SAN URI.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cluster the certificate was issued for; identities of other clusters are refused.
    pub cluster: String,
    /// What the holder may be.
    pub role: Role,
    /// For an agent the host's name, else the person's or program's.
    pub name: String,
}

/// Who wants something: somebody who calls an agent, or for whom a coordinator calls it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Asker {
    /// Whose wish it is.
    pub identity: Identity,
    /// The coordinator that passed it on.
    pub via: Option<Identity>,
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.via {
            Some(via) => write!(f, "{} via {via}", self.identity),
            None => write!(f, "{}", self.identity),
        }
    }
}

/// A text that is no identity of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an identity of the form vmferry://CLUSTER/(coordinator|agent|viewer)/NAME")]
pub struct InvalidIdentity(pub String);

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vmferry://{}/{}/{}", self.cluster, self.role, self.name)
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidIdentity(text.to_owned());
        let rest = text.strip_prefix("vmferry://").ok_or_else(invalid)?;
        let mut parts = rest.split('/');
        let (Some(cluster), Some(role), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid());
        };
        if !is_label(cluster) || !is_label(name) {
            return Err(invalid());
        }
        let role = role.parse().map_err(|_| invalid())?;
        Ok(Self { cluster: cluster.to_owned(), role, name: name.to_owned() })
    }
}

/// Whether `text` can stand as cluster or name: what is also a valid host name.
pub fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        && !text.starts_with(['-', '.'])
}

/// Whether `text` can be an agent's address: HOST:PORT with a port that is not 0, an IPv6 address in brackets.
pub fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_label(host),
    };
    host && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_writes() {
        let identity = Identity { cluster: "prod".into(), role: Role::Agent, name: "node-28".into() };
        assert_eq!(identity.to_string().parse(), Ok(identity));
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for good in ["192.0.2.10:7443", "node-28.example.org:1", "[::1]:65535"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["", ":7443", "node-28", "node-28:", "node-28:0", "node-28:65536", "::1:7443", "[::1]", "a b:1"] {
            assert!(!is_address(bad), "{bad}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "vmferry://",
            "vmferry://c/agent",
            "vmferry://c/agent/",
            "vmferry://c/agent/a/b",
            "vmferry:///agent/a",
            "vmferry://c/root/a",
            "https://c/agent/a",
            "vmferry://c/agent/a b",
            "vmferry://c/agent/../x",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
    }
}
