//! Which host shall take a guest: by what all hosts say of themselves.

use vmferry_core::{
    host::Host,
    migration::Kind,
    schedule::{self, Ranking, Seen, Wish},
};

use super::{Target, trip::Told};
use crate::{
    exit::Failed,
    fleet::{Answer, Fleet},
};

/// Tells a name that the inventory does not have, before anybody is asked.
pub(crate) fn judge(fleet: &Fleet, Target { to, exclude, .. }: &Target) -> Result<(), Failed> {
    to.iter().chain(exclude).try_for_each(|named| fleet.agent(named).map(drop))
}

/// What is wanted of the destination.
pub(crate) fn wish(Target { to, zone, exclude }: &Target, kind: Kind) -> Wish {
    let hosts = (!to.is_empty()).then(|| to.clone());
    Wish { zone: zone.clone(), hosts, exclude: exclude.clone(), kind }
}

/// All hosts, the best first, and why the others do not come into question.
pub(super) fn rank(fleet: &Fleet, wish: &Wish, told: &Told, hosts: &[Answer<Host>]) -> Ranking {
    schedule::rank(wish, &told.leaving, &seen(hosts), fleet.weights())
}

/// The hosts as they answered.
pub(crate) fn seen(hosts: &[Answer<Host>]) -> Vec<Seen<'_>> {
    hosts.iter().map(|answer| Seen { name: &answer.endpoint.host, answer: answer.result.as_ref() }).collect()
}
