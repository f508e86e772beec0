use quick_xml::{
    Writer,
    events::{BytesStart, BytesText, Event},
};

use super::{NAMESPACE, VolumeLabel};
use crate::volume::{Connection, Login, SecretName};

type Attributes<'a> = Vec<(&'a str, &'a str)>;

pub(super) struct Xml {
    writer: Writer<Vec<u8>>,
    prefix: &'static str,
}

impl Xml {
    /// Nothing yet; every element's name gets the prefix.
    pub(super) fn new(prefix: &'static str) -> Self {
        Self { writer: Writer::new(Vec::new()), prefix }
    }

    /// What was written.
    pub(super) fn finish(self) -> String {
        String::from_utf8(self.writer.into_inner()).expect("made of strings")
    }
}

/// The element that says all this, to be put into `<metadata>`, where it must be the only one of its namespace.
///
/// Characters that no XML can hold, all of them control characters, are left out.
pub fn write(labels: &[VolumeLabel]) -> String {
    volumes("vmferry:", vec![("xmlns:vmferry", NAMESPACE)], labels)
}

/// The same for `virDomainSetMetadata`, which puts the namespace in by itself.
pub(super) fn write_bare(labels: &[VolumeLabel]) -> String {
    volumes("", vec![], labels)
}

fn volumes(prefix: &'static str, namespace: Attributes<'_>, labels: &[VolumeLabel]) -> String {
    let mut xml = Xml::new(prefix);
    element(&mut xml, "volumes", namespace, |xml| {
        labels.iter().for_each(|label| volume(xml, label));
    });
    xml.finish()
}

fn volume(xml: &mut Xml, label: &VolumeLabel) {
    let mut attributes = vec![("target", label.target.as_str()), ("id", &label.id), ("name", &label.name)];
    if label.bootable {
        attributes.push(("bootable", "yes"));
    }
    element(xml, "volume", attributes, |xml| {
        if let Some(connection) = &label.connection {
            write_connection(xml, connection);
        }
    });
}

fn write_connection(xml: &mut Xml, connection: &Connection) {
    match connection {
        Connection::Rbd(rbd) => {
            let mut attributes = vec![("image", rbd.image.as_str())];
            attributes.extend(rbd.snapshot.as_deref().map(|snapshot| ("snapshot", snapshot)));
            attributes.extend(rbd.configuration.as_deref().map(|path| ("configuration", path)));
            element(xml, "rbd", attributes, |xml| inside(xml, "monitor", &rbd.monitors, rbd.login.as_ref()));
        }
        Connection::Iscsi(iscsi) => {
            let lun = iscsi.lun.to_string();
            let mut attributes = vec![("target", iscsi.target.as_str()), ("lun", &lun)];
            attributes.extend(iscsi.initiator.as_deref().map(|initiator| ("initiator", initiator)));
            element(xml, "iscsi", attributes, |xml| inside(xml, "portal", &iscsi.portals, iscsi.login.as_ref()));
        }
    }
}

fn inside(xml: &mut Xml, name: &str, addresses: &[String], login: Option<&Login>) {
    for address in addresses {
        element(xml, name, vec![("address", address)], |_| ());
    }
    if let Some(Login { user, secret }) = login {
        let value = secret.to_string();
        let kind = if matches!(secret, SecretName::Uuid(_)) { "uuid" } else { "usage" };
        element(xml, "auth", vec![("username", user), (kind, &value)], |_| ());
    }
}

pub(super) fn element(xml: &mut Xml, name: &str, attributes: Attributes<'_>, content: impl FnOnce(&mut Xml)) {
    let name = format!("{}{name}", xml.prefix);
    let mut start = BytesStart::new(&name);
    for (name, value) in attributes {
        start.push_attribute((name, writable(value).as_str()));
    }
    put(xml, Event::Start(start.borrow()));
    content(xml);
    put(xml, Event::End(start.to_end()));
}

pub(super) fn text(xml: &mut Xml, content: &str) {
    put(xml, Event::Text(BytesText::new(&writable(content))));
}

fn put(xml: &mut Xml, event: Event<'_>) {
    xml.writer.write_event(event).expect("writing to memory does not fail");
}

fn writable(value: &str) -> String {
    value.chars().filter(|c| super::super::is_xml(*c)).collect()
}
