//! Changes a domain's definition where disks lie elsewhere on another host, or vifs are plugged into something else, and nowhere
//! else: addresses, order and white space stay as libvirt wrote them, byte for byte, so that the guest finds its hardware as it
//! left it.

mod vif;

use std::ops::Range;

use quick_xml::events::attributes::Attribute;
use roxmltree::Node;
use serde::{Deserialize, Serialize};

use super::{child, is_xml, metadata::interfaces::InterfaceError, parse};
use crate::network::{LinkName, NetworkName};

/// A device of the guest that is behind something else on the destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relocation {
    /// The disk: `vdb`; or the vif, by its MAC address.
    pub target: String,
    /// Where it is then.
    pub place: Place,
}

/// Where a device is then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Behind another block device: of a disk of type `block`.
    Device {
        /// Its path on the other host.
        path: String,
    },
    /// Behind another portal: of a network disk of protocol `iscsi`.
    Portal {
        /// A name or an address, an IPv6 address without brackets.
        host: String,
        /// Its port.
        port: u16,
    },
    /// On a bridge: of a vif that is on one.
    Bridge {
        /// Its name on the other host.
        bridge: LinkName,
        /// What libvirt shall call the host's end; none: whatever it likes.
        tap: Option<LinkName>,
        /// The logical network that this is, for whoever moves the guest next.
        network: Option<NetworkName>,
    },
}

