//! What could be done, and what would be: `Check` and `Plan`. Changes nothing.

use std::sync::Arc;

use uuid::Uuid;
use vmferry_core::{flow, id::MigrationId, identity::Identity, migration::Kind};
use vmferry_proto::{convert::Invalid, fleet};

use super::{
    survey::{candidates, chosen, turned},
    wire,
    wish::{Looked, Settled, Try, look, not_understood, settle},
};
use crate::{
    exit::Failed,
    fleet::Fleet,
    journey::{Unheard, forecast, survey, turned_away_by},
    render::unnamed,
};

/// Which hosts could take it.
pub(super) async fn check(
    fleet: &Fleet,
    asker: &Identity,
    fleet::CheckRequest { wish, all_hosts }: fleet::CheckRequest,
) -> Result<fleet::CheckResponse, Failed> {
    let fleet = Arc::new(fleet.on_behalf_of(asker));
    let looked = Box::pin(look(&fleet, wish.ok_or_else(no_wish)?)).await?;
    let Looked { trip, target, hosts, warnings } = looked;
    let survey = Box::pin(survey(&fleet, &trip, &target, &hosts, all_hosts)).await?;
    let hosts = candidates(&survey);
    Ok(fleet::CheckResponse {
        instance: Some(survey.guest.into()),
        source_checks: survey.source.into_iter().map(Into::into).collect(),
        hosts,
        warnings,
    })
}

/// What `Migrate` would do.
pub(super) async fn plan(
    fleet: &Fleet,
    asker: &Identity,
    wish: Option<fleet::Wish>,
) -> Result<fleet::PlanResponse, Failed> {
    let fleet = Arc::new(fleet.on_behalf_of(asker));
    let mut settled = Box::pin(settle(&fleet, &wish.ok_or_else(no_wish)?)).await?;
    let mut refused = Vec::new();
    while let Some(Try { order, hosts, chosen: why }) = settled.next(MigrationId(Uuid::now_v7())).await? {
        let checked = Box::pin(flow::check(&hosts, &order, &Unheard)).await;
        if let Some(away) = turned_away_by(&order, &checked).filter(|_| why.is_some()) {
            refused.push(turned(&away));
            settled.search.turned_away(away);
            continue;
        }
        let (plan, Settled { mut warnings, .. }) = (checked?, settled);
        let is_measured = order.kind == Kind::Live && !plan.is_refused();
        let forecast = match is_measured {
            true => forecast(&hosts.source, &order, &plan.resolved).await.map(Some),
            false => Ok(None),
        };
        let forecast = forecast.unwrap_or_else(|error| {
            warnings.push(format!("there is no forecast: {}", unnamed(&error)));
            None
        });
        return Ok(fleet::PlanResponse {
            order: Some(order.into()),
            checks: plan.checks.into_iter().map(Into::into).collect(),
            disks: plan.resolved.into_iter().map(Into::into).collect(),
            forecast: forecast.map(wire::forecast),
            warnings,
            chosen: why.map(|(candidate, others)| chosen(&candidate, others)),
            refused,
        });
    }
    let survey = settled.search.nowhere();
    Ok(fleet::PlanResponse {
        refused: candidates(&survey),
        checks: survey.source.into_iter().map(Into::into).collect(),
        warnings: settled.warnings,
        ..fleet::PlanResponse::default()
    })
}

fn no_wish() -> Failed {
    not_understood(Invalid { field: "wish" })
}
