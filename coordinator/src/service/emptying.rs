//! Hosts that take nobody, and hosts that are emptied and filled again: `Cordon`, `Uncordon`, `Drain`, `Undrain`.

use std::{num::NonZeroU32, sync::Arc};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{Instrument as _, info_span, warn};
use vmferry_core::{
    agent::CallError,
    drain::Limits,
    host::{Cordon, Uncordoned},
    id::HostName,
    identity::Identity,
    migration::Cause,
    reason::Reason,
};
use vmferry_proto::{
    convert::Invalid,
    fleet::{self, cordoned_host::State, drain_event::Event},
    status::from_call_error,
};

use super::{
    drives::Drives,
    told::{self, Told},
    wire,
    wish::{asked, not_understood, target},
};
use crate::{
    client::RemoteAgent,
    convoy::{self, Begun, Ending, Listener, Pace},
    exit::Failed,
    fleet::{Answer, Fleet},
    journey::Asked,
};

/// How many events a caller may be behind.
const BEHIND: usize = 1024;
/// As `vmferry drain` has them.
const PARALLEL: NonZeroU32 = NonZeroU32::new(4).unwrap();
const PER_DESTINATION: NonZeroU32 = NonZeroU32::new(2).unwrap();
const REASON: &str = "it is drained";

/// What ends a drain before its time.
#[derive(Debug, Clone)]
pub(super) struct Stops {
    /// This coordinator's name.
    pub(super) name: HostName,
    /// From then on nothing is begun.
    pub(super) stop: CancellationToken,
    /// From then on nothing is told any more.
    pub(super) end: CancellationToken,
}

/// What is told, as the call has it.
type Events<T> = ReceiverStream<Result<T, Status>>;

/// Empties a host.
pub(super) async fn drain(
    drives: &Drives,
    asker: &Identity,
    stops: Stops,
    request: fleet::DrainRequest,
) -> Result<Events<fleet::DrainResponse>, Failed> {
    let fleet::DrainRequest { host, reason, target, pace, dry_run } = request;
    let host = self::host(&host)?;
    let fleet = Arc::new(drives.fleet().on_behalf_of(asker));
    let target = self::target(target.unwrap_or_default(), "target").map_err(not_understood)?;
    let reason = if reason.is_empty() { REASON } else { &reason };
    stops.judge(&host)?;
    let mut begun = convoy::drain(&fleet, &host, reason, &target, self::pace(pace)?, dry_run).await?;
    if dry_run {
        begun.convoy.foresee().await;
    }
    let event = |event| fleet::DrainResponse { event: Some(fleet::DrainEvent { event: Some(event) }) };
    let span = info_span!("drain", %host, by = %asker);
    let run = Run { fleet, host, begun, dry_run, stops };
    Ok(run.start(drives, span, event).await)
}

/// Opens a host, and fills it again.
pub(super) async fn undrain(
    drives: &Drives,
    asker: &Identity,
    stops: Stops,
    request: fleet::UndrainRequest,
) -> Result<Events<fleet::UndrainResponse>, Failed> {
    let fleet::UndrainRequest { host, bring_back, pace } = request;
    let host = self::host(&host)?;
    let fleet = Arc::new(drives.fleet().on_behalf_of(asker));
    stops.judge(&host)?;
    let begun = convoy::undrain(&fleet, &host, bring_back, self::pace(pace)?).await?;
    let event = |event| fleet::UndrainResponse { event: Some(fleet::DrainEvent { event: Some(event) }) };
    let span = info_span!("undrain", %host, by = %asker);
    let run = Run { fleet, host, begun, dry_run: false, stops };
    Ok(run.start(drives, span, event).await)
}

/// Closes hosts.
pub(super) async fn cordon(
    fleet: &Fleet,
    asker: &Identity,
    fleet::CordonRequest { hosts, reason }: fleet::CordonRequest,
) -> Result<fleet::CordonResponse, Failed> {
    let close = |agent: RemoteAgent| {
        let reason = reason.clone();
        async move { agent.cordon(&reason).await }
    };
    let answers = fleet.on_behalf_of(asker).gather_these(&self::hosts(&hosts)?, close).await?;
    let row = |Answer { endpoint, result }: Answer<Cordon>| fleet::CordonedHost {
        host: endpoint.host.to_string(),
        state: Some(match result {
            Ok(cordon) => State::Cordon(cordon.into()),
            Err(error) => State::Failed(Cause::from(error).into()),
        }),
    };
    Ok(fleet::CordonResponse { hosts: answers.into_iter().map(row).collect() })
}

