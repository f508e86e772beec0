//! What a domain's definition says of its volumes in an element of our own, because libvirt has no words for it: a volume's id
//! and name, further portals, and how the block device of a disk came to its host.
//!
//! ```xml
//! <metadata>
//!   <vmferry:volumes xmlns:vmferry="https://vmferry.org/xmlns/volumes/1">
//!     <vmferry:volume target="vdb" id="5a27…" name="database" bootable="yes">
//!       <vmferry:iscsi target="iqn.2026-11.org.example:a" lun="1">
//!         <vmferry:portal address="192.0.2.1:3260"/>
//!         <vmferry:auth username="web" uuid="2a5b…"/>
//!       </vmferry:iscsi>
//!     </vmferry:volume>
//!     <vmferry:volume target="vdc" id="77f0…" name="archive">
//!       <vmferry:rbd image="vms/archive">
//!         <vmferry:monitor address="192.0.2.9:6789"/>
//!         <vmferry:auth username="libvirt" usage="ceph"/>
//!       </vmferry:rbd>
//!     </vmferry:volume>
//!   </vmferry:volumes>
//! </metadata>
//! ```

pub mod affinity;
mod change;
pub mod interfaces;
pub mod limits;
mod write;

use roxmltree::Node;

pub use change::{LabellingError, label, label_vif, unlabel};
pub use write::write;

use super::{
    child,
    volume::{MONITOR_PORT, PORTAL_PORT, secret_name, socket_address},
};
use crate::{
    affinity::Membership,
    convergence::GuestLimits,
    volume::{Connection, Iscsi, Login, Rbd},
};

/// The element's namespace; libvirt's key to it in `virDomainSetMetadata`.
pub const NAMESPACE: &str = "https://vmferry.org/xmlns/volumes/1";

/// One of our elements in a domain's metadata, as `virDomainSetMetadata` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// libvirt's key to it.
    pub namespace: &'static str,
    /// The element, without its namespace. None: there shall be no such element.
    pub text: Option<String>,
}

impl Element {
    /// What is said of volumes.
    pub fn volumes(labels: &[VolumeLabel]) -> Self {
        Self { namespace: NAMESPACE, text: (!labels.is_empty()).then(|| write::write_bare(labels)) }
    }

    /// What is said of vifs.
    pub fn interfaces(labels: &[interfaces::InterfaceLabel]) -> Self {
        let text = (!labels.is_empty()).then(|| interfaces::write_bare(labels));
        Self { namespace: interfaces::NAMESPACE, text }
    }

    /// What is said of live migrations.
    pub fn limits(said: &GuestLimits) -> Self {
        Self { namespace: limits::NAMESPACE, text: (!said.is_empty()).then(|| limits::write_bare(said)) }
    }

    /// What is said of affinity groups.
    pub fn affinity(said: &[Membership]) -> Self {
        Self { namespace: affinity::NAMESPACE, text: (!said.is_empty()).then(|| affinity::write_bare(said)) }
    }
}

/// What a domain's metadata say of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeLabel {
    /// The disk in the guest: `vdb`.
    pub target: String,
    /// The volume's id, in the words of whoever made it.
    pub id: String,
    /// Its name, for people; may be empty.
    pub name: String,
    /// Whether a guest can start from it.
    pub bootable: bool,
    /// How it is reached: for a disk behind a block device of the host, and for what libvirt's own words leave out.
    pub connection: Option<Connection>,
}

/// Metadata that cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A volume of no disk.
    #[error("a <volume> in the metadata has no target")]
    NoTarget,
    /// Something is missing.
    #[error("the metadata of volume {target} have no {wanted}")]
    Missing {
        /// The disk.
        target: String,
        /// What was looked for.
        wanted: &'static str,
    },
    /// Something is there that cannot be.
    #[error("the metadata of volume {target} have {wanted} `{found}`; write {valid}")]
    Invalid {
        /// The disk.
        target: String,
        /// Which value it is.
        wanted: &'static str,
        /// The value.
        found: String,
        /// What it should look like.
        valid: &'static str,
    },
    /// Two volumes of one disk, or two ways to one volume.
    #[error("the metadata have {what} of volume {target} twice")]
    Twice {
        /// The disk.
        target: String,
        /// What there is two of.
        what: &'static str,
    },
}

/// Reads the labels of a `<domain>`. None is no error.
pub(super) fn read(domain: Node<'_, '_>) -> Result<Vec<VolumeLabel>, LabelError> {
    let mut labels = Vec::<VolumeLabel>::new();
    let ours = child(domain, "metadata").into_iter().flat_map(|metadata| metadata.children());
    for node in ours.filter(|node| node.has_tag_name((NAMESPACE, "volumes"))).flat_map(|list| elements(list, "volume"))
    {
        let label = read_label(node)?;
        if labels.iter().any(|other| other.target == label.target) {
            return Err(LabelError::Twice { target: label.target, what: "the description" });
        }
        labels.push(label);
    }
    Ok(labels)
}

/// Children of ours. `virsh metadata --set` puts the outermost element alone into a namespace, so none will do.
fn elements<'a, 'd: 'a>(node: Node<'a, 'd>, name: &'static str) -> impl Iterator<Item = Node<'a, 'd>> {
    let ours = |child: &Node<'_, '_>| child.tag_name().namespace().is_none_or(|namespace| namespace == NAMESPACE);
    node.children().filter(move |child| child.tag_name().name() == name && ours(child))
}

