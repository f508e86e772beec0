//! pre: this host gets ready. Every step is journaled with its undo before it is taken.

use vmferry_core::{agent::Leaving, migration::Order, undo::Undo};

use super::Steps;
use crate::hypervisor::{Fault, Hypervisor};

/// The source's half: the way to the destination is open. `proven` are the files that are known to be shared: the job
/// will need to know them, whichever process of this agent runs it.
pub async fn source(
    host: &impl Hypervisor,
    order: &Order,
    proven: &[String],
    steps: &mut Steps<'_>,
) -> Result<(), Fault> {
    steps.remember_proven(proven)?;
    steps.take(Undo::RemoveSockets, host.open_sockets(order)).await
}

/// The destination's half: the guest can arrive.
pub async fn destination(
    host: &impl Hypervisor,
    order: &Order,
    leaving: &Leaving,
    steps: &mut Steps<'_>,
) -> Result<(), Fault> {
    let source = &order.source.host;
    steps.take(Undo::ReleaseMemory { memory: leaving.definition.memory }, async { Ok(()) }).await?;
    steps.take(Undo::RemoveSockets, host.make_directory(order.id)).await?;
    // libvirt makes the domain when the job begins; nothing can be asked of it before.
    steps.take(Undo::DestroyIncoming { instance: order.instance }, async { Ok(()) }).await?;
    // The way in is opened last and closed first.
    let tunnel = Undo::RevokeTunnel { source: source.clone() };
    steps.take(tunnel, async { host.grant_tunnel(order.id, source) }).await
}
