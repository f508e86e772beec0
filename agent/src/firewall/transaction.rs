//! From what the table is to what it shall be: the text of one transaction of nft.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::part::{Attached, Chain, Element, Kind, Owner, Part, Parts, Set, TABLE};

/// Makes the table anew. `None`: a rule was only read, and what it says is not known.
pub(super) fn whole(parts: &Parts) -> Option<String> {
    let change = change(parts.values().map(|part| (None, Some(part))))?;
    Some(format!("table {TABLE} {{}}\ndelete table {TABLE}\ntable {TABLE} {{}}\n{change}"))
}

/// What makes `wanted` of `held`; empty if they are the same. `None` as above.
pub(super) fn between(held: &Parts, wanted: &Parts) -> Option<String> {
    let owners = held.keys().chain(wanted.keys()).collect::<BTreeSet<&Owner>>();
    change(owners.into_iter().map(|owner| (held.get(owner), wanted.get(owner))))
}

/// Adds the elements of these parts. That changes nothing where they are there, and fails where there is no table.
pub(super) fn elements(parts: &Parts) -> Option<String> {
    let only = |part: &Part| Part { elements: part.elements.clone(), ..Part::default() };
    let parts = parts.values().map(only).collect::<Vec<_>>();
    change(parts.iter().map(|part| (None, Some(part))))
}

/// What makes the second of the first, of each pair. Sets that are in both keep the elements that packets have made.
fn change<'a>(pairs: impl Iterator<Item = (Option<&'a Part>, Option<&'a Part>)>) -> Option<String> {
    let nothing = Part::default();
    let mut lines = Lines::default();
    for (old, new) in pairs {
        let (old, new) = (old.unwrap_or(&nothing), new.unwrap_or(&nothing));
        for (element, with) in &old.elements {
            if new.elements.get(element) != Some(with) {
                lines.delete_element(element, with);
            }
        }
        for (element, with) in &new.elements {
            if old.elements.get(element) != Some(with) {
                lines.add_element(element, with);
            }
        }
        for (name, set) in &old.sets {
            if new.sets.get(name) != Some(set) {
                lines.delete_set(name, set);
            }
        }
        for (name, set) in &new.sets {
            if old.sets.get(name) != Some(set) {
                lines.add_set(name, set);
            }
        }
        for (name, chain) in &old.chains {
            match new.chains.get(name) {
                Some(same) if same == chain => {}
                Some(other) if other.hook == chain.hook => lines.flush(name),
                _ => lines.delete_chain(name),
            }
        }
        for (name, chain) in &new.chains {
            match old.chains.get(name) {
                Some(same) if same == chain => {}
                other => lines.fill(name, chain, other.is_none_or(|other| other.hook != chain.hook))?,
            }
        }
    }
    Some(lines.finish())
}

/// The commands of a transaction, in the order in which they can be done.
#[derive(Debug, Default)]
struct Lines {
    elements_away: BTreeMap<(Kind, String), Vec<String>>,
    flushes: String,
    chains_away: String,
    sets_away: String,
    sets: String,
    chains: String,
    rules: String,
    elements: BTreeMap<(Kind, String), Vec<String>>,
}

impl Lines {
    fn delete_element(&mut self, element: &Element, with: &Attached) {
        let data = with.chain.iter().fold(String::new(), |_, chain| format!(" : jump {chain}"));
        self.elements_away.entry((element.kind, element.set.clone())).or_default().push(format!("{element}{data}"));
    }

    fn add_element(&mut self, element: &Element, with: &Attached) {
        let mut text = element.to_string();
        if let Some(comment) = &with.comment {
            let _ = write!(text, " comment \"{comment}\"");
        }
        if let Some(chain) = &with.chain {
            let _ = write!(text, " : jump {chain}");
        }
        self.elements.entry((element.kind, element.set.clone())).or_default().push(text);
    }

    fn delete_set(&mut self, name: &str, set: &Set) {
        let _ = writeln!(self.sets_away, "delete {} {TABLE} {name}", set.kind);
    }

    fn add_set(&mut self, name: &str, set: &Set) {
        let _ = writeln!(self.sets, "add {} {TABLE} {name} {{ {} }}", set.kind, set.text);
    }

    fn flush(&mut self, chain: &str) {
        let _ = writeln!(self.flushes, "flush chain {TABLE} {chain}");
    }

    fn delete_chain(&mut self, chain: &str) {
        // Chains lead to each other: first all are emptied.
        self.flush(chain);
        let _ = writeln!(self.chains_away, "delete chain {TABLE} {chain}");
    }

    fn fill(&mut self, name: &str, chain: &Chain, new: bool) -> Option<()> {
        if new {
            let hook = chain.hook.as_ref().map_or_else(String::new, |hook| {
                let (name, priority, policy) = (&hook.name, hook.priority, &hook.policy);
                format!(" {{ type filter hook {name} priority {priority}; policy {policy}; }}")
            });
            let _ = writeln!(self.chains, "add chain {TABLE} {name}{hook}");
        }
        for rule in &chain.rules {
            let (text, mark) = (rule.text.as_ref()?, rule.mark.as_ref()?);
            let _ = writeln!(self.rules, "add rule {TABLE} {name} {text} comment \"{mark}\"");
        }
        Some(())
    }

    fn finish(self) -> String {
        let list = |verb: &str, elements: BTreeMap<(Kind, String), Vec<String>>| {
            elements.into_iter().fold(String::new(), |mut text, ((_, set), keys)| {
                let _ = writeln!(text, "{verb} element {TABLE} {set} {{ {} }}", keys.join(", "));
                text
            })
        };
        let (away, there) = (list("delete", self.elements_away), list("add", self.elements));
        [away, self.flushes, self.chains_away, self.sets_away, self.sets, self.chains, self.rules, there].concat()
    }
}
