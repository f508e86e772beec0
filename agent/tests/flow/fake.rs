//! Two hosts in memory, below the edge: domains, disks, sockets and grants as plain values, and one fault at a chosen place.

mod chance;
mod disks;
mod filter;
mod handover;
mod host;
mod housing;
mod leftovers;
mod libvirt;
mod local;
mod measure;
mod network;
mod power;
mod served;
mod world;

pub(crate) use self::{
    chance::{Bug, Chance, Milestone},
    disks::{INSTANCE, relocations},
    host::Fake,
    local::Local,
    world::{Faults, Trouble, World},
};
