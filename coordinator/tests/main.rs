//! The binary as a person runs it.

mod cluster;
mod convergence;
mod groups;
mod limits;
mod migrate;
mod pki;
mod report;
mod serve;
mod tables;
mod vifs;
mod volumes;
