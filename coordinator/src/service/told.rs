//! A convoy as its caller is told of it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::info;
use vmferry_core::{
    drain::{Blocked, Move},
    host::Host,
    id::{HostName, InstanceId},
    instance::Instance,
    migration::{Order, Phase, Progress},
    reason::Reason,
    schedule::Objection,
};
use vmferry_proto::{
    convert::{wire_duration, wire_timestamp},
    fleet::{self, drain_event::Event, guest_ended as ended},
    v1,
};

use super::survey;
use crate::{
    convoy::{Begun, End, Ended, Listener, Why},
    exit::Failed,
    fleet::Answer,
    journey::Turned,
};

/// How often a move is told of while its job goes on.
const SAMPLE: Duration = Duration::from_secs(1);

/// Tells a caller, in its own words.
pub(super) struct Told<T> {
    sender: mpsc::Sender<Result<T, Status>>,
    event: fn(Event) -> T,
    /// The caller is so far behind that something could not be told.
    lost: CancellationToken,
    trail: Mutex<Trail>,
}

#[derive(Debug, Default)]
struct Trail {
    /// Why guests wait, as it was told.
    waits: HashMap<InstanceId, fleet::GuestWaits>,
    moves: HashMap<InstanceId, (Phase, Option<Instant>)>,
}

impl<T> fmt::Debug for Told<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").field("trail", &self.trail).finish_non_exhaustive()
    }
}

impl<T> Told<T> {
    pub(super) fn new(sender: mpsc::Sender<Result<T, Status>>, event: fn(Event) -> T) -> Self {
        Self { sender, event, lost: CancellationToken::new(), trail: Mutex::default() }
    }

    pub(super) fn tell(&self, event: Event) {
        // Who went away needs to be told nothing.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.sender.try_send(Ok((self.event)(event))) {
            self.lost.cancel();
        }
    }

    /// Returns once the caller has not been told something.
    pub(super) async fn is_lost(&self) {
        self.lost.cancelled().await;
    }

    pub(super) fn has_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// What only shows how far it is, may be left out.
    fn tell_if_there_is_room(&self, event: Event) {
        _ = self.sender.try_send(Ok((self.event)(event)));
    }

    fn trail(&self) -> MutexGuard<'_, Trail> {
        self.trail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send> Listener for Told<T> {
    fn waits(&self, instance: InstanceId, name: &str, why: &Why) {
        let waits = fleet::GuestWaits {
            instance_id: instance.to_string(),
            instance_name: name.to_owned(),
            message: why.to_string(),
            objections: objections(why.objections()),
            turn: match why {
                Why::Turn(waiting) => Some(waiting.clone().into()),
                Why::Others(_) | Why::Silence(_) | Why::MovedByOthers => None,
            },
        };
        if self.trail().waits.insert(instance, waits.clone()).as_ref() != Some(&waits) {
            self.tell(Event::Waits(waits));
        }
    }

    fn begins(&self, order: &Order) {
        info!("{} goes to {} in migration {}", order.instance_name, order.destination.host, order.id);
        self.trail().waits.remove(&order.instance);
        self.tell(Event::Begins(order.clone().into()));
    }

    fn phase(&self, order: &Order, phase: Phase) {
        self.trail().moves.insert(order.instance, (phase, None));
        self.tell(Event::Moves(moves(order, phase, None)));
    }

    fn progress(&self, order: &Order, progress: Progress) {
        let phase = {
            let mut trail = self.trail();
            let Some((phase, told)) = trail.moves.get_mut(&order.instance) else { return };
            if told.is_some_and(|told| told.elapsed() < SAMPLE) {
                return;
            }
            *told = Some(Instant::now());
            *phase
        };
        self.tell_if_there_is_room(Event::Moves(moves(order, phase, Some(progress))));
    }

    fn refused(&self, order: &Order, turned: &Turned) {
        info!("{} does not take {}", turned.host, order.instance_name);
        self.tell(Event::Refused(fleet::GuestRefused {
            instance_id: order.instance.to_string(),
            instance_name: order.instance_name.clone(),
            candidate: Some(survey::turned(turned)),
        }));
    }

    fn ended(&self, ended: &Ended) {
        let what = match &ended.end {
            End::Moved { .. } => "has moved",
            End::MovedByOthers => "was moved by somebody else",
            End::Failed { message, .. } => message,
            End::Blocked(_) => "stays",
            End::NotBegun => "is not begun any more",
        };
        info!("{} {what}", ended.name);
        let mut trail = self.trail();
        trail.waits.remove(&ended.instance);
        trail.moves.remove(&ended.instance);
        drop(trail);
        self.tell(Event::Ended(guest_ended(ended)));
    }

    fn stops(&self, running: usize) {
        info!("nobody starts any more; {running} go on to their end");
    }

    fn standing(&self, _running: usize, _waiting: usize, _ended: &[Ended]) {}
}

