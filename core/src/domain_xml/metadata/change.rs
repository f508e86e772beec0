//! What becomes of a domain's labels when one is set or taken away.

use super::{
    LabelError, VolumeLabel,
    affinity::{AffinityError, judged},
    interfaces::{InterfaceError, InterfaceLabel, written},
    limits::LimitsError,
    read, write,
};
use crate::{
    affinity::{GroupName, Membership},
    domain_xml::{Definition, DiskDefinition, parse},
    instance::{DiskSource, Vif, VifAttachment},
    volume::Connection,
};

/// A label that cannot be set, or not be taken away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabellingError {
    /// The guest has no such disk.
    #[error("{guest} has no disk {target}; it has {known}")]
    NoDisk {
        /// The guest's name.
        guest: String,
        /// The disk that was named.
        target: String,
        /// Those that it has.
        known: String,
    },
    /// What the label says cannot be so.
    #[error("{0}")]
    Invalid(LabelError),
    /// The disk is not what the label says.
    #[error("{target} of {guest} is {what}; {remedy}")]
    Differs {
        /// The guest's name.
        guest: String,
        /// The disk.
        target: String,
        /// What it is.
        what: String,
        /// What can be said of it.
        remedy: &'static str,
    },
    /// What is there already cannot be read, so it cannot be kept.
    #[error(
        "what the definition of {guest} says of its volumes cannot be read: {source}; remove it first: vmferry volumes unset {guest} --all"
    )]
    Unreadable {
        /// The guest's name.
        guest: String,
        /// Why.
        source: LabelError,
    },
    /// The guest has no such vif.
    #[error("{guest} has no vif {mac}; it has {known}")]
    NoVif {
        /// The guest's name.
        guest: String,
        /// The vif that was named.
        mac: String,
        /// Those that it has.
        known: String,
    },
    /// What it is plugged into is libvirt's to see to.
    #[error("vif {mac} of {guest} is on {what}: only of vifs on bridges can be said where they are and what they may")]
    NoBridge {
        /// The guest's name.
        guest: String,
        /// The vif.
        mac: String,
        /// What it is plugged into.
        what: String,
    },
    /// What is said of its vifs already cannot be read, so it cannot be kept.
    #[error(
        "what the definition of {guest} says of its vifs cannot be read: {source}; remove it first: vmferry instance policy unset {guest} --all"
    )]
    VifsUnreadable {
        /// The guest's name.
        guest: String,
        /// Why.
        source: InterfaceError,
    },
    /// What is to be said of its live migrations cannot be so.
    #[error("{0}")]
    Limits(LimitsError),
    /// What is said of its affinity groups already cannot be read, so it cannot be kept.
    #[error(
        "what the definition of {guest} says of its affinity groups cannot be read: {source}; remove it first: vmferry instance affinity \
         unset {guest} --all"
    )]
    AffinityUnreadable {
        /// The guest's name.
        guest: String,
        /// Why.
        source: AffinityError,
    },
    /// It is in no such group.
    #[error("{guest} is not in affinity group {group}; it is in {known}")]
    NotInGroup {
        /// The guest's name.
        guest: String,
        /// The group that was named.
        group: GroupName,
        /// Those that it is in.
        known: String,
    },
    /// There is no label to take away.
    #[error("the definition of {guest} says nothing of a volume {target}")]
    NoLabel {
        /// The guest's name.
        guest: String,
        /// The disk that was named.
        target: String,
    },
}

/// All labels of the domain once this one is set, in the place of what was said of its disk before.
pub fn label(definition: &Definition, label: VolumeLabel) -> Result<Vec<VolumeLabel>, LabellingError> {
    let guest = &definition.name;
    let disk = definition.disks.iter().find(|disk| disk.disk.target == label.target).ok_or_else(|| {
        let known: Vec<_> = definition.disks.iter().map(|disk| disk.disk.target.as_str()).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        LabellingError::NoDisk { guest: guest.clone(), target: label.target.clone(), known }
    })?;
    let label = normal(label).map_err(LabellingError::Invalid)?;
    if let Some(connection) = &label.connection {
        judge(guest, disk, connection)?;
    }
    let mut labels = known(definition)?;
    match labels.iter_mut().find(|other| other.target == label.target) {
        Some(other) => *other = label,
        None => labels.push(label),
    }
    Ok(labels)
}

/// All labels of the domain once that of one disk is taken away. The disk itself may be gone.
pub fn unlabel(definition: &Definition, target: &str) -> Result<Vec<VolumeLabel>, LabellingError> {
    let mut labels = known(definition)?;
    let before = labels.len();
    labels.retain(|label| label.target != target);
    if labels.len() == before {
        return Err(LabellingError::NoLabel { guest: definition.name.clone(), target: target.to_owned() });
    }
    Ok(labels)
}

