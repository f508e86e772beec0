//! pre: this host gets ready. Every step is journaled with its undo before it is taken.

use vmferry_core::{
    agent::{Leaving, Sighting},
    disk::{self, Presence, Resolution, Resolved},
    domain_xml::rewrite::Relocation,
    migration::{Kind, Order},
    reason::Reason,
    undo::Undo,
    vif::Placement,
    volume::{Found, Volume},
};

use super::Steps;
use crate::{
    gate::Gate,
    hypervisor::{Fault, Hypervisor, OnRelease},
};

/// The source's half: what the destination has of its images is what it has itself, and the way there is open. How each
/// disk gets there is journaled: the job will need to know, whichever process of this agent runs it.
pub async fn source(
    host: &impl Hypervisor,
    order: &Order,
    resolved: &[Resolved],
    steps: &mut Steps<'_>,
) -> Result<(), Fault> {
    steps.remember_disks(resolved)?;
    steps.remember_vifs(&host.plugged(order).await?)?;
    steps.remember_filters(&host.made_filters(order).await?)?;
    let (name, here, there) = (&order.instance_name, host.name(), &order.destination.host);
    compare(host, resolved, |path| {
        format!(
            "{path}, which {name} reads, has other contents on {there} than on {here}; if nothing on {there} needs the file \
             that is there, move it away: this one is then copied"
        )
    })
    .await?;
    // From a switch to postcopy on, and from its release, the guest is its destination's: a reboot of this host must not bring it up here
    // as well.
    let is_given_away = order.is_strict() || (order.limits.policy.may_postcopy() && order.kind == Kind::Live);
    if is_given_away && host.autostart(order.instance).await? {
        let undo = Undo::RestoreAutostart { instance: order.instance };
        steps.take(undo, host.set_autostart(order.instance, false)).await?;
    }
    steps.take(Undo::RemoveSockets, host.open_sockets(order, disk::sent(resolved).len())).await
}

/// Whether this host has what the destination had when it was asked, of every image of which that has a file of its own.
/// `otherwise` is what to say of the first that differs.
async fn compare(
    host: &impl Hypervisor,
    resolved: &[Resolved],
    otherwise: impl Fn(&str) -> String,
) -> Result<(), Fault> {
    for image in resolved.iter().flat_map(|disk| disk.resolution.static_images()) {
        let Presence::Present { digest } = &image.presence else { continue };
        if host.digest(&image.path).await? != *digest {
            return Err(Fault::new(Reason::DiskDiffers, otherwise(&image.path)));
        }
    }
    Ok(())
}

/// The destination's half: the guest can arrive. Returns which disks it finds elsewhere here.
pub async fn destination(
    host: &impl Hypervisor,
    gate: &Gate,
    order: &Order,
    leaving: &Leaving,
    resolved: &[Resolved],
    release: OnRelease,
    steps: &mut Steps<'_>,
) -> Result<Vec<Relocation>, Fault> {
    let source = &order.source.host;
    let _preparing = gate.preparing().await;
    steps.remember_disks(resolved)?;
    steps.remember_autostart(leaving.autostart)?;
    gate.admit(host, order, &leaving.definition, steps).await?;
    steps.take(Undo::RemoveSockets, host.make_directory(order.id)).await?;
    for filter in &leaving.filters {
        let undo = Undo::UndefineFilter { name: filter.name.clone() };
        steps.take(undo, host.make_filter(order, filter)).await?;
    }
    let mut relocations = vifs(host, order, leaving, steps).await?;
    relocations.extend(volumes(host, order, resolved, steps).await?);
    // It may have been exchanged since the checks.
    let (name, here) = (&order.instance_name, host.name());
    compare(host, resolved, |path| {
        format!("{path}, which {name} reads, has changed on {here} since the checks; migrate again")
    })
    .await?;
    images(host, order, resolved, steps).await?;
    // libvirt makes the domain when the guest comes; nothing can be asked of it before.
    steps.promise(match order.kind {
        Kind::Live => Undo::DestroyIncoming { instance: order.instance },
        Kind::Cold { .. } => {
            is_unknown(host, order).await?;
            Undo::ForgetDefinition { instance: order.instance }
        }
    })?;
    // The way in is opened last and closed first.
    let tunnel = Undo::RevokeTunnel { source: source.clone() };
    steps.take(tunnel, host.grant_tunnel(order, release)).await?;
    Ok(relocations)
}

/// Whatever is defined here later came with this migration, and may go with it.
async fn is_unknown(host: &impl Hypervisor, order: &Order) -> Result<(), Fault> {
    let seen = host.sighting(order.instance).await?;
    if seen == Sighting::Absent {
        return Ok(());
    }
    let (name, host) = (&order.instance_name, host.name());
    Err(Fault::new(Reason::DomainExists, format!("{name} is defined on {host} since the checks ({seen:?})")))
}

