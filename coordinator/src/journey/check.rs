//! Which hosts could take a guest. Changes nothing.

use std::collections::HashSet;

use vmferry_core::{
    agent::{Agent as _, CheckReport},
    host::Host,
    id::HostName,
    migration::{Order, Side},
    schedule::Ranking,
};

use super::{
    Survey, Target, Verdict, choose,
    trip::{Told, Trip, end_inquiry},
};
use crate::{
    client::RemoteAgent,
    exit::Failed,
    fleet::{Answer, Fleet},
};

/// Asks the source, and those that could take it by what they have, or all that answer. `hosts` are the facts of all.
pub(crate) async fn survey(
    fleet: &Fleet,
    trip: &Trip,
    target: &Target,
    hosts: &[Answer<Host>],
    all_hosts: bool,
) -> Result<Survey, Failed> {
    let wish = choose::wish(target, trip.kind);
    let inquiry = trip.inquiry(fleet)?;
    let told = Box::pin(trip.ask_source(fleet, &inquiry)).await?;
    let ranking = choose::rank(fleet, &wish, &told, hosts);
    let asked = asked(&ranking, hosts, all_hosts);
    let answers = ask(fleet, &inquiry, &told, &asked).await;
    end_inquiry(fleet, &inquiry).await;
    Ok(Survey::new(&trip.guest, &told.checks, hosts, ranking, answers?))
}

/// Whose agents are asked: those that could take it by what they have, or all that answer.
fn asked(ranking: &Ranking, hosts: &[Answer<Host>], all: bool) -> Vec<HostName> {
    let candidates = ranking.candidates.iter().map(|candidate| &candidate.host);
    let answering: HashSet<_> =
        hosts.iter().filter(|answer| answer.result.is_ok()).map(|answer| &answer.endpoint.host).collect();
    let refused = ranking.refused.iter().map(|refused| &refused.host).filter(|host| all && answering.contains(host));
    candidates.chain(refused).cloned().collect()
}

/// What they answer, each for itself.
async fn ask(
    fleet: &Fleet,
    inquiry: &Order,
    told: &Told,
    hosts: &[HostName],
) -> Result<Vec<(HostName, Verdict)>, Failed> {
    if hosts.is_empty() {
        return Ok(Vec::new());
    }
    let check = |agent: RemoteAgent| {
        let order = Order { destination: agent.endpoint().clone(), ..inquiry.clone() };
        async move { agent.check(&order, Side::Destination, Some(&told.leaving)).await }
    };
    let answers = fleet.gather_these(hosts, check).await?;
    let verdict = |answer: Answer<CheckReport>| match answer.result {
        Ok(CheckReport { checks, .. }) => (answer.endpoint.host, Verdict::Asked(checks)),
        Err(error) => (answer.endpoint.host, Verdict::Failed(error)),
    };
    Ok(answers.into_iter().map(verdict).collect())
}