/// What is said of all the domain's vifs once this is said of one of them. What says nothing takes away what was there.
pub fn label_vif(definition: &Definition, label: InterfaceLabel) -> Result<Vec<InterfaceLabel>, LabellingError> {
    let guest = &definition.name;
    if !definition.vifs.iter().any(|vif| vif.mac.parse() == Ok(label.mac)) {
        let known: Vec<_> = definition.vifs.iter().map(|vif| vif.mac.as_str()).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        return Err(LabellingError::NoVif { guest: guest.clone(), mac: written(label.mac), known });
    }
    let elsewhere =
        |vif: &&Vif| vif.mac.parse() == Ok(label.mac) && !matches!(vif.attachment, VifAttachment::Bridge { .. });
    if let Some(vif) = definition.vifs.iter().find(elsewhere).filter(|_| says_something(&label)) {
        let (guest, mac, what) = (guest.clone(), written(label.mac), vif.attachment.to_string());
        return Err(LabellingError::NoBridge { guest, mac, what });
    }
    let unreadable = |source| LabellingError::VifsUnreadable { guest: guest.clone(), source };
    let mut labels = definition.interfaces.clone().map_err(unreadable)?;
    labels.retain(|other| other.mac != label.mac);
    if says_something(&label) {
        labels.push(label);
    }
    Ok(labels)
}

/// What shall become of a domain's affinity groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AffinityChange {
    /// It is in this one, in the place of what was said of that before.
    Join(Membership),
    /// It is no longer in this one.
    Leave(GroupName),
    /// It is in none, whether they can be read or not.
    LeaveAll,
}

impl AffinityChange {
    /// All groups of the domain then.
    pub fn of(&self, definition: &Definition) -> Result<Vec<Membership>, LabellingError> {
        match self {
            Self::Join(membership) => join(definition, membership.clone()),
            Self::Leave(group) => leave(definition, group),
            Self::LeaveAll => Ok(Vec::new()),
        }
    }
}

fn join(definition: &Definition, membership: Membership) -> Result<Vec<Membership>, LabellingError> {
    let mut said = groups(definition)?;
    said.retain(|other| other.group != membership.group);
    said.push(membership);
    judged(said).map_err(|source| LabellingError::AffinityUnreadable { guest: definition.name.clone(), source })
}

fn leave(definition: &Definition, group: &GroupName) -> Result<Vec<Membership>, LabellingError> {
    let said = groups(definition)?;
    let (left, stays): (Vec<_>, Vec<_>) = said.into_iter().partition(|membership| membership.group == *group);
    if left.is_empty() {
        let known: Vec<_> = stays.iter().map(|membership| membership.group.as_str()).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        return Err(LabellingError::NotInGroup { guest: definition.name.clone(), group: group.clone(), known });
    }
    Ok(stays)
}

fn groups(definition: &Definition) -> Result<Vec<Membership>, LabellingError> {
    let unreadable = |source| LabellingError::AffinityUnreadable { guest: definition.name.clone(), source };
    definition.affinity.clone().map_err(unreadable)
}

fn says_something(label: &InterfaceLabel) -> bool {
    label.network.is_some() || label.policy.is_some()
}

fn known(definition: &Definition) -> Result<Vec<VolumeLabel>, LabellingError> {
    let unreadable = |source| LabellingError::Unreadable { guest: definition.name.clone(), source };
    definition.labels.clone().map_err(unreadable)
}

/// The label as it will be read back; what could not be is an error.
fn normal(label: VolumeLabel) -> Result<VolumeLabel, LabelError> {
    let xml = format!("<domain><metadata>{}</metadata></domain>", write(std::slice::from_ref(&label)));
    let document = parse(&xml).expect("what we write is well-formed");
    Ok(read(document.root_element())?.pop().unwrap_or(label))
}

