use std::collections::BTreeSet;

use roxmltree::Node;
use uuid::Uuid;

use super::{Error, child, disk::DiskDefinition, metadata::VolumeLabel, parse};
use crate::{
    id::InstanceId,
    instance::{DiskSource, VolumeAttachment},
    volume::{Attachment, Connection, Iscsi, Login, Rbd, SecretName, Volume},
};

/// Where monitors and portals listen unless their definition says otherwise.
pub(super) const MONITOR_PORT: u16 = 6789;
pub(super) const PORTAL_PORT: u16 = 3260;

/// The volume behind a network disk. None for protocols that we do not know, and for what no QEMU could open.
pub(super) fn by_qemu(disk: Node<'_, '_>, target: &str) -> Option<Volume> {
    let source = child(disk, "source").filter(|_| disk.attribute("type") == Some("network"))?;
    let connection = match source.attribute("protocol")? {
        "rbd" => Connection::Rbd(rbd(disk, source)?),
        "iscsi" => Connection::Iscsi(iscsi(disk, source)?),
        _ => return None,
    };
    Some(Volume { target: target.to_owned(), attachment: Attachment::ByQemu, connection })
}

/// Adds to a disk what its label knows of the way to its volume.
pub(super) fn label(disk: &mut DiskDefinition, label: &VolumeLabel) {
    let Some(connection) = &label.connection else { return };
    match (&disk.disk.source, &mut disk.volume, connection) {
        (DiskSource::Block { .. }, volume, connection) => {
            let (target, connection) = (label.target.clone(), connection.clone());
            *volume = Some(Volume { target, attachment: Attachment::ByHost, connection });
        }
        // libvirt knows one portal. What QEMU opens is what libvirt says, so the label must mean the same LUN.
        (_, Some(Volume { connection: Connection::Iscsi(known), .. }), Connection::Iscsi(labelled))
            if (&known.target, known.lun) == (&labelled.target, labelled.lun) =>
        {
            let further = labelled.portals.iter().filter(|portal| !known.portals.contains(portal)).cloned();
            let further: Vec<_> = further.collect();
            known.portals.extend(further);
        }
        _ => {}
    }
}

/// What is known of a disk's volume, by its definition and by its label. `None` if neither says that it is one.
pub(super) fn attachment(volume: Option<&Volume>, label: Option<&VolumeLabel>) -> Option<VolumeAttachment> {
    (volume.is_some() || label.is_some()).then(|| VolumeAttachment {
        id: label.map(|label| label.id.clone()),
        name: label.map(|label| label.name.clone()).filter(|name| !name.is_empty()),
        bootable: label.map(|label| label.bootable),
        size: None,
        attachment: volume.map(|volume| volume.attachment),
        connection: volume.map(|volume| volume.connection.clone()),
    })
}

/// A guest that is given no initiator's name logs in by one that QEMU makes of its UUID. Targets may admit only that.
pub(super) fn name_initiator(volume: &mut Volume, guest: InstanceId) {
    if let (Attachment::ByQemu, Connection::Iscsi(iscsi)) = (volume.attachment, &mut volume.connection) {
        iscsi.initiator.get_or_insert_with(|| format!("iqn.2008-11.org.linux-kvm:{guest}"));
    }
}

fn rbd(disk: Node<'_, '_>, source: Node<'_, '_>) -> Option<Rbd> {
    let of = |name, attribute| child(source, name).and_then(|node| node.attribute(attribute)).map(str::to_owned);
    Some(Rbd {
        monitors: hosts(source, MONITOR_PORT)?,
        configuration: of("config", "file"),
        image: source.attribute("name").filter(|name| !name.is_empty())?.to_owned(),
        snapshot: of("snapshot", "name"),
        login: login(disk, source)?,
    })
}

