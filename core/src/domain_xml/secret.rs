use quick_xml::{Writer, events::BytesText};
use roxmltree::Node;
use uuid::Uuid;

use super::{Error, child, is_xml, parse, text};

/// What a secret of libvirt opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SecretKind {
    /// A Ceph cluster: the value is the key, as bytes.
    Ceph,
    /// An iSCSI target: the value is the CHAP password.
    Iscsi,
}

impl SecretKind {
    /// libvirt's word and the element in which it names the usage.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Ceph => ("ceph", "name"),
            Self::Iscsi => ("iscsi", "target"),
        }
    }
}

/// A secret of libvirt, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretDefinition {
    /// Its UUID; none lets libvirt choose one.
    pub uuid: Option<Uuid>,
    /// What it opens; none of both is something else.
    pub kind: Option<SecretKind>,
    /// libvirt's second name of it, unique among those of its kind.
    pub usage: String,
    /// For people, and how we know our own.
    pub description: String,
    /// Whether libvirt shows its value to nobody.
    pub private: bool,
}

impl SecretDefinition {
    /// Reads what libvirt says of a secret.
    pub fn parse(xml: &str) -> Result<Self, Error> {
        let document = parse(xml)?;
        let secret = document.root_element();
        if !secret.has_tag_name("secret") {
            return Err(Error::Missing { parent: "document", wanted: "secret" });
        }
        let usage = child(secret, "usage");
        let is = |kind: &SecretKind| usage.and_then(|usage| usage.attribute("type")) == Some(kind.words().0);
        let kind = [SecretKind::Ceph, SecretKind::Iscsi].into_iter().find(is);
        let name = |usage: Node<'_, '_>| kind.and_then(|kind| text(usage, kind.words().1).map(str::to_owned));
        Ok(Self {
            uuid: text(secret, "uuid").and_then(|uuid| Uuid::parse_str(uuid).ok()),
            kind,
            usage: usage.and_then(name).unwrap_or_default(),
            description: text(secret, "description").unwrap_or_default().to_owned(),
            private: secret.attribute("private") == Some("yes"),
        })
    }

    /// The definition of one that libvirt keeps until it is told not to. Characters that no XML can hold are left out.
    ///
    /// Never ephemeral: libvirt forgets such a secret when it restarts, and the guest could then neither be started nor
    /// given another disk.
    pub fn to_xml(&self) -> String {
        let private = if self.private { "yes" } else { "no" };
        let mut xml = Writer::new(Vec::new());
        let secret = xml.create_element("secret").with_attributes([("ephemeral", "no"), ("private", private)]);
        let written = secret.write_inner_content(|xml| {
            if let Some(uuid) = self.uuid {
                xml.create_element("uuid").write_text_content(BytesText::new(&uuid.to_string()))?;
            }
            let description: String = self.description.chars().filter(|c| is_xml(*c)).collect();
            xml.create_element("description").write_text_content(BytesText::new(&description))?;
            let Some((kind, element)) = self.kind.map(SecretKind::words) else { return Ok(()) };
            xml.create_element("usage").with_attribute(("type", kind)).write_inner_content(|xml| {
                let usage: String = self.usage.chars().filter(|c| is_xml(*c)).collect();
                xml.create_element(element).write_text_content(BytesText::new(&usage)).map(drop)
            })?;
            Ok(())
        });
        written.map(drop).expect("writing to memory does not fail");
        String::from_utf8(xml.into_inner()).expect("made of strings")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_as_it_was_defined() {
        for (kind, private) in [(SecretKind::Ceph, true), (SecretKind::Iscsi, false)] {
            let secret = SecretDefinition {
                uuid: Some(Uuid::from_u128(7)),
                kind: Some(kind),
                usage: "a & <b>".into(),
                description: "it's ours".into(),
                private,
            };
            assert_eq!(SecretDefinition::parse(&secret.to_xml()), Ok(secret.clone()));
            let nameless = SecretDefinition { uuid: None, ..secret };
            assert_eq!(SecretDefinition::parse(&nameless.to_xml()), Ok(nameless));
        }
    }

    #[test]
    fn a_secret_for_something_else_is_none_of_both() {
        let volume = "<secret ephemeral='no' private='no'><uuid>2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01</uuid>
            <usage type='volume'><volume>/a.img</volume></usage></secret>";
        let secret = SecretDefinition::parse(volume).expect("valid");
        assert_eq!((secret.kind, secret.usage.as_str(), secret.private), (None, "", false));
        assert!(SecretDefinition::parse("<domain/>").is_err());
    }
}
