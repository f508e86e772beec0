//! Which affinity groups an instance is in.

use serde::Serialize;
use vmferry_core::{affinity::Membership, instance::Instance};

use super::table::facts;

/// A line for each of them.
pub(crate) fn show(guest: &Instance) -> String {
    let mut rows = vec![("instance", guest.name.clone())];
    rows.extend(guest.affinity.iter().map(|said| ("group", text(said))));
    if guest.affinity.is_empty() {
        rows.push(("group", "none".to_owned()));
    }
    rows.extend(guest.problems.iter().map(|problem| ("problem", problem.clone())));
    facts(rows)
}

/// All of them in a line; none if there are none.
pub(crate) fn line(said: &[Membership]) -> Option<String> {
    let said: Vec<_> = said.iter().map(text).collect();
    (!said.is_empty()).then(|| said.join(", "))
}

fn text(Membership { group, policy }: &Membership) -> String {
    format!("{group} ({policy})")
}

/// `{"name": …, "affinity": [{"group": …, "policy": …}]}`
pub(crate) fn document(guest: &Instance) -> impl Serialize + use<'_> {
    #[derive(Serialize)]
    struct Document<'a> {
        id: String,
        name: &'a str,
        host: &'a str,
        affinity: &'a [Membership],
        /// What is wrong with the definition.
        problems: &'a [String],
    }
    Document {
        id: guest.id.to_string(),
        name: &guest.name,
        host: guest.host.as_str(),
        affinity: &guest.affinity,
        problems: &guest.problems,
    }
}
