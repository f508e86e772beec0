//! The domain's XML: one template, with holes where tests want variants.

use std::fs;

/// A domain. All fields may be changed before it is defined, to make one that a host must refuse, say.
#[derive(Debug, Clone)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// What runs it, as libvirt has it: `qemu` emulates, `kvm` needs a kernel that can.
    pub hypervisor: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Machine type: `q35`, `pc`, or a versioned one.
    pub machine: String,
    /// The whole `<cpu>` element.
    pub cpu: String,
    /// Its network interface, if any.
    pub vif: Option<Vif>,
    /// The disk's source on the host: a raw image, attached read-only.
    pub disk: String,
    /// The whole `<disk>` element of a volume that is `vda` instead.
    pub boot_volume: Option<String>,
    /// Where its console is written on the host.
    pub console: String,
    /// Further XML inside `<devices>`: a hostdev, another disk …
    pub extra_devices: String,
    /// Further XML inside `<domain>`: metadata, memoryBacking …
    pub extra: String,
}

/// A virtual interface.
#[derive(Debug, Clone)]
pub struct Vif {
    /// Its MAC address.
    pub mac: String,
    /// The bridge on the host.
    pub bridge: String,
    /// Its largest packet; none: the bridge's.
    pub mtu: Option<u32>,
    /// Further XML inside `<interface>`: a filter, a port of a switch …
    pub extra: String,
}

impl Domain {
    /// A domain that runs everywhere, with its disk and console in the shared directory.
    pub(super) fn new(name: &str, memory_mib: u64) -> Self {
        let shared = crate::layout::SHARED;
        Self {
            name: name.to_owned(),
            uuid: fs::read_to_string("/proc/sys/kernel/random/uuid")
                .map(|uuid| uuid.trim().to_owned())
                .unwrap_or_default(),
            hypervisor: "qemu".to_owned(),
            memory_mib,
            vcpus: 1,
            machine: "q35".to_owned(),
            cpu: "<cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>"
                .to_owned(),
            vif: Some(Vif::new(name)),
            disk: format!("{shared}/{name}.img"),
            boot_volume: None,
            console: format!("{shared}/{name}.console"),
            extra_devices: String::new(),
            extra: String::new(),
        }
    }

    /// The XML. `boot` goes into `<os>`: a kernel, or a boot device.
    pub(super) fn xml(&self, boot: &str) -> String {
        let Self {
            name, uuid, hypervisor, memory_mib, vcpus, machine, cpu, disk, console, extra_devices, extra, ..
        } = self;
        // Without the ROM: iPXE would take a second of every boot.
        let vif = self.vif.as_ref().map_or_else(String::new, |Vif { mac, bridge, mtu, extra }| {
            let mtu = mtu.map_or_else(String::new, |mtu| format!("<mtu size='{mtu}'/>"));
            format!(
                "<interface type='bridge'>
      <mac address='{mac}'/>
      <source bridge='{bridge}'/>
      <model type='virtio'/>
      {mtu}
      {extra}
      <rom enabled='no'/>
    </interface>"
            )
        });
        let image = || {
            format!(
                "<disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source file='{disk}'/>
      <target dev='vda' bus='virtio'/>
      <readonly/>
    </disk>"
            )
        };
        let vda = self.boot_volume.clone().unwrap_or_else(image);
        let ram = if hypervisor == "qemu" { ram_that_arrives_whole(*memory_mib) } else { String::new() };
        format!(
            "<domain type='{hypervisor}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>{vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='{machine}'>hvm</type>
    {boot}
  </os>
  <features><acpi/></features>
  {cpu}
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  {extra}
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {vda}
    {vif}
    <serial type='file'>
      <source path='{console}' append='on'/>
      <target type='isa-serial' port='0'/>
    </serial>
    <memballoon model='none'/>
    {extra_devices}
  </devices>
  {ram}
</domain>
"
        )
    }
}

/// RAM of an emulated guest that QEMU migrates whole.
///
/// Before 9.0, QEMU sometimes misses what an emulated CPU writes while it migrates, if the RAM is a multiple of 256 KiB
/// long, so that pages arrive older than the rest (commit 03bfc2188f06, "physmem: Fix migration dirty bitmap coherency
/// with TCG memory access"). libvirt rounds to a MiB, hence these arguments: QEMU takes the last of each.
fn ram_that_arrives_whole(mib: u64) -> String {
    let size = mib * 1024 + 8;
    let arguments = [
        "-object".to_owned(),
        format!("memory-backend-ram,id=whole.ram,size={size}k"),
        "-machine".to_owned(),
        "memory-backend=whole.ram".to_owned(),
        "-m".to_owned(),
        format!("{size}k"),
    ];
    let arguments: String = arguments.map(|argument| format!("<qemu:arg value='{argument}'/>")).concat();
    format!("<qemu:commandline>{arguments}</qemu:commandline>")
}
