//! This host's half of each phase, a file each. What is done here is in the files; that it is done once, in order and
//! journaled is [`crate::migration`]'s.

pub mod check;
pub mod cleanup;
pub mod cold;
pub mod handover;
pub mod measure;
pub mod migrate;
pub mod post;
pub mod pre;

use std::{path::Path, time::Duration};

use tokio::time::{Instant, sleep};
use vmferry_core::{
    agent::Sighting,
    disk::Resolved,
    id::InstanceId,
    migration::{Order, Phase, Side},
    reason::Reason,
    undo::Undo,
    vif::Placement,
};

use crate::{
    durable,
    hypervisor::{Fault, Hypervisor},
    journal::{self, Entry, Journal, State},
};

/// How long libvirt may take to destroy an incoming guest whose tunnel was cut, and how often to look.
pub(crate) const LIBVIRT_LIMIT: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Takes steps that can be taken back.
#[derive(Debug)]
pub struct Steps<'a> {
    journal: &'a mut Journal,
}

impl<'a> Steps<'a> {
    /// Steps that this journal remembers.
    pub fn new(journal: &'a mut Journal) -> Self {
        Self { journal }
    }

    /// Journals how to take the step back, then takes it (I5): a crash between leaves an undo too many, never one
    /// too few.
    async fn take<T>(&mut self, undo: Undo, step: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        self.promise(undo)?;
        step.await
    }

    /// Journals how to take a step back that is about to be taken, or what is to be undone in any case. What is journaled already, as in a
    /// phase that is tried again, is not journaled twice.
    pub(crate) fn promise(&mut self, undo: Undo) -> Result<(), Fault> {
        if self.journal.state().pending.contains(&undo) {
            return Ok(());
        }
        write(self.journal, Entry::Step(undo))
    }

    /// Journals how each disk gets to the destination.
    fn remember_disks(&mut self, resolved: &[Resolved]) -> Result<(), Fault> {
        write(self.journal, Entry::Resolved(resolved.to_vec()))
    }

    /// Journals whether the guest shall start with this host.
    fn remember_autostart(&mut self, autostart: bool) -> Result<(), Fault> {
        write(self.journal, Entry::Autostart(autostart))
    }

    /// Makes a step final: it will not be taken back.
    fn keep(&mut self, undo: &Undo) -> Result<(), Fault> {
        write(self.journal, Entry::Struck(undo.clone()))
    }

    /// Whether the guest shall start with this host.
    fn autostart(&self) -> bool {
        self.journal.state().autostart
    }

    /// Journals how the guest's vifs are plugged in on this host.
    fn remember_vifs(&mut self, placed: &[Placement]) -> Result<(), Fault> {
        write(self.journal, Entry::Placed(placed.to_vec()))
    }

    /// How the guest's vifs are plugged in on this host.
    fn vifs(&self) -> &[Placement] {
        &self.journal.state().placed
    }

    /// Journals which of libvirt's filters were made here and are needed by the guest.
    fn remember_filters(&mut self, made: &[String]) -> Result<(), Fault> {
        write(self.journal, Entry::Filters(made.to_vec()))
    }

    /// Which of libvirt's filters were made here and are needed by the guest.
    fn filters(&self) -> &[String] {
        &self.journal.state().filters
    }

    /// How each disk gets to the destination.
    fn disks(&self) -> &[Resolved] {
        &self.journal.state().resolved
    }

    /// Makes every step final whose result the guest has now.
    fn keep_what_the_guest_has(&mut self) -> Result<(), Fault> {
        self.keep_all(Undo::takes_what_arrived)
    }

    /// Makes every step final that would bring a guest up again which runs elsewhere now.
    fn keep_what_retired_the_guest(&mut self) -> Result<(), Fault> {
        self.keep_all(Undo::brings_up_again)
    }

    /// Makes it final that the source may open no stream any more.
    fn keep_tunnel(&mut self) -> Result<(), Fault> {
        self.keep_all(|undo| matches!(undo, Undo::RevokeTunnel { .. }))
    }

    fn keep_all(&mut self, which: impl Fn(&Undo) -> bool) -> Result<(), Fault> {
        let kept: Vec<_> = self.journal.state().pending.iter().filter(|undo| which(undo)).cloned().collect();
        kept.iter().try_for_each(|undo| self.keep(undo))
    }

    /// What the journal says by now.
    pub(crate) fn state(&self) -> &State {
        self.journal.state()
    }

    /// Whether its name could not be given back to the guest yet.
    fn is_nameless(&self) -> bool {
        self.journal.state().pending.iter().any(|undo| matches!(undo, Undo::RestoreName { .. }))
    }

    /// Whether something that was made in a directory could not be removed from it yet.
    fn has_more_in(&self, directory: &str) -> bool {
        self.journal.state().pending.iter().any(|undo| match undo {
            Undo::RemoveImage { path } | Undo::RemoveDirectory { path } => {
                path != directory && Path::new(path).starts_with(directory)
            }
            _ => false,
        })
    }

    /// Whether the source could not be kept out yet.
    fn is_let_in(&self) -> bool {
        self.journal.state().pending.iter().any(|undo| matches!(undo, Undo::RevokeTunnel { .. }))
    }

