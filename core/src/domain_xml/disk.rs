use roxmltree::Node;

use super::child;
use crate::instance::{Disk, DiskDevice, DiskSource};

/// A disk as its domain defines it: what people see of it, and what a move must know besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskDefinition {
    /// What people see.
    pub disk: Disk,
    /// The images below its own, nearest first; the guest's writes never reach them.
    pub backing: Vec<DiskSource>,
    /// How the host caches it, in libvirt's word; `default` where the definition names none.
    pub cache: String,
    /// Whether several guests may write to it at once.
    pub shareable: bool,
    /// Whether what the guest writes is thrown away when it stops.
    pub transient: bool,
}

impl DiskDefinition {
    /// Its images, its own first.
    pub fn layers(&self) -> impl Iterator<Item = &DiskSource> {
        std::iter::once(&self.disk.source).chain(&self.backing)
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
    };
    Some(DiskDefinition {
        disk,
        backing: backing(node),
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
fn backing(disk: Node<'_, '_>) -> Vec<DiskSource> {
    std::iter::successors(child(disk, "backingStore"), |layer| child(*layer, "backingStore"))
        .take_while(|layer| child(*layer, "source").is_some())
        .map(source)
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
        assert_eq!(overlay.backing[1], DiskSource::Block { path: "/dev/base".into() });
        assert_eq!(overlay.layers().count(), 3);
    }
}