/// What will be done.
pub(super) fn plan(begun: &Begun, hosts: &[Answer<Host>]) -> fleet::DrainPlan {
    let plan = begun.convoy.plan(hosts);
    let planned = |planned: Move| fleet::PlannedMove {
        instance_id: planned.instance.to_string(),
        instance_name: planned.name,
        source: planned.source.to_string(),
        destination: planned.destination.to_string(),
        memory_bytes: planned.memory.as_u64(),
        starts: Some(wire_duration(planned.starts)),
        takes: Some(wire_duration(planned.takes)),
    };
    fleet::DrainPlan {
        moves: plan.moves.into_iter().map(planned).collect(),
        blocked: plan.blocked.iter().map(blocked).collect(),
        off: begun.off.iter().map(|guest| guest.name.clone()).collect(),
        total: Some(wire_duration(plan.total)),
        cordon: begun.cordon.clone().map(Into::into),
        open_since: begun.open_since.map(wire_timestamp),
    }
}

/// What came of it.
pub(super) fn totals(ended: &[Ended], off: &[Instance]) -> fleet::DrainTotals {
    let count = |is_so: fn(&End) -> bool| number(ended.iter().filter(|ended| is_so(&ended.end)).count());
    fleet::DrainTotals {
        moved: count(|end| matches!(end, End::Moved { .. })),
        moved_by_others: count(|end| matches!(end, End::MovedByOthers)),
        failed: count(|end| matches!(end, End::Failed { .. })),
        blocked: count(|end| matches!(end, End::Blocked(_))),
        off: number(off.len()),
    }
}

/// Who does not listen cannot decide what goes on.
pub(super) fn too_slow(host: &HostName) -> Failed {
    let message = format!(
        "who listens is too slow: no guest of {host} starts any more, and those that move go on; ask for the same again, and read faster"
    );
    Failed::because(Reason::Internal, message)
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn moves(order: &Order, phase: Phase, progress: Option<Progress>) -> fleet::GuestMoves {
    fleet::GuestMoves {
        migration_id: order.id.to_string(),
        instance_id: order.instance.to_string(),
        instance_name: order.instance_name.clone(),
        phase: v1::Phase::from(phase).into(),
        progress: progress.map(Into::into),
    }
}

fn guest_ended(Ended { instance, name, source, destination, took, end }: &Ended) -> fleet::GuestEnded {
    use ended::End as Wire;
    fleet::GuestEnded {
        instance_id: instance.to_string(),
        instance_name: name.clone(),
        source: source.to_string(),
        destination: destination.as_ref().map(ToString::to_string).unwrap_or_default(),
        took: Some(wire_duration(*took)),
        end: Some(match end {
            End::Moved { outcome, downtime, warnings } => Wire::Moved(ended::Moved {
                outcome: v1::Outcome::from(*outcome).into(),
                downtime: downtime.map(wire_duration),
                warnings: warnings.clone(),
            }),
            End::MovedByOthers => Wire::MovedByOthers(ended::MovedByOthers {}),
            End::Failed { message, .. } => Wire::Failed(message.clone()),
            End::Blocked(why) => Wire::Blocked(blocked(why)),
            End::NotBegun => Wire::NotBegun(ended::NotBegun {}),
        }),
    }
}

fn blocked(Blocked { instance, name, source, objections }: &Blocked) -> fleet::BlockedGuest {
    fleet::BlockedGuest {
        instance_id: instance.to_string(),
        instance_name: name.clone(),
        source: source.to_string(),
        objections: self::objections(objections),
    }
}

fn objections(objections: &[Objection]) -> Vec<fleet::Objection> {
    let objection = |objection: &Objection| fleet::Objection {
        hosts: objection.hosts.iter().map(ToString::to_string).collect(),
        refusal: Some(objection.example.clone().into()),
    };
    objections.iter().map(objection).collect()
}
