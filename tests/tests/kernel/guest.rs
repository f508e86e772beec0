//! A guest of one boot sector, with two volumes that its host attaches: a LUN of an iSCSI target, and an RBD image.
//!
//! Twice a second it writes a number, one more each time, into a sector of its own of each volume by the BIOS, and then says so on its
//! console. What it has said must be on both volumes, whatever happened to it meanwhile.

use std::fs;

use anyhow::{Context, Result, ensure};
use vmferry_tests::{
    kernel_vm::KernelHost,
    storage::{Lun, RbdImage, Secret},
    wait::until,
};

use crate::rig::{Rig, SOON};

/// The guest's name.
pub(crate) const NAME: &str = "web";
/// Its volumes' size.
const MIB: usize = 64;
const SECTOR: usize = 512;
/// The sector of the first number.
const FIRST: usize = 2048;
const CONSOLE: &str = "/var/log/libvirt/web.console";

/// `tests/kernel/count.s`, assembled.
const CODE: &str = "\
eb1a0000020000001000010000800000000000000000000000000000fa31c08e\
d88ec08ed0bc007cfbfcbf0080b90001f3ab66ff06187c66a1187c66a3008066\
05ff07000066a3107cb280b80043be087c52cd135a723a4288d02c803a06047c\
72e9b057e83100668b1e187cb9080066c1c30488d8240f3c0a720204270430e8\
1600e2ebb00ae80f00b90800f4e2fdeba1b046e80200ebec50bafd03eca82074\
fb58baf803eec3";

/// The guest, and all that it has said.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) lun: Lun,
    pub(crate) image: RbdImage,
    key: Secret,
    /// What it said before its present host had it.
    said: String,
}

impl Guest {
    /// Attaches new volumes to the first host as an administrator would, starts the guest there, and tells VMFerry how hosts
    /// reach them.
    pub(crate) fn start(rig: &Rig) -> Result<Self> {
        let storage = rig.testbed.storage()?;
        let (iscsi, ceph) = (storage.iscsi()?, storage.ceph()?);
        let lun = iscsi.import(&rig.target, &storage.raw_image(&boot_image()?)?)?;
        let image = ceph.create_image(&format!("volumes/web-{}", lun.lun), &format!("{MIB}M"))?;
        let guest = Self { lun, image, key: ceph.secret()?, said: String::new() };
        let host = &rig.hosts[0];
        let [vda, vdb] = guest.attach(host)?;
        host.write("/run/web.xml", &guest.xml(&vda, &vdb))?;
        host.virsh("define /run/web.xml")?;
        host.virsh(&format!("start {NAME}"))?;
        guest.wait_for_more(host, 5)?;
        guest.label(rig)?;
        Ok(guest)
    }

    /// The devices, by names that no other host has.
    fn attach(&self, host: &KernelHost) -> Result<[String; 2]> {
        let (portal, iqn) = (self.lun.portals[0], &self.lun.target.iqn);
        let Secret { user, value, .. } = &self.lun.target.secret;
        let auth = "-n node.session.auth";
        host.sh(&format!(
            "iscsiadm -m discovery -t sendtargets -p {portal}
            iscsiadm -m node -T {iqn} -p {portal} -o update {auth}.authmethod -v CHAP {auth}.username -v {user} {auth}.password -v {value}
            iscsiadm -m node -T {iqn} -p {portal} --login"
        ))?;
        let mapped = self.map(host)?;
        let by_path = format!("/dev/disk/by-path/ip-{portal}-iscsi-{iqn}-lun-{}", self.lun.lun);
        until(&by_path, SOON, || Ok(host.sh(&format!("test -e {by_path}")).ok()))?;
        Ok([by_path, mapped])
    }

