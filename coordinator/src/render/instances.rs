//! Instances: the list, and one of them.

use std::collections::HashMap;

use serde::Serialize;
use vmferry_core::{
    affinity::Membership,
    agent::CallError,
    id::HostName,
    instance::{Disk, Instance, Vif},
};

use super::{
    Unreachable, affinity,
    limits::{self, LimitsDocument},
    table::{facts, table},
    units::bytes,
    volumes,
};

/// Which zone a host is in, as far as it is known.
pub(crate) type Zones = HashMap<HostName, String>;

/// A row per guest.
pub(crate) fn list(guests: &[Instance], zones: &Zones) -> String {
    table(
        ["NAME", "STATE", "HOST", "ZONE", "VCPUS", "MEMORY", "UUID"],
        guests.iter().map(|guest| {
            [
                guest.name.clone(),
                guest.state.to_string(),
                guest.host.to_string(),
                zone(guest, zones),
                guest.vcpus.to_string(),
                bytes(guest.memory),
                guest.id.to_string(),
            ]
        }),
    )
}

/// Everything about one.
pub(crate) fn show(guest: &Instance, zones: &Zones) -> String {
    let mut rows = vec![
        ("name", guest.name.clone()),
        ("uuid", guest.id.to_string()),
        ("state", guest.state.to_string()),
        ("host", guest.host.to_string()),
        ("zone", zone(guest, zones)),
        ("vcpus", guest.vcpus.to_string()),
        ("memory", bytes(guest.memory)),
        ("persistent", if guest.persistent { "yes" } else { "no, it vanishes when it stops" }.into()),
        ("migration", guest.migration.map_or("none".into(), |id| id.to_string())),
    ];
    rows.extend(guest.disks.iter().map(|disk| ("disk", disk_text(disk))));
    rows.extend(guest.vifs.iter().map(|vif| ("vif", vif_text(vif))));
    rows.extend(limits::line(&guest.limits).map(|line| ("limits", line)));
    rows.extend(affinity::line(&guest.affinity).map(|line| ("affinity", line)));
    rows.extend(guest.problems.iter().map(|problem| ("problem", problem.clone())));
    facts(rows)
}

fn zone(guest: &Instance, zones: &Zones) -> String {
    zones.get(&guest.host).cloned().unwrap_or_else(|| "-".into())
}

fn disk_text(disk: &Disk) -> String {
    let read_only = if disk.read_only { " (read-only)" } else { "" };
    let volume = disk.volume.as_ref().map(|volume| format!("; {}", volumes::text(volume))).unwrap_or_default();
    format!("{} {}{read_only}{volume}", disk.target, disk.source)
}

fn vif_text(vif: &Vif) -> String {
    let network = vif.network.as_ref().map(|network| format!(", network {network}")).unwrap_or_default();
    let policy = if vif.policy.is_some() { "; filtered" } else { "" };
    format!("{} {}{network} ({}){policy}", vif.mac, vif.attachment, vif.model)
}

#[derive(Serialize)]
struct InstanceDocument<'a> {
    id: String,
    name: &'a str,
    state: String,
    host: &'a str,
    /// `null`: the host did not say.
    zone: Option<&'a str>,
    vcpus: u32,
    memory_bytes: u64,
    persistent: bool,
    /// `null`: no migration moves it.
    migration_id: Option<String>,
    disks: &'a [Disk],
    vifs: &'a [Vif],
    /// What is wrong with the definition.
    problems: &'a [String],
    /// What its live migrations may cost it.
    limits: LimitsDocument<'a>,
    /// The affinity groups that it is in.
    affinity: &'a [Membership],
}

impl<'a> InstanceDocument<'a> {
    fn new(guest: &'a Instance, zones: &'a Zones) -> Self {
        Self {
            id: guest.id.to_string(),
            name: &guest.name,
            state: guest.state.to_string(),
            host: guest.host.as_str(),
            zone: zones.get(&guest.host).map(String::as_str),
            vcpus: guest.vcpus,
            memory_bytes: guest.memory.as_u64(),
            persistent: guest.persistent,
            migration_id: guest.migration.map(|id| id.to_string()),
            disks: &guest.disks,
            vifs: &guest.vifs,
            problems: &guest.problems,
            limits: (&guest.limits).into(),
            affinity: &guest.affinity,
        }
    }
}

