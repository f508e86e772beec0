//! libvirt's network filters (`<filterref>`): which of them a guest needs, which of them VMFerry has made, and which of those nobody
//! needs any more.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use uuid::Uuid;

use crate::domain_xml::FilterDefinition;

/// The namespace of the UUIDs of filters that VMFerry has made, a UUID of version 4 drawn for them.
const MADE: Uuid = Uuid::from_u128(0x8c1f_63b2_09d4_4e7a_b6f5_2d83_e1c0_974b);

/// The UUID of a filter that VMFerry makes. It is the mark, too: a filter of this name with another one is somebody else's.
pub fn uuid_of(name: &str) -> Uuid {
    Uuid::new_v5(&MADE, name.as_bytes())
}

/// Whether VMFerry has made it.
pub fn is_ours(filter: &FilterDefinition) -> bool {
    filter.uuid == Some(uuid_of(&filter.name))
}

/// A filter's name as a word of a shell: another host's libvirt may have said it.
pub fn quoted(name: &str) -> Cow<'_, str> {
    shlex::try_quote(name).unwrap_or(Cow::Borrowed(name))
}

/// A filter that is named and not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// Who names it: "vif 52:54:00:a0:00:01", "filter clean-traffic".
    pub named_by: String,
}

/// The filters that a guest needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gathered {
    /// Those that are there, each once, and after those that it names.
    pub filters: Vec<FilterDefinition>,
    /// Those that are not.
    pub missing: Vec<Missing>,
}

/// Gathers the filters of these names, and all that they name in turn. `named`: who names one, and its name.
///
/// # Errors
/// Those of `find`, which answers `None` for a filter that is not there.
pub fn gather<E>(
    named: impl IntoIterator<Item = (String, String)>,
    mut find: impl FnMut(&str) -> Result<Option<FilterDefinition>, E>,
) -> Result<Gathered, E> {
    let mut gathered = Gathered::default();
    // libvirt takes no filter that names itself, by whatever way; one that it did take would not be followed for ever.
    let mut seen = BTreeSet::new();
    for (by, name) in named {
        follow(by, name, &mut find, &mut seen, &mut gathered)?;
    }
    Ok(gathered)
}

fn follow<E>(
    named_by: String,
    name: String,
    find: &mut impl FnMut(&str) -> Result<Option<FilterDefinition>, E>,
    seen: &mut BTreeSet<String>,
    gathered: &mut Gathered,
) -> Result<(), E> {
    if !seen.insert(name.clone()) {
        return Ok(());
    }
    let Some(filter) = find(&name)? else {
        gathered.missing.push(Missing { name, named_by });
        return Ok(());
    };
    for nested in filter.names.clone() {
        follow(format!("filter {name}"), nested, find, seen, gathered)?;
    }
    gathered.filters.push(filter);
    Ok(())
}

/// Those that VMFerry has made and that nobody needs: no domain, no filter of somebody else's, and none of these that is needed.
pub fn unneeded<'a>(filters: &'a [FilterDefinition], named: &BTreeSet<String>) -> Vec<&'a FilterDefinition> {
    let by_name: BTreeMap<_, _> = filters.iter().map(|filter| (filter.name.as_str(), filter)).collect();
    let theirs = filters.iter().filter(|filter| !is_ours(filter)).map(|filter| filter.name.as_str());
    let mut wanted: Vec<&str> = named.iter().map(String::as_str).chain(theirs).collect();
    let mut needed = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        if needed.insert(name) {
            wanted.extend(by_name.get(name).into_iter().flat_map(|filter| &filter.names).map(String::as_str));
        }
    }
    filters.iter().filter(|filter| !needed.contains(filter.name.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn filter(name: &str, names: &[&str]) -> FilterDefinition {
        let nested: String = names.iter().map(|name| format!("<filterref filter='{name}'/>")).collect();
        FilterDefinition::parse(&format!("<filter name='{name}'>{nested}</filter>")).expect("valid")
    }

    fn ours(name: &str, names: &[&str]) -> FilterDefinition {
        let made = filter(name, names).xml_with(uuid_of(name)).expect("valid");
        FilterDefinition::parse(&made).expect("valid")
    }

    fn gathered(there: &[FilterDefinition], named: &[&str]) -> (Vec<String>, Vec<(String, String)>) {
        let find = |name: &str| Ok::<_, Infallible>(there.iter().find(|filter| filter.name == name).cloned());
        let named = named.iter().map(|name| ("vif a".to_owned(), (*name).to_owned()));
        let Ok(Gathered { filters, missing }) = gather(named, find);
        let missing = missing.into_iter().map(|missing| (missing.name, missing.named_by)).collect();
        (filters.into_iter().map(|filter| filter.name).collect(), missing)
    }

    #[test]
    fn what_is_named_comes_before_what_names_it_and_once() {
        let there =
            [filter("a", &["b", "c"]), filter("b", &["d"]), filter("c", &["d"]), filter("d", &[]), filter("e", &[])];
        assert_eq!(gathered(&there, &["a", "c", "a"]), (["d", "b", "c", "a"].map(str::to_owned).into(), vec![]));
        assert_eq!(gathered(&there, &[]), (vec![], vec![]));
    }

    #[test]
    fn a_circle_ends() {
        let there = [filter("a", &["b"]), filter("b", &["a"])];
        assert_eq!(gathered(&there, &["a"]).0, ["b", "a"]);
    }

    #[test]
    fn what_is_missing_is_told_with_who_names_it() {
        let there = [filter("a", &["b"])];
        let missing = [("b", "filter a"), ("x", "vif a")].map(|(name, by)| (name.to_owned(), by.to_owned()));
        assert_eq!(gathered(&there, &["a", "x"]), (vec!["a".to_owned()], missing.into()));
    }

    #[test]
    fn a_filter_is_ours_by_its_uuid_and_its_name_together() {
        assert!(is_ours(&ours("a", &[])) && !is_ours(&filter("a", &[])));
        let renamed = filter("b", &[]).xml_with(uuid_of("a")).expect("valid");
        assert!(!is_ours(&FilterDefinition::parse(&renamed).expect("valid")));
    }

    #[test]
    fn nobody_needs_what_only_the_unneeded_name() {
        let there =
            [ours("a", &["b"]), ours("b", &[]), ours("c", &["d"]), ours("d", &[]), filter("e", &["f"]), ours("f", &[])];
        let names = |named: &[&str]| -> Vec<&str> {
            let named = named.iter().map(|name| (*name).to_owned()).collect();
            unneeded(&there, &named).into_iter().map(|filter| filter.name.as_str()).collect()
        };
        assert_eq!(names(&["c"]), ["a", "b"], "an administrator's filter needs f");
        assert_eq!(names(&["a", "c"]), Vec::<&str>::new());
        assert_eq!(names(&[]), ["a", "b", "c", "d"]);
    }
}
