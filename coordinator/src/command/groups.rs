//! `vmferry groups`, `groups sync`, and what all hosts are told after a policy has changed

use std::collections::BTreeMap;

use vmferry_core::{
    agent::CallError,
    id::HostName,
    policy::{GroupReport, Memberships, Told, gather},
};

use super::Session;
use crate::{
    cli::SyncGroups,
    client::RemoteAgent,
    exit::{Exit, Failed},
    fleet::{Answer, Fleet, heard},
    render::{
        groups::{Spread, list, list_document, sync_document, sync_text},
        unnamed,
    },
};

/// How often hosts are told at most: if somebody else changes groups meanwhile, what was told may be out of date already.
const ROUNDS: usize = 3;

/// Lists who is in which group. Of a host that is down, as far as the others remember.
pub(crate) async fn run(session: &Session) -> Result<Exit, Failed> {
    let (reports, silent) = heard(session.fleet.ask(RemoteAgent::groups).await)?;
    let known = gather(&reports);
    let behind: Vec<_> = reports.iter().filter(|report| !report.knows(&known)).map(|report| &report.host).collect();
    session.terminal.show(|| list(&known), &list_document(&known, &behind, &silent))?;
    for error in &silent {
        let host = &error.host;
        session.terminal.warn(&format!("of {host} is shown what other hosts remember: {}", unnamed(error)));
    }
    for host in behind {
        session.terminal.warn(&format!("{host} knows other members than these; tell it with `vmferry groups sync`"));
    }
    warn_of_strangers(session, &known);
    Ok(Exit::Done)
}

/// Tells every host of the members on all others.
pub(crate) async fn sync(session: &Session, SyncGroups { forget }: &SyncGroups) -> Result<Exit, Failed> {
    session.may_coordinate()?;
    let (answers, known) = spread(&session.fleet, forget).await?;
    let exits: Vec<_> = answers.iter().map(exit).collect();
    let exit = Exit::of_several(&exits);
    session.terminal.show(|| sync_text(&answers), &sync_document(&answers, exit))?;
    for error in answers.iter().filter_map(|answer| answer.result.as_ref().err()) {
        session.terminal.error(&error.to_string());
    }
    warn_of_strangers(session, &known);
    Ok(exit)
}

/// After a policy has changed. What cannot be told leaves the change as it is, and is said.
pub(super) async fn spread_change(session: &Session) {
    let (answers, known) = match spread(&session.fleet, &[]).await {
        Ok(told) => told,
        Err(failed) => return session.terminal.warn(&failed.message),
    };
    for error in answers.iter().filter_map(|answer| answer.result.as_ref().err()) {
        let (host, why) = (&error.host, unnamed(error));
        session.terminal.warn(&format!(
            "{host} may not go by who is in which group now: {why}; once that is mended, run `vmferry groups sync`"
        ));
    }
    warn_of_strangers(session, &known);
}

fn exit(answer: &Answer<Spread>) -> Exit {
    answer.result.as_ref().map_or_else(|error| Exit::of_reason(error.reason), |_| Exit::Done)
}

/// Nobody else would ever say that they are gone.
fn warn_of_strangers(session: &Session, known: &Told) {
    let strangers = known.0.iter().filter(|(host, memberships)| !memberships.is_empty() && !session.fleet.has(host));
    for (host, _) in strangers {
        session.terminal.warn(&format!(
            "{host} is not in the inventory, and guests of it are remembered to be in groups; \
             if it is gone for good: `vmferry groups sync --forget {host}`"
        ));
    }
}

/// Asks all hosts, tells each what it lacks, and asks again until none lacks anything: two coordinators that do so at once must not
/// leave behind what one of them knew too early. Returns what was known in the end.
async fn spread(fleet: &Fleet, forget: &[HostName]) -> Result<(Vec<Answer<Spread>>, Told), Failed> {
    let mut known = Told::default();
    let mut ended: BTreeMap<HostName, Result<Spread, CallError>> = BTreeMap::new();
    let mut answers = fleet.ask(RemoteAgent::groups).await;
    let endpoints: Vec<_> = answers.iter().map(|answer| answer.endpoint.clone()).collect();
    for _ in 0..ROUNDS {
        let reports = take_reports(answers, &mut ended);
        known = known_but(&reports, forget)?;
        let lacking: BTreeMap<_, _> =
            reports.iter().filter_map(|report| Some((report.host.clone(), report.lacks(&known)?))).collect();
        if lacking.is_empty() {
            break;
        }
        let lack: Vec<_> = lacking.keys().cloned().collect();
        let told = fleet.ask_these(&lack, async |agent: &RemoteAgent| {
            agent.tell_groups(lacking.get(&agent.endpoint().host).cloned().unwrap_or_default()).await
        });
        ended.extend(
            told.await?.into_iter().map(|Answer { endpoint, result }| (endpoint.host, result.map(|()| Spread::Told))),
        );
        let heard: Vec<_> = reports
            .iter()
            .map(|report| report.host.clone())
            .filter(|host| ended.get(host).is_some_and(Result::is_ok))
            .collect();
        if heard.is_empty() {
            break;
        }
        answers = fleet.ask_these(&heard, RemoteAgent::groups).await?;
    }
    let answers = endpoints.into_iter().filter_map(|endpoint| {
        let result = ended.remove(&endpoint.host)?;
        Some(Answer { endpoint, result })
    });
    Ok((answers.collect(), known))
}

/// What was said; who said nothing has ended so.
fn take_reports(
    answers: Vec<Answer<GroupReport>>,
    ended: &mut BTreeMap<HostName, Result<Spread, CallError>>,
) -> Vec<GroupReport> {
    let mut reports = Vec::new();
    for Answer { endpoint, result } in answers {
        match result {
            Ok(report) => {
                ended.entry(endpoint.host).or_insert(Ok(Spread::Knew));
                reports.push(report);
            }
            Err(error) => _ = ended.insert(endpoint.host, Err(error)),
        }
    }
    reports
}

/// What all should know, and that nobody is in a group on the hosts to be forgotten.
fn known_but(reports: &[GroupReport], forget: &[HostName]) -> Result<Told, Failed> {
    let mut known = gather(reports);
    for host in forget {
        if reports.iter().any(|report| report.host == *host) {
            let message = format!("{host} answers, and is believed about its own guests; leave out `--forget {host}`");
            return Err(Failed::usage(message));
        }
        if known.0.insert(host.clone(), Memberships::new()).is_none() {
            return Err(Failed::usage(format!(
                "no host remembers anything of {host}; `vmferry groups` lists what they do"
            )));
        }
    }
    Ok(known)
}
