use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{
    Finding, Fix, Half, HeldDirectory, HeldGuest, HeldImage, HeldProbes, HeldReceiver, HeldSecret, HeldSession,
    Holdings, Kind, LONG_OPEN, LONG_PROBED, Leftover, Level, Needs,
};
use crate::{
    agent::Sighting,
    domain_xml::FilterDefinition,
    id::{InstanceId, MigrationId},
    network::{HeldKind, HeldLink, Holder},
    nwfilter,
    undo::Undo,
    volume::{Connection, SecretName},
};

/// What this host holds and does not need, problems first.
pub fn findings(holdings: &Holdings, needs: &Needs, now: Timestamp) -> Vec<Finding> {
    let wanted = Wanted::of(needs);
    let mut found = Vec::new();
    found.extend(needs.halves.iter().filter_map(|half| migration(half, now)));
    found.extend(holdings.secrets.iter().filter_map(|held| secret(held, &wanted)));
    found.extend(holdings.sessions.iter().filter_map(|held| session(held, &wanted)));
    found.extend(records(holdings, &wanted));
    found.extend(holdings.images.iter().filter_map(|held| image(held, &wanted)));
    found.extend(holdings.directories.iter().filter_map(|held| directory(held, &wanted)));
    found.extend(holdings.probes.iter().filter_map(|held| probes(held, now)));
    found.extend(holdings.receivers.iter().filter_map(|held| receiver(held, &wanted)));
    found.extend(holdings.links.iter().filter_map(|held| link(held, &wanted)));
    found.extend(holdings.guests.iter().filter_map(|held| guest(held, &wanted)));
    found.extend(nwfilter::unneeded(&holdings.filters, &wanted.filters).into_iter().map(filter));
    found.extend(holdings.drift.iter().map(|drift| {
        let remedy = "the agent repairs it by itself; if it comes again, see who changes it (nft monitor, ip monitor)";
        problem(Kind::Drift, "networks", drift.clone(), remedy.into())
    }));
    found.extend(holdings.unseen.iter().map(|(what, why)| {
        problem(Kind::Unseen, what, format!("cannot be looked at: {why}"), "see to it, and run doctor again".into())
    }));
    found.sort_by_key(|finding: &Finding| finding.leftover.level);
    found
}

/// What domains need, and what migrations have in hand.
struct Wanted<'a> {
    secrets: BTreeSet<&'a SecretName>,
    volumes: Vec<&'a Connection>,
    devices: &'a BTreeSet<String>,
    holders: BTreeSet<Holder>,
    filters: BTreeSet<String>,
    going_on: BTreeSet<MigrationId>,
    moving: BTreeSet<InstanceId>,
}

impl<'a> Wanted<'a> {
    fn of(needs: &'a Needs) -> Self {
        let halves = || needs.halves.iter().chain(&needs.halves_before);
        // What is still to be taken back is told as that, once.
        let in_hand: Vec<_> = halves()
            .flat_map(|half| &half.pending)
            .filter_map(|undo| match undo {
                Undo::DisconnectVolume { connection } | Undo::ReleaseSecret { connection } => Some(connection),
                _ => None,
            })
            .collect();
        let their_secrets = in_hand.iter().filter_map(|connection| connection.login()).map(|login| &login.secret);
        let plugged = halves().flat_map(|half| &half.pending).filter_map(|undo| match undo {
            Undo::Unplug { plug } => Some(plug.holder()),
            _ => None,
        });
        let filters = halves().flat_map(|half| &half.pending).filter_map(|undo| match undo {
            Undo::UndefineFilter { name } => Some(name),
            _ => None,
        });
        let has_work = |half: &&Half| half.outcome.is_none() || !half.pending.is_empty();
        Self {
            secrets: needs.secrets.iter().chain(their_secrets).collect(),
            volumes: needs.volumes.iter().chain(in_hand.iter().copied()).collect(),
            devices: &needs.devices,
            holders: needs.holders.iter().cloned().chain(plugged).collect(),
            filters: needs.filters.iter().chain(filters).cloned().collect(),
            going_on: halves().filter(has_work).map(|half| half.order.id).collect(),
            moving: halves().filter(has_work).map(|half| half.order.instance).collect(),
        }
    }

    fn has_target(&self, wanted: &str) -> bool {
        self.volumes.iter().any(|volume| matches!(volume, Connection::Iscsi(iscsi) if iscsi.target == wanted))
    }
}

fn problem(kind: Kind, subject: impl ToString, problem: String, remedy: String) -> Finding {
    let subject = subject.to_string();
    let leftover = Leftover { kind, level: Level::Problem, subject, problem, remedy, removable: false };
    Finding { leftover, fix: None }
}

/// A problem that the agent can be asked to do away with.
fn removable(kind: Kind, subject: impl ToString, problem: String, remedy: String, fix: Fix) -> Finding {
    let Finding { leftover, .. } = self::problem(kind, subject, problem, remedy);
    Finding { leftover: Leftover { removable: true, ..leftover }, fix: Some(fix) }
}

