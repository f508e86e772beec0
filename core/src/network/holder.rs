use std::{fmt, str::FromStr};

use macaddr::MacAddr6;
use serde::{Deserialize, Serialize};

use super::{LinkName, NetworkName, VifId};
use crate::id::InvalidId;

/// Whom something is made for that VMFerry has made on a host. As text it is the mark of what is made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Holder {
    /// All vifs of a network.
    Network(NetworkName),
    /// One vif.
    Vif(VifId),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => write!(f, "network {network}"),
            Self::Vif(vif) => vif.fmt(f),
        }
    }
}

impl FromStr for Holder {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(network) = text.strip_prefix("network ") {
            return network.parse().map(Self::Network);
        }
        text.parse().map(Self::Vif)
    }
}

impl TryFrom<String> for Holder {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Holder> for String {
    fn from(holder: Holder) -> Self {
        holder.to_string()
    }
}

impl FromStr for VifId {
    type Err = InvalidId;

    /// Reads what [`VifId`] is as text.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let vif = text.strip_prefix("vif ").and_then(|rest| rest.split_once(" of ")).and_then(|(mac, instance)| {
            Some(Self { mac: mac.parse::<MacAddr6>().ok()?, instance: instance.parse().ok()? })
        });
        vif.ok_or_else(|| InvalidId { kind: "vif", text: text.to_owned() })
    }
}

/// Something on a host that carries VMFerry's mark.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HeldLink {
    /// Its name.
    pub name: LinkName,
    /// What it is.
    pub kind: HeldKind,
    /// Whom it is for; none: it was being made when that was cut off.
    pub holder: Option<Holder>,
    /// A link that VMFerry has not made and that needs it: a port of this bridge, or what lies on top of it.
    pub used_by: Option<LinkName>,
}

/// What carries VMFerry's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldKind {
    /// A link of the kernel.
    Link,
    /// A port in Open vSwitch's database.
    OvsPort,
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::id::InstanceId;

    #[test]
    fn a_mark_reads_back() {
        let vif = VifId { instance: InstanceId(Uuid::from_u128(1)), mac: MacAddr6::new(0x52, 0x54, 0, 0, 0, 0xab) };
        for holder in [Holder::Network("blue".parse().expect("valid")), Holder::Vif(vif)] {
            assert_eq!(holder.to_string().parse(), Ok(holder));
        }
        for no in ["", "network ", "network a b", "vif 1", "vif 52:54:00:00:00:ab of me", "blue"] {
            assert!(no.parse::<Holder>().is_err(), "{no}");
        }
    }
}
