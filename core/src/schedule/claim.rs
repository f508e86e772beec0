//! What a guest takes of a host that it will be on.

use bytesize::ByteSize;

use crate::{
    domain_xml::{Definition, HugePages},
    host::{Host, Offers},
    migration::Kind,
};

/// The host's facts as they will be once its agent has promised room to the guest.
pub(crate) fn take(host: &mut Host, definition: &Definition, kind: Kind) {
    if !super::filter::runs(kind) {
        return;
    }
    host.memory_available = less(host.memory_available, definition.ordinary_memory());
    host.instances_active = host.instances_active.saturating_add(1);
    let Some(room) = &mut host.room else { return };
    room.taken.memory += definition.memory;
    room.taken.vcpus = room.taken.vcpus.saturating_add(definition.vcpus);
    room.taken.instances = room.taken.instances.saturating_add(1);
    definition.huge_pages.iter().for_each(|pages| take_pages(&mut room.offers, pages));
    for membership in definition.affinity.iter().flatten() {
        *room.offers.groups.entry(membership.group.clone()).or_default() += 1;
    }
}

/// Of a size that the host chooses, it is taken for the smallest of which there are enough.
fn take_pages(offers: &mut Offers, pages: &HugePages) {
    let enough = |size: u64, free: u64| pages.count(size).filter(|count| *count <= free);
    let sizes = offers.pages.iter_mut().filter(|(size, _)| pages.size.is_none_or(|wanted| wanted == **size));
    let found = sizes.filter_map(|(size, there)| Some((enough(*size, there.free)?, there))).next();
    if let Some((count, there)) = found {
        there.free -= count;
    }
}

fn less(from: ByteSize, what: ByteSize) -> ByteSize {
    ByteSize::b(from.as_u64().saturating_sub(what.as_u64()))
}
