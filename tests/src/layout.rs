//! Names and paths of one testbed: everything follows from its name, so that any process can find or remove it.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

const RUN: &str = "/run/vmferry-testbed";
const DISK: &str = "/var/lib/vmferry-testbed";

/// Where a host sees [`Layout::shared`].
pub const SHARED: &str = "/srv/shared";
/// Where a host sees [`Layout::local`].
pub const LOCAL: &str = "/srv/local";

/// The paths and names of one testbed.
#[derive(Debug, Clone)]
pub struct Layout {
    name: String,
}

impl Layout {
    /// Accepts letters and digits only: with a hyphen, one testbed's host could look like another testbed.
    pub fn new(name: &str) -> Result<Self> {
        ensure!(
            (1..=20).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()),
            "{name:?} cannot name a testbed: 1 to 20 lower-case letters and digits"
        );
        Ok(Self { name: name.to_owned() })
    }

    /// The directory that holds one directory per testbed.
    pub fn root() -> &'static Path {
        Path::new(RUN)
    }

    /// The testbed's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Small files of the running testbed.
    pub fn run_dir(&self) -> PathBuf {
        Path::new(RUN).join(&self.name)
    }

    /// Overlays and the shared directory.
    pub fn disk_dir(&self) -> PathBuf {
        Path::new(DISK).join(&self.name)
    }

    /// What `down` needs to know.
    pub fn state_file(&self) -> PathBuf {
        self.run_dir().join("state.json")
    }

    /// The hosts' addresses and the operator's certificate, for the CLI.
    pub fn inventory(&self) -> PathBuf {
        self.run_dir().join("inventory.toml")
    }

    /// The same for `watcher`, who may only look.
    pub fn viewer_inventory(&self) -> PathBuf {
        self.run_dir().join("inventory-watcher.toml")
    }

    /// The certificate authority and all certificates.
    pub fn pki(&self) -> PathBuf {
        self.run_dir().join("pki")
    }

    /// The directory that all hosts share, as seen from outside.
    pub fn shared(&self) -> PathBuf {
        self.disk_dir().join("shared")
    }

    /// One host's overlay and local directory.
    pub fn host_dir(&self, host: &str) -> PathBuf {
        self.disk_dir().join("hosts").join(host)
    }

    /// The host's writable layer. Changing it while the host runs is undefined.
    pub fn upper(&self, host: &str) -> PathBuf {
        self.host_dir(host).join("upper")
    }

    /// A directory that only this host sees.
    pub fn local(&self, host: &str) -> PathBuf {
        self.host_dir(host).join("local")
    }

    /// The output of the host's systemd.
    pub fn boot_log(&self, host: &str) -> PathBuf {
        self.run_dir().join(format!("{host}.log"))
    }

    /// Name of the network namespace with the bridges, where operator and probe are.
    pub fn fabric(&self) -> String {
        format!("vmf-{}", self.name)
    }

    /// Name of the host's network namespace; also its machine name and cgroup.
    pub fn machine(&self, host: &str) -> String {
        format!("vmf-{}-{host}", self.name)
    }
}

/// Where `ip netns` keeps the namespace.
pub fn netns(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

#[cfg(test)]
mod tests {
    use super::Layout;

    #[test]
    fn a_name_that_could_be_another_testbeds_host_is_refused() {
        for name in ["", "a-b", "A", "../x", "waytoolongforatestbedname"] {
            assert!(Layout::new(name).is_err(), "{name}");
        }
        assert_eq!(Layout::new("tb1").map(|l| l.machine("node-28")).ok().as_deref(), Some("vmf-tb1-node-28"));
    }
}
