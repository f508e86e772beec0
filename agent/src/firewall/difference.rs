//! What differs between the table as it is and as it shall be, for people.

use std::collections::BTreeSet;

use super::part::{Owner, Part, Parts};

/// A sentence for each owner whose part differs.
pub(super) fn differences(held: &Parts, wanted: &Parts) -> Vec<String> {
    let owners: BTreeSet<&Owner> = held.keys().chain(wanted.keys()).collect();
    owners.into_iter().filter_map(|owner| difference(owner, held, wanted)).collect()
}

fn difference(owner: &Owner, held: &Parts, wanted_parts: &Parts) -> Option<String> {
    let (held, wanted) = match (held.get(owner), wanted_parts.get(owner)) {
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
                Owner::Rules(name) => {
                    format!(
                        "{} are {}",
                        rules_of(name, wanted_parts),
                        if is { "there and not needed" } else { "not there" }
                    )
                }
                Owner::Tap(tap) => {
                    format!("`{tap}` is {}", if is { "filtered, and should not be" } else { "not filtered" })
                }
                Owner::Nobody => "the table of the filters has something that VMFerry did not put there".to_owned(),
            });
        }
    };
    let whose = match owner {
        Owner::Frame => "the table of the filters".to_owned(),
        Owner::Group(stem) => format!("the members of `{stem}`"),
        Owner::Rules(name) => rules_of(name, wanted_parts),
        Owner::Tap(tap) => format!("the filter of `{tap}`"),
        Owner::Nobody => "what is not VMFerry's".to_owned(),
    };
    let were = if matches!(owner, Owner::Rules(_) | Owner::Group(_)) { "were" } else { "was" };
    Some(format!("{whose} {were} altered: {}", details(held, wanted).join(", ")))
}

/// Rules, by the taps that have them.
fn rules_of(name: &str, parts: &Parts) -> String {
    let owner = Owner::Rules(name.to_owned());
    let taps: Vec<_> = parts
        .iter()
        .filter_map(|(user, part)| match user {
            Owner::Tap(tap) if part.needs().any(|needed| needed == owner) => Some(format!("`{tap}`")),
            _ => None,
        })
        .collect();
    match taps.as_slice() {
        [] => format!("the rules `{name}`"),
        [one] => format!("the rules of {one}"),
        [first, others @ ..] => format!("the rules of {first} and {} more", others.len()),
    }
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
