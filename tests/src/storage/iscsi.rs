//! A real iSCSI target (tgt) with files behind its LUNs. It lets nobody in without CHAP, and has two portals.

use std::{fs, net::SocketAddrV4, path::Path};

use anyhow::{Context, Result, bail, ensure};

use super::{Kind, Secret, Storage, network_disk, new_uuid};
use crate::{network, wait};

/// The target daemon of a storage node.
#[derive(Debug, Clone, Copy)]
pub struct Iscsi<'a> {
    storage: &'a Storage,
    daemon: Daemon,
}

/// Which of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Daemon {
    /// The one that hosts are told of.
    Real,
    /// The one that some are led to.
    Impostor,
}

impl Daemon {
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Real => 3260,
            Self::Impostor => 3261,
        }
    }

    /// Where `tgtadm` finds it.
    fn control(self) -> &'static str {
        match self {
            Self::Real => "0",
            Self::Impostor => "1",
        }
    }
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
    pub(super) fn new(storage: &'a Storage, daemon: Daemon) -> Self {
        Self { storage, daemon }
    }

    pub(super) fn start(&self) -> Result<()> {
        let portals = self.portals().map(|portal| format!("portal={portal}")).join(",");
        let unit = format!("--unit=tgtd-{}", self.daemon.port());
        let daemon = ["tgtd", "-f", "-C", self.daemon.control(), "--iscsi", &portals];
        self.storage.node.run("systemd-run", [&["--quiet", unit.as_str()], daemon.as_slice()].concat())?;
        wait::until("the iSCSI target", wait::SOON, || Ok(self.tgtadm(&["show", "--mode", "sys"]).ok().map(drop)))
    }

    /// Both portals of every target.
    pub fn portals(&self) -> [SocketAddrV4; 2] {
        network::STORAGE.map(|address| SocketAddrV4::new(address, self.daemon.port()))
    }

    /// Makes a target without LUNs. An iSCSI name has no underscores.
    pub fn create_target(&self, name: &str) -> Result<Target> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:".contains(&byte);
        ensure!(name.bytes().all(allowed), "{name:?} cannot be in an iSCSI name");
        let iqn = format!("iqn.2010-10.org.openstack:{name}");
        let (uuid, value) = (new_uuid()?, new_uuid()?.replace('-', ""));
        let user = format!("user-{name}");
        self.add_target(Secret { uuid, usage: iqn.clone(), kind: Kind::Iscsi, user, value }, iqn)
    }

    /// Makes a target of the same name and with the same account, in this daemon instead of another.
    pub fn create_target_like(&self, other: &Target) -> Result<Target> {
        self.add_target(other.secret.clone(), other.iqn.clone())
    }

    fn add_target(&self, secret: Secret, iqn: String) -> Result<Target> {
        let tid = self.tids()?.into_iter().max().unwrap_or(0) + 1;
        let (user, value) = (&secret.user, &secret.value);
        let number = tid.to_string();
        let at = ["--tid", &number];
        self.tgtadm(&[&["new", "--mode", "target", "--targetname", &iqn], at.as_slice()].concat())?;
        self.tgtadm(&["new", "--mode", "account", "--user", user, "--password", value])?;
        self.tgtadm(&[&["bind", "--mode", "account", "--user", user], at.as_slice()].concat())?;
        self.tgtadm(&[&["bind", "--mode", "target", "--initiator-address", "ALL"], at.as_slice()].concat())?;
        Ok(Target { iqn, secret, tid })
    }

    /// Makes an empty LUN of a target.
    pub fn create_lun(&self, target: &Target, mib: u64) -> Result<Lun> {
        self.add(target, Identity::new()?, |file| Ok(fs::File::create_new(file)?.set_len(mib << 20)?))
    }

    /// The same, passing itself off as another: whoever asks for its identity hears the other's.
    pub fn create_lun_like(&self, other: &Lun, target: &Target, mib: u64) -> Result<Lun> {
        let identity = Identity { serial: other.serial.clone(), scsi_id: other.scsi_id.clone() };
        self.add(target, identity, |file| Ok(fs::File::create_new(file)?.set_len(mib << 20)?))
    }

    /// Makes a LUN of a target with the contents of a raw file of this machine.
    pub fn import(&self, target: &Target, raw: &Path) -> Result<Lun> {
        self.add(target, Identity::new()?, |file| {
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

    /// The addresses of the initiators that are logged in to a target.
    pub fn initiators(&self, target: &Target) -> Result<Vec<String>> {
        let shown = self.tgtadm(&["show", "--mode", "conn", "--tid", &target.tid.to_string()])?;
        Ok(shown.lines().filter_map(|line| line.trim().strip_prefix("IP Address: ")).map(str::to_owned).collect())
    }

    /// The raw file behind a LUN, on this machine.
    pub fn contents(&self, lun: &Lun) -> std::path::PathBuf {
        self.storage.file(&lun.file).0
    }

    fn add(&self, target: &Target, identity: Identity, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Lun> {
        let (tid, Identity { serial, scsi_id }) = (target.tid.to_string(), identity);
        let file = format!("lun-{}", new_uuid()?);
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
        let daemon = ["-C", self.daemon.control(), "--lld", "iscsi", "--op"];
        self.storage.node.run("tgtadm", daemon.iter().chain(operation))
    }
}

/// What tells a LUN from every other.
struct Identity {
    serial: String,
    scsi_id: String,
}

impl Identity {
    fn new() -> Result<Self> {
        let unique = new_uuid()?.replace('-', "");
        Ok(Self { serial: unique[..16].to_owned(), scsi_id: format!("vmferry-{}", &unique[16..28]) })
    }
}
