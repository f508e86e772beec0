//! Which host shall take a guest: by what all hosts say of themselves.

use vmferry_core::{
    host::Host,
    id::HostName,
    migration::Kind,
    schedule::{self, Ranking, Seen, Wish},
};

use super::{Session, trip::Told};
use crate::{cli::Target, exit::Failed, fleet::Answer};

/// What the user wants of the destination. Names that the inventory does not have are told before anybody is asked.
pub(super) fn wish(session: &Session, target: &Target, kind: Kind) -> Result<Wish, Failed> {
    let Target { to, zone, exclude } = target;
    for named in to.iter().chain(exclude) {
        session.fleet.agent(named)?;
    }
    let hosts = (!to.is_empty()).then(|| to.clone());
    Ok(Wish { zone: zone.clone(), hosts, exclude: exclude.clone(), kind })
}

/// All hosts, the best first, and why the others do not come into question.
pub(super) fn rank(session: &Session, wish: &Wish, told: &Told, hosts: &[Answer<Host>]) -> Ranking {
    schedule::rank(wish, &told.leaving, &seen(hosts), session.fleet.weights())
}

/// The hosts as they answered.
pub(super) fn seen(hosts: &[Answer<Host>]) -> Vec<Seen<'_>> {
    hosts.iter().map(|answer| Seen { name: &answer.endpoint.host, answer: answer.result.as_ref() }).collect()
}

/// The zone of a host, if it has said which.
pub(super) fn zone_of<'a>(hosts: &'a [Answer<Host>], name: &HostName) -> Option<&'a str> {
    let answer = hosts.iter().find(|answer| answer.endpoint.host == *name)?;
    answer.result.as_ref().ok().map(|host| host.zone.as_str())
}
