use quick_xml::events::attributes::Attribute;
use roxmltree::Node;

use super::{Error, Place, Relocation, Splice};
use crate::{
    domain_xml::{
        child,
        metadata::interfaces::{self, InterfaceLabel},
    },
    network::LinkName,
};

/// The vif with this MAC address, if there is exactly one.
pub(super) fn find<'a, 'd>(domain: Node<'a, 'd>, mac: &str) -> Option<Node<'a, 'd>> {
    let vifs = child(domain, "devices")?.children().filter(|node| node.has_tag_name("interface"));
    let mut found = vifs.filter(|vif| child(*vif, "mac").and_then(|node| node.attribute("address")) == Some(mac));
    found.next().filter(|_| found.next().is_none())
}

/// On a Linux bridge it needs no words for another kind of switch.
pub(super) fn splices(
    vif: Node<'_, '_>,
    mac: &str,
    bridge: &LinkName,
    tap: Option<&LinkName>,
) -> Result<Vec<Splice>, Error> {
    let source = child(vif, "source").filter(|_| vif.attribute("type") == Some("bridge"));
    let named = source.and_then(|source| Some((source, source.attribute_node("bridge")?)));
    let (source, name) =
        named.ok_or_else(|| Error::OtherKind { target: mac.to_owned(), wanted: "a vif on a bridge" })?;
    let mut splices =
        vec![Splice { at: name.range_value(), text: Attribute::from(("", bridge.as_str())).value.into_owned() }];
    // On the same bridge it is plugged in as it was.
    let stays = name.value() == bridge.as_str();
    let gone = ["virtualport", "vlan"].into_iter().filter(|_| !stays).chain(["target"]);
    for gone in gone.filter_map(|name| child(vif, name)) {
        splices.push(Splice { at: gone.range(), text: String::new() });
    }
    if let Some(tap) = tap {
        let end = source.range().end;
        splices.push(Splice { at: end..end, text: format!("<target dev='{tap}'/>") });
    }
    Ok(splices)
}

/// The logical networks that are known now, for whoever moves the guest next.
pub(super) fn metadata(domain: Node<'_, '_>, changes: &[Relocation]) -> Result<Option<Splice>, Error> {
    let mut labels = interfaces::read(domain)?;
    let before = labels.clone();
    for change in changes {
        let Place::Bridge { network: Some(network), .. } = &change.place else { continue };
        let Ok(mac) = change.target.parse() else { continue };
        match labels.iter_mut().find(|label| label.mac == mac) {
            Some(label) => label.network = Some(network.clone()),
            None => labels.push(InterfaceLabel { mac, network: Some(network.clone()), policy: None }),
        }
    }
    if labels == before {
        return Ok(None);
    }
    let text = interfaces::write(&labels);
    Ok(Some(match (interfaces::list(domain), child(domain, "metadata"), child(domain, "devices")) {
        (Some(list), _, _) => Splice { at: list.range(), text },
        (None, Some(metadata), _) => match metadata.first_child() {
            Some(first) => Splice { at: first.range().start..first.range().start, text },
            None => Splice { at: metadata.range(), text: format!("<metadata>{text}</metadata>") },
        },
        (None, None, Some(devices)) => {
            let start = devices.range().start;
            Splice { at: start..start, text: format!("<metadata>{text}</metadata>") }
        }
        (None, None, None) => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::rewrite;
    use super::*;
    use crate::{
        domain_xml::{Definition, parse},
        instance::VifAttachment,
    };

    const MAC: &str = "52:54:00:a0:00:01";

    fn domain(metadata: &str, vif: &str) -> String {
        format!(
            "<domain type='kvm'>\n  <name>web</name><uuid>ed831ace-39ef-4960-8bae-a035d292c305</uuid>\n  \
             <memory>1024</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>\n  {metadata}\
             <devices>\n    <interface type='bridge'>\n      <mac address='{MAC}'/>\n{vif}      <model type='virtio'/>\n\
             <address type='pci' slot='0x03'/></interface></devices>\n</domain>"
        )
    }

    fn to(bridge: &str, tap: Option<&str>, network: Option<&str>) -> [Relocation; 1] {
        let place = Place::Bridge {
            bridge: bridge.parse().expect("valid"),
            tap: tap.map(|tap| tap.parse().expect("valid")),
            network: network.map(|network| network.parse().expect("valid")),
        };
        [Relocation { target: MAC.into(), place }]
    }

    #[test]
    fn only_what_a_vif_is_plugged_into_changes() {
        let before = domain("", "<source bridge='br0'/>\n");
        assert_eq!(rewrite(&before, &to("br1", None, None)), Ok(domain("", "<source bridge='br1'/>\n")));
        let named = domain("", "<source bridge='br1'/><target dev='vmft'/>\n");
        assert_eq!(rewrite(&before, &to("br1", Some("vmft"), None)), Ok(named));
        let switched = domain(
            "",
            "<source bridge='br-int'></source><vlan><tag id='7'/></vlan><virtualport type='openvswitch'><parameters \
             interfaceid='x'/></virtualport><target dev='vmf0'/>\n",
        );
        let after = domain("", "<source bridge='br1'></source><target dev='vmf1'/>\n");
        assert_eq!(rewrite(&switched, &to("br1", Some("vmf1"), None)), Ok(after));
    }

    #[test]
    fn the_logical_network_is_known_from_then_on() {
        let policy = "<v:policy><v:address>192.0.2.7</v:address></v:policy>";
        let labelled = format!(
            "<metadata><o:x xmlns:o='urn:o'/><v:interfaces xmlns:v='{}'><v:interface mac='{MAC}'>{policy}</v:interface>\
             </v:interfaces></metadata>",
            interfaces::NAMESPACE
        );
        for metadata in ["", "<metadata/>", "<metadata><o:x xmlns:o='urn:o'/></metadata>", &labelled] {
            let before = domain(metadata, "<source bridge='br0'/>\n");
            let after = rewrite(&before, &to("br1", None, Some("blue"))).expect("rewritten");
            let vif = Definition::parse(&after).expect("valid").vifs.remove(0);
            assert_eq!(vif.network.as_ref().map(|name| name.as_str()), Some("blue"), "{after}");
            assert_eq!(vif.attachment, VifAttachment::Bridge { bridge: "br1".into() });
            assert_eq!(vif.policy.is_some(), metadata == labelled);
            assert_eq!(after.contains("urn:o"), metadata.contains("urn:o"));
            assert_eq!(rewrite(&after, &to("br1", None, Some("blue"))), Ok(after.clone()), "once is enough");
            parse(&after).expect("well-formed");
        }
    }

    #[test]
    fn what_is_on_no_bridge_is_left_alone() {
        let told = |xml: &str| rewrite(xml, &to("br1", None, None)).expect_err("refused").to_string();
        let network = domain("", "<source network='default'/>\n").replace("type='bridge'", "type='network'");
        assert!(told(&network).contains("is not a vif on a bridge"));
        assert!(told(&domain("", "").replace(MAC, "52:54:00:a0:00:02")).contains("one disk or vif 52:54:00:a0:00:01"));
        let unreadable = format!(
            "<metadata><v:interfaces xmlns:v='{}'><v:interface/></v:interfaces></metadata>",
            interfaces::NAMESPACE
        );
        assert!(told(&domain(&unreadable, "<source bridge='br0'/>")).contains("no valid MAC address"));
    }
}
