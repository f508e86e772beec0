use std::{collections::BTreeSet, fmt};

use bytesize::ByteSize;
use roxmltree::Node;

use super::{
    Error, GuestCpu, child,
    disk::{DiskDefinition, disk},
    filter::filter_named,
    metadata::{
        self, LabelError, VolumeLabel,
        affinity::{self, AffinityError},
        interfaces::{self, InterfaceError, InterfaceLabel},
        limits::{self, LimitsError},
    },
    parse,
    placement::{self, HugePages},
    text, volume,
};
use crate::{
    affinity::Membership,
    convergence::GuestLimits,
    id::InstanceId,
    instance::{Vif, VifAttachment},
    network::VlanId,
};

/// What a move needs to know of a domain's definition.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// The domain's UUID.
    pub id: InstanceId,
    /// The domain's name.
    pub name: String,
    /// `kvm`, or `qemu` for emulation.
    pub virt_type: String,
    /// The emulator's path, where the definition names it.
    pub emulator: Option<String>,
    /// Architecture, `x86_64`.
    pub architecture: String,
    /// Machine type, `pc-q35-7.2`.
    pub machine: String,
    /// Guest memory at most.
    pub memory: ByteSize,
    /// vCPUs at most.
    pub vcpus: u32,
    /// The huge pages that its memory lies in, one entry a size; what is in none of them lies in ordinary pages.
    pub huge_pages: Vec<HugePages>,
    /// The numbers of all CPUs of its host that its threads are pinned to. Empty: it runs on any.
    pub pinned_cpus: BTreeSet<u32>,
    /// The `<cpu>` element as it stands, to be compared with a host.
    pub cpu: Option<String>,
    /// Its disks.
    pub disks: Vec<DiskDefinition>,
    /// Its vifs.
    pub vifs: Vec<Vif>,
    /// libvirt's filters that its vifs name.
    pub filters: Vec<VifFilter>,
    /// What the metadata say of its volumes. An error hides no domain, but lets no disk be a volume by its label.
    pub labels: Result<Vec<VolumeLabel>, LabelError>,
    /// What the metadata say of its vifs. An error hides no domain, but lets no vif be filtered.
    pub interfaces: Result<Vec<InterfaceLabel>, InterfaceError>,
    /// What ties the guest to its host.
    pub obstacles: Vec<Obstacle>,
    /// What it keeps in files of its host that are no disks: QEMU carries it along while the guest runs, nobody when it is
    /// off.
    pub host_state: Vec<HostState>,
    /// What the metadata say of its live migrations. An error hides no domain, but lets none of them begin.
    pub limits: Result<GuestLimits, LimitsError>,
    /// The affinity groups that the metadata say it is in, by name. An error hides no domain, but lets it go nowhere.
    pub affinity: Result<Vec<Membership>, AffinityError>,
}

/// State of a guest in files of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostState {
    /// The variables of its UEFI firmware.
    Nvram {
        /// The file, where the definition names it.
        path: Option<String>,
    },
    /// A TPM that the host emulates.
    Tpm,
}

impl fmt::Display for HostState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nvram { path: Some(path) } => write!(f, "UEFI variables in {path}"),
            Self::Nvram { path: None } => f.write_str("UEFI variables"),
            Self::Tpm => f.write_str("an emulated TPM"),
        }
    }
}

/// A filter of libvirt's that a vif names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VifFilter {
    /// The vif's MAC address.
    pub mac: String,
    /// The filter's name.
    pub filter: String,
}

/// A device or setting that cannot leave the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// A device of the host passed through to the guest.
    HostDevice {
        /// `pci`, `usb`, `mdev`, … and what the definition says of it.
        description: String,
    },
    /// A directory of the host shown to the guest.
    Filesystem {
        /// The mount tag.
        target: String,
    },
    /// Memory shared with other processes of the host.
    SharedMemory {
        /// Its name.
        name: String,
    },
    /// Memory encrypted by the host's CPU.
    LaunchSecurity,
}

