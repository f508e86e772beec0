//! Which guests shall be together on a host, and which apart.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{id::name, identity::is_label};

/// An affinity group's name: the same on every host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupName(String);

name!(GroupName, is_label, "name of an affinity group");

/// A guest's place in an affinity group, as its definition's metadata say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Membership {
    /// The group.
    pub group: GroupName,
    /// What being in it means for this guest.
    pub policy: AffinityPolicy,
}

/// What it means to be in an affinity group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AffinityPolicy {
    /// Only where another of the group is. A guest that has no other goes anywhere.
    Affinity,
    /// Only where no other of the group is.
    AntiAffinity,
    /// Rather where others of the group are.
    SoftAffinity,
    /// Rather where fewer of the group are.
    SoftAntiAffinity,
}

impl AffinityPolicy {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Affinity, Self::AntiAffinity, Self::SoftAffinity, Self::SoftAntiAffinity];

    /// The word in metadata, on the command line and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Affinity => "affinity",
            Self::AntiAffinity => "anti-affinity",
            Self::SoftAffinity => "soft-affinity",
            Self::SoftAntiAffinity => "soft-anti-affinity",
        }
    }
}

impl fmt::Display for AffinityPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is no affinity policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of affinity, anti-affinity, soft-affinity and soft-anti-affinity")]
pub struct UnknownAffinityPolicy(pub String);

impl FromStr for AffinityPolicy {
    type Err = UnknownAffinityPolicy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|policy| policy.as_str() == text);
        found.ok_or_else(|| UnknownAffinityPolicy(text.to_owned()))
    }
}
