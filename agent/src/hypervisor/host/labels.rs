//! What is said of this host's domains, and kept in their definitions.

use std::sync::Arc;

use vmferry_core::{
    convergence::GuestLimits,
    domain_xml::metadata::{
        self, AffinityChange, Element, LabellingError, VolumeLabel, interfaces::InterfaceLabel, limits::judged,
    },
    id::InstanceId,
    reason::Reason,
};

use super::LibvirtHost;
use crate::{
    hypervisor::{Fault, Labelling},
    libvirt::{ChangeError, Error, LabelChange},
};

impl Labelling for LibvirtHost {
    async fn set_label(&self, instance: InstanceId, label: VolumeLabel) -> Result<(), Fault> {
        let change = Arc::new(move |definition: &_| {
            metadata::label(definition, label.clone()).map(|labels| Element::volumes(&labels))
        });
        self.change_labels(instance, change).await
    }

    async fn unset_label(&self, instance: InstanceId, target: Option<String>) -> Result<(), Fault> {
        let change: LabelChange = match target {
            Some(target) => Arc::new(move |definition: &_| {
                metadata::unlabel(definition, &target).map(|labels| Element::volumes(&labels))
            }),
            None => Arc::new(|_: &_| Ok(Element::volumes(&[]))),
        };
        self.change_labels(instance, change).await
    }

    async fn set_vif_label(&self, instance: InstanceId, label: Option<InterfaceLabel>) -> Result<(), Fault> {
        let change: LabelChange = match label {
            Some(label) => Arc::new(move |definition: &_| {
                metadata::label_vif(definition, label.clone()).map(|labels| Element::interfaces(&labels))
            }),
            None => Arc::new(|_: &_| Ok(Element::interfaces(&[]))),
        };
        self.change_labels(instance, change).await?;
        self.reconcile(true).await.map(drop)
    }

    async fn set_limits(&self, instance: InstanceId, limits: GuestLimits) -> Result<(), Fault> {
        let change = Arc::new(move |_: &_| {
            let limits = judged(limits.clone()).map_err(LabellingError::Limits)?;
            Ok(Element::limits(&limits))
        });
        self.change_labels(instance, change).await
    }

    async fn set_affinity(&self, instance: InstanceId, change: AffinityChange) -> Result<(), Fault> {
        let change = Arc::new(move |definition: &_| change.of(definition).map(|said| Element::affinity(&said)));
        self.change_labels(instance, change).await
    }
}

impl LibvirtHost {
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
}
