//! Which instance is meant by what the user typed. Answers of all hosts in, one instance or a reason out.

use std::collections::{BTreeSet, HashMap};

use vmferry_core::{
    agent::CallError,
    id::{HostName, InstanceId},
    instance::{Instance, InstanceState},
    reason::Reason,
};

use crate::exit::{Exit, Failed};

/// A prefix of a UUID shorter than this is more likely a slip.
const SHORTEST_PREFIX: usize = 4;

/// One row per guest: while a migration moves a guest, both hosts have a domain of it, and only the one that runs counts.
pub(crate) fn guests(mut instances: Vec<Instance>) -> Vec<Instance> {
    let runs = |instance: &Instance| matches!(instance.state, InstanceState::Active | InstanceState::Migrating);
    let mut places = HashMap::<InstanceId, Vec<(HostName, bool, bool)>>::new();
    for instance in &instances {
        let place = (instance.host.clone(), runs(instance), instance.migration.is_some());
        places.entry(instance.id).or_default().push(place);
    }
    instances.retain(|instance| {
        let others = || places[&instance.id].iter().filter(|(host, ..)| *host != instance.host);
        let moving = instance.migration.is_some() || others().any(|(.., moving)| *moving);
        runs(instance) || !moving || !others().any(|(_, runs, _)| *runs)
    });
    instances
}

/// The instance that `wanted` names: a name, a UUID, or the beginning of either. That of a name counts only if every host
/// answered: another might be meant.
///
/// `instances` is what the hosts said, `silent` the hosts that said nothing, `from` the host that the user named.
pub(crate) fn instance(
    instances: Vec<Instance>,
    silent: &[CallError],
    wanted: &str,
    from: Option<&HostName>,
) -> Result<Instance, Failed> {
    let guests = guests(instances);
    let mut found: Vec<_> = guests.iter().filter(|guest| guest.name == wanted).collect();
    if found.is_empty() {
        let prefix = wanted.to_ascii_lowercase();
        let long_enough = prefix.len() >= SHORTEST_PREFIX;
        let by_id = |guest: &&Instance| long_enough && guest.id.to_string().starts_with(&prefix);
        let named = if silent.is_empty() { beginning(&guests, wanted) } else { vec![] };
        let by_name = |guest: &&Instance| matches!(named.as_slice(), [only] if guest.name == *only);
        found = guests.iter().filter(|guest| by_id(guest) || by_name(guest)).collect();
    }
    if let Some(from) = from.filter(|_| !found.is_empty()) {
        let elsewhere = found.clone();
        found.retain(|guest| guest.host == *from);
        if let ([], [first, ..]) = (found.as_slice(), elsewhere.as_slice()) {
            let message = format!("{wanted} is not on {from} but on {}; correct --from, or leave it out", first.host);
            return Err(Failed::because(Reason::InstanceNotFound, message));
        }
    }
    match found.as_slice() {
        [guest] => Ok((*guest).clone()),
        [] => Err(not_found(&guests, silent, wanted)),
        several => Err(ambiguous(several, wanted)),
    }
}

/// The names that begin so, each once.
fn beginning<'a>(guests: &'a [Instance], wanted: &str) -> Vec<&'a str> {
    let names: BTreeSet<_> = guests.iter().map(|guest| guest.name.as_str()).collect();
    names.into_iter().filter(|name| !wanted.is_empty() && name.starts_with(wanted)).collect()
}

fn ambiguous(several: &[&Instance], wanted: &str) -> Failed {
    let places: Vec<_> = several
        .iter()
        .map(|guest| format!("{} {} on {} ({})", guest.name, guest.id, guest.host, guest.state))
        .collect();
    let one_guest = several.windows(2).all(|pair| pair[0].id == pair[1].id);
    let remedy = if one_guest { "say which one with --from HOST" } else { "say which one by its UUID" };
    Failed::because(
        Reason::InstanceAmbiguous,
        format!("{wanted} may mean any of {}; {remedy}\n  {}", several.len(), places.join("\n  ")),
    )
}

