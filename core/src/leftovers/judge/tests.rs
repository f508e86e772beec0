use uuid::Uuid;

use super::*;
use crate::{
    leftovers::HeldRecord,
    migration::{Endpoint, Order, Outcome},
    volume::{Iscsi, Login, Rbd},
};

fn leftovers(holdings: &Holdings, needs: &Needs, now: Timestamp) -> Vec<Leftover> {
    findings(holdings, needs, now).into_iter().map(|finding| finding.leftover).collect()
}

const TARGET: &str = "iqn.2026-11.org.example:a";
const PORTAL: &str = "192.0.2.1:3260";
const SECRET: Uuid = Uuid::from_u128(7);

fn id() -> MigrationId {
    "0197a000-0000-7000-8000-000000000001".parse().expect("valid")
}

fn now() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().expect("valid")
}

fn lun() -> Connection {
    let login = Some(Login { user: "web".into(), secret: SecretName::Uuid(SECRET) });
    let (portals, target) = (vec![PORTAL.into()], TARGET.into());
    Connection::Iscsi(Iscsi { portals, target, lun: 1, initiator: None, login })
}

fn rbd() -> Connection {
    let image = "vms/web".into();
    Connection::Rbd(Rbd { monitors: vec![], configuration: None, image, snapshot: None, login: None })
}

fn half(started: &str, outcome: Option<Outcome>, pending: Vec<Undo>) -> Half {
    let endpoint = |host: &str| Endpoint { host: host.parse().expect("valid"), address: "192.0.2.1:7443".into() };
    let order = Order {
        id: id(),
        instance: "4dea22b3-1d52-d8f3-2516-782e98ab3fa0".parse().expect("valid"),
        instance_name: "web".into(),
        source: endpoint("node-28"),
        destination: endpoint("node-31"),
        kind: crate::migration::Kind::Live,
        limits: crate::migration::Limits::default(),
        priority: Default::default(),
    };
    Half { order, started: started.parse().expect("valid"), outcome, pending }
}

fn ours(name: &str) -> FilterDefinition {
    let uuid = nwfilter::uuid_of(name);
    FilterDefinition::parse(&format!("<filter name='{name}'><uuid>{uuid}</uuid></filter>")).expect("valid")
}

/// One of each, all VMFerry's but a filter.
fn everything() -> Holdings {
    let (target, portal) = (TARGET.to_owned(), PORTAL.to_owned());
    Holdings {
        links: vec![],
        guests: vec![],
        filters: vec![ours("web"), FilterDefinition::parse("<filter name='clean-traffic'/>").expect("valid")],
        drift: vec![],
        secrets: vec![HeldSecret { uuid: SECRET, usage: "san".into(), ours: true }],
        sessions: vec![HeldSession { target, portal, disks: vec!["sda".into()], claimed: None, ours: true }],
        records: vec![
            HeldRecord { target: TARGET.into(), portal: PORTAL.into(), ours: true },
            HeldRecord { target: TARGET.into(), portal: "192.0.2.2:3260".into(), ours: true },
        ],
        images: vec![HeldImage { device: "rbd0".into(), image: "vms/web".into(), snapshot: None, claimed: false }],
        directories: vec![HeldDirectory { path: format!("/run/vmferry/migrations/{}", id()), migration: Some(id()) }],
        probes: vec![HeldProbes {
            list: "/var/lib/vmferry/probes/a.json".into(),
            migration: Some(id()),
            files: vec!["/srv/.vmferry-probe-a-0".into()],
            written: "2026-11-22T11:00:00Z".parse().expect("valid"),
        }],
        receivers: vec![HeldReceiver { pid: 4711, migration: id() }],
        unseen: vec![],
    }
}

/// Kind, level, and the command.
fn told(holdings: &Holdings, needs: &Needs) -> Vec<(Kind, Level, String)> {
    leftovers(holdings, needs, now()).into_iter().map(|found| (found.kind, found.level, found.remedy)).collect()
}

fn kinds(holdings: &Holdings, needs: &Needs) -> Vec<Kind> {
    told(holdings, needs).into_iter().map(|(kind, ..)| kind).collect()
}

