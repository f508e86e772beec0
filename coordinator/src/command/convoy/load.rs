//! Who is to move, and what is known of it.

use std::time::Duration;

use bytesize::ByteSize;
use futures::{StreamExt, stream};
use vmferry_core::{
    compatibility::Check,
    convergence::{Forecast, Job, load},
    drain::{Blocked, Guest},
    instance::Instance,
    migration::{Kind, Order},
    reason::Reason,
    schedule::{Objection, Wish},
};

use super::{Convoy, Session};
use crate::{
    cli,
    command::trip::{Told, Trip},
    exit::Failed,
    render::convoy::Ended,
};

/// How many guests are asked after at the same time: each look at what one writes takes a second, and a little of the way.
const LOOKS: usize = 4;

impl Convoy<'_> {
    /// Asks the source of each guest what it has to say, and how its move would go. Who may not leave is blocked.
    pub(in crate::command) async fn load(&mut self, guests: Vec<(Instance, Wish)>) {
        let (session, asked) = (self.session, &self.asked);
        let looks = stream::iter(guests)
            .map(|(guest, wish)| Box::pin(look(session, asked, guest, wish)))
            .buffered(LOOKS)
            .collect::<Vec<_>>();
        for looked in looks.await {
            match looked {
                Ok((trip, guest)) => {
                    self.trips.insert(trip.guest.id, trip);
                    self.waiting.push(guest);
                }
                Err(blocked) => self.ended.push(Ended::blocked(blocked)),
            }
        }
    }
}

async fn look(session: &Session, asked: &cli::Limits, guest: Instance, wish: Wish) -> Result<(Trip, Guest), Blocked> {
    let blocked =
        |objections| Blocked { instance: guest.id, name: guest.name.clone(), source: guest.host.clone(), objections };
    let untold = |failed: Failed| blocked(vec![objection(&guest, &failed)]);
    let trip = Trip::new(session, guest.clone(), asked, Kind::Live).await.map_err(untold)?;
    let inquiry = trip.inquiry(session).map_err(untold)?;
    let told = trip.ask_source(session, &inquiry).await;
    session.end_inquiry(&inquiry).await;
    let told = told.map_err(untold)?;
    if told.is_refused() {
        return Err(blocked(told.checks.iter().filter_map(|check| refused(&guest, check)).collect()));
    }
    let (forecast, dirty_rate) = foresee(session, &inquiry, &told).await.unzip();
    Ok((trip, Guest { leaving: told.leaving, wish, priority: 0, forecast, dirty_rate }))
}

/// How long its move takes by itself, and what it writes. What cannot be measured hinders nobody.
async fn foresee(session: &Session, inquiry: &Order, told: &Told) -> Option<(Duration, ByteSize)> {
    let source = session.fleet.agent(&inquiry.source.host).ok()?;
    let measured = source.measure(inquiry).await.ok()?;
    // How its disks get there depends on where that is: those that are copied are not counted.
    let job = Job { disks: ByteSize::default(), load: load(measured.memory, []) };
    let forecast = Forecast::of(&measured, job, &inquiry.limits.policy, inquiry.limits.bandwidth);
    tracing::debug!(guest = told.leaving.instance.name, ?forecast, "foreseen");
    Some((forecast.likely.total, measured.dirty_rate))
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
