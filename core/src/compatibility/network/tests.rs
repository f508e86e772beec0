use super::*;
use crate::{
    compatibility::tests::{destination, leaving_guest, refused},
    domain_xml::metadata::interfaces::InterfaceLabel,
    network::{Carrier, Network},
};

fn network(hindrances: Vec<Hindrance>) -> Option<(Network, Carried)> {
    let carrier = Carrier::Bridge { bridge: "br-blue".parse().expect("valid") };
    Some((Network { name: "blue".parse().expect("valid"), carrier, mtu: None }, Carried { mtu: 1500, hindrances }))
}

/// The guest's vif after this, and what the destination says of it.
fn refused_with(change: impl Fn(&mut Vif), sight: VifSight) -> Vec<Reason> {
    let mut leaving = leaving_guest();
    let vif = &mut leaving.definition.vifs[0];
    change(vif);
    let mac = vif.mac.parse().expect("valid");
    leaving.definition.interfaces = Ok(vec![InterfaceLabel { mac, network: vif.network.clone(), policy: None }]);
    let facts = DestinationFacts { vifs: vec![sight], bridges: vec!["br0".into()], ..destination() };
    refused(&super::super::arriving(&facts, &leaving))
}

fn on_blue(vif: &mut Vif) {
    vif.network = Some("blue".parse().expect("valid"));
}

#[test]
fn a_bridge_of_the_same_name_will_do_where_nobody_has_said_more() {
    assert_eq!(refused_with(|_| (), VifSight::default()), []);
    let elsewhere = |vif: &mut Vif| vif.attachment = VifAttachment::Bridge { bridge: "br9".into() };
    assert_eq!(refused_with(elsewhere, VifSight::default()), [Reason::NetworkMissing]);
    let jumbo = |vif: &mut Vif| vif.mtu = Some(9000);
    let with = |mtu| VifSight { bridge_mtu: Some(mtu), ..VifSight::default() };
    assert_eq!(refused_with(jumbo, with(1500)), [Reason::MtuTooSmall]);
    assert_eq!(refused_with(jumbo, with(9000)), []);
}

#[test]
fn a_network_is_found_by_its_name_whatever_the_bridge_is_called() {
    let known = |hindrances| VifSight { network: network(hindrances), ..VifSight::default() };
    let renamed = |vif: &mut Vif| {
        on_blue(vif);
        vif.attachment = VifAttachment::Bridge { bridge: "br-elsewhere".into() };
    };
    assert_eq!(refused_with(renamed, known(vec![])), []);
    assert_eq!(refused_with(on_blue, VifSight::default()), [Reason::NetworkMissing], "no network of that name");
    // Only the source's configuration calls it so: here the bridge has no name but its own.
    let mut inferred = leaving_guest();
    on_blue(&mut inferred.definition.vifs[0]);
    assert_eq!(refused(&super::super::arriving(&destination(), &inferred)), []);
    let link = "br-blue".parse().expect("valid");
    let hindrances = vec![
        Hindrance::LinkMissing { link },
        Hindrance::MtuTooSmall { network: "blue".parse().expect("valid"), mtu: 1450, needed: 1500 },
    ];
    assert_eq!(refused_with(on_blue, known(hindrances)), [Reason::NetworkMissing, Reason::MtuTooSmall], "all at once");
    let of_libvirt = |vif: &mut Vif| {
        on_blue(vif);
        vif.attachment = VifAttachment::Network { network: "default".into() };
    };
    assert_eq!(refused_with(of_libvirt, known(vec![])), [Reason::NetworkMissing]);
}

#[test]
fn what_must_be_filtered_goes_nowhere_without_filters() {
    let filtered = |vif: &mut Vif| vif.policy = Some(Policy::default());
    let mut leaving = leaving_guest();
    let facts = DestinationFacts { firewall: Some("nft is not there".into()), ..destination() };
    assert_eq!(refused(&super::super::arriving(&facts, &leaving)), []);
    filtered(&mut leaving.definition.vifs[0]);
    assert_eq!(refused(&super::super::arriving(&facts, &leaving)), [Reason::FirewallMissing]);
    assert_eq!(refused_with(filtered, VifSight::default()), []);
}

#[test]
fn two_guests_of_one_address_do_not_meet() {
    let mac = VifSight { same_mac: Some("other".into()), ..VifSight::default() };
    assert_eq!(refused_with(|_| (), mac), [Reason::MacInUse]);
    let address = "192.0.2.7".parse().expect("valid");
    let address = VifSight { same_address: Some((address, "other".into())), ..VifSight::default() };
    assert_eq!(refused_with(|_| (), address), [Reason::AddressInUse]);
}