fn iscsi(disk: Node<'_, '_>, source: Node<'_, '_>) -> Option<Iscsi> {
    // libvirt takes a name without a LUN for LUN 0.
    let name = source.attribute("name")?;
    let (target, lun) = name.split_once('/').unwrap_or((name, "0"));
    let portals = hosts(source, PORTAL_PORT)?;
    if target.is_empty() || portals.is_empty() {
        return None;
    }
    let initiator = child(source, "initiator").and_then(|initiator| child(initiator, "iqn"));
    Some(Iscsi {
        portals,
        target: target.to_owned(),
        lun: lun.parse().ok()?,
        initiator: initiator.and_then(|iqn| iqn.attribute("name")).map(str::to_owned),
        login: login(disk, source)?,
    })
}

/// `None` if one of them is not reached by TCP.
fn hosts(source: Node<'_, '_>, default_port: u16) -> Option<Vec<String>> {
    let hosts = source.children().filter(|node| node.has_tag_name("host"));
    let address = |host: Node<'_, '_>| {
        let tcp = host.attribute("transport").is_none_or(|transport| transport == "tcp");
        let port = host.attribute("port").map_or(Some(default_port), |port| port.parse().ok())?;
        // What would be more than a host in a list or a URL.
        let more = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '@' | ',');
        let name = host.attribute("name").filter(|name| tcp && !name.is_empty() && !name.contains(more))?;
        Some(socket_address(name, port))
    };
    hosts.map(address).collect()
}