#[test]
fn an_empty_host_has_no_leftovers() {
    assert_eq!(leftovers(&Holdings::default(), &Needs::default(), now()), []);
}

#[test]
fn what_nobody_needs_is_named_with_the_command_that_removes_it() {
    let of = |kind, remedy: &str| (kind, Level::Problem, remedy.to_owned());
    let node = |portal: &str| format!("iscsiadm -m node -T {TARGET} -p {portal}");
    assert_eq!(
        told(&everything(), &Needs::default()),
        [
            of(Kind::Secret, "virsh secret-undefine 00000000-0000-0000-0000-000000000007"),
            of(Kind::IscsiSession, &format!("{} --logout && {} -o delete", node(PORTAL), node(PORTAL))),
            of(Kind::IscsiRecord, &format!("{} -o delete", node("192.0.2.2:3260"))),
            of(Kind::Directory, "rm -r /run/vmferry/migrations/0197a000-0000-7000-8000-000000000001"),
            of(Kind::Probes, "rm -f /srv/.vmferry-probe-a-0"),
            of(Kind::Receiver, "kill 4711"),
            of(Kind::Filter, "virsh nwfilter-undefine web"),
            // Who mapped it cannot be told.
            (Kind::RbdImage, Level::Note, "if nobody needs it: rbd unmap /dev/rbd0".into()),
        ]
    );
}

#[test]
fn what_a_domain_uses_is_no_leftover() {
    let needs = Needs {
        secrets: BTreeSet::from([SecretName::Usage("san".into())]),
        volumes: vec![lun(), rbd()],
        filters: ["web".into()].into(),
        ..Needs::default()
    };
    assert_eq!(kinds(&everything(), &needs), [Kind::Directory, Kind::Probes, Kind::Receiver]);
    // By the device alone: nobody has said that it is a volume.
    let needs = Needs { devices: ["sda".into(), "rbd0".into()].into(), ..Needs::default() };
    let kinds = kinds(&everything(), &needs);
    assert!(!kinds.contains(&Kind::IscsiSession) && !kinds.contains(&Kind::RbdImage), "{kinds:?}");
}

#[test]
fn what_a_migration_has_in_hand_is_no_leftover() {
    let pending = vec![
        Undo::DisconnectVolume { connection: lun() },
        Undo::DisconnectVolume { connection: rbd() },
        Undo::UndefineFilter { name: "web".into() },
    ];
    let open = half("2026-11-22T11:59:00Z", None, pending);
    let needs = Needs { halves: vec![open.clone()], ..Needs::default() };
    assert_eq!(kinds(&everything(), &needs), [Kind::Probes]);
    // It ended while the host was looked at.
    let ended = Half { outcome: Some(Outcome::Completed), pending: vec![], ..open.clone() };
    let needs = Needs { halves: vec![ended], halves_before: vec![open], ..Needs::default() };
    assert_eq!(kinds(&everything(), &needs), [Kind::Probes]);
}

#[test]
fn migrations_that_nobody_ends_and_steps_that_fail_are_told_once() {
    let of = |half| Needs { halves: vec![half], ..Needs::default() };
    let young = half("2026-11-21T12:00:01Z", None, vec![]);
    assert_eq!(kinds(&Holdings::default(), &of(young)), []);
    let old = leftovers(&Holdings::default(), &of(half("2026-11-21T11:00:00Z", None, vec![])), now());
    assert_eq!(old[0].problem, "moves web for 25 hours, and nobody has ended it");
    let failed = Some(Outcome::FailedRolledBack);
    assert_eq!(kinds(&Holdings::default(), &of(half("2026-11-01T00:00:00Z", failed, vec![]))), []);
    let pending = vec![Undo::DisconnectVolume { connection: lun() }];
    let steps = leftovers(&everything(), &of(half("2026-11-01T00:00:00Z", failed, pending)), now());
    assert_eq!((steps[0].kind, steps[0].remedy.as_str()), {
        (Kind::Steps, "vmferry migrations resolve 0197a000-0000-7000-8000-000000000001")
    });
    assert!(steps[0].problem.ends_with("disconnect volume iscsi:iqn.2026-11.org.example:a/1"), "{}", steps[0].problem);
    assert!(steps.iter().all(|leftover| leftover.kind != Kind::IscsiSession), "it is told with its migration");
}

