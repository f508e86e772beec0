//! The binary as a person runs it.

mod away;
mod cluster;
mod convergence;
mod groups;
mod inventories;
mod limits;
mod migrate;
mod pki;
mod report;
mod tables;
mod vifs;
mod volumes;
