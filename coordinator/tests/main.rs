//! The binary as a person runs it.

mod cluster;
mod groups;
mod migrate;
mod pki;
mod tables;
mod vifs;
mod volumes;