/// Whether this disk can be reached so.
fn judge(guest: &str, disk: &DiskDefinition, connection: &Connection) -> Result<(), LabellingError> {
    let differs = |what: String, remedy| {
        let (guest, target) = (guest.to_owned(), disk.disk.target.clone());
        Err(LabellingError::Differs { guest, target, what, remedy })
    };
    match (&disk.disk.source, &disk.volume) {
        (DiskSource::Block { .. }, _) => Ok(()),
        (DiskSource::Network { .. }, Some(volume)) if volume.connection.is_same_volume(connection) => Ok(()),
        (source @ DiskSource::Network { .. }, _) => {
            differs(source.to_string(), "what QEMU opens is what its definition says: name the same volume, or none")
        }
        (source, _) => {
            differs(source.to_string(), "how it is reached can be said of block devices only: leave that out")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::{Iscsi, Rbd};

    fn definition(metadata: &str) -> Definition {
        let xml = format!(
            "<domain type='kvm'><name>web</name><uuid>ed831ace-39ef-4960-8bae-a035d292c305</uuid>
             <memory>1024</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>
             <metadata>{metadata}</metadata><devices>
             <disk type='file'><source file='/a'/><target dev='vda'/></disk>
             <disk type='block'><source dev='/dev/sdb'/><target dev='vdb'/></disk>
             <disk type='network'><source protocol='rbd' name='vms/web'/><target dev='vdc'/></disk></devices></domain>"
        );
        Definition::parse(&xml).expect("valid")
    }

    fn volume(target: &str, connection: Option<Connection>) -> VolumeLabel {
        VolumeLabel { target: target.into(), id: "5a27".into(), name: "data".into(), bootable: false, connection }
    }

    fn lun(portal: &str) -> Connection {
        let (target, portals) = ("iqn.2026-11.org.example:a".into(), vec![portal.into()]);
        Connection::Iscsi(Iscsi { portals, target, lun: 1, initiator: None, login: None })
    }

    fn image(image: &str) -> Connection {
        let image = image.into();
        Connection::Rbd(Rbd { monitors: vec![], configuration: None, image, snapshot: None, login: None })
    }

    #[test]
    fn a_label_replaces_that_of_its_own_disk_and_keeps_the_others() {
        let first = label(&definition(""), volume("vdb", Some(lun("192.0.2.1")))).expect("valid");
        assert_eq!(first[0].connection, Some(lun("192.0.2.1:3260")), "as it will be read back");
        let both = label(&definition(&write(&first)), volume("vda", None)).expect("valid");
        assert_eq!(both.len(), 2);
        let again = VolumeLabel { name: String::new(), ..volume("vdb", None) };
        let changed = label(&definition(&write(&both)), again.clone()).expect("valid");
        assert_eq!(changed, [again, volume("vda", None)]);
        assert_eq!(unlabel(&definition(&write(&changed)), "vdb"), Ok(vec![volume("vda", None)]));
    }

    #[test]
    fn what_cannot_be_so_is_not_set() {
        let refused = |target: &str, connection| {
            label(&definition(""), volume(target, connection)).expect_err("refused").to_string()
        };
        assert_eq!(refused("vdx", None), "web has no disk vdx; it has vda, vdb, vdc");
        assert!(refused("vdb", Some(lun("http://a"))).contains("write ADDRESS:PORT"));
        assert!(refused("vda", Some(lun("192.0.2.1"))).contains("block devices only"));
        assert!(refused("vdc", Some(image("vms/other"))).contains("vdc of web is rbd:vms/web"));
        assert!(label(&definition(""), volume("vdc", Some(image("vms/web")))).is_ok());
        assert!(
            unlabel(&definition(""), "vdb").expect_err("none").to_string().contains("says nothing of a volume vdb")
        );
    }

    #[test]
    fn labels_that_cannot_be_read_are_not_silently_lost() {
        let twice = definition(&write(&[volume("vdb", None), volume("vdb", None)]));
        for error in [label(&twice, volume("vda", None)), unlabel(&twice, "vdb")] {
            assert!(error.expect_err("unreadable").to_string().contains("vmferry volumes unset web --all"));
        }
    }

    #[test]
    fn a_definition_says_what_is_known_of_each_volume() {
        let known = definition(&write(&[volume("vdb", Some(lun("192.0.2.1:3260")))]));
        let of = |disk: usize| known.disks[disk].disk.volume.clone();
        assert_eq!(of(0), None, "a file like any other");
        let labelled = of(1).expect("labelled");
        assert_eq!((labelled.id.as_deref(), labelled.bootable), (Some("5a27"), Some(false)));
        assert_eq!(labelled.connection, Some(lun("192.0.2.1:3260")));
        let unlabelled = of(2).expect("QEMU opens it");
        assert_eq!((unlabelled.id, unlabelled.connection), (None, Some(image("vms/web"))));
    }

    #[test]
    fn a_guest_joins_and_leaves_groups_and_what_cannot_be_read_is_not_silently_lost() {
        use crate::{affinity::AffinityPolicy, domain_xml::metadata::affinity};
        let said = |group: &str, policy| Membership { group: group.parse().expect("valid"), policy };
        let (apart, soft) = (said("db", AffinityPolicy::AntiAffinity), said("db", AffinityPolicy::SoftAntiAffinity));
        let web = said("web", AffinityPolicy::Affinity);
        let before = definition(&affinity::write(&[apart, web.clone()]));
        assert_eq!(AffinityChange::Join(soft.clone()).of(&before), Ok(vec![soft, web.clone()]), "in its place");
        assert_eq!(AffinityChange::Leave("db".parse().expect("valid")).of(&before), Ok(vec![web.clone()]));
        let error = AffinityChange::Leave("nonesuch".parse().expect("valid")).of(&before).expect_err("not in it");
        assert_eq!(error.to_string(), "web is not in affinity group nonesuch; it is in db, web");
        let unreadable = definition(&affinity::write(&[web.clone(), web.clone()]));
        let error = AffinityChange::Join(web).of(&unreadable).expect_err("lost otherwise").to_string();
        assert!(error.contains("group web is there twice; remove it first: vmferry instance affinity"), "{error}");
        assert_eq!(AffinityChange::LeaveAll.of(&unreadable), Ok(vec![]));
    }
}