/// One volume's element; what is wrong with it is told with its target.
struct Reader<'a> {
    target: &'a str,
}

fn read_label(node: Node<'_, '_>) -> Result<VolumeLabel, LabelError> {
    let target = node.attribute("target").filter(|target| !target.is_empty()).ok_or(LabelError::NoTarget)?;
    let reader = Reader { target };
    let mut connections = Vec::new();
    for iscsi in elements(node, "iscsi") {
        connections.push(Connection::Iscsi(reader.iscsi(iscsi)?));
    }
    for rbd in elements(node, "rbd") {
        connections.push(Connection::Rbd(reader.rbd(rbd)?));
    }
    if connections.len() > 1 {
        return Err(LabelError::Twice { target: target.to_owned(), what: "the connection" });
    }
    Ok(VolumeLabel {
        target: target.to_owned(),
        id: reader.required(node, "id", "id")?.to_owned(),
        name: node.attribute("name").unwrap_or_default().to_owned(),
        bootable: match node.attribute("bootable") {
            None | Some("no") => false,
            Some("yes") => true,
            Some(other) => return Err(reader.invalid("bootable", other, "`yes` or `no`")),
        },
        connection: connections.pop(),
    })
}

impl Reader<'_> {
    fn iscsi(&self, node: Node<'_, '_>) -> Result<Iscsi, LabelError> {
        let lun = self.required(node, "lun", "LUN")?;
        let portals = self.addresses(node, "portal", PORTAL_PORT)?;
        if portals.is_empty() {
            return Err(self.missing("portal"));
        }
        Ok(Iscsi {
            portals,
            target: self.name(self.required(node, "target", "iSCSI target")?)?,
            lun: lun.parse().map_err(|_| self.invalid("LUN", lun, "a number from 0 to 65535"))?,
            initiator: node.attribute("initiator").map(|name| self.name(name)).transpose()?,
            login: self.login(node)?,
        })
    }

    fn rbd(&self, node: Node<'_, '_>) -> Result<Rbd, LabelError> {
        let image = self.required(node, "image", "image")?;
        let parts = image.split('/').count();
        if !(2..=3).contains(&parts) || image.split('/').any(str::is_empty) || image.starts_with('-') {
            return Err(self.invalid("image", image, "POOL/IMAGE or POOL/NAMESPACE/IMAGE"));
        }
        Ok(Rbd {
            monitors: self.addresses(node, "monitor", MONITOR_PORT)?,
            configuration: node.attribute("configuration").map(str::to_owned),
            image: image.to_owned(),
            snapshot: node.attribute("snapshot").map(str::to_owned),
            login: self.login(node)?,
        })
    }

    /// The name of a target or an initiator.
    fn name(&self, name: &str) -> Result<String, LabelError> {
        let known = ["iqn.", "eui.", "naa."].iter().any(|prefix| name.starts_with(prefix));
        // What would end a name in a file, an argument or an address.
        if known && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/' || c == ',') {
            return Ok(name.to_owned());
        }
        Err(self.invalid("iSCSI name", name, "an IQN, e.g. `iqn.2026-11.org.example:a`"))
    }

    fn addresses(&self, node: Node<'_, '_>, name: &'static str, port: u16) -> Result<Vec<String>, LabelError> {
        elements(node, name).map(|element| self.address(self.required(element, "address", "address")?, port)).collect()
    }

    fn address(&self, text: &str, default_port: u16) -> Result<String, LabelError> {
        let invalid = || self.invalid("address", text, "ADDRESS:PORT, an IPv6 address in brackets");
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| invalid())?),
            _ => (text, default_port),
        };
        let ipv6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let valid = ipv6.map_or_else(
            || {
                !host.is_empty()
                    && !host.starts_with('-')
                    && host.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-')
            },
            |host| host.split('%').next().is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok()),
        );
        if valid { Ok(socket_address(host, port)) } else { Err(invalid()) }
    }

    fn login(&self, node: Node<'_, '_>) -> Result<Option<Login>, LabelError> {
        let Some(auth) = elements(node, "auth").next() else { return Ok(None) };
        let user = self.required(auth, "username", "username")?.to_owned();
        if let Some(uuid) = auth.attribute("uuid").filter(|_| secret_name(auth).is_none()) {
            return Err(self.invalid("secret", uuid, "its UUID, or `usage=` instead"));
        }
        Ok(Some(Login { user, secret: secret_name(auth).ok_or_else(|| self.missing("secret (`uuid` or `usage`)"))? }))
    }

    fn required<'a>(&self, node: Node<'a, '_>, name: &str, wanted: &'static str) -> Result<&'a str, LabelError> {
        node.attribute(name).filter(|value| !value.is_empty()).ok_or_else(|| self.missing(wanted))
    }

    fn missing(&self, wanted: &'static str) -> LabelError {
        LabelError::Missing { target: self.target.to_owned(), wanted }
    }

    fn invalid(&self, wanted: &'static str, found: &str, valid: &'static str) -> LabelError {
        LabelError::Invalid { target: self.target.to_owned(), wanted, found: found.to_owned(), valid }
    }
}

#[cfg(test)]
mod tests;
