//! What differs between the table as it is and as it shall be, for people.

use std::collections::BTreeSet;

use super::part::{Owner, Part, Parts};

/// A sentence for each owner whose part differs.
pub(super) fn differences(held: &Parts, wanted: &Parts) -> Vec<String> {
    let owners: BTreeSet<&Owner> = held.keys().chain(wanted.keys()).collect();
    owners.into_iter().filter_map(|owner| difference(owner, held.get(owner), wanted.get(owner))).collect()
}

fn difference(owner: &Owner, held: Option<&Part>, wanted: Option<&Part>) -> Option<String> {
    let (held, wanted) = match (held, wanted) {
        (Some(held), Some(wanted)) if held == wanted => return None,
        (None, None) => return None,
        (Some(held), Some(wanted)) => (held, wanted),
        (held, _) => {
            let is = held.is_some();
            return Some(match owner {
                Owner::Frame => "the table of the filters is not there".to_owned(),
                Owner::Group(stem) => {
                    format!("the members of `{stem}` are {}", if is { "there and not needed" } else { "not there" })
                }
                Owner::Tap(tap) => {
                    format!("`{tap}` is {}", if is { "filtered, and should not be" } else { "not filtered" })
                }
                Owner::Closed(tap) => {
                    format!("`{tap}` is {}", if is { "closed, and should not be" } else { "not closed" })
                }
                Owner::Nobody => "the table of the filters has something that VMFerry did not put there".to_owned(),
            });
        }
    };
    let whose = match owner {
        Owner::Frame => "the table of the filters".to_owned(),
        Owner::Group(stem) => format!("the members of `{stem}`"),
        Owner::Tap(tap) | Owner::Closed(tap) => format!("the filter of `{tap}`"),
        Owner::Nobody => "what is not VMFerry's".to_owned(),
    };
    Some(format!("{whose} was altered: {}", details(held, wanted).join(", ")))
}

fn details(held: &Part, wanted: &Part) -> Vec<String> {
    let mut details = Vec::new();
    let sets = held.sets.keys().chain(wanted.sets.keys()).collect::<BTreeSet<_>>();
    for name in sets {
        if held.sets.get(name) != wanted.sets.get(name) {
            details.push(format!("set {name}"));
        }
    }
    let chains = held.chains.keys().chain(wanted.chains.keys()).collect::<BTreeSet<_>>();
    for name in chains {
        if held.chains.get(name) != wanted.chains.get(name) {
            details.push(format!("chain {name}"));
        }
    }
    for (element, with) in &wanted.elements {
        if held.elements.get(element) != Some(with) {
            details.push(format!("{} {} lacks {element}", element.kind, element.set));
        }
    }
    for element in held.elements.keys().filter(|element| !wanted.elements.contains_key(element)) {
        details.push(format!("{} {} has {element}", element.kind, element.set));
    }
    details
}
