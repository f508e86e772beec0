//! A plan that somebody has looked at, and from which a migration must not deviate.

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::Plan;
use crate::{
    compatibility::{Check, Refusal},
    disk::{Resolution, Resolved, StaticImage},
    instance::Instance,
    migration::Order,
    reason::Reason,
};

/// The form in which it is written down.
const FORM: u32 = 1;

/// What a migration was to do when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// The form of what follows.
    form: u32,
    /// What was asked for. Its id is not that of any migration.
    pub order: Order,
    #[serde(serialize_with = "crate::bytes::exact")]
    memory: ByteSize,
    vcpus: u32,
    disks: Vec<PlannedDisk>,
    vifs: Vec<PlannedVif>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PlannedDisk {
    target: String,
    /// How it gets there: `shared`, `copied`, …
    way: String,
    /// Its path, or how the volume is reached and what tells it from others.
    place: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PlannedVif {
    mac: String,
    /// What it is plugged into, and the logical network that this is.
    plugged: String,
}

/// A plan in a form that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is written in form {found}, this version knows form {FORM}; make a new one")]
pub struct UnknownForm {
    found: u32,
}

impl Planned {
    /// What a plan that was not refused says.
    pub fn of(order: &Order, plan: &Plan) -> Self {
        let guest = &plan.leaving.instance;
        Self {
            form: FORM,
            order: order.clone(),
            memory: guest.memory,
            vcpus: guest.vcpus,
            disks: plan.resolved.iter().map(PlannedDisk::of).collect(),
            vifs: vifs(guest),
        }
    }

    /// Fails if it cannot be understood.
    pub fn known(self) -> Result<Self, UnknownForm> {
        if self.form == FORM { Ok(self) } else { Err(UnknownForm { found: self.form }) }
    }

    /// Where a migration would do something else, a refusal each.
    pub fn deviations(&self, order: &Order, plan: &Plan) -> Vec<Check> {
        let now = Self::of(order, plan);
        let name = &order.instance_name;
        let mut deviations = Vec::new();
        let mut differs = |what: String, was: String, is: String| {
            if was != is {
                let message = format!("{what} of {name} was planned as {was}, and is {is} now");
                let remedy = format!("look at it and make a new plan: vmferry plan {name} --save FILE");
                let refusal = Refusal { reason: Reason::PlanDiffers, message, remedy };
                deviations.push(Check::refused(&order.source.host, "plan", refusal));
            }
        };
        let hosts = |order: &Order| format!("{} → {}", order.source.host, order.destination.host);
        differs("the way".into(), hosts(&self.order), hosts(&now.order));
        differs("the memory".into(), self.memory.to_string(), now.memory.to_string());
        differs("the number of vCPUs".into(), self.vcpus.to_string(), now.vcpus.to_string());
        for (name, was, is) in paired(&self.disks, &now.disks, |disk| &disk.target) {
            let text = |disk: Option<&PlannedDisk>| {
                disk.map_or("none".to_owned(), |PlannedDisk { way, place, .. }| {
                    format!("{way} {place}").trim().to_owned()
                })
            };
            differs(format!("disk {name}"), text(was), text(is));
        }
        for (name, was, is) in paired(&self.vifs, &now.vifs, |vif| &vif.mac) {
            let text = |vif: Option<&PlannedVif>| vif.map_or("none".to_owned(), |vif| vif.plugged.clone());
            differs(format!("vif {name}"), text(was), text(is));
        }
        deviations
    }
}

/// Those of the same name, and those that only one side has.
fn paired<'a, T>(
    was: &'a [T],
    is: &'a [T],
    name: impl Fn(&T) -> &String,
) -> Vec<(String, Option<&'a T>, Option<&'a T>)> {
    let find = |among: &'a [T], wanted: &str| among.iter().find(|one| name(one) == wanted);
    let gone_or_here = was.iter().map(|one| (name(one).clone(), Some(one), find(is, name(one))));
    let new = is.iter().filter(|one| find(was, name(one)).is_none()).map(|one| (name(one).clone(), None, Some(one)));
    gone_or_here.chain(new).collect()
}

