use std::net::IpAddr;

use super::*;

const WEB: &str = "ed831ace-39ef-4960-8bae-a035d292c305";
const DB: &str = "8e6a33c1-1564-4d63-8964-f10a6d66e2c2";

fn host(name: &str) -> HostName {
    name.parse().expect("valid")
}

fn id(text: &str) -> InstanceId {
    text.parse().expect("valid")
}

fn group(name: &str) -> GroupName {
    name.parse().expect("valid")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("valid")
}

fn members(pairs: &[(&str, &str)]) -> Members {
    let mut members = Members::new();
    for (name, text) in pairs {
        members.entry(group(name)).or_default().insert(address(text));
    }
    members
}

fn one(instance: &str, pairs: &[(&str, &str)]) -> Memberships {
    [(id(instance), Member { name: "guest".into(), groups: members(pairs) })].into()
}

fn told(hosts: &[(&str, Memberships)]) -> Told {
    Told(hosts.iter().map(|(name, memberships)| (host(name), memberships.clone())).collect())
}

fn report(name: &str, own: Memberships, told: Told) -> GroupReport {
    GroupReport { host: host(name), here: own.keys().copied().collect(), own, told }
}

#[test]
fn a_guest_is_in_every_group_that_one_of_its_definitions_names() {
    let definition = |group: &str, address: &str| {
        let xml = format!(
            "<domain type='kvm'><name>web</name><uuid>{WEB}</uuid><memory>1</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os>\
             <metadata><v:interfaces xmlns:v='https://vmferry.org/xmlns/interfaces/1'>\
             <v:interface mac='52:54:00:a0:00:01'><v:policy><v:address>{address}</v:address><v:group>{group}</v:group>\
             </v:policy></v:interface></v:interfaces></metadata>\
             <devices><interface type='bridge'><mac address='52:54:00:a0:00:01'/><source bridge='br0'/></interface></devices>\
             </domain>"
        );
        Definition::parse(&xml).expect("valid")
    };
    let (runs, starts_next) = (definition("web", "192.0.2.7"), definition("db", "192.0.2.8"));
    let found = memberships([&runs, &starts_next]);
    let expected = Member { name: "web".into(), groups: members(&[("web", "192.0.2.7"), ("db", "192.0.2.8")]) };
    assert_eq!(found, Memberships::from([(id(WEB), expected)]));
    assert_eq!(memberships([&Definition { vifs: vec![], ..runs }]), Memberships::new());
}

#[test]
fn exactly_the_hosts_that_are_told_of_are_replaced() {
    let mut known = told(&[
        ("node-28", one(WEB, &[("web", "192.0.2.7")])),
        ("node-29", one(DB, &[("db", "192.0.2.8")])),
        ("node-30", one(DB, &[("db", "192.0.2.9")])),
    ]);
    known.replace(told(&[("node-28", one(WEB, &[("mail", "192.0.2.7")])), ("node-30", Memberships::new())]));
    let expected = told(&[
        ("node-28", one(WEB, &[("mail", "192.0.2.7")])),
        ("node-29", one(DB, &[("db", "192.0.2.8")])),
        ("node-30", Memberships::new()),
    ]);
    assert_eq!(known, expected, "node-30 has nobody in a group any more");
}

#[test]
fn a_group_has_the_members_of_all_hosts_and_each_is_believed_about_its_own() {
    let known = told(&[
        ("node-28", one(WEB, &[("web", "192.0.2.7"), ("old", "192.0.2.7")])),
        ("node-29", one(DB, &[("web", "192.0.2.8")])),
    ]);
    let own = one(WEB, &[("web", "192.0.2.9")]);
    let here = [id(WEB)].into();
    assert_eq!(known.members(&own, &here), members(&[("web", "192.0.2.9"), ("web", "192.0.2.8")]));
    let all = known.members(&Memberships::new(), &BTreeSet::new());
    assert_eq!(all, members(&[("web", "192.0.2.7"), ("web", "192.0.2.8"), ("old", "192.0.2.7")]));
    // It is here, and is in no group any more.
    assert_eq!(known.members(&Memberships::new(), &here), members(&[("web", "192.0.2.8")]));
}

