//! What a domain's definition says of its vifs in an element of our own: the logical network that each is plugged into, and what
//! the guest may send and receive there.
//!
//! ```xml
//! <metadata>
//!   <vmferry:interfaces xmlns:vmferry="https://vmferry.org/xmlns/interfaces/1">
//!     <vmferry:interface mac="52:54:00:a0:00:01" network="blue">
//!       <vmferry:policy>
//!         <vmferry:address>192.0.2.7</vmferry:address>
//!         <vmferry:group>web</vmferry:group>
//!         <vmferry:rule direction="ingress">tcp:80-443@192.0.2.0/24</vmferry:rule>
//!       </vmferry:policy>
//!     </vmferry:interface>
//!   </vmferry:interfaces>
//! </metadata>
//! ```

use std::str::FromStr;

use macaddr::MacAddr6;
use roxmltree::Node;

use super::write::{Xml, element, text};
use crate::{
    domain_xml::child,
    network::NetworkName,
    policy::{Direction, Policy, Rule},
};

/// The element's namespace; libvirt's key to it in `virDomainSetMetadata`.
pub const NAMESPACE: &str = "https://vmferry.org/xmlns/interfaces/1";

/// What a domain's metadata say of a vif.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceLabel {
    /// The guest's MAC address.
    pub mac: MacAddr6,
    /// What it is plugged into, by the name that all hosts know it by.
    pub network: Option<NetworkName>,
    /// What it may send and receive. None: anything.
    pub policy: Option<Policy>,
}

/// Metadata that cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InterfaceError {
    /// An interface of nobody.
    #[error("an <interface> in the metadata has no valid MAC address: `{0}`")]
    Mac(String),
    /// Something is there that cannot be.
    #[error("the metadata of vif {mac} have {wanted} `{found}`: {why}")]
    Invalid {
        /// The vif.
        mac: String,
        /// Which value it is.
        wanted: &'static str,
        /// The value.
        found: String,
        /// What is wrong with it.
        why: String,
    },
    /// Two of one vif.
    #[error("the metadata describe vif {0} twice")]
    Twice(String),
}

/// Reads the labels of a `<domain>`. None is no error.
pub(in crate::domain_xml) fn read(domain: Node<'_, '_>) -> Result<Vec<InterfaceLabel>, InterfaceError> {
    let mut labels = Vec::<InterfaceLabel>::new();
    for node in list(domain).into_iter().flat_map(|list| elements(list, "interface")) {
        let label = read_label(node)?;
        if labels.iter().any(|other| other.mac == label.mac) {
            return Err(InterfaceError::Twice(written(label.mac)));
        }
        labels.push(label);
    }
    Ok(labels)
}

/// The element with all of them.
pub(in crate::domain_xml) fn list<'a, 'd>(domain: Node<'a, 'd>) -> Option<Node<'a, 'd>> {
    child(domain, "metadata")?.children().find(|node| node.has_tag_name((NAMESPACE, "interfaces")))
}

/// Children of ours. `virsh metadata --set` puts the outermost element alone into a namespace, so none will do.
fn elements<'a, 'd: 'a>(node: Node<'a, 'd>, name: &'static str) -> impl Iterator<Item = Node<'a, 'd>> {
    let ours = |child: &Node<'_, '_>| child.tag_name().namespace().is_none_or(|namespace| namespace == NAMESPACE);
    node.children().filter(move |child| child.tag_name().name() == name && ours(child))
}

fn read_label(node: Node<'_, '_>) -> Result<InterfaceLabel, InterfaceError> {
    let mac = node.attribute("mac").unwrap_or_default();
    let mac: MacAddr6 = mac.parse().map_err(|_| InterfaceError::Mac(mac.to_owned()))?;
    let network = node.attribute("network").map(|name| parsed(mac, "network", name)).transpose()?;
    let policy = elements(node, "policy").next().map(|policy| read_policy(mac, policy)).transpose()?;
    Ok(InterfaceLabel { mac, network, policy })
}