impl Definition {
    /// Reads a domain's definition.
    pub fn parse(xml: &str) -> Result<Self, Error> {
        let document = parse(xml)?;
        let domain = document.root_element();
        if !domain.has_tag_name("domain") {
            return Err(Error::Missing { parent: "document", wanted: "domain" });
        }
        let missing = |wanted| Error::Missing { parent: "domain", wanted };
        let kind = child(domain, "os").and_then(|os| child(os, "type")).ok_or(missing("os/type"))?;
        let devices = child(domain, "devices").ok_or(missing("devices"))?;
        let labels = metadata::read(domain);
        let mut disks: Vec<_> = elements(devices, "disk").filter_map(disk).collect();
        for label in labels.iter().flatten() {
            disks
                .iter_mut()
                .filter(|disk| disk.disk.target == label.target)
                .for_each(|disk| volume::label(disk, label));
        }
        let interfaces = interfaces::read(domain);
        let mut vifs: Vec<_> = elements(devices, "interface").map(vif).collect();
        interfaces.iter().flatten().for_each(|label| say(&mut vifs, label));
        let memory = placement::memory(domain).ok_or(missing("memory"))?;
        let id = text(domain, "uuid").and_then(|text| text.parse().ok()).ok_or(missing("uuid"))?;
        disks.iter_mut().filter_map(|disk| disk.volume.as_mut()).for_each(|volume| volume::name_initiator(volume, id));
        for disk in &mut disks {
            let label = labels.iter().flatten().find(|label| label.target == disk.disk.target);
            disk.disk.volume = volume::attachment(disk.volume.as_ref(), label);
        }
        Ok(Self {
            id,
            name: text(domain, "name").ok_or(missing("name"))?.to_owned(),
            virt_type: domain.attribute("type").unwrap_or("qemu").to_owned(),
            emulator: text(devices, "emulator").map(str::to_owned),
            architecture: kind.attribute("arch").ok_or(missing("os/type arch"))?.to_owned(),
            machine: kind.attribute("machine").ok_or(missing("os/type machine"))?.to_owned(),
            memory,
            vcpus: text(domain, "vcpu").and_then(|text| text.parse().ok()).ok_or(missing("vcpu"))?,
            huge_pages: placement::huge_pages(domain, memory),
            pinned_cpus: placement::pinned_cpus(domain),
            cpu: child(domain, "cpu").map(|cpu| xml[cpu.range()].to_owned()),
            disks,
            vifs,
            filters: elements(devices, "interface").filter_map(vif_filter).collect(),
            labels,
            interfaces,
            obstacles: obstacles(domain, devices),
            host_state: host_state(domain, devices),
            limits: limits::read(domain),
            affinity: affinity::read(domain),
        })
    }

    /// How much of its memory lies in ordinary pages.
    pub fn ordinary_memory(&self) -> ByteSize {
        let huge: u64 = self.huge_pages.iter().map(|pages| pages.memory.as_u64()).sum();
        ByteSize::b(self.memory.as_u64().saturating_sub(huge))
    }

    /// Which CPU it has. None: the emulator's default.
    pub fn guest_cpu(&self) -> Option<GuestCpu> {
        self.cpu.as_deref().map(GuestCpu::of)
    }
}

fn elements<'a, 'd: 'a>(node: Node<'a, 'd>, name: &'static str) -> impl Iterator<Item = Node<'a, 'd>> {
    node.children().filter(move |child| child.has_tag_name(name))
}

fn vif(node: Node<'_, '_>) -> Vif {
    let source = |name| child(node, "source").and_then(|source| source.attribute(name)).unwrap_or_default().to_owned();
    let of = |name, attribute| child(node, name).and_then(|n| n.attribute(attribute)).unwrap_or_default().to_owned();
    Vif {
        mac: of("mac", "address"),
        model: of("model", "type"),
        attachment: match node.attribute("type").unwrap_or_default() {
            "bridge" if is_trunk(node) => VifAttachment::Other { kind: "bridge with several VLANs".to_owned() },
            "bridge" => VifAttachment::Bridge { bridge: source("bridge") },
            "network" => VifAttachment::Network { network: source("network") },
            other => VifAttachment::Other { kind: other.to_owned() },
        },
        network: None,
        policy: None,
        tap: Some(of("target", "dev")).filter(|tap| !tap.is_empty()),
        vlan: vlan(node),
        mtu: of("mtu", "size").parse().ok(),
    }
}

fn vif_filter(node: Node<'_, '_>) -> Option<VifFilter> {
    let filter = node.children().find_map(filter_named)?;
    let mac = child(node, "mac").and_then(|mac| mac.attribute("address")).unwrap_or_default();
    Some(VifFilter { mac: mac.to_owned(), filter })
}

/// Whether it is in several networks at once.
fn is_trunk(vif: Node<'_, '_>) -> bool {
    child(vif, "vlan").is_some_and(|vlan| vlan.attribute("trunk") == Some("yes") || elements(vlan, "tag").count() > 1)
}

