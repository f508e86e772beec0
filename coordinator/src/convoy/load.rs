//! Who is to move, and what is known of it.

use std::{sync::Arc, time::Duration};

use bytesize::ByteSize;
use futures::{FutureExt as _, StreamExt as _, stream};
use vmferry_core::{
    compatibility::{Check, Refusal},
    drain::{Blocked, Guest},
    id::InstanceId,
    instance::Instance,
    migration::Kind,
    reason::Reason,
    schedule::{Objection, Wish},
};

use super::{Convoy, Ended, Stray};
use crate::{
    exit::Failed,
    fleet::Fleet,
    journey::{Asked, Policies, Trip, forecast},
};

/// How many guests are looked at at the same time: a look at what one writes takes a second, and a little of the way.
const LOOKS: usize = 4;
/// How many are asked after at the same time.
const ASKED: usize = 16;

impl Convoy {
    /// Asks the source of each guest what it has to say. Who may not leave is blocked.
    pub(super) async fn load(&mut self, guests: Vec<Instance>) {
        let looks = guests
            .into_iter()
            .map(|guest| look(Arc::clone(&self.policies), self.asked.clone(), guest, self.wish.clone()).boxed());
        let looks = stream::iter(looks.collect::<Vec<_>>()).buffered(ASKED).collect::<Vec<_>>();
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
    pub(crate) async fn foresee(&mut self) {
        let looks = self.waiting.iter().filter_map(|guest| self.trips.get(&guest.leaving.instance.id));
        let looks: Vec<_> = looks.map(|trip| foresee(Arc::clone(&self.fleet), trip.clone()).boxed()).collect();
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

async fn look(policies: Arc<Policies>, asked: Asked, guest: Instance, wish: Wish) -> Result<(Trip, Guest), Unready> {
    let blocked = |objections| {
        let (instance, name, source) = (guest.id, guest.name.clone(), guest.host.clone());
        Unready::Blocked(Blocked { instance, name, source, objections })
    };
    let untold = |failed: Failed| blocked(vec![objection(&guest, &failed)]);
    let trip = Trip::new(&policies, guest.clone(), &asked, Kind::Live).await.map_err(untold)?;
    let told = Box::pin(trip.told(policies.fleet())).await.map_err(untold)?;
    if told.is_refused() {
        let mut reasons = told.checks.iter().filter_map(Check::refusal).map(|refusal| refusal.reason);
        if reasons.all(|reason| reason == Reason::InstanceMigrating) {
            return Err(Unready::Moving(Stray::new(&guest)));
        }
        return Err(blocked(told.checks.iter().filter_map(|check| refused(&guest, check)).collect()));
    }
    Ok((trip, Guest { leaving: told.leaving, wish, priority: 0, forecast: None, dirty_rate: None }))
}

/// How long its move takes by itself, and what it writes: that takes a second.
pub(super) async fn foresee(fleet: Arc<Fleet>, trip: Trip) -> Look {
    let measure = async {
        let inquiry = trip.inquiry(&fleet).ok()?;
        let source = fleet.agent(&inquiry.source.host).ok()?;
        // How its disks get there depends on where that is: those that are copied are not counted.
        let (measured, forecast) = forecast(source, &inquiry, &[]).await.ok()?;
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
    let example = Refusal {
        reason,
        message: failed.message.clone(),
        remedy: format!("look at it by itself: vmferry plan {}", guest.name),
    };
    Objection { reason, hosts: vec![host], example }
}