fn read_policy(mac: MacAddr6, node: Node<'_, '_>) -> Result<Policy, InterfaceError> {
    let content = |node: Node<'_, '_>| node.text().unwrap_or_default().trim().to_owned();
    let rule = |node: Node<'_, '_>| {
        let direction: Direction = parsed(mac, "direction", node.attribute("direction").unwrap_or_default())?;
        let text = content(node);
        Rule::parse(direction, &text).map_err(|error| invalid(mac, "rule", &text, &error))
    };
    Ok(Policy {
        addresses: elements(node, "address")
            .map(|node| parsed(mac, "address", &content(node)))
            .collect::<Result<_, _>>()?,
        groups: elements(node, "group").map(|node| parsed(mac, "group", &content(node))).collect::<Result<_, _>>()?,
        rules: elements(node, "rule").map(rule).collect::<Result<_, _>>()?,
    })
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(
    mac: MacAddr6,
    wanted: &'static str,
    text: &str,
) -> Result<T, InterfaceError> {
    text.parse().map_err(|error: T::Err| invalid(mac, wanted, text, &error))
}

fn invalid(mac: MacAddr6, wanted: &'static str, found: &str, why: &impl std::fmt::Display) -> InterfaceError {
    InterfaceError::Invalid { mac: written(mac), wanted, found: found.to_owned(), why: why.to_string() }
}

/// As libvirt writes it.
pub fn written(mac: MacAddr6) -> String {
    mac.to_string().to_lowercase()
}

/// The element that says all this, to be put into `<metadata>`, where it must be the only one of its namespace.
pub fn write(labels: &[InterfaceLabel]) -> String {
    interfaces("vmferry:", vec![("xmlns:vmferry", NAMESPACE)], labels)
}

/// The same for `virDomainSetMetadata`, which puts the namespace in by itself.
pub(super) fn write_bare(labels: &[InterfaceLabel]) -> String {
    interfaces("", vec![], labels)
}

fn interfaces(prefix: &'static str, namespace: Vec<(&str, &str)>, labels: &[InterfaceLabel]) -> String {
    let mut xml = Xml::new(prefix);
    element(&mut xml, "interfaces", namespace, |xml| {
        for InterfaceLabel { mac, network, policy } in labels {
            let mac = written(*mac);
            let mut attributes = vec![("mac", mac.as_str())];
            attributes.extend(network.as_ref().map(|network| ("network", network.as_str())));
            element(xml, "interface", attributes, |xml| {
                if let Some(policy) = policy {
                    element(xml, "policy", vec![], |xml| write_policy(xml, policy));
                }
            });
        }
    });
    xml.finish()
}

fn write_policy(xml: &mut Xml, Policy { addresses, groups, rules }: &Policy) {
    for address in addresses {
        element(xml, "address", vec![], |xml| text(xml, &address.to_string()));
    }
    for group in groups {
        element(xml, "group", vec![], |xml| text(xml, group.as_str()));
    }
    for rule in rules {
        let direction = rule.direction.to_string();
        element(xml, "rule", vec![("direction", &direction)], |xml| text(xml, &rule.allowed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain_xml::parse;

    fn label(last: u8) -> InterfaceLabel {
        let rules = [(Direction::Ingress, "tcp:80@group=web"), (Direction::Egress, "any@2001:db8::/32")];
        InterfaceLabel {
            mac: MacAddr6::new(0x52, 0x54, 0, 0xa0, 0, last),
            network: Some("blue".parse().expect("valid")),
            policy: Some(Policy {
                addresses: ["192.0.2.7", "2001:db8::7"].map(|text| text.parse().expect("valid")).into(),
                groups: ["web".parse().expect("valid")].into(),
                rules: rules.map(|(direction, text)| Rule::parse(direction, text).expect("valid")).into(),
            }),
        }
    }

    fn read_back(xml: &str) -> Result<Vec<InterfaceLabel>, InterfaceError> {
        let xml = format!("<domain><metadata>{xml}</metadata></domain>");
        read(parse(&xml).expect("well-formed").root_element())
    }

    #[test]
    fn labels_read_back_as_they_were_written() {
        let bare = InterfaceLabel { network: None, policy: None, ..label(2) };
        let labels = [label(1), bare, InterfaceLabel { policy: Some(Policy::default()), ..label(3) }];
        assert_eq!(read_back(&write(&labels)), Ok(labels.to_vec()));
        assert_eq!(read_back(""), Ok(vec![]));
    }

    #[test]
    fn what_cannot_be_is_told_with_its_vif() {
        let of = |inner: &str| {
            let xml = format!("<v:interfaces xmlns:v='{NAMESPACE}'>{inner}</v:interfaces>");
            read_back(&xml).expect_err("invalid").to_string()
        };
        assert!(of("<v:interface mac='52:54'/>").contains("no valid MAC address: `52:54`"));
        let inside = |inner: &str| of(&format!("<v:interface mac='52:54:00:A0:00:01'>{inner}</v:interface>"));
        let told = inside("<policy><address>192.0.2.300</address></policy>");
        assert!(told.starts_with("the metadata of vif 52:54:00:a0:00:01 have address `192.0.2.300`"), "{told}");
        assert!(inside("<policy><rule direction='in'>tcp</rule></policy>").contains("is no direction"));
        assert!(inside("<policy><rule direction='ingress'>tcp:0-70000</rule></policy>").contains("are no ports"));
        let one = "<v:interface mac='52:54:00:a0:00:01'/>";
        assert_eq!(of(&format!("{one}{one}")), "the metadata describe vif 52:54:00:a0:00:01 twice");
        assert!(of("<v:interface mac='52:54:00:a0:00:01' network='a b'/>").contains("have network `a b`"));
    }
}
