//! Guests: what to start, and what can be asked of one that was started.

use std::{net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context, Result};

pub use boot_sector::BootSectorGuest;
pub use domain_xml::{Domain, Vif};
pub(crate) use initramfs::{HEARTBEAT, build as initramfs, tool};
pub use linux::{LinuxGuest, Tool};

use crate::{console::Console, layout::Layout, network, ping, tree::Tree, wait};

mod boot_sector;
mod domain_xml;
mod initramfs;
mod linux;

/// What a guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Linux, which answers pings and prints heartbeats.
    Linux,
    /// The boot sector that writes memory at an exact rate and checks every page.
    BootSector,
}

/// A guest to be defined.
#[derive(Debug, Clone)]
pub enum Definition {
    /// See [`LinuxGuest`].
    Linux(LinuxGuest),
    /// See [`BootSectorGuest`].
    BootSector(BootSectorGuest),
}

impl From<LinuxGuest> for Definition {
    fn from(guest: LinuxGuest) -> Self {
        Self::Linux(guest)
    }
}

impl From<BootSectorGuest> for Definition {
    fn from(guest: BootSectorGuest) -> Self {
        Self::BootSector(guest)
    }
}

impl Definition {
    /// The domain's name.
    pub fn name(&self) -> &str {
        &self.domain().name
    }

    /// What it runs.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Linux(_) => Kind::Linux,
            Self::BootSector(_) => Kind::BootSector,
        }
    }

    /// The domain's XML, for a guest with this address.
    pub fn xml(&self, address: Option<Ipv4Addr>) -> String {
        match self {
            Self::Linux(guest) => guest.xml(address),
            Self::BootSector(guest) => guest.xml(),
        }
    }

    pub(crate) fn wants_address(&self) -> bool {
        self.kind() == Kind::Linux
    }

    pub(crate) fn write_files(&self, tree: &Tree, shared: &Path) -> Result<()> {
        match self {
            Self::Linux(guest) => guest.write_files(tree, shared),
            Self::BootSector(guest) => guest.write_files(shared),
        }
    }

    fn domain(&self) -> &Domain {
        match self {
            Self::Linux(guest) => &guest.domain,
            Self::BootSector(guest) => &guest.domain,
        }
    }
}

/// A guest that was defined, wherever it is now.
#[derive(Debug, Clone)]
pub struct Guest {
    name: String,
    address: Option<Ipv4Addr>,
    kind: Kind,
    layout: Layout,
}

impl Guest {
    pub(crate) fn new(name: &str, address: Option<Ipv4Addr>, kind: Kind, layout: &Layout) -> Self {
        Self { name: name.to_owned(), address, kind, layout: layout.clone() }
    }

    /// The domain's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the guests' network; an error for a guest that has none.
    pub fn address(&self) -> Result<Ipv4Addr> {
        self.address.with_context(|| format!("guest {} has no address", self.name))
    }

    /// What it has printed since it was defined, on whichever host.
    pub fn console(&self) -> Console {
        Console::new(self.layout.shared().join(format!("{}.console", self.name)))
    }

    /// Waits for its first heartbeats, and for an answer to a ping if it has an address.
    pub fn wait_until_up(&self, timeout: Duration) -> Result<()> {
        let console = self.console();
        wait::until(&format!("the first heartbeat of {}", self.name), timeout, || {
            Ok(match self.kind {
                Kind::Linux => !console.heartbeats()?.is_empty(),
                Kind::BootSector => !console.ticks()?.is_empty(),
            }
            .then_some(()))
        })
        .map_err(|error| error.context(format!("console: {}", console.tail())))?;
        let Some(address) = self.address else { return Ok(()) };
        wait::until(&format!("an answer from {} ({address})", self.name), timeout, || {
            Ok(ping::once(&self.layout, address)?.then_some(()))
        })
    }
}

/// A MAC address that follows from the guest's name, in QEMU's range.
fn mac(name: &str) -> String {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [_, a, b, c] = hash.to_be_bytes();
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

impl Vif {
    /// On the bridge that every host has.
    pub fn new(name: &str) -> Self {
        Self { mac: mac(name), bridge: network::GUEST_BRIDGE.to_owned(), mtu: None, extra: String::new() }
    }
}