/// What the guest is plugged into is there, and its filters are, before it can send anything.
async fn vifs(
    host: &impl Hypervisor,
    order: &Order,
    leaving: &Leaving,
    steps: &mut Steps<'_>,
) -> Result<Vec<Relocation>, Fault> {
    let (placed, relocations): (Vec<Placement>, Vec<Option<Relocation>>) = host.placements(leaving).into_iter().unzip();
    steps.remember_vifs(&placed)?;
    placed.iter().flat_map(Placement::undos).try_for_each(|undo| steps.promise(undo))?;
    for plug in placed.iter().filter_map(|placement| placement.plug.as_ref()) {
        host.plug(order.id, plug).await?;
    }
    let guarded: Vec<_> = placed.iter().filter_map(Placement::guarded).collect();
    if !guarded.is_empty() {
        host.guard(order.id, &guarded, &leaving.members).await?;
    }
    Ok(relocations.into_iter().flatten().collect())
}

/// Every volume at once: a guest with many waits no longer than for the slowest.
async fn volumes(
    host: &impl Hypervisor,
    order: &Order,
    resolved: &[Resolved],
    steps: &mut Steps<'_>,
) -> Result<Vec<Relocation>, Fault> {
    let (volumes, expected): (Vec<&Volume>, Vec<&Found>) = resolved
        .iter()
        .filter_map(|disk| match &disk.resolution {
            Resolution::Volume { volume, found } => Some((volume, found)),
            _ => None,
        })
        .unzip();
    volumes.iter().filter_map(|volume| volume.undo()).try_for_each(|undo| steps.promise(undo))?;
    let connected = host.connect_volumes(order.id, &volumes).await;
    let mut relocations = Vec::new();
    for ((volume, expected), connected) in volumes.into_iter().zip(expected).zip(connected) {
        let (here, relocation) = connected?;
        if here != *expected {
            return Err(exchanged(host, order, volume, [expected, &here]));
        }
        relocations.extend(relocation);
    }
    Ok(relocations)
}

/// The checks found the same on both hosts: it was exchanged or resized since then.
fn exchanged(host: &impl Hypervisor, order: &Order, volume: &Volume, [was, is]: [&Found; 2]) -> Fault {
    let (target, connection) = (&volume.target, &volume.connection);
    let message = format!(
        "disk {target} of {}: {connection} is now {} with {} on {}, it was {} with {}; migrate again",
        order.instance_name,
        is.identity,
        is.size,
        host.name(),
        was.identity,
        was.size
    );
    Fault::new(Reason::VolumeDiffers, message)
}

/// An empty image for each that is copied, and a way in for each that is sent.
async fn images(
    host: &impl Hypervisor,
    order: &Order,
    resolved: &[Resolved],
    steps: &mut Steps<'_>,
) -> Result<(), Fault> {
    let (sent, written) = (disk::sent(resolved), disk::sent_last(resolved));
    if !sent.is_empty() {
        steps.promise(Undo::StopReceivers)?;
    }
    for (index, image) in sent.into_iter().enumerate() {
        directories(host, &image.path, steps).await?;
        let is_written = written.contains(image.path.as_str());
        make(host, &image.path, steps, host.receive_image(order.id, index, image, is_written)).await?;
    }
    for disk in resolved {
        let Resolution::Copied { image, below } = &disk.resolution else { continue };
        directories(host, &image.path, steps).await?;
        make(host, &image.path, steps, host.make_image(image, below.first())).await?;
    }
    Ok(())
}

/// Makes a file. One that is there is not ours to remove, so it is looked for before the undo is journaled; and the undo
/// is forgotten if one has come since then.
async fn make(
    host: &impl Hypervisor,
    path: &str,
    steps: &mut Steps<'_>,
    step: impl Future<Output = Result<(), Fault>>,
) -> Result<(), Fault> {
    host.is_free(path).await?;
    let undo = Undo::RemoveImage { path: path.to_owned() };
    let made = steps.take(undo.clone(), step).await;
    match &made {
        Err(fault) if fault.reason == Reason::DiskNotShared => steps.keep(&undo).and(made),
        _ => made,
    }
}

async fn directories(host: &impl Hypervisor, path: &str, steps: &mut Steps<'_>) -> Result<(), Fault> {
    for directory in host.missing_directories(path).await? {
        let undo = Undo::RemoveDirectory { path: directory.clone() };
        steps.take(undo, host.make_image_directory(&directory)).await?;
    }
    Ok(())
}
