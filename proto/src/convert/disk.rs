use vmferry_core::{
    disk::{File, Probe},
    domain_xml::{DiskDefinition, Layer},
    instance::DiskSource,
};

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

/// The files below those of the disks. Disks with anything else below are refused where they are.
pub(super) fn backing(disks: &[DiskDefinition]) -> Vec<v1::BackingFile> {
    let of = |disk: &DiskDefinition| {
        let target = disk.disk.target.clone();
        let files = disk.backing.iter().filter_map(|layer| match &layer.source {
            DiskSource::File { path } => Some(v1::BackingFile { target: target.clone(), path: path.clone() }),
            _ => None,
        });
        files.collect::<Vec<_>>()
    };
    disks.iter().flat_map(of).collect()
}

/// The reverse.
pub(super) fn set_backing(disks: &mut [DiskDefinition], backing: Vec<v1::BackingFile>) {
    for disk in disks {
        let below = backing.iter().filter(|file| file.target == disk.disk.target);
        // Nobody asks the destination for the format of an image that both hosts see.
        let layer = |file: &v1::BackingFile| Layer {
            source: DiskSource::File { path: file.path.clone() },
            format: "raw".to_owned(),
        };
        disk.backing = below.map(layer).collect();
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

    #[test]
    fn the_images_below_arrive_with_their_disks() {
        let domain = "<domain><name>web</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid><memory>1</memory>
            <vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os><devices>
            <disk type='file'><source file='/a'/><target dev='vda'/>
              <backingStore type='file'><source file='/b'/><backingStore type='file'><source file='/c'/></backingStore>
              </backingStore></disk>
            <disk type='file'><source file='/d'/><target dev='vdb'/></disk></devices></domain>";
        let disks = vmferry_core::domain_xml::Definition::parse(domain).expect("valid").disks;
        let mut bare = disks.clone();
        bare[0].backing.clear();
        set_backing(&mut bare, backing(&disks));
        assert_eq!(bare, disks);
    }
}