fn not_found(guests: &[Instance], silent: &[CallError], wanted: &str) -> Failed {
    let hint = match beginning(guests, wanted).as_slice() {
        [] => "list what there is with `vmferry instances`".to_owned(),
        names => format!("did you mean {}?", names[..names.len().min(3)].join(" or ")),
    };
    if silent.is_empty() {
        let message = format!("no instance {wanted} on any host of the inventory; {hint}");
        return Failed::because(Reason::InstanceNotFound, message);
    }
    let unasked: Vec<_> = silent.iter().map(|error| error.host.as_str()).collect();
    let message = format!(
        "no instance {wanted} on the hosts that answered, and {} could not be asked; {hint}{}",
        unasked.join(", "),
        crate::render::list(silent)
    );
    Failed::because(Reason::InstanceNotFound, message).with_exit(Exit::Unreachable)
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;
    use vmferry_core::id::MigrationId;

    use super::*;

    const WEB: &str = "ed831ace-39ef-4960-8bae-a035d292c305";
    const OTHER: &str = "8e6a33c1-1564-4d63-8964-f10a6d66e2c2";

    fn on(host: &str, name: &str, id: &str, state: InstanceState) -> Instance {
        Instance {
            id: id.parse().expect("valid"),
            name: name.into(),
            state,
            host: host.parse().expect("valid"),
            memory: ByteSize::mib(256),
            vcpus: 1,
            persistent: true,
            disks: vec![],
            vifs: vec![],
            migration: None,
            problems: vec![],
            affinity: vec![],
            limits: Default::default(),
        }
    }

    fn moving(instance: Instance) -> Instance {
        let id: MigrationId = "0190f5fe-7c00-7a00-8abc-012345678901".parse().expect("valid");
        Instance { migration: Some(id), ..instance }
    }

    fn silence() -> CallError {
        CallError {
            host: "node-27".parse().expect("valid"),
            reason: Reason::AgentUnreachable,
            message: "cannot reach the agent of node-27".into(),
        }
    }

    fn host_of(instances: Vec<Instance>, wanted: &str) -> String {
        instance(instances, &[], wanted, None).expect("found").host.to_string()
    }

    #[test]
    fn finds_by_name_uuid_and_prefix_of_a_uuid() {
        let all =
            vec![on("node-28", "web", WEB, InstanceState::Active), on("node-31", "db", OTHER, InstanceState::Active)];
        for wanted in ["web", WEB, "ed83", "ED831ACE"] {
            assert_eq!(host_of(all.clone(), wanted), "node-28", "{wanted}");
        }
        for wanted in ["", "ed8", "webs"] {
            assert!(instance(all.clone(), &[], wanted, None).is_err(), "{wanted}");
        }
    }

    #[test]
    fn the_beginning_of_one_name_will_do_if_every_host_answered() {
        let mut all =
            vec![on("node-28", "web-1", WEB, InstanceState::Active), on("node-31", "db", OTHER, InstanceState::Active)];
        for wanted in ["w", "web-", "d"] {
            instance(all.clone(), &[], wanted, None).expect(wanted);
            let failed = instance(all.clone(), &[silence()], wanted, None).expect_err("it might be another");
            assert_eq!(failed.exit, Exit::Unreachable);
            assert!(failed.message.contains("did you mean"), "{failed}");
        }
        all[1].name = "web-2".into();
        let failed = instance(all.clone(), &[], "web", None).expect_err("two");
        assert!(failed.message.contains("did you mean web-1 or web-2?"), "{failed}");
        // A name and another's UUID that begin alike.
        all[1].name = "ed83-backup".into();
        let failed = instance(all, &[], "ed83", None).expect_err("two");
        assert_eq!(failed.reason, Some(Reason::InstanceAmbiguous));
    }

    #[test]
    fn a_guest_that_moves_is_one_row_where_it_runs() {
        let before = vec![
            moving(on("node-28", "web", WEB, InstanceState::Migrating)),
            moving(on("node-31", "web", WEB, InstanceState::Paused)),
        ];
        assert_eq!(host_of(before, "web"), "node-28");
        let after = vec![
            moving(on("node-28", "web", WEB, InstanceState::Shutoff)),
            on("node-31", "web", WEB, InstanceState::Active),
        ];
        assert_eq!(host_of(after, "web"), "node-31");
    }

    #[test]
    fn a_guest_that_runs_twice_is_never_hidden() {
        let twice = vec![
            moving(on("node-28", "web", WEB, InstanceState::Active)),
            moving(on("node-31", "web", WEB, InstanceState::Active)),
        ];
        assert_eq!(guests(twice).len(), 2);
    }

    #[test]
    fn two_guests_of_one_name_are_told_apart_by_uuid() {
        let all =
            vec![on("node-28", "web", WEB, InstanceState::Active), on("node-31", "web", OTHER, InstanceState::Shutoff)];
        let failed = instance(all.clone(), &[], "web", None).expect_err("ambiguous");
        assert_eq!((failed.exit, failed.reason), (Exit::Usage, Some(Reason::InstanceAmbiguous)));
        insta::assert_snapshot!(failed.message, @"
        web may mean any of 2; say which one by its UUID
          web ed831ace-39ef-4960-8bae-a035d292c305 on node-28 (ACTIVE)
          web 8e6a33c1-1564-4d63-8964-f10a6d66e2c2 on node-31 (SHUTOFF)
        ");
        let from = "node-31".parse().expect("valid");
        assert_eq!(instance(all, &[], "web", Some(&from)).expect("found").id.to_string(), OTHER);
    }

    #[test]
    fn one_uuid_on_two_hosts_is_told_apart_by_host() {
        let all =
            vec![on("node-28", "web", WEB, InstanceState::Active), on("node-31", "web", WEB, InstanceState::Shutoff)];
        let failed = instance(all, &[], "web", None).expect_err("ambiguous");
        assert!(failed.message.contains("--from HOST"), "{failed}");
    }

    #[test]
    fn not_found_is_certain_only_if_all_were_asked() {
        let all = vec![on("node-28", "web-1", WEB, InstanceState::Active)];
        let failed = instance(all.clone(), &[], "mail", None).expect_err("not found");
        assert_eq!((failed.exit, failed.reason), (Exit::Usage, Some(Reason::InstanceNotFound)));
        let failed = instance(all, &[silence()], "mail", None).expect_err("not found");
        assert_eq!(failed.exit, Exit::Unreachable);
        assert!(failed.message.contains("node-27"), "{failed}");
    }

    #[test]
    fn a_wrong_from_is_told_where_it_is() {
        let all = vec![on("node-28", "web", WEB, InstanceState::Active)];
        let from = "node-31".parse().expect("valid");
        let failed = instance(all, &[], "web", Some(&from)).expect_err("elsewhere");
        assert!(failed.message.contains("node-28"), "{failed}");
    }
}
