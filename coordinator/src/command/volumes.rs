//! `vmferry volumes`, `volumes set` and `volumes unset`

use vmferry_core::{
    domain_xml::metadata::VolumeLabel,
    instance::Instance,
    volume::{Connection, Iscsi, Login, Rbd, SecretName},
};

use super::Session;
use crate::{
    cli,
    exit::{Exit, Failed},
    find::guests,
    render::{
        instances::{Zones, show, show_document},
        volumes::{list, list_document},
    },
};

/// Lists the volumes of all instances, or of those on one host. A host that is down costs its own only.
pub(crate) async fn run(session: &Session, args: &cli::Volumes) -> Result<Exit, Failed> {
    let (instances, silent) = match &args.host {
        Some(host) => (session.fleet.agent(host)?.instances().await?, vec![]),
        None => {
            let (instances, _, silent) = session.instances().await?;
            (instances, silent)
        }
    };
    let mut guests = guests(instances);
    guests.sort_by(|a, b| (&a.name, a.id, &a.host).cmp(&(&b.name, b.id, &b.host)));
    session.terminal.show(|| list(&guests), &list_document(&guests, &silent))?;
    session.warn_of(&silent);
    Ok(Exit::Done)
}

/// Says what a disk is as a volume.
pub(crate) async fn set(session: &Session, args: &cli::Set) -> Result<Exit, Failed> {
    session.may_coordinate()?;
    let label = label(args);
    let (guest, zones, _) = session.instance(&args.instance, args.from.as_ref()).await?;
    let guest = session.fleet.agent(&guest.host)?.set_volume_label(guest.id, label).await?;
    tell(session, &guest, &zones)
}

/// Forgets what was said of a disk, or of all.
pub(crate) async fn unset(session: &Session, args: &cli::Unset) -> Result<Exit, Failed> {
    session.may_coordinate()?;
    let (guest, zones, _) = session.instance(&args.instance, args.from.as_ref()).await?;
    let target = args.target.as_deref().filter(|_| !args.all);
    let guest = session.fleet.agent(&guest.host)?.unset_volume_label(guest.id, target).await?;
    tell(session, &guest, &zones)
}

fn tell(session: &Session, guest: &Instance, zones: &Zones) -> Result<Exit, Failed> {
    session.terminal.show(|| show(guest, zones), &show_document(guest, zones))?;
    Ok(Exit::Done)
}

fn label(args: &cli::Set) -> VolumeLabel {
    let secret = |name: &String| name.parse().map_or_else(|_| SecretName::Usage(name.clone()), SecretName::Uuid);
    let login = args.user.clone().zip(args.secret.as_ref()).map(|(user, name)| Login { user, secret: secret(name) });
    let rbd = args.rbd.clone().map(|image| {
        let monitors = args.monitors.clone();
        Connection::Rbd(Rbd { monitors, configuration: None, image, snapshot: None, login: login.clone() })
    });
    let iscsi = args.iscsi_target.clone().zip(args.lun).map(|(target, lun)| {
        let (portals, initiator) = (args.portals.clone(), args.initiator.clone());
        Connection::Iscsi(Iscsi { portals, target, lun, initiator, login: login.clone() })
    });
    VolumeLabel {
        target: args.target.clone(),
        id: args.id.clone(),
        name: args.name.clone(),
        bootable: args.bootable,
        connection: rbd.or(iscsi),
    }
}
