//! What doctor has found.

use serde::Serialize;
use vmferry_core::{
    agent::CallError,
    leftovers::{Kind, Leftover, LeftoverName, Level, Removal},
};

use super::Unreachable;
use crate::{exit::Exit, fleet::Answer};

/// What one host has, and what was done about it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Examined {
    /// What is there now.
    pub(crate) left: Answer<Vec<Leftover>>,
    /// What was removed, or should have been; `None`: nobody wanted that.
    pub(crate) removed: Option<Result<Vec<Removed>, CallError>>,
}

/// What became of a leftover.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Removed {
    /// Which.
    pub(crate) name: LeftoverName,
    /// What became of it.
    pub(crate) removal: Removal,
}

impl Examined {
    /// Of a host on which nothing was changed, though `is_fixed` that was wanted.
    pub(crate) fn only_looked_at(left: Answer<Vec<Leftover>>, is_fixed: bool) -> Self {
        Self { left, removed: is_fixed.then(|| Ok(Vec::new())) }
    }

    /// Why it could not be looked at, or not cleaned.
    pub(crate) fn errors(&self) -> impl Iterator<Item = &CallError> {
        let removals = self.removed.iter().flatten().flatten().filter_map(|removed| match &removed.removal {
            Removal::Failed(error) => Some(error),
            Removal::Removed | Removal::NotFound => None,
        });
        let calls = [self.left.result.as_ref().err(), self.removed.as_ref().and_then(|removed| removed.as_ref().err())];
        calls.into_iter().flatten().chain(removals)
    }
}

/// A paragraph per leftover: its command must be there to be copied, however long it is.
pub(crate) fn text(examined: &[Examined]) -> String {
    let mut paragraphs = String::new();
    for Examined { left: Answer { endpoint, result }, removed } in examined {
        let host = &endpoint.host;
        let removed = removed.iter().flatten().flatten().collect::<Vec<_>>();
        match result {
            Ok(found) if found.is_empty() => paragraphs += &format!("{host}  nothing left behind\n"),
            Ok(found) => {
                let problems = found.iter().filter(|leftover| leftover.level == Level::Problem).count();
                paragraphs += &format!("{host}  {}\n", counts(problems, found.len() - problems));
            }
            Err(error) => paragraphs += &format!("{host}  not looked at ({})\n", error.reason),
        }
        for Removed { name, removal } in removed {
            let what = match removal {
                Removal::Removed => "removed",
                Removal::NotFound => "no leftover any more",
                Removal::Failed(_) => "could not be removed",
            };
            paragraphs += &format!("  {name}: {what}\n");
        }
        paragraphs.extend(result.iter().flatten().map(paragraph));
    }
    paragraphs
}

fn paragraph(leftover: &Leftover) -> String {
    let Leftover { kind, level, subject, problem, remedy, removable } = leftover;
    let level = match (level, removable) {
        (Level::Problem, true) => "problem*",
        (Level::Problem, false) => "problem ",
        (Level::Note, _) => "note    ",
    };
    format!("  {level} {kind} {subject}\n           {problem}\n           → {remedy}\n")
}

/// What is about to be removed, a line each.
pub(crate) fn questions(found: &[Answer<Vec<Leftover>>]) -> String {
    let of_host = |answer: &Answer<Vec<Leftover>>| {
        let host = answer.endpoint.host.clone();
        let leftovers = answer.result.iter().flatten().filter(|leftover| leftover.removable);
        leftovers.map(move |one| format!("{host}  {}: {}", one.name(), one.problem)).collect::<Vec<_>>()
    };
    found.iter().flat_map(of_host).collect::<Vec<_>>().join("\n")
}

fn counts(problems: usize, notes: usize) -> String {
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    match (problems, notes) {
        (problems, 0) => count(problems, "problem"),
        (0, notes) => format!("nothing of VMFerry's left behind, {}", count(notes, "note")),
        (problems, notes) => format!("{}, {}", count(problems, "problem"), count(notes, "note")),
    }
}

