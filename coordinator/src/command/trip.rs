//! What shall move and how, wherever it goes.

use uuid::Uuid;
use vmferry_core::{
    agent::{Agent, CallError, CheckReport, Leaving},
    compatibility::Check,
    convergence::Policy,
    id::MigrationId,
    instance::Instance,
    migration::{Endpoint, Handover, Kind, Limits, Order, Priority, Side},
    reason::Reason,
};

use super::{Session, limits};
use crate::{cli, exit::Failed, fleet::Fleet};

/// A guest that shall move.
#[derive(Debug, Clone)]
pub(crate) struct Trip {
    /// It, as it is.
    pub(crate) guest: Instance,
    /// Whether it runs meanwhile.
    pub(super) kind: Kind,
    /// What that may cost.
    pub(super) limits: Limits,
    /// Who comes first where there is no place for all.
    priority: Priority,
    source: Endpoint,
}

/// What the source says of a guest that shall leave.
#[derive(Debug, Clone)]
pub(super) struct Told {
    /// What a destination must know.
    pub(super) leaving: Leaving,
    /// Every rule of the source's, with its outcome.
    pub(super) checks: Vec<Check>,
}

impl Told {
    /// Whether it may not leave at all.
    pub(super) fn is_refused(&self) -> bool {
        self.checks.iter().any(|check| check.refusal().is_some())
    }
}

impl Trip {
    /// What makes no sense is told before anybody is asked.
    pub(crate) async fn new(fleet: &Fleet, guest: Instance, asked: &cli::Limits, kind: Kind) -> Result<Self, Failed> {
        let policy = match kind {
            Kind::Live => limits::policy(fleet, asked, &guest).await?,
            Kind::Cold { .. } => Policy::default(),
        };
        let source = fleet.agent(&guest.host)?.endpoint().clone();
        let handover = match kind {
            Kind::Live => asked.handover(&policy),
            Kind::Cold { .. } => Handover::default(),
        };
        let limits =
            Limits { policy, bandwidth: asked.bandwidth, streams: asked.streams, path: asked.path.into(), handover };
        Ok(Self { guest, kind, limits, priority: Priority::default(), source })
    }

    /// The same, before others or after them.
    pub(crate) fn with_priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// As it was planned, wherever the guest is now.
    pub(super) fn planned(session: &Session, guest: Instance, planned: &Order) -> Result<Self, Failed> {
        let source = session.fleet.agent(&guest.host)?.endpoint().clone();
        Ok(Self { guest, kind: planned.kind, limits: planned.limits.clone(), priority: planned.priority, source })
    }

    /// The order for a move to that host, with an id of its own.
    pub(crate) fn order(&self, destination: &Endpoint) -> Order {
        Order {
            id: MigrationId(Uuid::now_v7()),
            instance: self.guest.id,
            instance_name: self.guest.name.clone(),
            source: self.source.clone(),
            destination: destination.clone(),
            kind: self.kind,
            limits: self.limits.clone(),
            priority: self.priority,
        }
    }

    /// The order with which hosts are asked who can take it, before it is known who does.
    pub(super) fn inquiry(&self, session: &Session) -> Result<Order, Failed> {
        let hosts = session.fleet.endpoints();
        let other = hosts.iter().find(|endpoint| endpoint.host != self.guest.host).ok_or_else(|| {
            let message =
                format!("{} has nowhere to go: the inventory has no host but {}", self.guest.name, self.guest.host);
            Failed::because(Reason::HostNotFound, message)
        })?;
        Ok(self.order(other))
    }

    /// Asks the source what it has to say of the guest. What it puts beside disks stays until [`Session::end_inquiry`].
    pub(super) async fn ask_source(&self, session: &Session, inquiry: &Order) -> Result<Told, Failed> {
        let source = session.fleet.agent(&self.guest.host)?;
        let CheckReport { checks, leaving, .. } = source.check(inquiry, Side::Source, None).await?;
        let leaving = leaving.ok_or_else(|| CallError {
            host: self.guest.host.clone(),
            reason: Reason::Internal,
            message: format!("{} checked {} without describing it", self.guest.host, self.guest.name),
        })?;
        Ok(Told { leaving, checks })
    }
}

impl Session {
    /// Nobody needs any more what the source has put beside disks. It removes that by itself if it does not hear this.
    pub(super) async fn end_inquiry(&self, inquiry: &Order) {
        if let Ok(source) = self.fleet.agent(&inquiry.source.host) {
            _ = source.end_check(inquiry).await;
        }
    }
}
