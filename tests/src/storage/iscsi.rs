//! A real iSCSI target (tgt) with files behind its LUNs. It lets nobody in without CHAP, and has two portals.

use std::{fs, net::SocketAddrV4, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use super::{Kind, Secret, Storage, network_disk, new_uuid};
use crate::{network, wait};

const PORT: u16 = 3260;

/// The target daemon of a storage node.
#[derive(Debug, Clone, Copy)]
pub struct Iscsi<'a> {
    storage: &'a Storage,
}

/// A target, with its own account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `iqn.2010-10.org.openstack:NAME`
    pub iqn: String,
    /// Its CHAP user and password.
    pub secret: Secret,
    /// The daemon's number for it.
    tid: u32,
}

/// A logical unit of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lun {
    /// Where it is.
    pub target: Target,
    /// Its number there, from 1.
    pub lun: u32,
    /// Both addresses under which it can be reached.
    pub portals: [SocketAddrV4; 2],
    /// The serial number in VPD page 0x80; no other LUN has it.
    pub serial: String,
    /// The T10 identifier in VPD page 0x83; no other LUN has it.
    pub scsi_id: String,
    file: String,
}

impl Lun {
    /// It as a guest's disk, by the first portal.
    pub fn disk(&self, target: &str) -> String {
        self.disk_by(target, self.portals[0])
    }

    /// It as a guest's disk, by this portal.
    pub fn disk_by(&self, target: &str, portal: SocketAddrV4) -> String {
        let (iqn, lun, address, port) = (&self.target.iqn, self.lun, portal.ip(), portal.port());
        let source =
            format!("<source protocol='iscsi' name='{iqn}/{lun}'><host name='{address}' port='{port}'/></source>");
        network_disk(target, &self.target.secret.auth(), &source)
    }

    /// Its URL for `iscsi-inq` and its like, with this password.
    pub fn url(&self, password: &str) -> String {
        format!("iscsi://{}%{password}@{}/{}/{}", self.target.secret.user, self.portals[0], self.target.iqn, self.lun)
    }
}

impl<'a> Iscsi<'a> {
    pub(super) fn new(storage: &'a Storage) -> Self {
        Self { storage }
    }

    pub(super) fn start(&self) -> Result<()> {
        let portals = self.portals().map(|portal| format!("portal={portal}")).join(",");
        self.storage.node.run("systemd-run", ["--quiet", "--unit=tgtd", "tgtd", "-f", "--iscsi", &portals])?;
        wait::until("the iSCSI target", Duration::from_secs(10), || {
            Ok(self.tgtadm(&["show", "--mode", "sys"]).ok().map(drop))
        })
    }

    /// Both portals of every target.
    pub fn portals(&self) -> [SocketAddrV4; 2] {
        network::STORAGE.map(|address| SocketAddrV4::new(address, PORT))
    }

