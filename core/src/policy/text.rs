//! Rules as people write them: `tcp:80-443@192.0.2.0/24`, `icmp`, `any@group=web`.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use super::{Direction, Peer, Ports, Protocol, Rule};

/// A rule that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRule {
    /// No such protocol.
    #[error("`{0}` is no protocol; write any, tcp, udp, icmp, icmpv6 or a number from 0 to 255")]
    Protocol(String),
    /// No ports.
    #[error("`{0}` are no ports; write PORT or FIRST-LAST, from 0 to 65535, the smaller first")]
    Ports(String),
    /// A protocol that has no ports.
    #[error("{0} has no ports: only tcp and udp have some")]
    NoPorts(Protocol),
    /// Nobody.
    #[error("`{0}` is no peer; write an address, NETWORK/LENGTH (192.0.2.0/24) or group=NAME")]
    Peer(String),
    /// Bits after the prefix.
    #[error("`{given}` has bits after its prefix; write {meant}")]
    HostBits {
        /// What was said.
        given: IpNet,
        /// What it is a part of.
        meant: IpNet,
    },
    /// No direction.
    #[error("`{0}` is no direction; write ingress or egress")]
    Direction(String),
}

impl Rule {
    /// One that makes sense.
    pub fn new(
        direction: Direction,
        protocol: Protocol,
        ports: Option<Ports>,
        peer: Peer,
    ) -> Result<Self, InvalidRule> {
        if ports.is_some() && !matches!(protocol, Protocol::Tcp | Protocol::Udp) {
            return Err(InvalidRule::NoPorts(protocol));
        }
        Ok(Self { direction, protocol, ports, peer })
    }

    /// Reads `PROTOCOL[:PORTS][@PEER]`.
    pub fn parse(direction: Direction, text: &str) -> Result<Self, InvalidRule> {
        let (what, peer) = match text.split_once('@') {
            Some((what, peer)) => (what, peer.parse()?),
            None => (text, Peer::Anyone),
        };
        let (protocol, ports) = match what.split_once(':') {
            Some((protocol, ports)) => (protocol, Some(ports.parse()?)),
            None => (what, None),
        };
        Self::new(direction, protocol.parse()?, ports, peer)
    }

    /// What it lets through, as [`Rule::parse`] reads it.
    pub fn allowed(&self) -> String {
        let ports = self.ports.map(|ports| format!(":{ports}")).unwrap_or_default();
        match &self.peer {
            Peer::Anyone => format!("{}{ports}", self.protocol),
            peer => format!("{}{ports}@{peer}", self.protocol),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.direction, self.allowed())
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

impl FromStr for Direction {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<Self, InvalidRule> {
        match text {
            "ingress" => Ok(Self::Ingress),
            "egress" => Ok(Self::Egress),
            _ => Err(InvalidRule::Direction(text.to_owned())),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Icmp => f.write_str("icmp"),
            Self::Icmpv6 => f.write_str("icmpv6"),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl FromStr for Protocol {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<Self, InvalidRule> {
        Ok(match text {
            "any" => Self::Any,
            "tcp" | "6" => Self::Tcp,
            "udp" | "17" => Self::Udp,
            "icmp" | "1" => Self::Icmp,
            "icmpv6" | "58" => Self::Icmpv6,
            other => Self::Number(other.parse().map_err(|_| InvalidRule::Protocol(text.to_owned()))?),
        })
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last { first.fmt(f) } else { write!(f, "{first}-{last}") }
    }
}

impl FromStr for Ports {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<Self, InvalidRule> {
        let number = |part: &str| part.parse().map_err(|_| InvalidRule::Ports(text.to_owned()));
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (number(first)?, number(last)?);
        if first <= last { Ok(Self { first, last }) } else { Err(InvalidRule::Ports(text.to_owned())) }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("any"),
            Self::Net(net) => net.fmt(f),
            Self::Group(group) => write!(f, "group={group}"),
        }
    }
}

impl FromStr for Peer {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<Self, InvalidRule> {
        let unknown = || InvalidRule::Peer(text.to_owned());
        if let Some(group) = text.strip_prefix("group=") {
            return group.parse().map(Self::Group).map_err(|_| unknown());
        }
        if text == "any" {
            return Ok(Self::Anyone);
        }
        let net = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse::<IpNet>().map_err(|_| unknown())?,
        };
        if net.trunc() == net {
            Ok(Self::Net(net))
        } else {
            Err(InvalidRule::HostBits { given: net, meant: net.trunc() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_reads_back_as_it_was_written() {
        for text in ["any", "tcp", "tcp:80", "udp:1000-2000@192.0.2.0/24", "icmp@2001:db8::/64", "47@group=web"] {
            assert_eq!(Rule::parse(Direction::Ingress, text).expect(text).allowed(), text);
        }
        let one = Rule::parse(Direction::Egress, "6:0-65535@192.0.2.7").expect("valid");
        assert_eq!(one.to_string(), "egress tcp:0-65535@192.0.2.7/32");
    }

    #[test]
    fn what_is_no_rule_says_what_to_write() {
        let told = |text: &str| Rule::parse(Direction::Ingress, text).expect_err(text).to_string();
        assert!(told("sctp").contains("`sctp` is no protocol"));
        assert!(told("256").contains("is no protocol"));
        for ports in ["tcp:", "tcp:65536", "tcp:9-1", "tcp:1-2-3"] {
            assert!(told(ports).contains("are no ports"), "{ports}");
        }
        assert_eq!(told("icmp:80"), "icmp has no ports: only tcp and udp have some");
        for peer in ["tcp@", "tcp@192.0.2.0/33", "tcp@group=", "tcp@web"] {
            assert!(told(peer).contains("is no peer"), "{peer}");
        }
        assert_eq!(told("tcp@192.0.2.7/24"), "`192.0.2.7/24` has bits after its prefix; write 192.0.2.0/24");
    }
}
