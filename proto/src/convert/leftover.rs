use vmferry_core::{
    agent::CallError,
    id::HostName,
    leftovers::{Kind, Leftover, LeftoverName, Level, Removal},
};

use super::{Invalid, invalid};
use crate::v1;

/// Every kind and its wire value.
const KINDS: [(Kind, v1::LeftoverKind); 15] = [
    (Kind::Migration, v1::LeftoverKind::Migration),
    (Kind::Steps, v1::LeftoverKind::Steps),
    (Kind::Secret, v1::LeftoverKind::Secret),
    (Kind::IscsiSession, v1::LeftoverKind::IscsiSession),
    (Kind::IscsiRecord, v1::LeftoverKind::IscsiRecord),
    (Kind::RbdImage, v1::LeftoverKind::RbdImage),
    (Kind::Directory, v1::LeftoverKind::Directory),
    (Kind::Probes, v1::LeftoverKind::Probes),
    (Kind::Receiver, v1::LeftoverKind::Receiver),
    (Kind::Link, v1::LeftoverKind::Link),
    (Kind::Filter, v1::LeftoverKind::Filter),
    (Kind::Guest, v1::LeftoverKind::Guest),
    (Kind::Definition, v1::LeftoverKind::Definition),
    (Kind::Drift, v1::LeftoverKind::Drift),
    (Kind::Unseen, v1::LeftoverKind::Unseen),
];

impl From<Kind> for v1::LeftoverKind {
    fn from(kind: Kind) -> Self {
        KINDS.iter().find(|(known, _)| *known == kind).map(|(_, wire)| *wire).unwrap_or_default()
    }
}

fn kind(wire: v1::LeftoverKind) -> Result<Kind, Invalid> {
    let known = KINDS.iter().find(|(_, other)| *other == wire).map(|(kind, _)| *kind);
    known.ok_or(Invalid { field: "leftover.kind" })
}

impl From<Leftover> for v1::Leftover {
    fn from(leftover: Leftover) -> Self {
        let level = match leftover.level {
            Level::Problem => v1::LeftoverLevel::Problem,
            Level::Note => v1::LeftoverLevel::Note,
        };
        Self {
            kind: v1::LeftoverKind::from(leftover.kind).into(),
            level: level.into(),
            subject: leftover.subject,
            problem: leftover.problem,
            remedy: leftover.remedy,
            removable: leftover.removable,
        }
    }
}

impl TryFrom<v1::Leftover> for Leftover {
    type Error = Invalid;

    fn try_from(leftover: v1::Leftover) -> Result<Self, Invalid> {
        Ok(Self {
            kind: kind(leftover.kind())?,
            level: match leftover.level() {
                v1::LeftoverLevel::Unspecified => return Err(Invalid { field: "leftover.level" }),
                v1::LeftoverLevel::Problem => Level::Problem,
                v1::LeftoverLevel::Note => Level::Note,
            },
            subject: leftover.subject,
            problem: leftover.problem,
            remedy: leftover.remedy,
            removable: leftover.removable,
        })
    }
}

impl From<LeftoverName> for v1::LeftoverName {
    fn from(LeftoverName { kind, subject }: LeftoverName) -> Self {
        Self { kind: v1::LeftoverKind::from(kind).into(), subject }
    }
}

impl TryFrom<v1::LeftoverName> for LeftoverName {
    type Error = Invalid;

    fn try_from(name: v1::LeftoverName) -> Result<Self, Invalid> {
        Ok(Self { kind: kind(name.kind())?, subject: name.subject })
    }
}

impl From<Removal> for v1::Removal {
    fn from(removal: Removal) -> Self {
        let outcome = match &removal {
            Removal::Removed => v1::RemovalOutcome::Removed,
            Removal::NotFound => v1::RemovalOutcome::NotFound,
            Removal::Failed(_) => v1::RemovalOutcome::Failed,
        };
        let (reason, message) = match removal {
            Removal::Failed(error) => (error.reason.to_string(), error.message),
            Removal::Removed | Removal::NotFound => Default::default(),
        };
        Self { outcome: outcome.into(), reason, message }
    }
}

/// What the agent of `host` has made of a leftover.
///
/// # Errors
/// It says nothing that can be understood.
pub fn removal(host: &HostName, removal: v1::Removal) -> Result<Removal, Invalid> {
    match removal.outcome() {
        v1::RemovalOutcome::Unspecified => Err(Invalid { field: "removal.outcome" }),
        v1::RemovalOutcome::Removed => Ok(Removal::Removed),
        v1::RemovalOutcome::NotFound => Ok(Removal::NotFound),
        v1::RemovalOutcome::Failed => {
            let reason = removal.reason.parse().map_err(invalid("removal.reason"))?;
            Ok(Removal::Failed(CallError { host: host.clone(), reason, message: removal.message }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_arrives_as_it_was_sent() {
        for number in 1..=i32::MAX {
            let Ok(wire) = v1::LeftoverKind::try_from(number) else { break };
            let (kind, _) = KINDS.iter().find(|(_, other)| *other == wire).expect("a row");
            let sent = Leftover {
                kind: *kind,
                level: Level::Note,
                subject: "a".into(),
                problem: "b".into(),
                remedy: "c".into(),
                removable: number % 2 == 0,
            };
            assert_eq!(Leftover::try_from(v1::Leftover::from(sent.clone())), Ok(sent.clone()));
            let name = sent.name();
            assert_eq!(LeftoverName::try_from(v1::LeftoverName::from(name.clone())), Ok(name));
        }
        assert!(Leftover::try_from(v1::Leftover::default()).is_err());
    }

    #[test]
    fn what_became_of_a_leftover_arrives_as_it_was_sent() {
        let host: HostName = "node-28".parse().expect("valid");
        let (reason, message) = (vmferry_core::reason::Reason::NetworkFailed, "busy".to_owned());
        let failed = Removal::Failed(CallError { host: host.clone(), reason, message });
        for sent in [Removal::Removed, Removal::NotFound, failed] {
            assert_eq!(removal(&host, v1::Removal::from(sent.clone())), Ok(sent));
        }
        assert!(removal(&host, v1::Removal::default()).is_err());
    }
}
