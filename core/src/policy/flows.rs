use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// What a host remembers of a vif's conversations, so that answers get through where a rule lets only the question through.
/// It goes with the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows(pub Vec<Flow>);

/// A conversation that a rule has let through.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// Who asked whom.
    pub ends: Ends,
    /// About what.
    pub subject: Subject,
    /// How long it is remembered if nothing more is heard, in seconds; never 0.
    pub left: u32,
}

/// Who asked whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ends {
    /// By IPv4.
    V4 {
        /// Who asked.
        from: Ipv4Addr,
        /// Who answers.
        to: Ipv4Addr,
    },
    /// By IPv6.
    V6 {
        /// Who asked.
        from: Ipv6Addr,
        /// Who answers.
        to: Ipv6Addr,
    },
}

/// What tells the conversations of two addresses apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The ports of TCP or UDP.
    Ports {
        /// The number of the protocol.
        protocol: u8,
        /// Of who asked.
        from: u16,
        /// Of who answers.
        to: u16,
    },
    /// The identifier of an ICMP echo, of either ICMP.
    Echo {
        /// It.
        id: u16,
    },
    /// Nothing but the number of the protocol.
    Protocol {
        /// It.
        protocol: u8,
    },
}