#[test]
fn a_guest_that_moves_on_is_on_one_host_only() {
    let mut known = told(&[("node-28", one(WEB, &[("web", "192.0.2.7")]))]);
    let member = one(WEB, &[("web", "192.0.2.7")]).remove(&id(WEB));
    known.moved(id(WEB), member, &host("node-29"));
    assert_eq!(known, told(&[("node-28", Memberships::new()), ("node-29", one(WEB, &[("web", "192.0.2.7")]))]));
    known.moved(id(WEB), None, &host("node-30"));
    assert_eq!(known, told(&[("node-28", Memberships::new()), ("node-29", Memberships::new())]));
}

#[test]
fn what_a_guest_brings_along_is_of_its_rules_groups_and_only_what_is_new() {
    let rule = super::super::Rule::parse(super::super::Direction::Ingress, "any@group=web").expect("valid");
    let policy = Policy { rules: [rule].into(), ..Policy::default() };
    let brought = told(&[
        ("node-28", one(WEB, &[("web", "192.0.2.7"), ("mail", "192.0.2.7")])),
        ("node-29", one(DB, &[("db", "192.0.2.8")])),
    ]);
    let brought = brought.only(&named([&policy]));
    let web = told(&[("node-28", one(WEB, &[("web", "192.0.2.7")]))]);
    assert_eq!(brought, web);
    let mut known = Told::default();
    known.learn(brought.clone());
    assert_eq!(known, web);
    // It has left the group, its host has nobody in one, it has moved: that was said later.
    for newer in [
        told(&[("node-28", one(WEB, &[("db", "192.0.2.7")]))]),
        told(&[("node-28", Memberships::new())]),
        told(&[("node-28", Memberships::new()), ("node-30", one(WEB, &[("db", "192.0.2.7")]))]),
    ] {
        let mut known = newer.clone();
        known.learn(brought.clone());
        assert_eq!(known, newer);
    }
}

#[test]
fn of_a_silent_host_counts_what_others_remember_unless_they_have_the_guest() {
    let remembered = told(&[("node-30", one(WEB, &[("web", "192.0.2.7")]))]);
    let reports = [
        report("node-28", Memberships::new(), remembered.clone()),
        report("node-29", one(DB, &[("db", "192.0.2.8")]), Told::default()),
    ];
    let known = gather(&reports);
    let expected = told(&[
        ("node-28", Memberships::new()),
        ("node-29", one(DB, &[("db", "192.0.2.8")])),
        ("node-30", one(WEB, &[("web", "192.0.2.7")])),
    ]);
    assert_eq!(known, expected);
    // Its guest has moved to a host that answers, and is in no group there.
    let mut arrived = reports.clone();
    arrived[1].here.insert(id(WEB));
    assert_eq!(gather(&arrived).0[&host("node-30")], Memberships::new());
    // It answers, and has nobody.
    let all = [reports.as_slice(), &[report("node-30", Memberships::new(), Told::default())]].concat();
    assert_eq!(gather(&all).0[&host("node-30")], Memberships::new());
}

#[test]
fn a_host_is_told_until_it_knows_what_all_should() {
    let reports = [
        report("node-28", one(WEB, &[("web", "192.0.2.7")]), told(&[("node-29", one(DB, &[("old", "192.0.2.8")]))])),
        report("node-29", one(DB, &[("db", "192.0.2.8")]), Told::default()),
    ];
    let known = gather(&reports);
    for mut report in reports {
        let lacking = report.lacks(&known).expect("it does not know the other's");
        assert!(!lacking.0.contains_key(&report.host), "nobody is told of itself");
        report.told.replace(lacking);
        assert_eq!(report.lacks(&known), None);
    }
}

#[test]
fn whose_guest_a_member_is_makes_no_difference_to_a_group() {
    let member = one(WEB, &[("web", "192.0.2.7")]);
    let moved = report("node-29", member.clone(), told(&[("node-28", member.clone())]));
    let third = report("node-30", Memberships::new(), told(&[("node-28", member)]));
    let left = report("node-28", Memberships::new(), Told::default());
    let known = gather(&[moved.clone(), third.clone(), left.clone()]);
    for report in [&moved, &third] {
        assert!(report.knows(&known) && report.lacks(&known).is_some(), "{report:?}");
    }
    assert!(!left.knows(&known), "it has not noted where the guest went");
}

#[test]
fn what_is_told_is_read_back_as_it_was_written() {
    let known = told(&[("node-28", one(WEB, &[("web", "2001:db8::7")]))]);
    let text = serde_json::to_string(&known).expect("text keys");
    assert_eq!(serde_json::from_str::<Told>(&text).expect("our own"), known);
    assert!(text.contains("node-28") && text.contains(WEB) && text.contains("2001:db8::7"), "{text}");
}