/// `address:port`, an IPv6 address in brackets.
pub(super) fn socket_address(host: &str, port: u16) -> String {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.contains(':') { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") }
}

/// Who logs in; nobody is an answer too. libvirt writes it into the source, older definitions have it in the disk.
fn login(disk: Node<'_, '_>, source: Node<'_, '_>) -> Option<Option<Login>> {
    let Some(auth) = child(source, "auth").or_else(|| child(disk, "auth")) else { return Some(None) };
    let secret = secret_name(child(auth, "secret")?)?;
    Some(Some(Login { user: auth.attribute("username")?.to_owned(), secret }))
}

/// The secret that a `<secret>` names.
pub(super) fn secret_name(secret: Node<'_, '_>) -> Option<SecretName> {
    match secret.attribute("uuid") {
        Some(uuid) => Uuid::parse_str(uuid).ok().map(SecretName::Uuid),
        None => secret.attribute("usage").map(|usage| SecretName::Usage(usage.to_owned())),
    }
}

/// The secrets of libvirt that a domain's devices need: to open network storage, and to decrypt what is on it.
pub fn secrets(domain_xml: &str) -> Result<BTreeSet<SecretName>, Error> {
    let document = parse(domain_xml)?;
    let devices = child(document.root_element(), "devices").into_iter().flat_map(|devices| devices.descendants());
    Ok(devices.filter(|node| node.has_tag_name("secret")).filter_map(secret_name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_secret_of_a_domain_is_found() {
        let xml = format!(
            "<domain><metadata><secret usage='not libvirts'/></metadata><devices>
             <disk><auth username='u'><secret type='ceph' uuid='{UUID}'/></auth></disk>
             <disk><source><auth username='u'><secret type='iscsi' usage='san'/></auth>
               <encryption format='luks'><secret type='passphrase' usage='disk'/></encryption></source></disk>
             </devices></domain>"
        );
        let found = secrets(&xml).expect("well-formed");
        let usage = |usage: &str| SecretName::Usage(usage.to_owned());
        assert_eq!(found, BTreeSet::from([SecretName::Uuid(UUID), usage("san"), usage("disk")]));
        assert!(secrets("<domain").is_err());
    }

    const UUID: Uuid = Uuid::from_u128(0x2a5b_08e4_3bf0_4db2_8e5b_7c1c_4f2d_9a01);

    fn read(source: &str) -> Option<Connection> {
        let disk = format!("<disk type='network'>{source}<target dev='vdb'/></disk>");
        let document = roxmltree::Document::parse(&disk).expect("well-formed");
        let volume = by_qemu(document.root_element(), "vdb")?;
        assert_eq!((volume.target.as_str(), volume.attachment), ("vdb", Attachment::ByQemu));
        Some(volume.connection)
    }

    #[test]
    fn reads_an_image_of_a_ceph_cluster() {
        let bare = Rbd { monitors: vec![], configuration: None, image: "vms/web".into(), snapshot: None, login: None };
        assert_eq!(read("<source protocol='rbd' name='vms/web'/>"), Some(Connection::Rbd(bare.clone())));
        let full = Rbd {
            monitors: vec!["192.0.2.1:6789".into(), "[2001:db8::1]:3300".into(), "mon.example.org:6789".into()],
            configuration: Some("/etc/ceph/b.conf".into()),
            snapshot: Some("nightly".into()),
            login: Some(Login { user: "libvirt".into(), secret: SecretName::Uuid(UUID) }),
            ..bare
        };
        let auth = format!("<auth username='libvirt'><secret type='ceph' uuid='{UUID}'/></auth>");
        let source = "<host name='192.0.2.1'/><host name='2001:db8::1' port='3300'/>
            <host name='mon.example.org' port='6789'/><snapshot name='nightly'/><config file='/etc/ceph/b.conf'/>";
        let inside = read(&format!("<source protocol='rbd' name='vms/web'>{source}{auth}</source>"));
        assert_eq!(inside, Some(Connection::Rbd(full)));
        assert_eq!(inside, read(&format!("{auth}<source protocol='rbd' name='vms/web'>{source}</source>")));
    }

    #[test]
    fn reads_a_lun_of_an_iscsi_target() {
        let source = "<source protocol='iscsi' name='iqn.2026-11.org.example:a/3'><host name='::1'/>
            <initiator><iqn name='iqn.2026-11.org.example:i'/></initiator>
            <auth username='u'><secret type='iscsi' usage='san'/></auth></source>";
        let lun = Iscsi {
            portals: vec!["[::1]:3260".into()],
            target: "iqn.2026-11.org.example:a".into(),
            lun: 3,
            initiator: Some("iqn.2026-11.org.example:i".into()),
            login: Some(Login { user: "u".into(), secret: SecretName::Usage("san".into()) }),
        };
        assert_eq!(read(source), Some(Connection::Iscsi(lun)));
        let Some(Connection::Iscsi(bare)) = read(
            "<source protocol='iscsi' name='iqn.2026-11.org.example:a'><host name='192.0.2.1' port='3261'/></source>",
        ) else {
            panic!("no LUN")
        };
        assert_eq!((bare.lun, bare.portals), (0, vec!["192.0.2.1:3261".to_owned()]));
    }

    #[test]
    fn what_nobody_could_open_is_no_volume() {
        let portal = "<host name='192.0.2.1'/>";
        for source in [
            "<source protocol='nbd' name='a'><host name='192.0.2.1'/></source>".to_owned(),
            "<source protocol='rbd'/>".to_owned(),
            "<source protocol='rbd' name=''/>".to_owned(),
            "<source protocol='rbd' name='a/b'><host name='a' port='high'/></source>".to_owned(),
            "<source protocol='rbd' name='a/b'><host transport='unix' socket='/run/a'/></source>".to_owned(),
            "<source protocol='rbd' name='a/b'><host name='a,b'/></source>".to_owned(),
            "<source protocol='iscsi' name='iqn.a/1'><host name='user@a'/></source>".to_owned(),
            "<source protocol='rbd' name='a/b'><auth username='u'/></source>".to_owned(),
            "<source protocol='rbd' name='a/b'><auth username='u'><secret uuid='1'/></auth></source>".to_owned(),
            "<source protocol='iscsi' name='iqn.a/1'/>".to_owned(),
            format!("<source protocol='iscsi' name='/1'>{portal}</source>"),
            format!("<source protocol='iscsi' name='iqn.a/65536'>{portal}</source>"),
            format!("<source protocol='iscsi' name='iqn.a/-1'>{portal}</source>"),
        ] {
            assert_eq!(read(&source), None, "{source}");
        }
    }
}