    /// Attaches its volumes to a host as VMFerry does, of which no journal says anything.
    pub(crate) fn leave_behind(&self, host: &KernelHost) -> Result<()> {
        let node = format!("iscsiadm -m node -T {} -p {}", self.lun.target.iqn, self.lun.portals[0]);
        let Secret { user, value, .. } = &self.lun.target.secret;
        let auth = "-n node.session.auth";
        host.sh(&format!(
            "{node} -o new
            {node} -o update -n node.startup -v manual -n node.session.scan -v manual -n node.session.initial_login_retry_max -v 2
            {node} -o update {auth}.authmethod -v CHAP {auth}.username -v {user} {auth}.password -v {value}
            sed -i 's/^node.discovery_port/node.discovery_address = vmferry\\n&/' /etc/iscsi/nodes/{}/*
            {node} --login
            iscsiadm -m session --rescan",
            self.lun.target.iqn
        ))?;
        self.map(host)?;
        until("both devices", SOON, || Ok(host.sh("udevadm settle; test -e /dev/sda && test -e /dev/rbd0").ok()))?;
        Ok(())
    }

    /// The device that it is then.
    fn map(&self, host: &KernelHost) -> Result<String> {
        let (Secret { user, value, .. }, RbdImage { name, monitor }) = (&self.key, &self.image);
        let mapped = host.sh(&format!(
            "echo {value} >/run/key
            rbd map {name} --id {user} -m {monitor} --keyfile /run/key 2>/dev/null
            rm /run/key"
        ))?;
        Ok(mapped.trim().to_owned())
    }

    fn label(&self, rig: &Rig) -> Result<()> {
        let Lun { target, lun, portals: [one, other], .. } = &self.lun;
        let Secret { user, uuid, .. } = &target.secret;
        let as_iscsi =
            format!("--iscsi-target {} --lun {lun} --portal {one} --portal {other} --user {user}", target.iqn);
        rig.done(&format!("volumes set {NAME} vda --id 5a272756 --bootable {as_iscsi} --secret {uuid}"))?;
        let (Secret { user, uuid, .. }, RbdImage { name, monitor }) = (&self.key, &self.image);
        rig.done(&format!(
            "volumes set {NAME} vdb --id 7bf75168 --rbd {name} --monitor {monitor} --user {user} --secret {uuid}"
        ))?;
        Ok(())
    }

    fn xml(&self, vda: &str, vdb: &str) -> String {
        let disk = |order: u32, device: &str, target: &str| {
            format!(
                "<disk type='block' device='disk'><driver name='qemu' type='raw' cache='none'/><source dev='{device}'/>\
                 <target dev='{target}' bus='virtio'/><boot order='{order}'/></disk>"
            )
        };
        let (vda, vdb) = (disk(1, vda, "vda"), disk(2, vdb, "vdb"));
        format!(
            "<domain type='kvm'>
  <name>{NAME}</name>
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {vda}
    {vdb}
    <serial type='file'><source path='{CONSOLE}' append='on'/><target type='isa-serial' port='0'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>"
        )
    }

    /// The LUN by the name that is the same on every host.
    pub(crate) fn lun_by_id(&self, host: &KernelHost) -> Result<String> {
        // No other disk has one.
        Ok(host.sh("ls -d /dev/disk/by-id/wwn-*")?.trim().to_owned())
    }

    /// The paths that the definitions of the guest there name, of the one that runs and of the one that starts next.
    pub(crate) fn devices(&self, host: &KernelHost) -> Result<[Vec<String>; 2]> {
        let devices = |xml: String| {
            let sources = xml.lines().filter_map(|line| line.trim().strip_prefix("<source dev='"));
            sources.filter_map(|rest| Some(rest.split_once('\'')?.0.to_owned())).collect()
        };
        Ok([
            devices(host.virsh(&format!("dumpxml {NAME}"))?),
            devices(host.virsh(&format!("dumpxml --inactive {NAME}"))?),
        ])
    }

    /// Keeps what it has said on a host that it has left.
    pub(crate) fn left(&mut self, host: &KernelHost) -> Result<()> {
        self.said += &host.sh(&format!("cat {CONSOLE}; rm {CONSOLE}"))?;
        Ok(())
    }

    /// Waits until it has written so many more numbers, there.
    pub(crate) fn wait_for_more(&self, host: &KernelHost, more: usize) -> Result<()> {
        let written = || Ok::<_, anyhow::Error>(self.acknowledged(host)?.len());
        let before = written()?;
        until("the guest to write", SOON, || Ok((written()? >= before + more).then_some(())))
    }

    /// Fails unless it has written on and on, nothing that it said is lost, and it goes on there.
    pub(crate) fn assert_unharmed(&self, rig: &Rig, host: &KernelHost) -> Result<()> {
        self.wait_for_more(host, 5)?;
        let acknowledged = self.acknowledged(host)?;
        let lun = fs::read(rig.testbed.storage()?.iscsi()?.contents(&self.lun))?;
        let export = rig.testbed.layout().run_dir().join("web.export");
        rig.testbed.storage()?.ceph()?.export(&self.image, &export)?;
        let image = fs::read(&export)?;
        for (what, volume) in [("LUN", lun), ("image", image)] {
            let lost = acknowledged.iter().find(|&&number| number_in(&volume, number) != Some(number));
            ensure!(lost.is_none(), "number {lost:?} of {} is not on the {what}", acknowledged.len());
        }
        Ok(())
    }

    /// Every number that it has said to be written. Fails if one is missing.
    fn acknowledged(&self, host: &KernelHost) -> Result<Vec<u32>> {
        let here = host.sh(&format!("cat {CONSOLE} 2>/dev/null || true"))?;
        let said = format!("{}{here}", self.said);
        let mut numbers = Vec::new();
        // The last line may be half there.
        let (whole, _) = said.rsplit_once('\n').unwrap_or_default();
        for line in whole.lines().map(|line| line.trim_end_matches('\r')) {
            ensure!(line != "F", "the guest could not write number {}", numbers.len() + 1);
            let Some(number) = line.strip_prefix('W') else { continue };
            let number = u32::from_str_radix(number, 16).with_context(|| format!("half a line, {line}, in {said}"))?;
            ensure!(number as usize == numbers.len() + 1, "{number} came after {:?}", numbers.last());
            numbers.push(number);
        }
        Ok(numbers)
    }
}

fn number_in(volume: &[u8], number: u32) -> Option<u32> {
    let at = (FIRST + number as usize - 1) * SECTOR;
    Some(u32::from_le_bytes(volume.get(at..at + 4)?.try_into().ok()?))
}

fn boot_image() -> Result<Vec<u8>> {
    let digits = CODE.as_bytes().chunks(2);
    let digits = digits.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?));
    let mut image = digits.collect::<Result<Vec<_>>>()?;
    image.resize(SECTOR - 2, 0);
    image.extend([0x55, 0xaa]);
    image.resize(MIB << 20, 0);
    Ok(image)
}
