use vmferry_core::disk::{File, Probe};

use super::Invalid;
use crate::v1;

impl From<File> for v1::DiskFile {
    fn from(file: File) -> Self {
        Self {
            path: file.path,
            directory: file.directory,
            size_bytes: file.size,
            inode: file.inode,
            device: file.device,
        }
    }
}

impl From<v1::DiskFile> for File {
    fn from(file: v1::DiskFile) -> Self {
        Self {
            path: file.path,
            directory: file.directory,
            size: file.size_bytes,
            inode: file.inode,
            device: file.device,
        }
    }
}

impl From<Probe> for v1::Probe {
    fn from(probe: Probe) -> Self {
        Self { directory: probe.directory, file_name: probe.file_name, token: probe.token, device: probe.device }
    }
}

impl TryFrom<v1::Probe> for Probe {
    type Error = Invalid;

    /// The destination opens a file of this name: it must be a probe's, and lead nowhere else.
    fn try_from(probe: v1::Probe) -> Result<Self, Invalid> {
        if !probe.file_name.starts_with(Self::PREFIX) || probe.file_name.contains('/') {
            return Err(Invalid { field: "leaving.probes.file_name" });
        }
        Ok(Self { directory: probe.directory, file_name: probe.file_name, token: probe.token, device: probe.device })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_cannot_lead_elsewhere() {
        let named = |name: &str| Probe::try_from(v1::Probe { file_name: name.into(), ..v1::Probe::default() });
        assert!(named(".vmferry-probe-1-0").is_ok());
        for name in ["", "shadow", "../.vmferry-probe-1-0", ".vmferry-probe-/../shadow"] {
            assert!(named(name).is_err(), "{name}");
        }
    }
}
