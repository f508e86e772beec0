//! What doctor has found.

use serde::Serialize;
use vmferry_core::leftovers::{Leftover, Level};

use super::Unreachable;
use crate::{exit::Exit, fleet::Answer};

/// A paragraph per leftover: its command must be there to be copied, however long it is.
pub(crate) fn text(answers: &[Answer<Vec<Leftover>>]) -> String {
    let mut paragraphs = String::new();
    for Answer { endpoint, result } in answers {
        let host = &endpoint.host;
        match result {
            Ok(found) if found.is_empty() => paragraphs += &format!("{host}  nothing left behind\n"),
            Ok(found) => {
                let problems = found.iter().filter(|leftover| leftover.level == Level::Problem).count();
                paragraphs += &format!("{host}  {}\n", counts(problems, found.len() - problems));
                for leftover in found {
                    let level = match leftover.level {
                        Level::Problem => "problem",
                        Level::Note => "note   ",
                    };
                    let Leftover { kind, subject, problem, remedy, .. } = leftover;
                    paragraphs +=
                        &format!("  {level}  {kind} {subject}\n           {problem}\n           → {remedy}\n");
                }
            }
            Err(error) => paragraphs += &format!("{host}  not looked at ({})\n", error.reason),
        }
    }
    paragraphs
}

fn counts(problems: usize, notes: usize) -> String {
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    match (problems, notes) {
        (problems, 0) => count(problems, "problem"),
        (0, notes) => format!("nothing of VMFerry's left behind, {}", count(notes, "note")),
        (problems, notes) => format!("{}, {}", count(problems, "problem"), count(notes, "note")),
    }
}

/// `{"exit_code": …, "hosts": [{"host": …, "leftovers": […]}], "unreachable": […]}`
pub(crate) fn document(answers: &[Answer<Vec<Leftover>>], exit: Exit) -> impl Serialize {
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
    }
    let host = |answer: &'_ Answer<Vec<Leftover>>| answer.result.is_ok();
    Document {
        exit_code: exit.code(),
        hosts: answers
            .iter()
            .filter(|answer| host(answer))
            .map(|answer| HostDocument {
                host: answer.endpoint.host.as_str(),
                leftovers: answer.result.as_deref().unwrap_or_default(),
            })
            .collect(),
        unreachable: answers.iter().filter_map(|answer| answer.result.as_ref().err()).map(Into::into).collect(),
    }
}

#[cfg(test)]
mod tests {
    use vmferry_core::{agent::CallError, leftovers::Kind, migration::Endpoint, reason::Reason};

    use super::*;

    fn leftover(kind: Kind, level: Level) -> Leftover {
        let subject = "2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01".into();
        let problem = "made by VMFerry (san-web); no domain needs it".into();
        let remedy = "virsh secret-undefine 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01".into();
        Leftover { kind, level, subject, problem, remedy }
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
        insta::assert_snapshot!(text(&answers()), @"
        node-27  nothing left behind
        node-28  1 problem, 1 note
          problem  libvirt secret 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01
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
        insta::assert_snapshot!(crate::render::json(&document(&answers()[1..], Exit::Partly)), @r#"
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
                  "remedy": "virsh secret-undefine 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01"
                },
                {
                  "kind": "iscsi_session",
                  "level": "note",
                  "subject": "2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01",
                  "problem": "made by VMFerry (san-web); no domain needs it",
                  "remedy": "virsh secret-undefine 2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01"
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
}
