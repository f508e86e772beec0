//! `vmferry instance policy` and `vmferry instance network`

use vmferry_core::{
    domain_xml::metadata::interfaces::InterfaceLabel,
    instance::{Instance, Vif},
    policy::Policy,
};

use super::{Session, groups};
use crate::{
    cli::{self, SetNetwork, SetPolicy, UnsetPolicy, WhichVif},
    exit::{Exit, Failed},
    render::{
        instances::{Zones, show, show_document},
        policy,
    },
};

/// What each vif may send and receive.
pub(crate) async fn show_policies(session: &Session, wanted: &cli::Which) -> Result<Exit, Failed> {
    let (guest, _, silent) = session.instance(&wanted.instance, wanted.from.as_ref()).await?;
    session.terminal.show(|| policy::show(&guest), &policy::document(&guest))?;
    session.warn_of(&silent);
    Ok(Exit::Done)
}

/// Says what a vif may send and receive.
pub(crate) async fn set_policy(session: &Session, args: &SetPolicy) -> Result<Exit, Failed> {
    let rules = args.ingress.iter().chain(&args.egress).cloned().collect();
    let policy = Policy {
        addresses: args.addresses.iter().copied().collect(),
        groups: args.groups.iter().cloned().collect(),
        rules,
    };
    change(session, &args.vif, |label| label.policy = Some(policy)).await
}

/// Lets a vif send and receive anything again.
pub(crate) async fn unset_policy(session: &Session, args: &UnsetPolicy) -> Result<Exit, Failed> {
    if !args.all {
        return change(session, &args.vif, |label| label.policy = None).await;
    }
    session.may_coordinate()?;
    let cli::Which { instance, from } = &args.vif.instance;
    let (guest, zones, _) = session.instance(instance, from.as_ref()).await?;
    // What cannot be read may have been about groups.
    let concerned = !guest.problems.is_empty()
        || guest.vifs.iter().filter_map(|vif| vif.policy.as_ref()).any(Policy::concerns_groups);
    let changed = session.fleet.agent(&guest.host)?.set_vif_label(guest.id, None).await;
    if concerned {
        groups::spread_change(session).await;
    }
    tell(session, &changed?, &zones)
}

/// Says which logical network a vif is on.
pub(crate) async fn set_network(session: &Session, args: &SetNetwork) -> Result<Exit, Failed> {
    change(session, &args.vif, |label| label.network = Some(args.network.clone())).await
}

/// Forgets which logical network a vif is on.
pub(crate) async fn unset_network(session: &Session, args: &WhichVif) -> Result<Exit, Failed> {
    change(session, args, |label| label.network = None).await
}

async fn change(
    session: &Session,
    wanted: &WhichVif,
    change: impl FnOnce(&mut InterfaceLabel),
) -> Result<Exit, Failed> {
    session.may_coordinate()?;
    let cli::Which { instance, from } = &wanted.instance;
    let (guest, zones, _) = session.instance(instance, from.as_ref()).await?;
    let mut label = said(&guest, wanted.mac.as_deref())?;
    let before = label.policy.clone();
    change(&mut label);
    let concerned = [&before, &label.policy].into_iter().flatten().any(Policy::concerns_groups);
    let changed = session.fleet.agent(&guest.host)?.set_vif_label(guest.id, Some(label)).await;
    // Also after an error: it may have been changed all the same.
    if concerned {
        groups::spread_change(session).await;
    }
    tell(session, &changed?, &zones)
}

/// What is said of the vif that is meant.
fn said(guest: &Instance, mac: Option<&str>) -> Result<InterfaceLabel, Failed> {
    let name = &guest.name;
    let known = || guest.vifs.iter().map(|vif| vif.mac.as_str()).collect::<Vec<_>>().join(", ");
    let vif: &Vif = match (mac, &guest.vifs[..]) {
        (Some(mac), vifs) => vifs
            .iter()
            .find(|vif| vif.mac.eq_ignore_ascii_case(mac))
            .ok_or_else(|| Failed::usage(format!("{name} has no vif {mac}; it has {}", known())))?,
        (None, [vif]) => vif,
        (None, []) => return Err(Failed::usage(format!("{name} has no vif"))),
        (None, _) => return Err(Failed::usage(format!("{name} has several vifs: name one of {} with --vif", known()))),
    };
    let mac = vif.mac.parse().map_err(|_| Failed::usage(format!("{name} has a vif with no valid MAC address")))?;
    Ok(InterfaceLabel { mac, network: vif.network.clone(), policy: vif.policy.clone() })
}

fn tell(session: &Session, guest: &Instance, zones: &Zones) -> Result<Exit, Failed> {
    session.terminal.show(|| show(guest, zones), &show_document(guest, zones))?;
    Ok(Exit::Done)
}
