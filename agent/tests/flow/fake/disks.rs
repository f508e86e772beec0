//! A guest with a disk of each kind, and the steps on them.

use std::collections::BTreeMap;

use bytesize::ByteSize;
use tokio_util::sync::CancellationToken;
use vmferry_agent::hypervisor::{Fault, OnSent, Storage};
use vmferry_core::{
    agent::{Leaving, Sighting},
    disk::{File, Image, Probe, Room, Seen, SeenProbe, Shown, Sight, StaticImage, VolumeSight},
    domain_xml::rewrite::{Place, Relocation},
    id::MigrationId,
    migration::Order,
    reason::Reason,
    volume::{Connection, Found, Volume},
};

use super::{
    filter,
    host::Fake,
    network,
    world::{Facts, World},
};

pub(crate) const INSTANCE: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";

pub(super) const MAC: &str = "52:54:00:a0:00:01";

/// Shared, local on a local base, opened by QEMU, attached by the host; and a vif that is filtered twice.
pub(super) fn domain_xml() -> String {
    DOMAIN_XML.replace("BRIDGE", network::bridge().as_str())
}

const DOMAIN_XML: &str = "<domain type='qemu'><name>web</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>
  <memory unit='MiB'>256</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>
  <metadata><v:volumes xmlns:v='https://vmferry.org/xmlns/volumes/1'><v:volume target='vdd' id='d'>
    <v:iscsi target='iqn.d' lun='1'><v:portal address='192.0.2.1:3260'/></v:iscsi></v:volume></v:volumes>
    <v:interfaces xmlns:v='https://vmferry.org/xmlns/interfaces/1'><v:interface mac='52:54:00:a0:00:01' network='blue'>
    <v:policy><v:address>192.0.2.7</v:address><v:rule direction='ingress'>tcp@group=web</v:rule></v:policy>
    </v:interface></v:interfaces>
    <v:migration xmlns:v='https://vmferry.org/xmlns/migration/1' max-downtime='1s' postcopy='never'/></metadata>
  <devices>
  <disk type='file'><driver cache='none'/><source file='/srv/web.img'/><target dev='vda'/></disk>
  <disk type='file'><driver cache='none'/><source file='/local/web/data.img'/><target dev='vdb'/>
    <backingStore type='file'><source file='/local/web/base.img'/><backingStore/></backingStore></disk>
  <disk type='network'><source protocol='rbd' name='vms/c'><host name='192.0.2.1'/><auth username='libvirt'>
    <secret type='ceph' uuid='2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01'/></auth></source><target dev='vdc'/></disk>
  <disk type='block'><driver cache='none'/><source dev='/dev/d'/><target dev='vdd'/></disk>
  <interface type='bridge'><mac address='52:54:00:a0:00:01'/><source bridge='BRIDGE'/>
    <filterref filter='web'/></interface>
  </devices></domain>";

const DATA: &str = "/local/web/data.img";
const BASE: &str = "/local/web/base.img";
const DIRECTORY: &str = "/local/web";
const SECRET: &str = "secret of rbd:vms/c";
const ATTACHED: &str = "iscsi:iqn.d/1";

pub(super) const OF_THE_SOURCE: &[&str] = &[DATA, BASE, DIRECTORY, SECRET, ATTACHED];
const OF_THE_GUEST: &[&str] = &[DATA, BASE, SECRET, ATTACHED];

/// I2: what a host holds for a guest that it does not have. What nobody writes to may stay where it always was.
pub(super) fn is_left(domains: &BTreeMap<&str, (Sighting, bool)>, host: &str, thing: &str) -> bool {
    let stays = host == "source" && matches!(thing, BASE | DIRECTORY);
    !domains.contains_key(host) && !stays
}

/// I4: wherever the guest runs, it has all its disks.
pub(super) fn assert_whole(facts: &Facts) {
    for host in ["source", "destination"] {
        if facts.domains.get(host).is_some_and(|(sighting, _)| *sighting == Sighting::Running) {
            for thing in OF_THE_GUEST {
                assert!(facts.has.contains(&(host, (*thing).to_owned())), "I4: {thing} is not on {host} any more");
            }
            for thing in network::of_the_guest(host).into_iter().chain(filter::of_the_guest()) {
                assert!(facts.has.contains(&(host, thing.clone())), "the guest runs on {host} without {thing}");
            }
        }
    }
}