/// A definition that was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is no definition.
    #[error(transparent)]
    Definition(#[from] super::Error),
    /// There is no such disk or vif, or several.
    #[error("the definition does not have exactly one disk or vif {target}")]
    NoDevice {
        /// The device.
        target: String,
    },
    /// The device cannot be there.
    #[error("{target} is not {wanted}")]
    OtherKind {
        /// The device.
        target: String,
        /// What it would have to be.
        wanted: &'static str,
    },
    /// XML has no way to write it.
    #[error("{target} cannot be at {value:?}")]
    Unwritable {
        /// The device.
        target: String,
        /// What cannot be written.
        value: String,
    },
    /// Two changes of one device.
    #[error("{target} is to be changed twice")]
    Twice {
        /// The device.
        target: String,
    },
    /// What the metadata say already cannot be kept.
    #[error(transparent)]
    Metadata(#[from] InterfaceError),
}

/// The definition after these changes, all of them or none.
pub fn rewrite(xml: &str, changes: &[Relocation]) -> Result<String, Error> {
    let document = parse(xml)?;
    let domain = document.root_element();
    let mut splices = Vec::new();
    for (index, change) in changes.iter().enumerate() {
        if changes[..index].iter().any(|other| other.target == change.target) {
            return Err(Error::Twice { target: change.target.clone() });
        }
        splices.extend(splices_of(domain, change)?);
    }
    splices.extend(vif::metadata(domain, changes)?);
    splices.sort_by_key(|splice| (splice.at.start, splice.at.end));
    let mut rewritten = String::with_capacity(xml.len());
    let mut end = 0;
    for splice in splices {
        rewritten.push_str(&xml[end..splice.at.start]);
        rewritten.push_str(&splice.text);
        end = splice.at.end;
    }
    rewritten.push_str(&xml[end..]);
    Ok(rewritten)
}

/// What stands there instead.
struct Splice {
    at: Range<usize>,
    text: String,
}

fn splices_of(domain: Node<'_, '_>, change: &Relocation) -> Result<Vec<Splice>, Error> {
    let target = &change.target;
    let no_device = || Error::NoDevice { target: target.clone() };
    if let Place::Bridge { bridge, tap, .. } = &change.place {
        return vif::splices(vif::find(domain, target).ok_or_else(no_device)?, target, bridge, tap.as_ref());
    }
    let disk = find(domain, target).ok_or_else(no_device)?;
    let source = child(disk, "source");
    let other_kind = |wanted| Error::OtherKind { target: target.clone(), wanted };
    let escaped = |value: &str| match value.chars().all(is_xml) {
        true => Ok(Attribute::from(("", value)).value.into_owned()),
        false => Err(Error::Unwritable { target: target.clone(), value: value.to_owned() }),
    };
    match &change.place {
        Place::Device { path } => {
            let source = source.filter(|_| disk.attribute("type") == Some("block"));
            let device = source.and_then(|source| source.attribute_node("dev")).ok_or(other_kind("a block device"))?;
            Ok(vec![Splice { at: device.range_value(), text: escaped(path)? }])
        }
        Place::Portal { host, port } => {
            let source = source.filter(|source| {
                disk.attribute("type") == Some("network") && source.attribute("protocol") == Some("iscsi")
            });
            let first = source.and_then(|source| child(source, "host")).ok_or(other_kind("an iSCSI network disk"))?;
            let name = first.attribute_node("name").ok_or(other_kind("an iSCSI network disk"))?;
            let port = match first.attribute_node("port") {
                Some(known) => Splice { at: known.range_value(), text: port.to_string() },
                // What stands there next is white space or the element's end.
                None => Splice { at: name.range().end..name.range().end, text: format!(" port='{port}'") },
            };
            Ok(vec![Splice { at: name.range_value(), text: escaped(host)? }, port])
        }
        Place::Bridge { .. } => Err(other_kind("a vif")),
    }
}

fn find<'a, 'd>(domain: Node<'a, 'd>, target: &str) -> Option<Node<'a, 'd>> {
    let disks = child(domain, "devices")?.children().filter(|node| node.has_tag_name("disk"));
    let mut found = disks.filter(|disk| child(*disk, "target").and_then(|node| node.attribute("dev")) == Some(target));
    found.next().filter(|_| found.next().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn domain(device: &str, host: &str) -> String {
        format!(
            "<?xml version='1.0'?>\n<domain type='kvm'><!-- <disk type='block'> -->\n  <metadata><disk type='block'><source dev='/dev/sdb'/>\
             <target dev='vdb'/></disk></metadata>\n  <devices>\n\
             \t<disk type=\"block\" device='disk'>\r\n    <driver name='qemu' type='raw'/>\n    <source  dev = \"{device}\" index='1'>\
             <reservations managed='no'/></source>\n    <backingStore/><target bus='virtio' dev='vdb'/>\
             <address type='pci' slot='0x07'/></disk>\n\
             <disk type='network'><source protocol='iscsi' name='iqn.a/1'><host {host}/>\
             <host name='192.0.2.9' port='1'/></source><target dev='vdc'/></disk>\n\
             <disk type='file'><source file='/a'/><target dev='vda'/></disk></devices></domain>\n"
        )
    }

    fn change(target: &str, to: Place) -> Relocation {
        Relocation { target: target.into(), place: to }
    }

    fn device(path: &str) -> Place {
        Place::Device { path: path.into() }
    }

    fn portal(host: &str, port: u16) -> Place {
        Place::Portal { host: host.into(), port }
    }

    #[test]
    fn only_the_place_of_a_disk_changes() {
        let before = domain("/dev/sdb", "name='192.0.2.1' port='3260'");
        let changes = [change("vdc", portal("::1", 3261)), change("vdb", device("/dev/mapper/m&m's"))];
        let after = domain("/dev/mapper/m&amp;m&apos;s", "name='::1' port='3261'");
        assert_eq!(rewrite(&before, &changes), Ok(after));
        assert_eq!(rewrite(&before, &[]), Ok(before.clone()));
        let without_port = domain("/dev/sdb", "name='192.0.2.1'");
        let after = domain("/dev/sdb", "name='b' port='3260'");
        assert_eq!(rewrite(&without_port, &changes_to(portal("b", 3260))), Ok(after));
    }

    fn changes_to(place: Place) -> [Relocation; 1] {
        [change("vdc", place)]
    }

    #[test]
    fn what_cannot_be_changed_is_told_and_nothing_is() {
        let xml = domain("/dev/sdb", "name='a'");
        let told = |changes: &[Relocation]| rewrite(&xml, changes).expect_err("refused").to_string();
        assert!(told(&[change("vdz", device("/a"))]).contains("one disk or vif vdz"));
        assert!(told(&[change("vda", device("/a"))]).contains("vda is not a block device"));
        assert!(told(&[change("vdc", device("/a"))]).contains("vdc is not a block device"));
        assert!(told(&[change("vdb", portal("a", 1))]).contains("vdb is not an iSCSI network disk"));
        assert!(told(&[change("vdb", device("/a\0"))]).contains("vdb cannot be at"));
        let twice = [change("vdb", device("/a")), change("vdb", device("/b"))];
        assert!(told(&twice).contains("vdb is to be changed twice"));
        assert!(matches!(rewrite("<domain", &[]), Err(Error::Definition(_))));
        let doubled = xml.replace("dev='vdc'", "dev='vdb'");
        assert!(matches!(rewrite(&doubled, &[change("vdb", device("/a"))]), Err(Error::NoDevice { .. })));
    }

    proptest! {
        #[test]
        fn whatever_the_device_is_called_the_rest_stays(
            old in "[a-z/<>&'\"\t é-]{0,20}", new in "[^\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\u{fffe}\u{ffff}]{0,20}"
        ) {
            let escape = |value: &str| Attribute::from(("", value)).value.into_owned();
            let before = domain(&escape(&old), "name='a'");
            let after = rewrite(&before, &[change("vdb", device(&new))]).expect("rewritten");
            prop_assert_eq!(&after, &domain(&escape(&new), "name='a'"));
            let document = parse(&after).expect("well-formed");
            let source = child(find(document.root_element(), "vdb").expect("a disk"), "source").expect("a source");
            prop_assert_eq!(source.attribute("dev"), Some(new.as_str()));
            // And back again.
            prop_assert_eq!(rewrite(&after, &[change("vdb", device(&old))]), Ok(before));
        }
    }
}
