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

use super::{Asked, Policies, limits};
use crate::{exit::Failed, fleet::Fleet};

/// A guest that shall move.
#[derive(Debug, Clone)]
pub(crate) struct Trip {
    /// It, as it is.
    pub(crate) guest: Instance,
    /// Whether it runs meanwhile.
    pub(crate) kind: Kind,
    /// What that may cost.
    pub(super) limits: Limits,
    /// Who comes first where there is no place for all.
    priority: Priority,
    source: Endpoint,
}

/// What the source says of a guest that shall leave.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    /// What a destination must know.
    pub(crate) leaving: Leaving,
    /// Every rule of the source's, with its outcome.
    pub(crate) checks: Vec<Check>,
}

impl Told {
    /// Whether it may not leave at all.
    pub(crate) fn is_refused(&self) -> bool {
        self.checks.iter().any(|check| check.refusal().is_some())
    }
}

impl Trip {
    /// What makes no sense is told before anybody is asked.
    pub(crate) async fn new(policies: &Policies, guest: Instance, asked: &Asked, kind: Kind) -> Result<Self, Failed> {
        let policy = match kind {
            Kind::Live => limits::policy(policies, asked, &guest).await?,
            Kind::Cold { .. } => Policy::default(),
        };
        let source = policies.fleet().agent(&guest.host)?.endpoint().clone();
        let handover = match kind {
            Kind::Live => asked.handover(&policy),
            Kind::Cold { .. } => Handover::default(),
        };
        let limits = Limits { policy, bandwidth: asked.bandwidth, streams: asked.streams, path: asked.path, handover };
        Ok(Self { guest, kind, limits, priority: Priority::default(), source })
    }

    /// The same, before others or after them.
    pub(crate) fn with_priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// As it was planned, wherever the guest is now.
    pub(crate) fn planned(fleet: &Fleet, guest: Instance, planned: &Order) -> Result<Self, Failed> {
        let source = fleet.agent(&guest.host)?.endpoint().clone();
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
    pub(crate) fn inquiry(&self, fleet: &Fleet) -> Result<Order, Failed> {
        let hosts = fleet.endpoints();
        let other = hosts.iter().find(|endpoint| endpoint.host != self.guest.host).ok_or_else(|| {
            let message =
                format!("{} has nowhere to go: the inventory has no host but {}", self.guest.name, self.guest.host);
            Failed::because(Reason::HostNotFound, message)
        })?;
        Ok(self.order(other))
    }

    /// Asks the source what it has to say of the guest. What it puts beside disks stays until [`end_inquiry`].
    pub(super) async fn ask_source(&self, fleet: &Fleet, inquiry: &Order) -> Result<Told, Failed> {
        let source = fleet.agent(&self.guest.host)?;
        let CheckReport { checks, leaving, .. } = source.check(inquiry, Side::Source, None).await?;
        let leaving = leaving.ok_or_else(|| CallError {
            host: self.guest.host.clone(),
            reason: Reason::Internal,
            message: format!("{} checked {} without describing it", self.guest.host, self.guest.name),
        })?;
        Ok(Told { leaving, checks })
    }

    /// The same, and nothing stays.
    pub(crate) async fn told(&self, fleet: &Fleet) -> Result<Told, Failed> {
        let inquiry = self.inquiry(fleet)?;
        let told = Box::pin(self.ask_source(fleet, &inquiry)).await;
        end_inquiry(fleet, &inquiry).await;
        told
    }
}

/// Nobody needs any more what the source has put beside disks. It removes that by itself if it does not hear this.
pub(super) async fn end_inquiry(fleet: &Fleet, inquiry: &Order) {
    if let Ok(source) = fleet.agent(&inquiry.source.host) {
        _ = source.end_check(inquiry).await;
    }
}