fn relocation() -> Relocation {
    Relocation { target: "vdd".into(), place: Place::Device { path: "/dev/elsewhere".into() } }
}

/// What the destination says in its pre.
pub(crate) fn relocations() -> [Relocation; 2] {
    [network::relocation(), relocation()]
}

pub(super) fn shown() -> Shown {
    let image = Image {
        path: DATA.into(),
        format: "raw".into(),
        virtual_size: ByteSize::mib(1),
        allocated: ByteSize::kib(4),
        qcow2: None,
        obstacle: None,
    };
    Shown {
        files: vec![shared(), file(DATA, DIRECTORY, 8), file(BASE, DIRECTORY, 9)],
        images: vec![image],
        volumes: volumes(),
        ..Shown::default()
    }
}

pub(super) fn sight(leaving: &Leaving, world: &World) -> Sight {
    let probe = leaving.shown.probe_beside(&shared().path).and_then(|probe| {
        let found = world.facts().probes.get(&probe.file_name)?.token.clone();
        Some(SeenProbe { token: found, device: 1 })
    });
    let room = |path: &str| Room {
        path: path.into(),
        directory: "/".into(),
        device: 5,
        available: ByteSize::gib(1),
        read_only: false,
    };
    Sight {
        files: vec![Seen { file: shared(), probe, digest: None }],
        rooms: vec![room(DATA), room(BASE)],
        volumes: volumes(),
        ..Sight::default()
    }
}

fn file(path: &str, directory: &str, inode: u64) -> File {
    File { path: path.into(), directory: directory.into(), size: 1 << 20, allocated: 4096, inode, device: 1 }
}

/// As both hosts see it.
fn shared() -> File {
    file("/srv/web.img", "/srv", 7)
}

fn volumes() -> Vec<VolumeSight> {
    ["vdc", "vdd"].map(|target| VolumeSight { target: target.into(), found: Ok(found()) }).into()
}

fn found() -> Found {
    Found { size: ByteSize::gib(1), identity: "1234".into() }
}

impl Fake {
    /// Makes what must not be there yet.
    async fn make(&self, what: &str, thing: &str) -> Result<(), Fault> {
        let make = || assert!(self.world.facts().has.insert((self.name, thing.to_owned())), "{thing} was there");
        self.step(what, make).await
    }

    /// Takes away what the guest must not have any more.
    async fn remove(&self, what: &str, thing: &str) -> Result<(), Fault> {
        let remove = || {
            let mut facts = self.world.facts();
            facts.has.remove(&(self.name, thing.to_owned()));
            assert_whole(&facts);
        };
        self.step(what, remove).await
    }

    fn has_the_guest(&self) -> bool {
        matches!(self.world.sees(self.name), Sighting::Running | Sighting::Paused)
    }
}

impl Storage for Fake {
    async fn place_probe(&self, probe: &Probe) -> Result<u64, Fault> {
        self.assert_on_disk("probes", &probe.file_name);
        let place = || _ = self.world.facts().probes.insert(probe.file_name.clone(), probe.clone());
        self.step("placing a probe", place).await.map(|()| 1)
    }

    async fn remove_probe(&self, probe: &Probe) -> Result<(), Fault> {
        self.step("removing a probe", || _ = self.world.facts().probes.remove(&probe.file_name)).await
    }

    async fn digest(&self, path: &str) -> Result<String, Fault> {
        panic!("the destination does not have {path}")
    }

    async fn connect_volumes(
        &self,
        _: MigrationId,
        volumes: &[&Volume],
    ) -> Vec<Result<(Found, Option<Relocation>), Fault>> {
        let mut connected = Vec::new();
        for volume in volumes {
            let (undo, thing, place) = match volume.target.as_str() {
                "vdc" => ("release_secret", SECRET, None),
                _ => ("disconnect_volume", ATTACHED, Some(relocation())),
            };
            self.assert_journaled(undo);
            let connect = || _ = self.world.facts().has.insert((self.name, thing.to_owned()));
            connected.push(self.step("connecting a volume", connect).await.map(|()| (found(), place)));
        }
        connected
    }