fn note(kind: Kind, subject: impl ToString, problem: String, remedy: String) -> Finding {
    let Finding { leftover, fix } = self::problem(kind, subject, problem, remedy);
    Finding { leftover: Leftover { level: Level::Note, ..leftover }, fix }
}

fn migration(half: &Half, now: Timestamp) -> Option<Finding> {
    let (id, name) = (half.order.id, &half.order.instance_name);
    let remedy = format!("vmferry migrations resolve {id}");
    match half.outcome {
        None if is_older(half.started, LONG_OPEN, now) => {
            let hours = now.duration_since(half.started).as_hours();
            let what = format!("moves {name} for {hours} hours, and nobody has ended it");
            Some(problem(Kind::Migration, id, what, remedy))
        }
        Some(outcome) if !half.pending.is_empty() => {
            let steps: Vec<_> = half.pending.iter().map(Undo::to_string).collect();
            let what = format!("of {name}, {outcome}; still to do, which the agent tries again: {}", steps.join("; "));
            Some(problem(Kind::Steps, id, what, remedy))
        }
        _ => None,
    }
}

fn secret(held: &HeldSecret, wanted: &Wanted<'_>) -> Option<Finding> {
    let HeldSecret { uuid, usage, ours } = held;
    let names = [SecretName::Uuid(*uuid), SecretName::Usage(usage.clone())];
    if !ours || names.iter().any(|name| wanted.secrets.contains(name)) {
        return None;
    }
    let what = format!("made by VMFerry ({usage}); no domain needs it");
    let fix = Fix::UndefineSecret { uuid: *uuid };
    Some(removable(Kind::Secret, uuid, what, format!("virsh secret-undefine {uuid}"), fix))
}

fn session(held: &HeldSession, wanted: &Wanted<'_>) -> Option<Finding> {
    let HeldSession { target, portal, disks, claimed, ours } = held;
    if wanted.has_target(target) || disks.iter().any(|disk| wanted.devices.contains(disk)) {
        return None;
    }
    let subject = format!("{target} at {portal}");
    let logout = format!("iscsiadm -m node -T {target} -p {portal} --logout");
    match (ours, claimed) {
        (true, None) => {
            let delete = format!("iscsiadm -m node -T {target} -p {portal} -o delete");
            let what = "made by VMFerry; no domain uses it".into();
            let fix = Fix::EndSession { target: target.clone(), portal: portal.clone() };
            Some(removable(Kind::IscsiSession, subject, what, format!("{logout} && {delete}"), fix))
        }
        (true, Some(device)) => {
            let what =
                format!("made by VMFerry; no domain uses it, but something on the host has a claim on /dev/{device}");
            Some(note(Kind::IscsiSession, subject, what, format!("see who (lsblk /dev/{device}); then {logout}")))
        }
        (false, None) => {
            let what =
                "not VMFerry's; no domain is known to use it, and nothing on the host has a claim on a disk of it"
                    .into();
            Some(note(Kind::IscsiSession, subject, what, format!("if nobody needs it: {logout}")))
        }
        (false, Some(_)) => None,
    }
}

/// Records without a session.
fn records(holdings: &Holdings, wanted: &Wanted<'_>) -> Vec<Finding> {
    let has_session = |target: &str, portal: &str| {
        holdings.sessions.iter().any(|session| session.target == target && session.portal == portal)
    };
    let unused = holdings.records.iter().filter(|record| {
        record.ours && !has_session(&record.target, &record.portal) && !wanted.has_target(&record.target)
    });
    let leftover = |target: &str, portal: &str| {
        let what = "made by VMFerry; there is no session by it, and no domain uses the target".into();
        let remedy = format!("iscsiadm -m node -T {target} -p {portal} -o delete");
        let fix = Fix::DeleteRecord { target: target.to_owned(), portal: portal.to_owned() };
        removable(Kind::IscsiRecord, format!("{target} at {portal}"), what, remedy, fix)
    };
    unused.map(|record| leftover(&record.target, &record.portal)).collect()
}

/// Of an image that VMFerry has mapped and could not unmap, a journal knows.
fn image(held: &HeldImage, wanted: &Wanted<'_>) -> Option<Finding> {
    let HeldImage { device, image, snapshot, claimed } = held;
    let is_it = |volume: &&Connection| matches!(volume, Connection::Rbd(rbd) if rbd.image == *image && rbd.snapshot == *snapshot);
    if *claimed || wanted.devices.contains(device) || wanted.volumes.iter().any(is_it) {
        return None;
    }
    let snapshot = snapshot.as_ref().map(|snapshot| format!("@{snapshot}")).unwrap_or_default();
    let what = format!("mapped as /dev/{device}, which no domain uses and nothing on the host has a claim on");
    let remedy = format!("if nobody needs it: rbd unmap /dev/{device}");
    Some(note(Kind::RbdImage, format!("{image}{snapshot}"), what, remedy))
}

