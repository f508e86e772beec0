//! Who is to move, and what is known of it.

use std::time::Duration;

use bytesize::ByteSize;
use futures::{StreamExt, stream};
use vmferry_core::{
    compatibility::Check,
    drain::{Blocked, Guest},
    id::InstanceId,
    instance::Instance,
    migration::Kind,
    reason::Reason,
    schedule::{Objection, Wish},
};

use super::{Convoy, Session, Stray};
use crate::{
    cli,
    command::{migrate, trip::Trip},
    exit::Failed,
    render::convoy::Ended,
};

/// How many guests are looked at at the same time: a look at what one writes takes a second, and a little of the way.
const LOOKS: usize = 4;
/// How many are asked after at the same time.
const ASKED: usize = 16;

impl Convoy<'_> {
    /// Asks the source of each guest what it has to say. Who may not leave is blocked.
    pub(in crate::command) async fn load(&mut self, guests: Vec<(Instance, Wish)>) {
        let (session, asked) = (self.session, &self.asked);
        let looks = stream::iter(guests)
            .map(|(guest, wish)| Box::pin(look(session, asked, guest, wish)))
            .buffered(ASKED)
            .collect::<Vec<_>>();
        for looked in looks.await {
            match looked {
                Ok((trip, guest)) => {
                    self.trips.insert(trip.guest.id, trip);
                    self.waiting.push(guest);
                }
                Err(Unready::Moving(stray)) => self.strays.push(stray),
                Err(Unready::Blocked(blocked)) => self.ended.push(Ended::blocked(blocked)),
            }
        }
    }

    /// Looks how the move of each would go.
    pub(in crate::command) async fn foresee(&mut self) {
        let session = self.session;
        let looks = self.waiting.iter().filter_map(|guest| self.trips.get(&guest.leaving.instance.id));
        let looks = looks.map(|trip| foresee(session, trip.clone())).collect::<Vec<_>>();
        let looks = stream::iter(looks).buffer_unordered(LOOKS).collect::<Vec<_>>().await;
        looks.into_iter().for_each(|look| self.foreseen(look));
    }

    /// What was found of one that still waits orders it among the others.
    pub(super) fn foreseen(&mut self, Look { instance, found }: Look) {
        let waiting = self.waiting.iter_mut().find(|guest| guest.leaving.instance.id == instance);
        if let (Some(guest), Some((forecast, dirty_rate))) = (waiting, found) {
            guest.forecast = Some(forecast);
            guest.dirty_rate = Some(dirty_rate);
        }
    }
}

/// What was found of a guest's move.
pub(super) struct Look {
    pub(super) instance: InstanceId,
    /// How long it takes by itself, and what the guest writes per second. None: it cannot be measured, which hinders nobody.
    found: Option<(Duration, ByteSize)>,
}

/// A guest that cannot begin to move.
enum Unready {
    /// Somebody else moves it.
    Moving(Stray),
    /// It may not leave.
    Blocked(Blocked),
}

async fn look(session: &Session, asked: &cli::Limits, guest: Instance, wish: Wish) -> Result<(Trip, Guest), Unready> {
    let blocked = |objections| {
        let (instance, name, source) = (guest.id, guest.name.clone(), guest.host.clone());
        Unready::Blocked(Blocked { instance, name, source, objections })
    };
    let untold = |failed: Failed| blocked(vec![objection(&guest, &failed)]);
    let trip = Trip::new(&session.fleet, guest.clone(), asked, Kind::Live).await.map_err(untold)?;
    let inquiry = trip.inquiry(session).map_err(untold)?;
    let told = Box::pin(trip.ask_source(session, &inquiry)).await;
    session.end_inquiry(&inquiry).await;
    let told = told.map_err(untold)?;
    if told.is_refused() {
        let mut reasons = told.checks.iter().filter_map(Check::refusal).map(|refusal| refusal.reason);
        if reasons.all(|reason| reason == Reason::InstanceMigrating) {
            return Err(Unready::Moving(Stray::new(&guest, wish)));
        }
        return Err(blocked(told.checks.iter().filter_map(|check| refused(&guest, check)).collect()));
    }
    Ok((trip, Guest { leaving: told.leaving, wish, priority: 0, forecast: None, dirty_rate: None }))
}

/// How long its move takes by itself, and what it writes: that takes a second.
pub(super) async fn foresee(session: &Session, trip: Trip) -> Look {
    let measure = async {
        let inquiry = trip.inquiry(session).ok()?;
        let source = session.fleet.agent(&inquiry.source.host).ok()?;
        // How its disks get there depends on where that is: those that are copied are not counted.
        let (measured, forecast) = migrate::forecast(source, &inquiry, &[]).await.ok()?;
        Some((forecast.likely.total, measured.dirty_rate))
    };
    Look { instance: trip.guest.id, found: measure.await }
}

fn refused(guest: &Instance, check: &Check) -> Option<Objection> {
    let refusal = check.refusal()?.clone();
    Some(Objection { reason: refusal.reason, hosts: vec![guest.host.clone()], example: refusal })
}

fn objection(guest: &Instance, failed: &Failed) -> Objection {
    let host = failed.host.clone().unwrap_or_else(|| guest.host.clone());
    let reason = failed.reason.unwrap_or(Reason::InvalidRequest);
    let example = vmferry_core::compatibility::Refusal {
        reason,
        message: failed.message.clone(),
        remedy: format!("look at it by itself: vmferry plan {}", guest.name),
    };
    Objection { reason, hosts: vec![host], example }
}
