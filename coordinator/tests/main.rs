//! The binary as a person runs it.

mod affinity;
mod cluster;
mod convergence;
mod cordon;
mod groups;
mod limits;
mod migrate;
mod pki;
mod report;
mod tables;
mod vifs;
mod volumes;