/// `{"exit_code": …, "hosts": [{"host": …, "leftovers": […], "removals": […]}], "unreachable": […]}`
pub(crate) fn document(examined: &[Examined], exit: Exit) -> impl Serialize {
    #[derive(Serialize)]
    struct Document<'a> {
        exit_code: u8,
        hosts: Vec<HostDocument<'a>>,
        unreachable: Vec<Unreachable<'a>>,
    }
    #[derive(Serialize)]
    struct HostDocument<'a> {
        host: &'a str,
        leftovers: &'a [Leftover],
        /// Absent: nothing was to be removed.
        #[serde(skip_serializing_if = "Option::is_none")]
        removals: Option<Vec<RemovalDocument<'a>>>,
        /// Absent: the host has said what became of each.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<Unreachable<'a>>,
    }
    #[derive(Serialize)]
    struct RemovalDocument<'a> {
        kind: Kind,
        subject: &'a str,
        outcome: &'static str,
        reason: Option<&'a str>,
        message: Option<&'a str>,
    }
    fn removal(Removed { name, removal }: &Removed) -> RemovalDocument<'_> {
        let (outcome, error) = match removal {
            Removal::Removed => ("removed", None),
            Removal::NotFound => ("not_found", None),
            Removal::Failed(error) => ("failed", Some(error)),
        };
        RemovalDocument {
            kind: name.kind,
            subject: &name.subject,
            outcome,
            reason: error.map(|error| error.reason.as_str()),
            message: error.map(|error| error.message.as_str()),
        }
    }
    let host = |one: &'_ Examined| one.left.result.is_ok();
    Document {
        exit_code: exit.code(),
        hosts: examined
            .iter()
            .filter(|one| host(one))
            .map(|one| HostDocument {
                host: one.left.endpoint.host.as_str(),
                leftovers: one.left.result.as_deref().unwrap_or_default(),
                removals: one.removed.as_ref().map(|removed| removed.iter().flatten().map(removal).collect()),
                error: one.removed.as_ref().and_then(|removed| removed.as_ref().err()).map(Into::into),
            })
            .collect(),
        unreachable: examined.iter().filter_map(|one| one.left.result.as_ref().err()).map(Into::into).collect(),
    }
}

#[cfg(test)]
mod tests {
    use vmferry_core::{migration::Endpoint, reason::Reason};

    use super::*;

    fn leftover(kind: Kind, level: Level) -> Leftover {
        let subject = "2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01".into();
        let problem = "made by VMFerry (san-web); no domain needs it".into();
        let remedy = "virsh secret-undefine 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01".into();
        Leftover { kind, level, subject, problem, remedy, removable: level == Level::Problem }
    }

    fn examined() -> Vec<Examined> {
        answers().into_iter().map(|answer| Examined::only_looked_at(answer, false)).collect()
    }

    fn answers() -> Vec<Answer<Vec<Leftover>>> {
        let answer = |name: &str, found: Option<Vec<Leftover>>| {
            let endpoint = Endpoint { host: name.parse().expect("valid"), address: "192.0.2.10:7443".into() };
            let (host, message) = (endpoint.host.clone(), "cannot reach it".into());
            let result = found.ok_or(CallError { host, reason: Reason::AgentUnreachable, message });
            Answer { endpoint, result }
        };
        vec![
            answer("node-27", Some(vec![])),
            answer(
                "node-28",
                Some(vec![leftover(Kind::Secret, Level::Problem), leftover(Kind::IscsiSession, Level::Note)]),
            ),
            answer("node-31", None),
        ]
    }

