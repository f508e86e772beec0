//! VMFerry's agent: the privileged half of a migration, one on every hypervisor.
//!
//! ```text
//!  process
//!    ▼
//!  serve ──▶ migrations ──▶ migration ──▶ phase ──▶ hypervisor ──▶ libvirt, network, tunnel
//!    │             ▲            └───────▶ journal
//!    │         takeover ──▶ the agents of other hosts
//!    └─────▶ tunnel (destination's ends)
//! ```

pub mod arguments;
pub mod config;
mod durable;
pub mod firewall;
pub mod gate;
pub mod hypervisor;
pub mod journal;
pub mod libvirt;
pub mod migration;
pub mod migrations;
pub mod network;
pub mod phase;
pub mod probes;
pub mod process;
pub mod register;
pub mod serve;
pub mod storage;
pub mod takeover;
pub mod told;
pub mod tunnel;
pub mod turns;
pub mod watchdog;
