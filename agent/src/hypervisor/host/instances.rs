//! This host's domains, as people see them, and what is said of their volumes.

use std::sync::Arc;

use futures::future::join_all;
use vmferry_core::{
    agent::Sighting,
    convergence::GuestLimits,
    domain_xml::metadata::{
        self, AffinityChange, Element, LabellingError, VolumeLabel,
        interfaces::InterfaceLabel,
        limits::{LimitsError, judged},
    },
    id::InstanceId,
    instance::Instance,
    reason::Reason,
};

use super::LibvirtHost;
use crate::{
    hypervisor::Fault,
    libvirt::{ChangeError, DomainReading, Error, LabelChange},
};

impl LibvirtHost {
    /// All domains, running or not.
    pub async fn instances(&self) -> Result<Vec<Instance>, Fault> {
        let domains = self.libvirt.domains().await?;
        Ok(join_all(domains.into_iter().map(|domain| self.sized_instance_of(domain))).await)
    }

    /// The domain with this name or UUID.
    pub async fn instance(&self, name_or_id: &str) -> Result<Option<Instance>, Fault> {
        match self.libvirt.domain(name_or_id).await? {
            Some(domain) => Ok(Some(self.sized_instance_of(domain).await)),
            None => Ok(None),
        }
    }

    /// Says of one of a domain's disks what it is as a volume.
    pub async fn set_label(&self, instance: InstanceId, label: VolumeLabel) -> Result<(), Fault> {
        let change = Arc::new(move |definition: &_| {
            metadata::label(definition, label.clone()).map(|labels| Element::volumes(&labels))
        });
        self.change_labels(instance, change).await
    }

    /// Takes away what is said of one of a domain's disks; `None`: of all of them, whether it can be read or not.
    pub async fn unset_label(&self, instance: InstanceId, target: Option<String>) -> Result<(), Fault> {
        let change: LabelChange = match target {
            Some(target) => Arc::new(move |definition: &_| {
                metadata::unlabel(definition, &target).map(|labels| Element::volumes(&labels))
            }),
            None => Arc::new(|_: &_| Ok(Element::volumes(&[]))),
        };
        self.change_labels(instance, change).await
    }

    /// Says of one of a domain's vifs where it is plugged in and what it may; `None`: nothing of any of them, whether it can be
    /// read or not.
    pub async fn set_vif_label(&self, instance: InstanceId, label: Option<InterfaceLabel>) -> Result<(), Fault> {
        let change: LabelChange = match label {
            Some(label) => Arc::new(move |definition: &_| {
                metadata::label_vif(definition, label.clone()).map(|labels| Element::interfaces(&labels))
            }),
            None => Arc::new(|_: &_| Ok(Element::interfaces(&[]))),
        };
        self.change_labels(instance, change).await?;
        self.reconcile(true).await.map(drop)
    }

    /// Says what a domain's live migrations may cost it, in the place of what was said before, whether that can be read or not.
    pub async fn set_limits(&self, instance: InstanceId, limits: GuestLimits) -> Result<(), Fault> {
        let change = Arc::new(move |_: &_| {
            let limits = judged(limits.clone()).map_err(LabellingError::Limits)?;
            Ok(Element::limits(&limits))
        });
        self.change_labels(instance, change).await
    }

    /// Says which affinity groups a domain is in.
    pub async fn set_affinity(&self, instance: InstanceId, change: AffinityChange) -> Result<(), Fault> {
        let change = Arc::new(move |definition: &_| change.of(definition).map(|said| Element::affinity(&said)));
        self.change_labels(instance, change).await
    }

    async fn change_labels(&self, instance: InstanceId, change: LabelChange) -> Result<(), Fault> {
        self.libvirt.change_labels(instance, change).await.map_err(|error| match error {
            ChangeError::Labelling(error) => Fault::new(Reason::InvalidRequest, error.to_string()),
            ChangeError::Libvirt(Error::NoDomain { id }) => {
                let message = format!("{} has no instance {id}; `vmferry instances` lists them", self.name);
                Fault::new(Reason::InstanceNotFound, message)
            }
            ChangeError::Libvirt(error) => error.into(),
        })
    }

    async fn sized_instance_of(&self, domain: DomainReading) -> Instance {
        let runs = domain.sighting != Sighting::Shutoff;
        let mut instance = self.instance_of(domain);
        let mut volumes: Vec<_> =
            instance.disks.iter_mut().filter_map(|disk| Some((&disk.target, disk.volume.as_mut()?))).collect();
        if runs && !volumes.is_empty() {
            let targets = volumes.iter().map(|(target, _)| (*target).clone()).collect();
            for (target, size) in self.libvirt.sizes(instance.id, targets).await {
                volumes
                    .iter_mut()
                    .filter(|(other, _)| **other == target)
                    .for_each(|(_, volume)| volume.size = Some(size));
            }
        }
        instance
    }

    /// Without the sizes of its volumes.
    pub(super) fn instance_of(&self, domain: DomainReading) -> Instance {
        let definition = domain.definition;
        let name = &domain.name;
        let volumes = definition.labels.err().map(|error| {
            format!(
                "what the definition says of its volumes cannot be read: {error}; \
                 remove it (vmferry volumes unset {name} --all) and say it again (vmferry volumes set)"
            )
        });
        let vifs = definition.interfaces.err().map(|error| {
            format!(
                "what the definition says of its vifs cannot be read, so that none is filtered: {error}; \
                 remove it (vmferry instance policy unset {name} --all) and say it again (vmferry instance policy set)"
            )
        });
        let limits = definition.limits.as_ref().err().map(|error: &LimitsError| {
            format!(
                "what the definition says of its live migrations cannot be read, so that none begins: {error}; \
                 remove it (vmferry instance limits unset {name}) and say it again (vmferry instance limits set)"
            )
        });
        let affinity = definition.affinity.as_ref().err().map(|error| {
            format!(
                "what the definition says of its affinity groups cannot be read, so that it goes nowhere: {error}; \
                 remove it (vmferry instance affinity unset {name} --all) and say it again (vmferry instance affinity set)"
            )
        });
        Instance {
            id: domain.id,
            name: domain.name,
            state: domain.state,
            host: self.name.clone(),
            memory: definition.memory,
            vcpus: definition.vcpus,
            persistent: domain.persistent,
            disks: definition.disks.into_iter().map(|disk| disk.disk).collect(),
            vifs: definition.vifs,
            migration: None,
            problems: volumes.into_iter().chain(vifs).chain(limits).chain(affinity).collect(),
            limits: definition.limits.unwrap_or_default(),
            affinity: definition.affinity.unwrap_or_default(),
        }
    }
}