#[test]
fn what_somebody_else_may_need_is_a_note_at_most() {
    let session = |claimed: Option<&str>, ours| {
        let mut holdings = everything();
        holdings.sessions[0].claimed = claimed.map(str::to_owned);
        holdings.sessions[0].ours = ours;
        let found = leftovers(&holdings, &Needs::default(), now());
        found.into_iter().find(|found| found.kind == Kind::IscsiSession).map(|found| found.level)
    };
    assert_eq!(session(None, true), Some(Level::Problem));
    assert_eq!(session(Some("sda"), true), Some(Level::Note));
    assert_eq!(session(None, false), Some(Level::Note));
    assert_eq!(session(Some("sda"), false), None);

    let mut foreign = everything();
    foreign.secrets[0].ours = false;
    foreign.records.iter_mut().for_each(|record| record.ours = false);
    foreign.images[0].claimed = true;
    foreign.directories[0].migration = None;
    let found = told(&foreign, &Needs::default());
    let notes: Vec<_> = found.iter().filter(|(_, level, _)| *level == Level::Note).map(|(kind, ..)| *kind).collect();
    assert_eq!(notes, [Kind::Directory]);
    assert!(found.iter().all(|(kind, ..)| !matches!(kind, Kind::Secret | Kind::IscsiRecord | Kind::RbdImage)));
}

#[test]
fn probe_files_of_a_check_that_goes_on_are_no_leftover() {
    let mut young = everything();
    young.probes[0].written = now();
    assert!(!kinds(&young, &Needs::default()).contains(&Kind::Probes));
}

#[test]
fn what_could_not_be_looked_at_is_not_called_clean() {
    let unseen = Holdings { unseen: vec![("iSCSI sessions".into(), "no permission".into())], ..Holdings::default() };
    assert_eq!(leftovers(&unseen, &Needs::default(), now())[0].level, Level::Problem);
}

#[test]
fn a_link_is_left_when_nobody_here_is_on_its_network_any_more() {
    let holder: Holder = "network blue".parse().expect("valid");
    let link = |holder: Option<Holder>, kind| HeldLink {
        name: "vmfb0123456789".parse().expect("valid"),
        kind,
        holder,
        used_by: None,
    };
    let holdings = Holdings {
        links: vec![
            link(Some(holder.clone()), HeldKind::Link),
            link(None, HeldKind::Link),
            link(Some("network red".parse().expect("valid")), HeldKind::OvsPort),
        ],
        ..Holdings::default()
    };
    let needs = Needs { holders: [holder].into(), ..Needs::default() };
    let remedies: Vec<_> = leftovers(&holdings, &needs, now()).into_iter().map(|leftover| leftover.remedy).collect();
    assert_eq!(remedies, ["ip link delete vmfb0123456789", "ovs-vsctl del-port vmfb0123456789"]);
}

/// Of every kind one that is VMFerry's, and beside it an administrator's that is as like it as can be.
#[test]
fn an_agent_removes_what_is_vmferrys_and_nothing_else() {
    let removable = |holdings: &Holdings| -> Vec<Fix> {
        let found = findings(holdings, &Needs::default(), now());
        for finding in &found {
            assert_eq!(finding.leftover.removable, finding.fix.is_some(), "{finding:?}");
            assert!(finding.fix.is_none() || finding.leftover.level == Level::Problem, "{finding:?}");
        }
        found.into_iter().filter_map(|finding| finding.fix).collect()
    };
    let marked = HeldLink {
        name: "vmfb0123456789".parse().expect("valid"),
        kind: HeldKind::Link,
        holder: Some("network blue".parse().expect("valid")),
        used_by: None,
    };
    let mut all = everything();
    all.links = vec![marked.clone()];
    let (target, portal) = (TARGET.to_owned(), PORTAL.to_owned());
    assert_eq!(
        removable(&all),
        [
            Fix::UndefineSecret { uuid: SECRET },
            Fix::EndSession { target: target.clone(), portal },
            Fix::DeleteRecord { target, portal: "192.0.2.2:3260".into() },
            Fix::RemoveDirectory { migration: id() },
            Fix::RemoveProbes { migration: id() },
            Fix::EndReceiver { pid: 4711, migration: id() },
            Fix::RemoveLink(marked.clone()),
            Fix::UndefineFilter { name: "web".into() },
        ]
    );

    all.secrets[0].ours = false;
    all.sessions[0].ours = false;
    all.records.iter_mut().for_each(|record| record.ours = false);
    all.directories[0].migration = None;
    all.probes[0].migration = None;
    all.receivers.clear();
    // Ours, and his guest is on it.
    all.links[0].used_by = Some("vnet7".parse().expect("valid"));
    all.filters.retain(|filter| !nwfilter::is_ours(filter));
    assert_eq!(removable(&all), []);
}