    /// Takes every step back, newest first, past failures on the way. Returns what is left, a sentence each.
    pub async fn unwind(&mut self, host: &impl Hypervisor) -> Vec<String> {
        let order = self.journal.state().order().clone();
        let mut leftovers = Vec::new();
        for undo in self.journal.state().pending.clone().into_iter().rev() {
            if matches!(undo, Undo::StartAgain { .. }) && self.is_nameless() {
                // libvirt gives a guest that runs no other name.
                leftovers.push(format!("{}: could not {undo}: it must have its name first", host.name()));
                continue;
            }
            if let Undo::RemoveDirectory { path } = &undo
                && self.has_more_in(path)
            {
                // One that is not empty is left alone: it would be taken for somebody else's.
                leftovers.push(format!("{}: could not {undo}: it must be emptied first", host.name()));
                continue;
            }
            if matches!(undo, Undo::DestroyIncoming { .. }) && self.is_let_in() {
                // What has not arrived yet still can.
                leftovers.push(format!("{}: could not {undo}: its source must be kept out first", host.name()));
                continue;
            }
            let undone = match take_back(host, self.journal.state(), &order, &undo).await {
                Ok(()) => self.keep(&undo),
                Err(fault) => Err(fault),
            };
            if let Err(fault) = undone {
                leftovers.push(format!("{}: could not {undo}: {fault}", host.name()));
            }
        }
        leftovers
    }
}

async fn take_back(host: &impl Hypervisor, state: &State, order: &Order, undo: &Undo) -> Result<(), Fault> {
    match undo {
        Undo::RemoveSockets => host.remove_sockets(order.id).await,
        Undo::RevokeTunnel { .. } => host.revoke_tunnel(order.id).await,
        // The claim is the entry in the journal: striking it releases it.
        Undo::ReleaseClaim(_) => Ok(()),
        Undo::DestroyIncoming { instance } => destroy_incoming(host, state, order, *instance).await,
        Undo::ReleaseSecret { connection } => {
            // As long as a domain here needs it, it is kept, and nobody is told. That of a guest which has arrived may.
            let has_arrived = state.side() == Side::Destination && state.has_begun(Phase::Post);
            if !has_arrived {
                is_gone(host, order).await?;
            }
            host.release_secret(order.id, connection).await
        }
        Undo::DisconnectVolume { connection } => {
            is_gone(host, order).await?;
            host.disconnect_volume(connection).await
        }
        Undo::RemoveImage { path } => {
            is_gone(host, order).await?;
            host.remove_image(path).await
        }
        Undo::RemoveDirectory { path } => host.remove_image_directory(path).await,
        Undo::StopReceivers => host.stop_receivers(order.id).await,
        Undo::StartAgain { .. } | Undo::RestoreAutostart { .. } | Undo::RestoreName { .. }
            if host.sighting(order.instance).await? == Sighting::Absent =>
        {
            Ok(())
        }
        Undo::StartAgain { instance } => {
            cold::await_shutdown(host, order).await?;
            host.start(*instance).await
        }
        Undo::RestoreAutostart { instance } => host.set_autostart(*instance, true).await,
        Undo::RestoreName { instance, name } => host.rename(*instance, name).await,
        Undo::Unplug { plug } => {
            is_gone(host, order).await?;
            host.unplug(order.id, plug).await
        }
        Undo::DropFilters { tap } => {
            is_gone(host, order).await?;
            host.release_filters(order.id, tap).await
        }
        Undo::UndefineFilter { name } => {
            is_gone(host, order).await?;
            host.undefine_filter(order.id, name).await
        }
        // libvirt refuses it for a guest that runs.
        Undo::ForgetDefinition { instance } => host.undefine(*instance).await,
    }
}

/// Whether the guest has left this host for good: while there is a domain of it, its disks and vifs are that domain's. It is asked
/// again until there is none.
async fn is_gone(host: &impl Hypervisor, order: &Order) -> Result<(), Fault> {
    let seen = host.sighting(order.instance).await?;
    if seen == Sighting::Absent {
        return Ok(());
    }
    let (name, host) = (&order.instance_name, host.name());
    let message =
        format!("{name} is still defined on {host} ({seen:?}); if it is a leftover, virsh undefine {name} there");
    Err(Fault::new(Reason::PhaseOutOfOrder, message))
}

/// libvirt destroys an incoming guest itself when the tunnel is cut, unless it has just begun to run. Only what is still
/// arriving a while later is ours to destroy.
///
/// One that has arrived and waits for its release is destroyed if its source keeps the guest, and only then.
async fn destroy_incoming(
    host: &impl Hypervisor,
    state: &State,
    order: &Order,
    instance: InstanceId,
) -> Result<(), Fault> {
    let begun = Instant::now();
    while begun.elapsed() < LIBVIRT_LIMIT {
        match host.sighting(instance).await? {
            Sighting::Arriving => sleep(LOOK_AGAIN).await,
            Sighting::Running | Sighting::Incomplete => {
                let message = format!("{} runs on {} by now", order.instance_name, host.name());
                return Err(Fault::new(Reason::PhaseOutOfOrder, message));
            }
            Sighting::Paused if order.is_strict() && state.kept => return host.destroy_arrived(instance).await,
            Sighting::Paused if order.is_strict() => {
                let (name, from) = (&order.instance_name, &order.source.host);
                let message = format!("{name} waits here, paused, and {from} has not said that it keeps it");
                return Err(Fault::new(Reason::PhaseOutOfOrder, message));
            }
            Sighting::Absent | Sighting::Shutoff | Sighting::Paused | Sighting::Departing => return Ok(()),
        }
    }
    host.destroy_arriving(instance).await
}

/// Appends to the journal without holding up the other tasks of this thread.
pub(crate) fn write(journal: &mut Journal, entry: Entry) -> Result<(), Fault> {
    durable::in_place(|| journal.append(entry)).map_err(Fault::from)
}

impl From<journal::Error> for Fault {
    fn from(error: journal::Error) -> Self {
        let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        Self::new(Reason::JournalFailed, format!("{error}{cause}"))
    }
}
