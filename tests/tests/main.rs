//! The product on real hosts, as its user meets it: the programs as built, judged by virsh and by what is left.

mod block;
mod block_faults;
mod block_refusals;
mod block_rig;
mod cold;
mod faults;
mod filters;
mod interrupts;
mod intruders;
mod libvirt_filters;
mod moves;
mod network_faults;
mod network_refusals;
mod network_rig;
mod networks;
mod python;
mod refusals;
mod rig;
mod security;
mod shared_storage;
mod storage_rig;
mod unfit_hosts;
mod volume_faults;
mod volume_refusals;
mod volume_secrets;
mod volumes;
