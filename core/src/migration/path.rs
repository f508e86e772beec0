use std::fmt;

use serde::{Deserialize, Serialize};

/// Which way a running guest's memory and disks take. libvirt's own connection always takes the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// Through the two agents' connection; QEMU opens no port.
    #[default]
    Tunnel,
    /// From QEMU to QEMU, by TCP and QEMU's own TLS. Never without TLS.
    Direct,
}

impl Path {
    /// The word in orders, records and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Direct => "direct",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
