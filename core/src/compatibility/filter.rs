//! Do libvirt's filters that the guest's vifs name say the same on both hosts?

use super::{Checks, DestinationFacts, Refusal, SourceFacts};
use crate::{
    agent::Leaving,
    domain_xml::Definition,
    id::HostName,
    nwfilter::{Missing, quoted},
    reason::Reason,
};

const SUBJECT: &str = "libvirt filters";

/// Is all there that the vifs name?
pub(super) fn leaving(checks: &mut Checks<'_>, facts: &SourceFacts) {
    let SourceFacts { host, definition: Definition { name: guest, filters, .. }, .. } = facts;
    if filters.is_empty() {
        return;
    }
    let missing = match &facts.filters_missing {
        Ok(missing) => missing,
        Err(why) => return checks.refuse(SUBJECT, without_driver(host, guest, why)),
    };
    if missing.is_empty() {
        let names: Vec<_> = filters.iter().map(|named| named.filter.as_str()).collect();
        checks.pass(SUBJECT, &names.join(", "));
    }
    for Missing { name, named_by } in missing {
        checks.refuse(
            SUBJECT,
            Refusal {
                reason: Reason::FilterMissing,
                message: format!("{named_by} of {guest} names filter {name}, which libvirt on {host} does not have"),
                remedy: format!(
                    "define it on {host} (virsh nwfilter-define), or let nothing name it (virsh edit {guest}, virsh nwfilter-edit)"
                ),
            },
        );
    }
}

/// Are they there already, or can they be made?
pub(super) fn arriving(checks: &mut Checks<'_>, facts: &DestinationFacts, leaving: &Leaving) {
    let Leaving { instance, definition: Definition { name: guest, .. }, filters, .. } = leaving;
    if filters.is_empty() {
        return;
    }
    let host = &facts.host;
    let here = match &facts.filters {
        Ok(here) => here,
        Err(why) => return checks.refuse(SUBJECT, without_driver(host, guest, why)),
    };
    let there = |name: &str| here.iter().find(|filter| filter.name == name);
    let differing: Vec<_> =
        filters.iter().filter(|filter| there(&filter.name).is_some_and(|here| !here.is_same_as(filter))).collect();
    if differing.is_empty() {
        let made: Vec<_> =
            filters.iter().filter(|filter| there(&filter.name).is_none()).map(|filter| filter.name.as_str()).collect();
        let known = format!("{} there", filters.len() - made.len());
        let made = if made.is_empty() { String::new() } else { format!(", to be made: {}", made.join(", ")) };
        checks.pass(SUBJECT, &(known + &made));
    }
    for filter in differing {
        checks.refuse(SUBJECT, differs(&filter.name, guest, &instance.host, host));
    }
}

/// A host has another filter of this name than the one that a guest brings.
pub fn differs(name: &str, guest: &str, source: &HostName, host: &HostName) -> Refusal {
    let quoted = quoted(name);
    Refusal {
        reason: Reason::FilterDiffers,
        message: format!("filter {name}, which {guest} needs, says something else on {host} than on {source}"),
        remedy: format!(
            "compare them (virsh nwfilter-dumpxml {quoted}), and make them the same on both hosts (virsh nwfilter-edit {quoted})"
        ),
    }
}

fn without_driver(host: &HostName, guest: &str, why: &str) -> Refusal {
    Refusal {
        reason: Reason::FilterDriverMissing,
        message: format!("vifs of {guest} name filters, and libvirt on {host} keeps none: {why}"),
        remedy: format!(
            "install libvirt's nwfilter driver on {host} (and start virtnwfilterd, if it is a daemon there)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compatibility::{
            Check, Finding,
            tests::{destination, leaving_guest, refused, source},
        },
        domain_xml::{FilterDefinition, VifFilter},
    };

    fn filter(name: &str, inner: &str) -> FilterDefinition {
        FilterDefinition::parse(&format!("<filter name='{name}'>{inner}</filter>")).expect("valid")
    }

    fn named() -> Vec<VifFilter> {
        vec![VifFilter { mac: "52:54:00:00:00:01".into(), filter: "web".into() }]
    }

    fn leaves(missing: Result<Vec<Missing>, String>) -> Vec<Check> {
        let mut facts = SourceFacts { filters_missing: missing, ..source() };
        facts.definition.filters = named();
        super::super::leaving(&facts, &"node-31".parse().expect("valid"))
    }

    fn arrives(here: Result<Vec<FilterDefinition>, String>) -> Vec<Check> {
        let mut leaving = leaving_guest();
        leaving.filters = vec![filter("base", "<rule action='drop'/>"), filter("web", "<filterref filter='base'/>")];
        super::super::arriving(&DestinationFacts { filters: here, ..destination() }, &leaving)
    }

    fn said(checks: &[Check]) -> Vec<String> {
        let of_filters = checks.iter().filter(|check| check.subject == SUBJECT);
        of_filters
            .map(|check| match &check.finding {
                Finding::Passed { detail } => detail.clone(),
                Finding::Refused(refusal) => refusal.message.clone(),
            })
            .collect()
    }

    #[test]
    fn a_guest_leaves_with_all_that_its_vifs_name() {
        assert_eq!(said(&leaves(Ok(vec![]))), ["web"]);
        let missing = Missing { name: "base".into(), named_by: "filter web".into() };
        let checks = leaves(Ok(vec![missing]));
        assert_eq!(refused(&checks), [Reason::FilterMissing]);
        assert!(said(&checks)[0].contains("filter web of web names filter base"), "{checks:?}");
        assert_eq!(refused(&leaves(Err("no driver".into()))), [Reason::FilterDriverMissing]);
        assert_eq!(said(&super::super::leaving(&source(), &"node-31".parse().expect("valid"))), Vec::<String>::new());
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_the_same_is_used() {
        assert_eq!(said(&arrives(Ok(vec![]))), ["0 there, to be made: base, web"]);
        assert_eq!(said(&arrives(Ok(vec![filter("base", " <rule  action=\"drop\"/>")]))), ["1 there, to be made: web"]);
        assert_eq!(refused(&arrives(Ok(vec![]))), []);
    }

    #[test]
    fn another_filter_of_the_same_name_is_refused_as_is_a_host_that_keeps_none() {
        let checks = arrives(Ok(vec![filter("base", "<rule action='accept'/>"), filter("web", "")]));
        assert_eq!(refused(&checks), [Reason::FilterDiffers, Reason::FilterDiffers], "all at once");
        assert!(said(&checks)[0].contains("filter base, which web needs"), "{checks:?}");
        assert_eq!(refused(&arrives(Err("no driver".into()))), [Reason::FilterDriverMissing]);
        // Who needs none goes anywhere.
        let facts = DestinationFacts { filters: Err("no driver".into()), ..destination() };
        assert_eq!(refused(&super::super::arriving(&facts, &leaving_guest())), []);
    }
}
