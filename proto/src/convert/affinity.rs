use vmferry_core::affinity::{AffinityPolicy, Membership};

use super::{Invalid, invalid};
use crate::v1;

impl From<Membership> for v1::AffinityMembership {
    fn from(Membership { group, policy }: Membership) -> Self {
        Self { group: group.into(), policy: v1::AffinityPolicy::from(policy).into() }
    }
}

impl TryFrom<v1::AffinityMembership> for Membership {
    type Error = Invalid;

    fn try_from(said: v1::AffinityMembership) -> Result<Self, Invalid> {
        let policy = said.policy().try_into()?;
        Ok(Self { group: said.group.parse().map_err(invalid("affinity.group"))?, policy })
    }
}

impl From<AffinityPolicy> for v1::AffinityPolicy {
    fn from(policy: AffinityPolicy) -> Self {
        match policy {
            AffinityPolicy::Affinity => Self::Affinity,
            AffinityPolicy::AntiAffinity => Self::AntiAffinity,
            AffinityPolicy::SoftAffinity => Self::SoftAffinity,
            AffinityPolicy::SoftAntiAffinity => Self::SoftAntiAffinity,
        }
    }
}

impl TryFrom<v1::AffinityPolicy> for AffinityPolicy {
    type Error = Invalid;

    fn try_from(policy: v1::AffinityPolicy) -> Result<Self, Invalid> {
        match policy {
            v1::AffinityPolicy::Affinity => Ok(Self::Affinity),
            v1::AffinityPolicy::AntiAffinity => Ok(Self::AntiAffinity),
            v1::AffinityPolicy::SoftAffinity => Ok(Self::SoftAffinity),
            v1::AffinityPolicy::SoftAntiAffinity => Ok(Self::SoftAntiAffinity),
            v1::AffinityPolicy::Unspecified => Err(Invalid { field: "affinity.policy" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_come_back_as_they_went() {
        for policy in AffinityPolicy::ALL {
            let said = Membership { group: "db".parse().expect("valid"), policy };
            assert_eq!(v1::AffinityMembership::from(said.clone()).try_into(), Ok(said));
        }
    }

    #[test]
    fn what_says_nothing_is_refused_with_its_field() {
        let good = v1::AffinityMembership { group: "db".into(), policy: v1::AffinityPolicy::Affinity.into() };
        for (bad, field) in [
            (v1::AffinityMembership { group: String::new(), ..good.clone() }, "affinity.group"),
            (v1::AffinityMembership { policy: 0, ..good.clone() }, "affinity.policy"),
            (v1::AffinityMembership { policy: 9, ..good }, "affinity.policy"),
        ] {
            assert_eq!(Membership::try_from(bad), Err(Invalid { field }));
        }
    }
}