    #[test]
    fn every_leftover_has_its_command() {
        insta::assert_snapshot!(text(&examined()), @"
        node-27  nothing left behind
        node-28  1 problem, 1 note
          problem* libvirt secret 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01
                   made by VMFerry (san-web); no domain needs it
                   → virsh secret-undefine 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01
          note     iSCSI session 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01
                   made by VMFerry (san-web); no domain needs it
                   → virsh secret-undefine 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01
        node-31  not looked at (AGENT_UNREACHABLE)
        ");
    }

    #[test]
    fn programs_get_the_same() {
        insta::assert_snapshot!(crate::render::json(&document(&examined()[1..], Exit::Partly)), @r#"
        {
          "exit_code": 9,
          "hosts": [
            {
              "host": "node-28",
              "leftovers": [
                {
                  "kind": "secret",
                  "level": "problem",
                  "subject": "2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01",
                  "problem": "made by VMFerry (san-web); no domain needs it",
                  "remedy": "virsh secret-undefine 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01",
                  "removable": true
                },
                {
                  "kind": "iscsi_session",
                  "level": "note",
                  "subject": "2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01",
                  "problem": "made by VMFerry (san-web); no domain needs it",
                  "remedy": "virsh secret-undefine 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01",
                  "removable": false
                }
              ]
            }
          ],
          "unreachable": [
            {
              "host": "node-31",
              "reason": "AGENT_UNREACHABLE",
              "message": "cannot reach it"
            }
          ]
        }
        "#);
    }

    #[test]
    fn what_became_of_each_is_told_with_what_is_left() {
        let [_, mut answer, _] = answers().try_into().expect("three");
        let name = |kind| leftover(kind, Level::Problem).name();
        let error = |message: &str| CallError {
            host: "node-28".parse().expect("valid"),
            reason: Reason::VolumeConnectFailed,
            message: message.into(),
        };
        let removals = [
            (Kind::Link, Removal::Removed),
            (Kind::Filter, Removal::NotFound),
            (Kind::Secret, Removal::Failed(error("libvirt says no"))),
        ];
        let removed = removals.map(|(kind, removal)| Removed { name: name(kind), removal });
        answer.result.as_mut().expect("found").truncate(1);
        let cleaned = Examined { left: answer.clone(), removed: Some(Ok(removed.into())) };
        assert_eq!(cleaned.errors().map(ToString::to_string).collect::<Vec<_>>(), ["libvirt says no"]);
        insta::assert_snapshot!(text(std::slice::from_ref(&cleaned)), @"
        node-28  1 problem
          network link 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01: removed
          libvirt filter 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01: no leftover any more
          libvirt secret 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01: could not be removed
          problem* libvirt secret 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01
                   made by VMFerry (san-web); no domain needs it
                   → virsh secret-undefine 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01
        ");
        insta::assert_snapshot!(crate::render::json(&document(&[cleaned], Exit::Failed)), @r#"
        {
          "exit_code": 1,
          "hosts": [
            {
              "host": "node-28",
              "leftovers": [
                {
                  "kind": "secret",
                  "level": "problem",
                  "subject": "2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01",
                  "problem": "made by VMFerry (san-web); no domain needs it",
                  "remedy": "virsh secret-undefine 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01",
                  "removable": true
                }
              ],
              "removals": [
                {
                  "kind": "link",
                  "subject": "2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01",
                  "outcome": "removed",
                  "reason": null,
                  "message": null
                },
                {
                  "kind": "filter",
                  "subject": "2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01",
                  "outcome": "not_found",
                  "reason": null,
                  "message": null
                },
                {
                  "kind": "secret",
                  "subject": "2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01",
                  "outcome": "failed",
                  "reason": "VOLUME_CONNECT_FAILED",
                  "message": "libvirt says no"
                }
              ]
            }
          ],
          "unreachable": []
        }
        "#);
        // It could not be told to remove anything.
        let untouched = Examined { left: answer, removed: Some(Err(error("getting ready"))) };
        let document = crate::render::json(&document(&[untouched], Exit::Failed));
        assert!(document.contains("getting ready") && document.contains(r#""removals": []"#), "{document}");
    }

    #[test]
    fn a_question_names_what_would_be_removed_and_nothing_else() {
        insta::assert_snapshot!(questions(&answers()), @"node-28  libvirt secret 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01: made by VMFerry (san-web); no domain needs it");
    }
}
