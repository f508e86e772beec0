//! Volumes: the list, and the one behind a disk.

use serde::Serialize;
use vmferry_core::{
    agent::CallError,
    instance::{Disk, Instance, VolumeAttachment},
    volume::{Attachment, Connection},
};

use super::{Unreachable, table::table, units::bytes};

/// What is attached to a guest is in use; others no host knows of.
const STATUS: &str = "in-use";

/// A row per volume.
pub(crate) fn list(guests: &[Instance]) -> String {
    let header =
        ["ID", "STATUS", "DISPLAY NAME", "SIZE", "PROTOCOL", "BOOTABLE", "ATTACHED TO", "TARGET", "HOST", "INSTANCE"];
    let unless_unknown = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    table(
        header,
        volumes(guests).map(|(guest, disk, volume)| {
            [
                unless_unknown(volume.id.clone()),
                STATUS.to_owned(),
                unless_unknown(volume.name.clone()),
                unless_unknown(volume.size.map(bytes)),
                protocol(volume).unwrap_or("-").to_owned(),
                unless_unknown(volume.bootable.map(|bootable| bootable.to_string())),
                guest.name.clone(),
                disk.target.clone(),
                guest.host.to_string(),
                guest.id.to_string(),
            ]
        }),
    )
}

/// What is known of it, for behind a disk: `volume 5a27 (data), 1.0 GiB, iscsi:iqn…/3 by the host from 192.0.2.1:3260`.
pub(super) fn text(volume: &VolumeAttachment) -> String {
    let mut words = "volume".to_owned();
    if let Some(id) = &volume.id {
        words += &format!(" {id}");
    }
    if let Some(name) = &volume.name {
        words += &format!(" ({name})");
    }
    words += &volume.size.map(|size| format!(", {}", bytes(size))).unwrap_or_default();
    if volume.bootable == Some(true) {
        words += ", bootable";
    }
    if let Some(connection) = &volume.connection {
        let whose = match volume.attachment {
            Some(Attachment::ByHost) => " attached by the host",
            Some(Attachment::ByQemu) => " opened by QEMU",
            None => "",
        };
        words += &format!(", {connection}{whose}, at {}", connection.addresses());
        words += &connection.login().map(|login| format!(" as {}", login.user)).unwrap_or_default();
    }
    words
}

fn volumes(guests: &[Instance]) -> impl Iterator<Item = (&Instance, &Disk, &VolumeAttachment)> {
    guests.iter().flat_map(|guest| {
        guest.disks.iter().filter_map(move |disk| disk.volume.as_ref().map(|volume| (guest, disk, volume)))
    })
}

fn protocol(volume: &VolumeAttachment) -> Option<&'static str> {
    volume.connection.as_ref().map(|connection| match connection {
        Connection::Rbd(_) => "rbd",
        Connection::Iscsi(_) => "iscsi",
    })
}

/// `{"volumes": […], "unreachable": […]}`
pub(crate) fn list_document<'a>(guests: &'a [Instance], silent: &'a [CallError]) -> impl Serialize + use<'a> {
    #[derive(Serialize)]
    struct Document<'a> {
        volumes: Vec<Row<'a>>,
        unreachable: Vec<Unreachable<'a>>,
    }
    #[derive(Serialize)]
    struct Row<'a> {
        /// `null`, here and below: nobody has said.
        id: Option<&'a str>,
        status: &'static str,
        name: Option<&'a str>,
        size_bytes: Option<u64>,
        protocol: Option<&'static str>,
        bootable: Option<bool>,
        instance_id: String,
        instance_name: &'a str,
        target: &'a str,
        host: &'a str,
        /// `by_qemu` or `by_host`
        attachment: Option<Attachment>,
        connection: Option<&'a Connection>,
    }
    let row = |(guest, disk, volume): (&'a Instance, &'a Disk, &'a VolumeAttachment)| Row {
        id: volume.id.as_deref(),
        status: STATUS,
        name: volume.name.as_deref(),
        size_bytes: volume.size.map(|size| size.as_u64()),
        protocol: protocol(volume),
        bootable: volume.bootable,
        instance_id: guest.id.to_string(),
        instance_name: &guest.name,
        target: &disk.target,
        host: guest.host.as_str(),
        attachment: volume.attachment,
        connection: volume.connection.as_ref(),
    };
    Document { volumes: volumes(guests).map(row).collect(), unreachable: silent.iter().map(Into::into).collect() }
}

#[cfg(test)]
mod tests;
