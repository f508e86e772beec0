//! The binary as a person runs it.

mod affinity;
mod away;
mod cluster;
mod convergence;
mod cordon;
mod faulty;
mod fleet;
mod groups;
mod inventories;
mod limits;
mod migrate;
mod pki;
mod queue;
mod report;
mod serve;
mod tables;
mod vifs;
mod volumes;
