use vmferry_core::leftovers::{Kind, Leftover, Level};

use super::Invalid;
use crate::v1;

/// Every kind and its wire value.
const KINDS: [(Kind, v1::LeftoverKind); 13] = [
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
    (Kind::Drift, v1::LeftoverKind::Drift),
    (Kind::Unseen, v1::LeftoverKind::Unseen),
];

impl From<Leftover> for v1::Leftover {
    fn from(leftover: Leftover) -> Self {
        let kind = KINDS.iter().find(|(kind, _)| *kind == leftover.kind).map(|(_, wire)| *wire);
        let level = match leftover.level {
            Level::Problem => v1::LeftoverLevel::Problem,
            Level::Note => v1::LeftoverLevel::Note,
        };
        Self {
            kind: kind.unwrap_or_default().into(),
            level: level.into(),
            subject: leftover.subject,
            problem: leftover.problem,
            remedy: leftover.remedy,
        }
    }
}

impl TryFrom<v1::Leftover> for Leftover {
    type Error = Invalid;

    fn try_from(leftover: v1::Leftover) -> Result<Self, Invalid> {
        let kind = KINDS.iter().find(|(_, wire)| *wire == leftover.kind()).map(|(kind, _)| *kind);
        Ok(Self {
            kind: kind.ok_or(Invalid { field: "leftover.kind" })?,
            level: match leftover.level() {
                v1::LeftoverLevel::Unspecified => return Err(Invalid { field: "leftover.level" }),
                v1::LeftoverLevel::Problem => Level::Problem,
                v1::LeftoverLevel::Note => Level::Note,
            },
            subject: leftover.subject,
            problem: leftover.problem,
            remedy: leftover.remedy,
        })
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
            };
            assert_eq!(Leftover::try_from(v1::Leftover::from(sent.clone())), Ok(sent));
        }
        assert!(Leftover::try_from(v1::Leftover::default()).is_err());
    }
}
