//! Which CPU a definition asks for, as far as hosts can be told apart by it without asking them.

use super::{child, parse};

/// The CPU that a guest has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestCpu {
    /// Its host's own.
    HostPassthrough,
    /// One of libvirt's models.
    Model {
        /// Its name: `EPYC-Milan`.
        name: String,
        /// Whether it has all that the model has. Otherwise a host may do that cannot give the model as a whole.
        whole: bool,
    },
    /// Something that only the host itself can judge.
    Other,
}

impl GuestCpu {
    /// Reads a definition's `<cpu>` element.
    pub(super) fn of(xml: &str) -> Self {
        let Ok(document) = parse(xml) else { return Self::Other };
        let cpu = document.root_element();
        match (cpu.attribute("mode"), child(cpu, "model").and_then(|model| model.text())) {
            (Some("host-passthrough"), _) => Self::HostPassthrough,
            (Some("custom") | None, Some(name)) => {
                let lacks = ["disable", "forbid"].map(Some);
                let features = cpu.children().filter(|node| node.has_tag_name("feature"));
                let whole = !features.into_iter().any(|feature| lacks.contains(&feature.attribute("policy")));
                Self::Model { name: name.trim().to_owned(), whole }
            }
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_cpu_is_a_model_or_its_hosts_own() {
        let model = |whole| GuestCpu::Model { name: "EPYC-Milan".into(), whole };
        for (xml, expected) in [
            ("<cpu mode='host-passthrough' check='none' migratable='on'/>", GuestCpu::HostPassthrough),
            ("<cpu mode='host-model'/>", GuestCpu::Other),
            ("<cpu mode='maximum'/>", GuestCpu::Other),
            ("<cpu><topology sockets='1' cores='2' threads='1'/></cpu>", GuestCpu::Other),
            ("<cpu mode='custom' match='exact'><model fallback='forbid'>EPYC-Milan</model></cpu>", model(true)),
            ("<cpu><model> EPYC-Milan </model><feature policy='require' name='x2apic'/></cpu>", model(true)),
            ("<cpu mode='custom'><model>EPYC-Milan</model><feature policy='disable' name='svm'/></cpu>", model(false)),
            ("<cpu", GuestCpu::Other),
        ] {
            assert_eq!(GuestCpu::of(xml), expected, "{xml}");
        }
    }
}
