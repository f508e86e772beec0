use std::collections::BTreeSet;

use super::{Error, child, parse, text};

/// What a host's emulator offers for one architecture and virtualisation type: libvirt's domain capabilities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The canonical machine type the question was asked for.
    pub machine: String,
    /// vCPUs at most on that machine.
    pub vcpus_max: u32,
    /// libvirt's models of CPUs that the host can give.
    pub cpu_models: BTreeSet<String>,
}

impl Capabilities {
    /// Reads `virConnectGetDomainCapabilities`' answer.
    pub fn parse(xml: &str) -> Result<Self, Error> {
        let document = parse(xml)?;
        let root = document.root_element();
        let machine =
            text(root, "machine").ok_or(Error::Missing { parent: "domainCapabilities", wanted: "machine" })?;
        let vcpus_max = child(root, "vcpu").and_then(|vcpu| vcpu.attribute("max")).and_then(|max| max.parse().ok());
        let modes = child(root, "cpu").into_iter().flat_map(|cpu| cpu.children());
        let custom = modes.filter(|node| node.has_tag_name("mode") && node.attribute("name") == Some("custom"));
        let models = custom.flat_map(|mode| mode.children()).filter(|node| node.has_tag_name("model"));
        let usable = models.filter(|model| model.attribute("usable") == Some("yes"));
        let cpu_models = usable.filter_map(|model| model.text()).map(|name| name.trim().to_owned()).collect();
        Ok(Self { machine: machine.to_owned(), vcpus_max: vcpus_max.unwrap_or(u32::MAX), cpu_models })
    }
}

/// What the host is and which guests it can run: libvirt's host capabilities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCapabilities {
    /// The host's architecture.
    pub architecture: String,
    /// The host CPU's model as libvirt names it.
    pub cpu_model: String,
    /// Machine types and their aliases, per guest architecture and virtualisation type.
    pub machines: BTreeSet<(String, String, String)>,
}

impl HostCapabilities {
    /// Reads `virConnectGetCapabilities`' answer.
    pub fn parse(xml: &str) -> Result<Self, Error> {
        let document = parse(xml)?;
        let root = document.root_element();
        let missing = |wanted| Error::Missing { parent: "capabilities", wanted };
        let cpu = child(root, "host").and_then(|host| child(host, "cpu")).ok_or(missing("host/cpu"))?;
        let mut machines = BTreeSet::new();
        for guest in root.children().filter(|node| node.has_tag_name("guest")) {
            let Some(arch) = child(guest, "arch") else { continue };
            let Some(name) = arch.attribute("name") else { continue };
            for domain in arch.children().filter(|node| node.has_tag_name("domain")) {
                let Some(virt_type) = domain.attribute("type") else { continue };
                // A <domain> lists machines of its own only where they differ from the architecture's.
                let own = domain.children().any(|node| node.has_tag_name("machine"));
                let list = if own { domain } else { arch };
                for machine in list.children().filter(|node| node.has_tag_name("machine")) {
                    for name_of_machine in [machine.text(), machine.attribute("canonical")].into_iter().flatten() {
                        machines.insert((name.to_owned(), virt_type.to_owned(), name_of_machine.trim().to_owned()));
                    }
                }
            }
        }
        Ok(Self {
            architecture: text(cpu, "arch").ok_or(missing("host/cpu/arch"))?.to_owned(),
            cpu_model: text(cpu, "model").unwrap_or("unknown").to_owned(),
            machines,
        })
    }

    /// Whether a guest of this architecture and virtualisation type can run here at all.
    pub fn offers(&self, architecture: &str, virt_type: &str) -> bool {
        self.machines.iter().any(|(arch, virt, _)| arch == architecture && virt == virt_type)
    }

    /// Whether the machine type is known for that architecture and virtualisation type.
    pub fn offers_machine(&self, architecture: &str, virt_type: &str, machine: &str) -> bool {
        self.machines.contains(&(architecture.to_owned(), virt_type.to_owned(), machine.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_machines_with_their_aliases() {
        let host = HostCapabilities::parse(
            "<capabilities><host><cpu><arch>x86_64</arch><model>EPYC-Milan</model></cpu></host>
             <guest><os_type>hvm</os_type><arch name='x86_64'>
               <machine maxCpus='255'>pc-i440fx-7.2</machine>
               <machine canonical='pc-q35-7.2' maxCpus='288'>q35</machine>
               <domain type='qemu'/>
               <domain type='kvm'><machine>microvm</machine></domain>
             </arch></guest></capabilities>",
        )
        .expect("valid");
        assert_eq!(host.cpu_model, "EPYC-Milan");
        assert!(host.offers("x86_64", "qemu") && host.offers("x86_64", "kvm") && !host.offers("aarch64", "qemu"));
        assert!(host.offers_machine("x86_64", "qemu", "q35"));
        assert!(host.offers_machine("x86_64", "qemu", "pc-q35-7.2"));
        assert!(!host.offers_machine("x86_64", "kvm", "pc-q35-7.2"));
    }

    #[test]
    fn reads_the_most_vcpus() {
        let capabilities = Capabilities::parse(
            "<domainCapabilities><machine>pc-q35-7.2</machine><vcpu max='288'/></domainCapabilities>",
        );
        let cpu_models = BTreeSet::new();
        assert_eq!(capabilities, Ok(Capabilities { machine: "pc-q35-7.2".into(), vcpus_max: 288, cpu_models }));
    }

    #[test]
    fn reads_the_models_of_cpus_that_can_be_given() {
        let capabilities = Capabilities::parse(
            "<domainCapabilities><machine>pc-q35-7.2</machine><cpu>
               <mode name='host-model' supported='yes'><model fallback='forbid'>EPYC-Rome</model></mode>
               <mode name='custom' supported='yes'><model usable='yes' vendor='AMD'>EPYC</model>
                 <model usable='no' vendor='Intel'>Cascadelake-Server</model><model usable='unknown'>z14</model>
                 <model usable='yes' deprecated='no'>qemu64</model></mode></cpu></domainCapabilities>",
        )
        .expect("valid");
        assert_eq!(Vec::from_iter(capabilities.cpu_models), ["EPYC", "qemu64"]);
    }
}
