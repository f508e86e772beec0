//! Hosts' facts, less what was given away since they were read.

use std::collections::BTreeMap;

use super::Guest;
use crate::{
    host::Host,
    id::HostName,
    schedule::{Seen, take},
};

pub(super) struct Claims<'a> {
    hosts: &'a [Seen<'a>],
    by_name: BTreeMap<&'a HostName, &'a Host>,
    /// Those that are not as they were read.
    changed: BTreeMap<HostName, Host>,
}

impl<'a> Claims<'a> {
    pub(super) fn of(hosts: &'a [Seen<'a>]) -> Self {
        let by_name = hosts.iter().filter_map(|seen| Some((seen.name, seen.answer.ok()?))).collect();
        Self { hosts, by_name, changed: BTreeMap::new() }
    }

    /// All hosts as they are now.
    pub(super) fn seen(&self) -> Vec<Seen<'_>> {
        let now = |seen: &Seen<'a>| match self.changed.get(seen.name) {
            Some(host) => Seen { name: seen.name, answer: Ok(host) },
            None => *seen,
        };
        self.hosts.iter().map(now).collect()
    }

    /// One that answered.
    pub(super) fn host(&self, name: &HostName) -> Option<&Host> {
        self.changed.get(name).or_else(|| self.by_name.get(name).copied())
    }

    /// The guest will be there.
    pub(super) fn give_room(&mut self, guest: &Guest, destination: &HostName) {
        self.change(destination, |host| take(host, &guest.leaving.definition, guest.wish.kind));
    }

    /// A migration goes from there to there.
    pub(super) fn give_turn(&mut self, source: &HostName, destination: &HostName) {
        self.change(source, |host| {
            host.room.iter_mut().for_each(|room| room.taken.outgoing = room.taken.outgoing.saturating_add(1));
        });
        self.change(destination, |host| {
            host.room.iter_mut().for_each(|room| room.taken.incoming = room.taken.incoming.saturating_add(1));
        });
    }

    fn change(&mut self, name: &HostName, change: impl FnOnce(&mut Host)) {
        if let Some(host) = self.changed.get_mut(name) {
            change(host);
        } else if let Some(host) = self.by_name.get(name) {
            let mut host = (*host).clone();
            change(&mut host);
            self.changed.insert(name.clone(), host);
        }
    }
}