#[test]
fn without_being_asked_an_agent_removes_only_what_no_guest_could_come_to_need() {
    let mut all = everything();
    let link = |name: &str, holder: Option<&str>| HeldLink {
        name: name.parse().expect("valid"),
        kind: HeldKind::Link,
        holder: holder.map(|holder| holder.parse().expect("valid")),
        used_by: None,
    };
    all.links = vec![link("vmfb0123456789", Some("network blue")), link("vmfu0123456789", None)];
    let found = findings(&all, &Needs::default(), now());
    let unasked: Vec<_> = found
        .into_iter()
        .filter_map(|finding| finding.fix)
        .filter(Fix::needs_no_asking)
        .map(|fix| fix.to_string())
        .collect();
    assert_eq!(
        unasked,
        [
            "remove the directory of migration 0197a000-0000-7000-8000-000000000001",
            "end qemu-nbd, process 4711",
            "remove link vmfu0123456789",
        ]
    );
}

#[test]
fn what_is_in_hand_or_could_not_be_taken_back_is_not_removed_behind_its_journals_back() {
    let failed = Some(Outcome::FailedRolledBack);
    for half in
        [half("2026-11-22T11:59:00Z", None, vec![]), half("2026-11-01T00:00:00Z", failed, vec![Undo::StopReceivers])]
    {
        let needs = Needs { halves: vec![half], ..Needs::default() };
        let found = findings(&everything(), &needs, now());
        let of_migrations: Vec<_> = found
            .iter()
            .filter(|found| matches!(found.leftover.kind, Kind::Directory | Kind::Receiver | Kind::Migration))
            .collect();
        assert!(of_migrations.is_empty(), "{of_migrations:?}");
        assert!(found.iter().all(|found| found.leftover.kind != Kind::Steps || found.fix.is_none()), "{found:?}");
    }
}

#[test]
fn a_guest_that_is_on_its_way_without_a_migration_is_told_and_nobody_decides_for_it() {
    let open = half("2026-11-22T11:59:00Z", None, vec![]);
    let told = |sighting, job: Option<&str>, needs: &Needs| {
        let (instance, name, job) = (open.order.instance, "web".to_owned(), job.map(str::to_owned));
        let guests = vec![HeldGuest { instance, name, sighting, job }];
        let found = findings(&Holdings { guests, ..Holdings::default() }, needs, now());
        assert!(found.iter().all(|found| found.fix.is_none()), "{found:?}");
        found.into_iter().next().map(|found| found.leftover.level)
    };
    let unknown = Needs::default();
    assert_eq!(told(Sighting::Departing, None, &unknown), Some(Level::Problem));
    assert_eq!(told(Sighting::Incomplete, Some("migration in"), &unknown), Some(Level::Problem));
    assert_eq!(told(Sighting::Paused, None, &unknown), Some(Level::Problem));
    assert_eq!(told(Sighting::Paused, Some("migration out"), &unknown), Some(Level::Note));
    assert_eq!(told(Sighting::Arriving, Some("migration in"), &unknown), Some(Level::Note));
    assert_eq!(told(Sighting::Running, None, &unknown), None);
    let known = Needs { halves: vec![open.clone()], ..Needs::default() };
    assert_eq!(told(Sighting::Departing, None, &known), None);
    let just_ended = Needs { halves_before: vec![open.clone()], ..Needs::default() };
    assert_eq!(told(Sighting::Paused, None, &just_ended), None);
}