/// The one of an access port.
fn vlan(vif: Node<'_, '_>) -> Option<VlanId> {
    let mut tags = elements(child(vif, "vlan")?, "tag");
    let tag = tags.next().filter(|_| tags.next().is_none())?;
    tag.attribute("id")?.parse::<u16>().ok()?.try_into().ok()
}

fn say(vifs: &mut [Vif], InterfaceLabel { mac, network, policy }: &InterfaceLabel) {
    for vif in vifs.iter_mut().filter(|vif| vif.mac.parse() == Ok(*mac)) {
        vif.network.clone_from(network);
        vif.policy.clone_from(policy);
    }
}

fn host_state(domain: Node<'_, '_>, devices: Node<'_, '_>) -> Vec<HostState> {
    let nvram = child(domain, "os").and_then(|os| child(os, "nvram"));
    // A TPM of the host itself, passed through, is an obstacle of its own.
    let tpms = elements(devices, "tpm")
        .filter(|tpm| child(*tpm, "backend").and_then(|backend| backend.attribute("type")) == Some("emulator"));
    let nvram = nvram.map(|nvram| HostState::Nvram { path: nvram.text().map(|path| path.trim().to_owned()) });
    nvram.into_iter().chain(tpms.map(|_| HostState::Tpm)).collect()
}

fn obstacles(domain: Node<'_, '_>, devices: Node<'_, '_>) -> Vec<Obstacle> {
    let mut found = Vec::new();
    for device in elements(devices, "hostdev") {
        found.push(Obstacle::HostDevice { description: describe_host_device(device) });
    }
    for vif in elements(devices, "interface").filter(|vif| vif.attribute("type") == Some("hostdev")) {
        found.push(Obstacle::HostDevice { description: describe_host_device(vif) });
    }
    for filesystem in elements(devices, "filesystem") {
        let target = child(filesystem, "target").and_then(|target| target.attribute("dir")).unwrap_or_default();
        found.push(Obstacle::Filesystem { target: target.to_owned() });
    }
    for memory in elements(devices, "shmem") {
        found.push(Obstacle::SharedMemory { name: memory.attribute("name").unwrap_or_default().to_owned() });
    }
    if child(domain, "launchSecurity").is_some() {
        found.push(Obstacle::LaunchSecurity);
    }
    found
}