/// `{"instances": […], "unreachable": […]}`
pub(crate) fn list_document<'a>(
    guests: &'a [Instance],
    zones: &'a Zones,
    silent: &'a [CallError],
) -> impl Serialize + use<'a> {
    #[derive(Serialize)]
    struct Document<'a> {
        instances: Vec<InstanceDocument<'a>>,
        unreachable: Vec<Unreachable<'a>>,
    }
    Document {
        instances: guests.iter().map(|guest| InstanceDocument::new(guest, zones)).collect(),
        unreachable: silent.iter().map(Into::into).collect(),
    }
}

/// The instance's own document.
pub(crate) fn show_document<'a>(guest: &'a Instance, zones: &'a Zones) -> impl Serialize + use<'a> {
    InstanceDocument::new(guest, zones)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytesize::ByteSize;
    use vmferry_core::{
        affinity::AffinityPolicy,
        convergence::{GuestLimits, May},
        instance::{DiskDevice, DiskSource, InstanceState, VifAttachment},
    };

    use super::*;

    fn guest() -> (Instance, Zones) {
        let host: HostName = "node-28".parse().expect("valid");
        let guest = Instance {
            id: "ed831ace-39ef-4960-8bae-a035d292c305".parse().expect("valid"),
            name: "web".into(),
            state: InstanceState::Active,
            host: host.clone(),
            memory: ByteSize::mib(256),
            vcpus: 2,
            persistent: true,
            disks: vec![Disk {
                target: "sda".into(),
                device: DiskDevice::Cdrom,
                source: DiskSource::File { path: "/var/lib/seed.iso".into() },
                read_only: true,
                volume: None,
            }],
            vifs: vec![Vif {
                mac: "52:54:00:00:00:01".into(),
                attachment: VifAttachment::Bridge { bridge: "br0".into() },
                model: "virtio".into(),
                network: None,
                policy: None,
                tap: None,
                vlan: None,
                mtu: None,
            }],
            migration: None,
            problems: vec![],
            limits: GuestLimits {
                max_downtime: Some(Duration::from_millis(200)),
                postcopy: Some(May::Never),
                ..GuestLimits::default()
            },
            affinity: vec![Membership { group: "db".parse().expect("valid"), policy: AffinityPolicy::AntiAffinity }],
        };
        (guest, Zones::from([(host, "nova".to_owned())]))
    }

    #[test]
    fn the_list() {
        let (guest, zones) = guest();
        insta::assert_snapshot!(list(&[guest], &zones), @"
        NAME  STATE   HOST     ZONE  VCPUS  MEMORY     UUID
        web   ACTIVE  node-28  nova  2      256.0 MiB  ed831ace-39ef-4960-8bae-a035d292c305
        ");
    }

    #[test]
    fn one() {
        let (guest, zones) = guest();
        insta::assert_snapshot!(show(&guest, &zones), @"
        name        web
        uuid        ed831ace-39ef-4960-8bae-a035d292c305
        state       ACTIVE
        host        node-28
        zone        nova
        vcpus       2
        memory      256.0 MiB
        persistent  yes
        migration   none
        disk        sda /var/lib/seed.iso (read-only)
        vif         52:54:00:00:00:01 bridge br0 (virtio)
        limits      stands still for 200ms at most, postcopy never
        affinity    db (anti-affinity)
        ");
        insta::assert_snapshot!(crate::render::json(&show_document(&guest, &zones)), @r#"
        {
          "id": "ed831ace-39ef-4960-8bae-a035d292c305",
          "name": "web",
          "state": "ACTIVE",
          "host": "node-28",
          "zone": "nova",
          "vcpus": 2,
          "memory_bytes": 268435456,
          "persistent": true,
          "migration_id": null,
          "disks": [
            {
              "target": "sda",
              "device": "cdrom",
              "source": {
                "type": "file",
                "path": "/var/lib/seed.iso"
              },
              "read_only": true,
              "volume": null
            }
          ],
          "vifs": [
            {
              "mac": "52:54:00:00:00:01",
              "attachment": {
                "type": "bridge",
                "bridge": "br0"
              },
              "model": "virtio",
              "network": null,
              "policy": null,
              "tap": null,
              "vlan": null,
              "mtu": null
            }
          ],
          "problems": [],
          "limits": {
            "policy": null,
            "max_downtime_ms": 200,
            "postcopy": "never",
            "suspend": null
          },
          "affinity": [
            {
              "group": "db",
              "policy": "anti-affinity"
            }
          ]
        }
        "#);
    }
}
