//! What only a look at several hosts can tell: a guest that is on more than one.

use std::collections::{BTreeMap, BTreeSet};

use super::{Kind, Leftover, Level};
use crate::{
    id::{HostName, InstanceId},
    instance::{Instance, InstanceState},
};

/// Guests that are on several hosts though they do not move, by the host on which something should be done. `moving`: those that do.
///
/// Nothing says who has defined them: a definition that is off is a [`Level::Note`].
pub fn elsewhere(instances: &[Instance], moving: &BTreeSet<InstanceId>) -> Vec<(HostName, Leftover)> {
    let mut by_id: BTreeMap<InstanceId, Vec<&Instance>> = BTreeMap::new();
    for instance in instances.iter().filter(|instance| !moving.contains(&instance.id)) {
        by_id.entry(instance.id).or_default().push(instance);
    }
    by_id.values().flat_map(|copies| copies.iter().filter_map(|copy| judge(copy, copies))).collect()
}

fn judge(copy: &Instance, copies: &[&Instance]) -> Option<(HostName, Leftover)> {
    let Instance { name, host, .. } = copy;
    let other = copies.iter().find(|other| other.host != *host && other.state != InstanceState::Shutoff)?;
    let there = &other.host;
    let (level, problem, remedy) = match (copy.state, other.state) {
        (InstanceState::Shutoff, _) => (
            Level::Note,
            format!("defined and off here, while it is on {there}: if somebody starts it, it is on both"),
            format!("if nobody needs the definition: virsh undefine {name}"),
        ),
        (InstanceState::Active, InstanceState::Active) => (
            Level::Problem,
            format!("runs here and on {there}"),
            format!("stop the copy with the older state at once: virsh destroy {name}"),
        ),
        _ => return None,
    };
    let subject = name.clone();
    Some((host.clone(), Leftover { kind: Kind::Definition, level, subject, problem, remedy, removable: false }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(name: &str, host: &str, state: InstanceState) -> Instance {
        let id = uuid::Uuid::new_v5(&uuid::Uuid::nil(), name.as_bytes());
        Instance {
            id: InstanceId(id),
            name: name.into(),
            state,
            host: host.parse().expect("valid"),
            memory: bytesize::ByteSize::mib(128),
            vcpus: 1,
            persistent: true,
            disks: vec![],
            vifs: vec![],
            migration: None,
            problems: vec![],
            limits: crate::convergence::GuestLimits::default(),
            affinity: vec![],
        }
    }

    #[test]
    fn a_guest_that_is_on_two_hosts_is_told_where_something_should_be_done() {
        use InstanceState::{Active, Migrating, Paused, Shutoff};
        let told = |here: InstanceState, there: InstanceState| -> Vec<(String, Level)> {
            let instances = [
                instance("web", "node-28", here),
                instance("web", "node-31", there),
                instance("db", "node-31", Shutoff),
            ];
            let moving = [instances[0].id].into();
            assert_eq!(elsewhere(&instances, &moving), [], "it moves");
            let found = elsewhere(&instances, &BTreeSet::new());
            assert!(found.iter().all(|(_, leftover)| !leftover.removable && leftover.subject == "web"), "{found:?}");
            found.into_iter().map(|(host, leftover)| (host.to_string(), leftover.level)).collect()
        };
        assert_eq!(told(Active, Shutoff), [("node-31".to_owned(), Level::Note)]);
        assert_eq!(told(Shutoff, Paused), [("node-28".to_owned(), Level::Note)]);
        let both = [("node-28".to_owned(), Level::Problem), ("node-31".to_owned(), Level::Problem)];
        assert_eq!(told(Active, Active), both);
        assert_eq!(told(Active, Paused), []);
        assert_eq!(told(Migrating, Active), []);
        // Whoever shares disks between hosts may define a guest on each.
        assert_eq!(told(Shutoff, Shutoff), []);
    }
}
