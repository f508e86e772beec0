//! VMFerry's words, decisions and the one flow of a migration.
//!
//! Nothing here touches a socket, a file, a process or a clock: what to do is decided by functions from values to
//! values; the agent and the coordinator are the shells that read the world and change it.

pub mod affinity;
pub mod agent;
mod bytes;
pub mod compatibility;
pub mod convergence;
pub mod direct;
pub mod disk;
pub mod domain_xml;
pub mod drain;
pub mod flow;
pub mod host;
pub mod id;
pub mod identity;
pub mod instance;
pub mod leftovers;
pub mod migration;
pub mod network;
pub mod nwfilter;
pub mod policy;
pub mod reason;
pub mod resolution;
pub mod schedule;
pub mod turns;
pub mod undo;
pub mod vif;
pub mod volume;
