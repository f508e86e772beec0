use roxmltree::Node;

use super::{child, volume};
use crate::{
    instance::{Disk, DiskDevice, DiskSource},
    volume::Volume,
};

/// libvirt's own default; it never looks into an image to find out.
const RAW: &str = "raw";

/// A disk as its domain defines it: what people see of it, and what a move must know besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskDefinition {
    /// What people see.
    pub disk: Disk,
    /// The format of its own image, in libvirt's word: `raw`, `qcow2`.
    pub format: String,
    /// The images below its own, nearest first; the guest's writes never reach them.
    pub backing: Vec<Layer>,
    /// The volume that it is, if its bytes are on network storage and how to reach them is known.
    pub volume: Option<Volume>,
    /// How the host caches it, in libvirt's word; `default` where the definition names none.
    pub cache: String,
    /// Whether several guests may write to it at once.
    pub shareable: bool,
    /// Whether what the guest writes is thrown away when it stops.
    pub transient: bool,
}

/// An image below a disk's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Where its bytes are.
    pub source: DiskSource,
    /// In libvirt's word; `raw` where the definition says nothing.
    pub format: String,
}

impl DiskDefinition {
    /// Its images, its own first.
    pub fn layers(&self) -> impl Iterator<Item = &DiskSource> {
        self.images().map(|(source, _)| source)
    }

    /// Its images and their formats, its own first.
    pub fn images(&self) -> impl Iterator<Item = (&DiskSource, &str)> {
        let below = self.backing.iter().map(|layer| (&layer.source, layer.format.as_str()));
        std::iter::once((&self.disk.source, self.format.as_str())).chain(below)
    }

    /// The files it lies in, its own first.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.layers().filter_map(|layer| if let DiskSource::File { path } = layer { Some(path.as_str()) } else { None })
    }
}

pub(super) fn disk(node: Node<'_, '_>) -> Option<DiskDefinition> {
    let driver = |name| child(node, "driver").and_then(|driver| driver.attribute(name));
    let disk = Disk {
        target: child(node, "target")?.attribute("dev")?.to_owned(),
        device: match node.attribute("device").unwrap_or("disk") {
            "cdrom" => DiskDevice::Cdrom,
            "floppy" => DiskDevice::Floppy,
            "lun" => DiskDevice::Lun,
            _ => DiskDevice::Disk,
        },
        source: source(node),
        read_only: child(node, "readonly").is_some(),
        // What it is known by may stand in its label.
        volume: None,
    };
    let volume = volume::by_qemu(node, &disk.target);
    Some(DiskDefinition {
        disk,
        format: driver("type").unwrap_or(RAW).to_owned(),
        backing: backing(node),
        volume,
        cache: driver("cache").unwrap_or("default").to_owned(),
        shareable: child(node, "shareable").is_some(),
        transient: child(node, "transient").is_some(),
    })
}

/// Of a `<disk>`, and of a `<backingStore>`, which is written alike.
fn source(node: Node<'_, '_>) -> DiskSource {
    let source = child(node, "source");
    let attribute = |name| source.and_then(|source| source.attribute(name)).map(str::to_owned);
    let kind = node.attribute("type").unwrap_or("file");
    let source = match kind {
        "file" => attribute("file").map(|path| DiskSource::File { path }),
        "block" => attribute("dev").map(|path| DiskSource::Block { path }),
        "network" => Some(DiskSource::Network {
            protocol: attribute("protocol").unwrap_or_default(),
            name: attribute("name").unwrap_or_default(),
        }),
        _ => Some(DiskSource::Other { kind: kind.to_owned() }),
    };
    source.unwrap_or(DiskSource::Empty)
}

/// libvirt ends a chain that it knows with an empty element.
fn backing(disk: Node<'_, '_>) -> Vec<Layer> {
    let format = |layer| child(layer, "format").and_then(|format| format.attribute("type")).unwrap_or(RAW).to_owned();
    std::iter::successors(child(disk, "backingStore"), |layer| child(*layer, "backingStore"))
        .take_while(|layer| child(*layer, "source").is_some())
        .map(|layer| Layer { source: source(layer), format: format(layer) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(xml: &str) -> DiskDefinition {
        disk(roxmltree::Document::parse(xml).expect("well-formed").root_element()).expect("a disk")
    }

    #[test]
    fn reads_how_a_disk_is_cached_and_shared() {
        let plain = read("<disk type='file'><source file='/a'/><target dev='vda'/></disk>");
        assert_eq!((plain.cache.as_str(), plain.shareable, plain.transient), ("default", false, false));
        let other = read(
            "<disk type='file'><driver name='qemu' cache='none' io='native'/><source file='/a'/><target dev='vda'/>
             <shareable/><transient/></disk>",
        );
        assert_eq!((other.cache.as_str(), other.shareable, other.transient), ("none", true, true));
    }

    #[test]
    fn reads_every_image_of_a_chain() {
        let overlay = read(
            "<disk type='file'><source file='/top'/><target dev='vda'/>
               <backingStore type='file'><format type='qcow2'/><source file='/middle'/>
                 <backingStore type='block'><source dev='/dev/base'/><backingStore/></backingStore>
               </backingStore></disk>",
        );
        assert_eq!(overlay.files().collect::<Vec<_>>(), ["/top", "/middle"]);
        assert_eq!(overlay.backing[1].source, DiskSource::Block { path: "/dev/base".into() });
        assert_eq!(overlay.layers().count(), 3);
        assert_eq!(overlay.images().map(|(_, format)| format).collect::<Vec<_>>(), ["raw", "qcow2", "raw"]);
        let named = read("<disk type='file'><driver type='qcow2'/><source file='/a'/><target dev='vda'/></disk>");
        assert_eq!(named.format, "qcow2");
    }
}