/// `pci 0000:3b:00.0`, `usb 046d:c52b`, or only the kind where the definition says no more.
fn describe_host_device(device: Node<'_, '_>) -> String {
    let kind = device.attribute("type").filter(|kind| *kind != "hostdev").unwrap_or("pci");
    let source = child(device, "source");
    let address = source.and_then(|source| child(source, "address"));
    let part = |node: Option<Node<'_, '_>>, name: &str| {
        node.and_then(|node| node.attribute(name)).map(|text| text.trim_start_matches("0x").to_owned())
    };
    if let (Some(domain), Some(bus), Some(slot), Some(function)) =
        (part(address, "domain"), part(address, "bus"), part(address, "slot"), part(address, "function"))
    {
        return format!("{kind} {domain}:{bus}:{slot}.{function}");
    }
    let id = |name| source.and_then(|source| child(source, name)).and_then(|node| part(Some(node), "id"));
    match (id("vendor"), id("product")) {
        (Some(vendor), Some(product)) => format!("{kind} {vendor}:{product}"),
        _ => part(address, "uuid").map_or_else(|| kind.to_owned(), |uuid| format!("{kind} {uuid}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        instance::DiskSource,
        volume::{Attachment, Connection},
    };

    const DOMAIN: &str = r"
<domain type='qemu' id='1'>
  <name>web</name>
  <uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>
  <memory unit='MiB'>256</memory>
  <vcpu placement='static'>2</vcpu>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><source file='/srv/web.img'/><target dev='vda' bus='virtio'/><readonly/></disk>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
    <disk type='network' device='disk'><source protocol='rbd' name='vms/web'/><target dev='vdb'/></disk>
    <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><model type='virtio'/>
      <filterref filter='clean-traffic'><parameter name='IP' value='192.0.2.7'/></filterref></interface>
    <hostdev mode='subsystem' type='pci'>
      <source><address domain='0x0000' bus='0x3b' slot='0x00' function='0x0'/></source>
    </hostdev>
    <filesystem type='mount'><source dir='/srv'/><target dir='share'/></filesystem>
  </devices>
</domain>";

    #[test]
    fn reads_what_a_move_needs() {
        let definition = Definition::parse(DOMAIN).expect("valid");
        assert_eq!(definition.name, "web");
        assert_eq!(definition.memory, ByteSize::mib(256));
        assert_eq!(definition.vcpus, 2);
        assert_eq!(definition.machine, "pc-q35-7.2");
        assert_eq!(definition.cpu.as_deref(), Some("<cpu mode='custom' match='exact'><model>qemu64</model></cpu>"));
        assert_eq!(definition.disks.len(), 3);
        assert!(definition.disks[0].disk.read_only);
        assert_eq!(definition.disks[1].disk.source, DiskSource::Empty);
        assert_eq!(definition.disks[2].disk.source.to_string(), "rbd:vms/web");
        assert_eq!(definition.vifs[0].attachment, VifAttachment::Bridge { bridge: "br0".into() });
        let filtered = VifFilter { mac: "52:54:00:00:00:01".into(), filter: "clean-traffic".into() };
        assert_eq!(definition.filters, [filtered]);
        assert_eq!(
            definition.obstacles,
            [
                Obstacle::HostDevice { description: "pci 0000:3b:00.0".into() },
                Obstacle::Filesystem { target: "share".into() }
            ]
        );
    }

    #[test]
    fn a_label_says_how_the_host_reaches_a_disk() {
        let labelled = |inner: &str| {
            let block = "<devices><disk type='block'><source dev='/dev/sdb'/><target dev='vde'/></disk>
                <disk type='network'><source protocol='iscsi' name='iqn.a/1'><host name='192.0.2.1'/></source>
                <target dev='vdf'/></disk>";
            let metadata =
                format!("<metadata><v:volumes xmlns:v='{}'>{inner}</v:volumes></metadata>", metadata::NAMESPACE);
            let xml = DOMAIN.replace("<devices>", &format!("{metadata}{block}"));
            Definition::parse(&xml).expect("valid")
        };
        let two_portals = "<v:portal address='192.0.2.1'/><v:portal address='192.0.2.2'/>";
        let label = |target: &str, lun: u16| {
            format!(
                "<v:volume target='{target}' id='1'><v:iscsi target='iqn.a' lun='{lun}'>{two_portals}</v:iscsi></v:volume>"
            )
        };
        let volume = |definition: &Definition, disk: usize| {
            definition.disks[disk].volume.as_ref().map(|volume| match &volume.connection {
                Connection::Iscsi(iscsi) => (volume.attachment, iscsi.portals.len()),
                Connection::Rbd(_) => panic!("{volume:?}"),
            })
        };
        let bare = labelled("");
        assert_eq!((volume(&bare, 0), volume(&bare, 1)), (None, Some((Attachment::ByQemu, 1))));
        let both = labelled(&(label("vde", 1) + &label("vdf", 1)));
        assert_eq!(volume(&both, 0), Some((Attachment::ByHost, 2)));
        assert_eq!(volume(&both, 1), Some((Attachment::ByQemu, 2)), "the further portal is known");
        let Some(Connection::Iscsi(iscsi)) = both.disks[1].volume.as_ref().map(|volume| &volume.connection) else {
            panic!("{both:?}")
        };
        let name = "iqn.2008-11.org.linux-kvm:4dea22b3-1d52-d8f3-2516-782e98ab3fa0";
        assert_eq!(iscsi.initiator.as_deref(), Some(name), "QEMU's own name for a guest that is given none");
        let another = labelled(&label("vdf", 2));
        assert_eq!(volume(&another, 1), Some((Attachment::ByQemu, 1)), "QEMU opens what libvirt tells it");
        let files = labelled(&label("vda", 1));
        assert_eq!(files.disks[2].volume, None, "a file is no volume, whatever its label says");
        let wrong = labelled(&(label("vde", 1) + &label("vde", 1)));
        assert!(wrong.labels.is_err() && volume(&wrong, 0).is_none(), "{:?}", wrong.labels);
    }

    #[test]
    fn says_what_is_missing() {
        assert!(matches!(Definition::parse("<domain"), Err(Error::Malformed(_))));
        assert_eq!(Definition::parse("<network/>"), Err(Error::Missing { parent: "document", wanted: "domain" }));
        let without_name = DOMAIN.replace("name>", "label>");
        assert_eq!(Definition::parse(&without_name), Err(Error::Missing { parent: "domain", wanted: "name" }));
    }
}