    async fn release_secret(&self, _: MigrationId, _: &Connection) -> Result<(), Fault> {
        // A real host asks its libvirt who needs it.
        if self.has_the_guest() {
            return Ok(());
        }
        self.remove("releasing a secret", SECRET).await
    }

    async fn disconnect_volume(&self, _: &Connection) -> Result<(), Fault> {
        self.remove("disconnecting a volume", ATTACHED).await
    }

    async fn missing_directories(&self, _: &str) -> Result<Vec<String>, Fault> {
        let there = self.world.facts().has.contains(&(self.name, DIRECTORY.to_owned()));
        self.step("looking for directories", || if there { vec![] } else { vec![DIRECTORY.to_owned()] }).await
    }

    async fn make_image_directory(&self, path: &str) -> Result<(), Fault> {
        self.assert_journaled("remove_directory");
        self.make("making a directory", path).await
    }

    async fn remove_image_directory(&self, path: &str) -> Result<(), Fault> {
        // As on a real host: one that is not empty stays, and nobody is told.
        let remove = || {
            let mut facts = self.world.facts();
            if ![DATA, BASE].iter().any(|file| facts.has.contains(&(self.name, (*file).to_owned()))) {
                facts.has.remove(&(self.name, path.to_owned()));
            }
        };
        self.step("removing a directory", remove).await
    }

    async fn is_free(&self, path: &str) -> Result<(), Fault> {
        let free = !self.world.facts().has.contains(&(self.name, path.to_owned()));
        self.step("looking at a path", || free)
            .await?
            .then_some(())
            .ok_or_else(|| Fault::new(Reason::DiskNotShared, format!("{path} is there")))
    }

    async fn make_image(&self, image: &Image, below: Option<&StaticImage>) -> Result<(), Fault> {
        self.assert_journaled(&format!("\"remove_image\":{{\"path\":\"{}\"}}", image.path));
        assert_eq!(below.map(|below| below.path.as_str()), Some(BASE));
        self.make("making an image", &image.path).await
    }

    async fn remove_image(&self, path: &str) -> Result<(), Fault> {
        assert!(!self.has_the_guest(), "I4: the guest's own disk");
        self.remove("removing an image", path).await
    }

    async fn receive_image(
        &self,
        migration: MigrationId,
        _: usize,
        image: &StaticImage,
        written: bool,
    ) -> Result<(), Fault> {
        assert_eq!(written, image.path == DATA);
        self.assert_journaled(&format!("\"remove_image\":{{\"path\":\"{}\"}}", image.path));
        self.assert_journaled("stop_receivers");
        self.make("receiving an image", &image.path).await?;
        self.world.facts().receiving.insert(migration);
        Ok(())
    }

    async fn stop_receivers(&self, migration: MigrationId) -> Result<(), Fault> {
        self.step("stopping receivers", || _ = self.world.facts().receiving.remove(&migration)).await
    }

    async fn send_image(
        &self,
        order: &Order,
        _: usize,
        image: &StaticImage,
        _: OnSent,
        _: CancellationToken,
    ) -> Result<(), Fault> {
        let is_taken = self.world.facts().receiving.contains(&order.id);
        if !is_taken && self.world.is_simulated() {
            // The destination's agent was restarted.
            return Err(Fault::new(Reason::TunnelFailed, "nobody takes it"));
        }
        assert!(is_taken, "somebody takes it");
        assert!(image.path == BASE || self.world.sees(self.name) == Sighting::Shutoff, "I4: the guest writes to it");
        self.step("sending an image", || ()).await
    }

    async fn image_length(&self, path: &str) -> Result<ByteSize, Fault> {
        assert_eq!(path, DATA, "the others' is known");
        self.step("measuring an image", || ByteSize::mib(1)).await
    }

    async fn await_images(&self, order: &Order, _: &[ByteSize]) -> Result<(), Fault> {
        let received = || {
            let mut facts = self.world.facts();
            let is_whole = facts.receiving.remove(&order.id) || facts.complete.contains(&order.id);
            if is_whole || facts.chance.is_none() {
                facts.complete.insert(order.id);
            }
            is_whole || facts.chance.is_none()
        };
        match self.step("waiting for images", received).await? {
            true => Ok(()),
            false => Err(Fault::new(Reason::TunnelFailed, "who took them is gone")),
        }
    }
}
