//! Security groups: who is in them, and which hosts have been told.

use std::net::IpAddr;

use serde::Serialize;
use vmferry_core::{
    agent::CallError,
    id::{HostName, InstanceId},
    policy::{GroupName, Member, Told},
};

use super::{Unreachable, table::table};
use crate::{exit::Exit, fleet::Answer};

/// What came of telling a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spread {
    /// It was told.
    Told,
    /// It knew already.
    Knew,
}

#[derive(Serialize)]
struct Row<'a> {
    group: &'a GroupName,
    addresses: Vec<IpAddr>,
    instance: &'a str,
    instance_id: InstanceId,
    host: &'a HostName,
}

/// Every guest of every group, by group.
fn rows(known: &Told) -> Vec<Row<'_>> {
    let members = known.0.iter().flat_map(|(host, memberships)| memberships.iter().map(move |member| (host, member)));
    let mut rows: Vec<_> = members
        .flat_map(|(host, (id, Member { name, groups }))| {
            groups.iter().map(move |(group, addresses)| Row {
                group,
                addresses: addresses.iter().copied().collect(),
                instance: name,
                instance_id: *id,
                host,
            })
        })
        .collect();
    rows.sort_by(|one, other| (one.group, one.instance, one.host).cmp(&(other.group, other.instance, other.host)));
    rows
}

/// A row per guest of each group.
pub(crate) fn list(known: &Told) -> String {
    table(
        ["GROUP", "ADDRESSES", "INSTANCE", "HOST"],
        rows(known).into_iter().map(|row| {
            let addresses: Vec<_> = row.addresses.iter().map(IpAddr::to_string).collect();
            // Nobody could be let in by it.
            let addresses = if addresses.is_empty() { "none".to_owned() } else { addresses.join(", ") };
            [row.group.to_string(), addresses, row.instance.to_owned(), row.host.to_string()]
        }),
    )
}

/// `{"members": […], "behind": […], "unreachable": […]}`; behind: hosts that know other members than these.
pub(crate) fn list_document<'a>(
    known: &'a Told,
    behind: &'a [&'a HostName],
    silent: &'a [CallError],
) -> impl Serialize + use<'a> {
    #[derive(Serialize)]
    struct Document<'a> {
        members: Vec<Row<'a>>,
        behind: &'a [&'a HostName],
        unreachable: Vec<Unreachable<'a>>,
    }
    Document { members: rows(known), behind, unreachable: silent.iter().map(Into::into).collect() }
}

/// A row per host.
pub(crate) fn sync_text(answers: &[Answer<Spread>]) -> String {
    table(
        ["HOST", "MEMBERS ON OTHER HOSTS"],
        answers.iter().map(|Answer { endpoint, result }| {
            let state = match result {
                Ok(Spread::Told) => "told".to_owned(),
                Ok(Spread::Knew) => "known".to_owned(),
                Err(error) => format!("not told ({})", error.reason),
            };
            [endpoint.host.to_string(), state]
        }),
    )
}

/// `{"exit_code": …, "told": […], "known": […], "unreachable": […]}`
pub(crate) fn sync_document(answers: &[Answer<Spread>], exit: Exit) -> impl Serialize {
    #[derive(Serialize)]
    struct Document<'a> {
        exit_code: u8,
        told: Vec<&'a HostName>,
        known: Vec<&'a HostName>,
        unreachable: Vec<Unreachable<'a>>,
    }
    let hosts = |wanted: Spread| {
        let those = answers.iter().filter(move |answer| answer.result.as_ref() == Ok(&wanted));
        those.map(|answer| &answer.endpoint.host).collect()
    };
    Document {
        exit_code: exit.code(),
        told: hosts(Spread::Told),
        known: hosts(Spread::Knew),
        unreachable: answers.iter().filter_map(|answer| answer.result.as_ref().err()).map(Into::into).collect(),
    }
}

#[cfg(test)]
mod tests {
    use vmferry_core::{migration::Endpoint, policy::Memberships, reason::Reason};

    use super::*;

    fn host(name: &str) -> HostName {
        name.parse().expect("valid")
    }

    fn silence() -> CallError {
        let message = "cannot reach the agent of node-31".into();
        CallError { host: host("node-31"), reason: Reason::AgentUnreachable, message }
    }

    fn known() -> Told {
        let member = |id: &str, name: &str, groups: &[(&str, &[&str])]| {
            let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("valid")).collect();
            let groups = groups.iter().map(|(group, texts)| (group.parse().expect("valid"), addresses(texts)));
            (id.parse().expect("valid"), Member { name: name.into(), groups: groups.collect() })
        };
        let web: Memberships = [member(
            "ed831ace-39ef-4960-8bae-a035d292c305",
            "web-2",
            &[("web", &["192.0.2.7", "2001:db8::7"]), ("mail", &["192.0.2.7"])],
        )]
        .into();
        let other: Memberships = [member("8e6a33c1-1564-4d63-8964-f10a6d66e2c2", "web-1", &[("web", &[])])].into();
        Told([(host("node-28"), web), (host("node-31"), other), (host("node-32"), Memberships::new())].into())
    }

    fn answers() -> Vec<Answer<Spread>> {
        let answer = |name: &str, result| {
            let endpoint = Endpoint { host: host(name), address: "192.0.2.10:7443".into() };
            Answer { endpoint, result }
        };
        vec![
            answer("node-28", Ok(Spread::Told)),
            answer("node-31", Err(silence())),
            answer("node-32", Ok(Spread::Knew)),
        ]
    }

    #[test]
    fn the_list_is_by_group() {
        insta::assert_snapshot!(list(&known()), @"
        GROUP  ADDRESSES               INSTANCE  HOST
        mail   192.0.2.7               web-2     node-28
        web    none                    web-1     node-31
        web    192.0.2.7, 2001:db8::7  web-2     node-28
        ");
    }

    #[test]
    fn programs_get_the_same() {
        let (behind, silent) = ([&host("node-28")], [silence()]);
        let mut known = known();
        known.0.remove(&host("node-28"));
        insta::assert_snapshot!(crate::render::json(&list_document(&known, &behind, &silent)), @r#"
        {
          "members": [
            {
              "group": "web",
              "addresses": [],
              "instance": "web-1",
              "instance_id": "8e6a33c1-1564-4d63-8964-f10a6d66e2c2",
              "host": "node-31"
            }
          ],
          "behind": [
            "node-28"
          ],
          "unreachable": [
            {
              "host": "node-31",
              "reason": "AGENT_UNREACHABLE",
              "message": "cannot reach the agent of node-31"
            }
          ]
        }
        "#);
        insta::assert_snapshot!(crate::render::json(&sync_document(&answers(), Exit::Partly)), @r#"
        {
          "exit_code": 9,
          "told": [
            "node-28"
          ],
          "known": [
            "node-32"
          ],
          "unreachable": [
            {
              "host": "node-31",
              "reason": "AGENT_UNREACHABLE",
              "message": "cannot reach the agent of node-31"
            }
          ]
        }
        "#);
    }

    #[test]
    fn every_host_has_its_row() {
        insta::assert_snapshot!(sync_text(&answers()), @"
        HOST     MEMBERS ON OTHER HOSTS
        node-28  told
        node-31  not told (AGENT_UNREACHABLE)
        node-32  known
        ");
    }
}