/// Opens hosts.
pub(super) async fn uncordon(
    fleet: &Fleet,
    asker: &Identity,
    fleet::UncordonRequest { hosts }: fleet::UncordonRequest,
) -> Result<fleet::UncordonResponse, Failed> {
    let open = |agent: RemoteAgent| async move { agent.uncordon().await };
    let answers = fleet.on_behalf_of(asker).gather_these(&self::hosts(&hosts)?, open).await?;
    let row = |Answer { endpoint, result }: Answer<Uncordoned>| {
        let (was, failed) = match result {
            Ok(opened) => (opened.was.map(Into::into), None),
            Err(error) => (None, Some(Cause::from(error).into())),
        };
        fleet::UncordonedHost { host: endpoint.host.to_string(), was, failed }
    };
    Ok(fleet::UncordonResponse { hosts: answers.into_iter().map(row).collect() })
}

/// A host that is emptied or filled.
struct Run {
    fleet: Arc<Fleet>,
    host: HostName,
    begun: Begun,
    dry_run: bool,
    stops: Stops,
}

impl Run {
    /// Goes on by itself. Whoever does not listen any more lets nobody start.
    async fn start<T: Send + 'static>(self, drives: &Drives, span: tracing::Span, event: fn(Event) -> T) -> Events<T> {
        let hosts = self.fleet.hosts().await;
        let (sender, events) = mpsc::channel(BEHIND);
        let told = Arc::new(Told::new(sender.clone(), event));
        told.tell(Event::Plan(told::plan(&self.begun, &hosts)));
        if !self.dry_run {
            let run = async move {
                if let Some(last) = self.go(&told, &sender).await {
                    _ = sender.send(last.map(event)).await;
                }
            };
            drives.beside(run.instrument(span));
        }
        ReceiverStream::new(events)
    }

    /// The last that is told; `None`: nobody listens.
    async fn go<T: Send + 'static>(
        self,
        told: &Arc<Told<T>>,
        sender: &mpsc::Sender<Result<T, Status>>,
    ) -> Option<Result<Event, Status>> {
        let Self { host, begun: Begun { convoy, off, .. }, stops, .. } = self;
        let (ending, listener) = (Ending::default(), Arc::clone(told) as Arc<dyn Listener>);
        let mut going = Box::pin(convoy.go(listener, &ending));
        let ended = loop {
            let may_start = !ending.stop.is_cancelled();
            tokio::select! {
                ended = &mut going => break ended,
                () = sender.closed(), if may_start => ending.stop.cancel(),
                () = told.is_lost(), if may_start => ending.stop.cancel(),
                () = stops.stop.cancelled(), if may_start => ending.stop.cancel(),
                () = stops.end.cancelled() => ending.leave.cancel(),
            }
        };
        if let Err(left) = &ended {
            warn!("{left}");
        }
        if sender.is_closed() {
            return None;
        }
        Some(match ended {
            Ok(ended) if !ending.stop.is_cancelled() => Ok(Event::Totals(told::totals(&ended, &off))),
            _ if told.has_lost() => Err(wire::status(told::too_slow(&host), &stops.name)),
            _ => Err(from_call_error(&stops.stopping(&host))),
        })
    }
}

impl Stops {
    /// Who is being stopped begins nothing.
    fn judge(&self, host: &HostName) -> Result<(), Failed> {
        if self.stop.is_cancelled() { Err(self.stopping(host).into()) } else { Ok(()) }
    }

    fn stopping(&self, host: &HostName) -> CallError {
        CallError {
            host: self.name.clone(),
            reason: Reason::CoordinatorStopping,
            message: format!(
                "the coordinator {} is being stopped, and lets no guest of {host} start any more; those that move go on: ask another one for \
                 the same",
                self.name
            ),
        }
    }
}

fn host(name: &str) -> Result<HostName, Failed> {
    name.parse().map_err(|_| not_understood(Invalid { field: "host" }))
}

fn hosts(names: &[String]) -> Result<Vec<HostName>, Failed> {
    if names.is_empty() {
        return Err(not_understood(Invalid { field: "hosts" }));
    }
    names.iter().map(|name| name.parse().map_err(|_| not_understood(Invalid { field: "hosts" }))).collect()
}

fn pace(pace: Option<fleet::Pace>) -> Result<Pace, Failed> {
    let pace = pace.unwrap_or_default();
    let number = |number, usual| NonZeroU32::new(number).unwrap_or(usual);
    let live = fleet::wish::Live {
        policy: pace.policy,
        max_downtime: pace.max_downtime,
        deadline: pace.deadline,
        bandwidth_bytes_per_second: pace.bandwidth_bytes_per_second,
        ..fleet::wish::Live::default()
    };
    let asked = asked(live, ["pace.max_downtime", "pace.deadline"]).map_err(not_understood)?;
    let limits = Limits {
        parallel: number(pace.parallel, PARALLEL),
        per_destination: number(pace.per_destination, PER_DESTINATION),
        bandwidth: asked.bandwidth,
    };
    let each = Asked { bandwidth: limits.share(), ..asked };
    Ok(Pace { limits, each })
}
