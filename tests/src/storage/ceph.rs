//! A real Ceph cluster: one monitor and one OSD that keeps its objects in memory. cephx is on.

use std::{fs, net::SocketAddrV4, path::Path, time::Duration};

use anyhow::{Context, Result};

use super::{Kind, Secret, Storage, flat, network_disk};
use crate::{network, wait};

const CREATE: &str = include_str!("ceph.sh");
const READY: Duration = Duration::from_secs(30);
/// The user that guests are known as.
const USER: &str = "libvirt";
/// All hosts of a cluster call the key by the same name.
const SECRET: &str = "457eb676-33da-42ec-9a8c-9293d545c337";

/// The cluster of a storage node.
#[derive(Debug, Clone, Copy)]
pub struct Ceph<'a> {
    storage: &'a Storage,
}

/// An RBD image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RbdImage {
    /// `POOL/NAME`.
    pub name: String,
    /// The monitor that knows it.
    pub monitor: SocketAddrV4,
}

impl RbdImage {
    /// It as a guest's disk.
    pub fn disk(&self, target: &str, secret: &Secret) -> String {
        let (name, address, port) = (&self.name, self.monitor.ip(), self.monitor.port());
        let source = format!("<source protocol='rbd' name='{name}'><host name='{address}' port='{port}'/></source>");
        network_disk(target, &secret.auth(), &source)
    }
}

impl<'a> Ceph<'a> {
    pub(super) fn new(storage: &'a Storage) -> Self {
        Self { storage }
    }

    /// Makes the cluster, and waits until it serves.
    pub(super) fn create(&self) -> Result<()> {
        let (node, address) = (&self.storage.node, network::STORAGE[0].to_string());
        node.write("/run/ceph.sh", CREATE)?;
        node.run("sh", ["/run/ceph.sh", &address])?;
        self.wait_ready()
    }

    /// The monitor's address, as guests and agents are told it.
    pub fn monitor(&self) -> SocketAddrV4 {
        SocketAddrV4::new(network::STORAGE[0], 6789)
    }

    /// `client.libvirt` and its key, which may use the pool `volumes`.
    pub fn secret(&self) -> Result<Secret> {
        let user = format!("client.{USER}");
        let key = self.storage.node.run("ceph-authtool", ["-p", "-n", &user, "/var/lib/ceph/keyring"])?;
        Ok(Secret {
            uuid: SECRET.to_owned(),
            usage: format!("{user} secret"),
            kind: Kind::Ceph,
            user: USER.to_owned(),
            value: key.trim().to_owned(),
        })
    }

    /// Makes an empty image. `name` is `POOL/NAME`, `size` is in the words of `rbd`: `64M`.
    pub fn create_image(&self, name: &str, size: &str) -> Result<RbdImage> {
        self.rbd(&["create", name, "--size", size])?;
        Ok(self.image(name))
    }

    /// Makes an image with the contents of a raw file of this machine.
    pub fn import(&self, name: &str, raw: &Path) -> Result<RbdImage> {
        let (ours, theirs) = self.storage.file(&flat(name));
        // Made by the storage node, or by the test.
        let copied = raw != ours;
        if copied {
            fs::copy(raw, &ours).with_context(|| format!("cannot read {}", raw.display()))?;
        }
        self.rbd(&["import", "--no-progress", &theirs, name])?;
        if copied {
            fs::remove_file(ours)?;
        }
        Ok(self.image(name))
    }

    /// Reads an image into a raw file of this machine.
    pub fn export(&self, image: &RbdImage, raw: &Path) -> Result<()> {
        let (ours, theirs) = self.storage.file(&format!("{}.export", flat(&image.name)));
        self.rbd(&["export", "--no-progress", &image.name, &theirs])?;
        if raw != ours {
            fs::copy(&ours, raw).with_context(|| format!("cannot write {}", raw.display()))?;
            fs::remove_file(ours)?;
        }
        Ok(())
    }

    /// Every number that a [`LinuxGuest`](crate::guest::LinuxGuest) wrote to the image as its second volume.
    pub fn sequence(&self, image: &RbdImage) -> Result<Vec<u64>> {
        let (ours, _) = self.storage.file(&format!("{}.export", flat(&image.name)));
        self.export(image, &ours)?;
        let sequence = self.storage.sequence(&ours);
        fs::remove_file(ours)?;
        sequence
    }

    /// The clients that have an image open to write to it: `ADDRESS:PORT/NONCE`.
    pub fn watchers(&self, image: &RbdImage) -> Result<Vec<String>> {
        let status: serde_json::Value = serde_json::from_str(&self.rbd(&["status", "--format=json", &image.name])?)?;
        let watchers = status["watchers"].as_array().into_iter().flatten();
        Ok(watchers.filter_map(|watcher| watcher["address"].as_str().map(str::to_owned)).collect())
    }

    /// Changes its size, also to a smaller one.
    pub fn resize(&self, image: &RbdImage, size: &str) -> Result<()> {
        self.rbd(&["resize", "--no-progress", "--allow-shrink", "--size", size, &image.name]).map(drop)
    }

    /// Deletes it.
    pub fn delete(&self, image: &RbdImage) -> Result<()> {
        self.rbd(&["rm", "--no-progress", &image.name]).map(drop)
    }

    /// `rbd ARGUMENTS` as administrator.
    pub fn rbd(&self, arguments: &[&str]) -> Result<String> {
        self.storage.node.run("timeout", ["60", "rbd"].iter().chain(arguments))
    }

    /// Stops the OSD: whoever reads or writes waits. Nothing is lost.
    pub fn stop_osd(&self) -> Result<()> {
        self.storage.node.run("systemctl", ["stop", "ceph-osd.service"]).map(drop)
    }

    /// Starts it again, and returns once it serves. Clients that waited ask again within five seconds.
    pub fn start_osd(&self) -> Result<()> {
        let node = &self.storage.node;
        node.run("systemd-run", ["--quiet", "--unit=ceph-osd", "ceph-osd", "-f", "-i", "0"])?;
        self.wait_ready()
    }

    /// Stops the monitor: who is connected to the OSD goes on, nobody else can connect.
    pub fn stop_monitor(&self) -> Result<()> {
        self.storage.node.run("systemctl", ["stop", "ceph-mon.service"]).map(drop)
    }

    /// Starts it again, and returns once it serves.
    pub fn start_monitor(&self) -> Result<()> {
        let node = &self.storage.node;
        node.run("systemd-run", ["--quiet", "--unit=ceph-mon", "ceph-mon", "-f", "-i", "a"])?;
        self.wait_ready()
    }

    fn image(&self, name: &str) -> RbdImage {
        RbdImage { name: name.to_owned(), monitor: self.monitor() }
    }

    fn wait_ready(&self) -> Result<()> {
        // Asked for sooner, the OSD would be found only when librados looks again, after five seconds.
        wait::until("Ceph's OSD", READY, || {
            let answer = self.storage.node.run("timeout", ["20", "ceph", "osd", "stat", "--format=json"])?;
            let answer: serde_json::Value = serde_json::from_str(&answer).context("ceph answers in JSON")?;
            Ok((answer["num_up_osds"] == 1).then_some(()))
        })
        .map_err(|error| {
            let journal = self.storage.node.journal(None).unwrap_or_default();
            let lines: Vec<_> = journal.lines().collect();
            error.context(format!("its journal ends:\n{}", lines[lines.len().saturating_sub(15)..].join("\n")))
        })
    }
}