fn vifs(guest: &Instance) -> Vec<PlannedVif> {
    let plugged = |vif: &crate::instance::Vif| match &vif.network {
        Some(network) => format!("{} ({network})", vif.attachment),
        None => vif.attachment.to_string(),
    };
    guest.vifs.iter().map(|vif| PlannedVif { mac: vif.mac.clone(), plugged: plugged(vif) }).collect()
}

impl PlannedDisk {
    /// Without what changes while the guest runs: how much of an image is written.
    fn of(Resolved { target, resolution }: &Resolved) -> Self {
        let paths =
            |images: &[StaticImage]| images.iter().map(|image| image.path.as_str()).collect::<Vec<_>>().join(", ");
        let (way, place) = match resolution {
            Resolution::Empty => ("no medium", String::new()),
            Resolution::Shared { path, .. } => ("shared", path.clone()),
            Resolution::Copied { image, .. } => ("copied", image.path.clone()),
            Resolution::Moved { layers } => ("copied while it is off", paths(layers)),
            Resolution::Medium { layers } => ("only read", paths(layers)),
            Resolution::Volume { volume, found } => ("volume", format!("{}, {}", volume.connection, found.identity)),
        };
        Self { target: target.clone(), way: way.to_owned(), place }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::Leaving, disk::Shown, domain_xml::Definition, flow::tests::order, instance::InstanceState};

    const WEB: &str = "<domain type='kvm'><name>web</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>\
        <memory unit='MiB'>256</memory><vcpu>2</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>\
        <devices><interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/></interface></devices></domain>";

    fn plan(resolved: Vec<Resolved>) -> Plan {
        let definition = Definition::parse(WEB).expect("valid");
        let instance = Instance {
            id: definition.id,
            name: definition.name.clone(),
            state: InstanceState::Active,
            host: order().source.host,
            memory: definition.memory,
            vcpus: definition.vcpus,
            persistent: true,
            disks: vec![],
            vifs: definition.vifs.clone(),
            migration: None,
            problems: vec![],
            limits: Default::default(),
        };
        let leaving = Leaving {
            instance,
            domain_xml: WEB.into(),
            definition,
            qemu_version: 7_002_022,
            shown: Shown::default(),
            autostart: false,
            members: Default::default(),
            filters: vec![],
        };
        Plan { leaving, checks: vec![], resolved }
    }

    fn shared(target: &str, path: &str) -> Resolved {
        Resolved { target: target.into(), resolution: Resolution::Shared { path: path.into(), below: vec![] } }
    }

    #[test]
    fn what_is_as_it_was_planned_is_not_refused_and_all_else_is() {
        let (order, looked_at) = (order(), plan(vec![shared("vda", "/srv/a"), shared("vdb", "/srv/b")]));
        let planned = Planned::of(&order, &looked_at);
        let text = serde_json::to_string(&planned).expect("it can be written");
        let read: Planned = serde_json::from_str(&text).expect("and read");
        assert_eq!(read.clone().known().as_ref(), Ok(&planned));
        assert_eq!(read.deviations(&order, &looked_at), vec![]);

        let mut other = plan(vec![shared("vda", "/srv/c"), shared("vdc", "/srv/b")]);
        other.leaving.instance.vcpus = 4;
        let told: Vec<_> = read.deviations(&order, &other);
        let told: Vec<_> = told.iter().filter_map(Check::refusal).map(|refusal| refusal.message.as_str()).collect();
        assert_eq!(
            told,
            [
                "the number of vCPUs of web was planned as 2, and is 4 now",
                "disk vda of web was planned as shared /srv/a, and is shared /srv/c now",
                "disk vdb of web was planned as shared /srv/b, and is none now",
                "disk vdc of web was planned as none, and is shared /srv/b now",
            ]
        );
        let unknown = Planned { form: 2, ..planned };
        assert!(unknown.known().is_err());
    }
}
