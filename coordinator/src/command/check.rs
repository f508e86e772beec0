//! `vmferry check`

use std::collections::HashSet;

use vmferry_core::{
    agent::{Agent, CheckReport},
    host::Host,
    id::HostName,
    migration::{Order, Side},
    schedule::Ranking,
};

use super::{
    Session, choose, limits,
    trip::{Told, Trip},
};
use crate::{
    cli::{self, Which},
    client::RemoteAgent,
    exit::{Exit, Failed},
    fleet::Answer,
    render::survey::{Survey, Verdict},
};

/// Asks which hosts could take an instance. Changes nothing.
pub(crate) async fn run(session: &Session, args: &cli::Check) -> Result<Exit, Failed> {
    limits::judge(&args.limits)?;
    choose::judge(session, &args.target)?;
    let Which { instance, from } = &args.which;
    let (guest, _, silent) = session.instance(instance, from.as_ref()).await?;
    for error in &silent {
        session.terminal.warn(&format!("could not ask whether there is another {instance}: {error}"));
    }
    let kind = args.cold.kind(guest.state);
    let wish = choose::wish(&args.target, kind);
    let trip = Trip::new(&session.fleet, guest, &args.limits, kind).await?;
    let inquiry = trip.inquiry(session)?;
    let told = trip.ask_source(session, &inquiry).await?;
    let hosts = session.hosts().await;
    let ranking = choose::rank(session, &wish, &told, &hosts);
    let asked = asked(&ranking, &hosts, args.all_hosts);
    let answers = ask(session, &inquiry, &told, &asked).await;
    session.end_inquiry(&inquiry).await;

    let survey = Survey::new(&trip.guest, &told.checks, &hosts, &ranking, answers?);
    let exit = if survey.takers() == 0 { Exit::Refused } else { Exit::Done };
    session.terminal.show(|| survey.text(), &survey.document(exit))?;
    Ok(exit)
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
    session: &Session,
    inquiry: &Order,
    told: &Told,
    hosts: &[HostName],
) -> Result<Vec<(HostName, Verdict)>, Failed> {
    if hosts.is_empty() {
        return Ok(Vec::new());
    }
    let check = async |agent: &RemoteAgent| {
        let order = Order { destination: agent.endpoint().clone(), ..inquiry.clone() };
        agent.check(&order, Side::Destination, Some(&told.leaving)).await
    };
    let answers = session.fleet.ask_these(hosts, check).await?;
    let verdict = |answer: Answer<CheckReport>| match answer.result {
        Ok(CheckReport { checks, .. }) => (answer.endpoint.host, Verdict::Asked(checks)),
        Err(error) => (answer.endpoint.host, Verdict::Failed(error)),
    };
    Ok(answers.into_iter().map(verdict).collect())
}
