//! What can be seen and done in the fabric, between the hosts.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use super::Testbed;
use crate::{
    capture::{Capture, Direction},
    network::{self, Link},
    state::State,
    stream::{Pace, Reader},
};

impl Testbed {
    /// Looks at what comes into the fabric from a host's link.
    pub fn capture_from(&self, host: &str, link: Link) -> Result<Capture> {
        Capture::start(&self.layout.fabric(), &link.port(host), Direction::In)
    }

    /// Connects to a guest that serves, from the fabric.
    pub fn connect(&self, address: Ipv4Addr, port: u16) -> Result<Reader> {
        Reader::connect(&self.layout, address, port, Pace::Asked)
    }

    /// The same, and the guest sends without being asked again.
    pub fn listen_to(&self, address: Ipv4Addr, port: u16) -> Result<Reader> {
        Reader::connect(&self.layout, address, port, Pace::Told)
    }

    /// Joins the guests' network to a VXLAN whose other ends are the hosts.
    pub fn join_vxlan(&self, vni: u32) -> Result<()> {
        let hosts = State::read(&self.layout)?.with_context(|| format!("there is no testbed {}", self.name()))?.hosts;
        network::join_vxlan(&self.layout, vni, &hosts)
    }
}