fn directory(held: &HeldDirectory, wanted: &Wanted<'_>) -> Option<Finding> {
    let HeldDirectory { path, migration } = held;
    let remedy = format!("rm -r {path}");
    match migration {
        Some(id) if wanted.going_on.contains(id) => None,
        Some(id) => {
            let fix = Fix::RemoveDirectory { migration: *id };
            Some(removable(Kind::Directory, path, "of no migration that goes on".into(), remedy, fix))
        }
        None => Some(note(Kind::Directory, path, "not VMFerry's".into(), format!("if nobody needs it: {remedy}"))),
    }
}

fn probes(held: &HeldProbes, now: Timestamp) -> Option<Finding> {
    let HeldProbes { list, migration, files, written } = held;
    if !is_older(*written, LONG_PROBED, now) {
        return None;
    }
    let (what, remedy) = if files.is_empty() {
        ("names no probe files, and was not removed".to_owned(), format!("rm {list}"))
    } else {
        let what = format!("names probe files beside disks that the agent could not remove: {}", files.join(", "));
        (what, format!("rm -f {}", files.join(" ")))
    };
    Some(match migration {
        Some(id) => removable(Kind::Probes, list, what, remedy, Fix::RemoveProbes { migration: *id }),
        // Some file or other.
        None => problem(Kind::Probes, list, what, remedy),
    })
}

fn receiver(held: &HeldReceiver, wanted: &Wanted<'_>) -> Option<Finding> {
    let HeldReceiver { pid, migration } = held;
    if wanted.going_on.contains(migration) {
        return None;
    }
    let what = format!("waits for images of migration {migration}, which does not go on");
    let fix = Fix::EndReceiver { pid: *pid, migration: *migration };
    Some(removable(Kind::Receiver, format!("qemu-nbd, process {pid}"), what, format!("kill {pid}"), fix))
}

fn link(held: &HeldLink, wanted: &Wanted<'_>) -> Option<Finding> {
    let HeldLink { name, kind, holder, used_by } = held;
    if holder.as_ref().is_some_and(|holder| wanted.holders.contains(holder)) {
        return None;
    }
    let what = match holder {
        Some(holder) => format!("made by VMFerry for {holder}, which no domain needs here"),
        None => "made by VMFerry, which was cut off in the middle of it".to_owned(),
    };
    let remedy = match kind {
        HeldKind::Link => format!("ip link delete {name}"),
        HeldKind::OvsPort => format!("ovs-vsctl del-port {name}"),
    };
    Some(match used_by {
        None => removable(Kind::Link, name, what, remedy, Fix::RemoveLink(held.clone())),
        Some(other) => {
            let what = format!("{what}, but {other}, which VMFerry has not made, is plugged into it");
            note(Kind::Link, name, what, format!("see whose {other} is; then {remedy}"))
        }
    })
}

/// What becomes of a guest is never an agent's to decide for itself.
fn guest(held: &HeldGuest, wanted: &Wanted<'_>) -> Option<Finding> {
    let HeldGuest { instance, name, sighting, job } = held;
    if wanted.moving.contains(instance) {
        return None;
    }
    let where_else = "see where else it is (vmferry instances, and virsh domstate --reason on each host)";
    match (sighting, job) {
        (Sighting::Departing | Sighting::Incomplete, _) => {
            let what = "a part of its memory is on another host, and no migration of VMFerry's knows of it".into();
            Some(problem(Kind::Guest, name, what, format!("stop neither copy; {where_else}")))
        }
        (Sighting::Paused, None) => {
            let what = "paused for a migration, and no migration of VMFerry's knows of it".into();
            let remedy =
                format!("{where_else}; if nowhere: virsh resume {name}; if it runs there: virsh destroy {name}");
            Some(problem(Kind::Guest, name, what, remedy))
        }
        // Somebody moves it with another program, perhaps.
        (Sighting::Arriving | Sighting::Paused, _) => {
            let what = "on its way, and no migration of VMFerry's knows of it".into();
            Some(note(Kind::Guest, name, what, format!("if nobody moves it: {where_else}")))
        }
        (Sighting::Absent | Sighting::Shutoff | Sighting::Running, _) => None,
    }
}

fn filter(held: &FilterDefinition) -> Finding {
    let name = &held.name;
    let what = "made by VMFerry; no domain and no other filter needs it".to_owned();
    let fix = Fix::UndefineFilter { name: name.clone() };
    removable(Kind::Filter, name, what, format!("virsh nwfilter-undefine {}", nwfilter::quoted(name)), fix)
}

fn is_older(since: Timestamp, age: std::time::Duration, now: Timestamp) -> bool {
    std::time::Duration::try_from(now.duration_since(since)).is_ok_and(|passed| passed > age)
}

#[cfg(test)]
mod tests;
