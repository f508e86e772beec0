//! `vmferry check`

use super::Session;
use crate::{
    cli::{self, Which},
    exit::{Exit, Failed},
    fleet::Found,
    journey::{Policies, Trip, judge_limits, judge_target, survey},
};

/// Asks which hosts could take an instance. Changes nothing.
pub(crate) async fn run(session: &Session, args: &cli::Check) -> Result<Exit, Failed> {
    let (asked, target) = (args.limits.asked(), args.target.target());
    judge_limits(&asked)?;
    judge_target(&session.fleet, &target)?;
    let Which { instance, from } = &args.which;
    let Found { guest, hosts, silent } = session.fleet.found(instance, from.as_ref()).await?;
    for error in &silent {
        session.terminal.warn(&format!("could not ask whether there is another {instance}: {error}"));
    }
    let kind = args.cold.kind(guest.state);
    let trip = Trip::new(&Policies::of(&session.fleet), guest, &asked, kind).await?;
    let survey = Box::pin(survey(&session.fleet, &trip, &target, &hosts, args.all_hosts)).await?;
    let exit = if survey.takers() == 0 { Exit::Refused } else { Exit::Done };
    session.terminal.show(|| survey.text(), &survey.document(exit))?;
    Ok(exit)
}