    /// Makes a target without LUNs. An iSCSI name has no underscores.
    pub fn create_target(&self, name: &str) -> Result<Target> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:".contains(&byte);
        ensure!(name.bytes().all(allowed), "{name:?} cannot be in an iSCSI name");
        let tid = self.tids()?.into_iter().max().unwrap_or(0) + 1;
        let iqn = format!("iqn.2010-10.org.openstack:{name}");
        let (uuid, user, value) = (new_uuid()?, format!("user-{tid}"), new_uuid()?.replace('-', ""));
        let number = tid.to_string();
        let at = ["--tid", &number];
        self.tgtadm(&[&["new", "--mode", "target", "--targetname", &iqn], at.as_slice()].concat())?;
        self.tgtadm(&["new", "--mode", "account", "--user", &user, "--password", &value])?;
        self.tgtadm(&[&["bind", "--mode", "account", "--user", &user], at.as_slice()].concat())?;
        self.tgtadm(&[&["bind", "--mode", "target", "--initiator-address", "ALL"], at.as_slice()].concat())?;
        let secret = Secret { uuid, usage: iqn.clone(), kind: Kind::Iscsi, user, value };
        Ok(Target { iqn, secret, tid })
    }

    /// Makes an empty LUN of a target.
    pub fn create_lun(&self, target: &Target, mib: u64) -> Result<Lun> {
        self.add(target, |file| Ok(fs::File::create_new(file)?.set_len(mib << 20)?))
    }

    /// Makes a LUN of a target with the contents of a raw file of this machine.
    pub fn import(&self, target: &Target, raw: &Path) -> Result<Lun> {
        self.add(target, |file| {
            fs::copy(raw, file).with_context(|| format!("cannot read {}", raw.display()))?;
            Ok(())
        })
    }

    /// Takes a LUN away, also from under a guest.
    pub fn remove_lun(&self, lun: &Lun) -> Result<()> {
        let (tid, number) = (lun.target.tid.to_string(), lun.lun.to_string());
        self.tgtadm(&["delete", "--mode", "logicalunit", "--tid", &tid, "--lun", &number]).map(drop)
    }

    /// Every number that a [`LinuxGuest`](crate::guest::LinuxGuest) wrote to the LUN as its second volume.
    pub fn sequence(&self, lun: &Lun) -> Result<Vec<u64>> {
        let (ours, _) = self.storage.file(&format!("{}.copy", lun.file));
        fs::copy(self.contents(lun), &ours)?;
        let sequence = self.storage.sequence(&ours);
        fs::remove_file(ours)?;
        sequence
    }

    /// The raw file behind a LUN, on this machine.
    pub fn contents(&self, lun: &Lun) -> std::path::PathBuf {
        self.storage.file(&lun.file).0
    }

    fn add(&self, target: &Target, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Lun> {
        let (tid, serial) = (target.tid.to_string(), new_uuid()?.replace('-', ""));
        let (serial, scsi_id) = (serial[..16].to_owned(), format!("vmferry-{}", &serial[16..28]));
        let file = format!("lun-{serial}");
        let (ours, theirs) = self.storage.file(&file);
        fill(&ours)?;
        let lun = self.next_lun(target)?;
        let number = lun.to_string();
        let unit = ["--mode", "logicalunit", "--tid", &tid, "--lun", &number];
        self.tgtadm(&[&["new", "--backing-store", &theirs], unit.as_slice()].concat())?;
        let identity = format!("scsi_sn={serial},scsi_id={scsi_id},vendor_id=VMFERRY,product_id=volume");
        self.tgtadm(&[&["update", "--params", &identity], unit.as_slice()].concat())?;
        Ok(Lun { target: target.clone(), lun, portals: self.portals(), serial, scsi_id, file })
    }

    fn tids(&self) -> Result<Vec<u32>> {
        let shown = self.tgtadm(&["show", "--mode", "target"])?;
        let targets = shown.lines().filter_map(|line| line.strip_prefix("Target "));
        Ok(targets.filter_map(|line| line.split_once(':')?.0.parse().ok()).collect())
    }

    /// The first number that is free. 0 is the controller.
    fn next_lun(&self, target: &Target) -> Result<u32> {
        let shown = self.tgtadm(&["show", "--mode", "target"])?;
        let heading = format!("Target {}: ", target.tid);
        let Some((_, rest)) = shown.split_once(&heading) else { bail!("there is no target {}", target.iqn) };
        let own = rest.split("\nTarget ").next().unwrap_or_default();
        let taken: Vec<u32> = own.lines().filter_map(|line| line.trim().strip_prefix("LUN: ")?.parse().ok()).collect();
        (1..).find(|lun| !taken.contains(lun)).context("a LUN is free")
    }

    fn tgtadm(&self, operation: &[&str]) -> Result<String> {
        self.storage.node.run("tgtadm", ["--lld", "iscsi", "--op"].iter().chain(operation))
    }
}
