//! What libvirt's domains say of their volumes, and what is written there.

use std::{sync::Arc, time::Duration};

use bytesize::ByteSize;
use virt::{connect::Connect, domain::Domain};
use virt_sys as sys;
use vmferry_core::{
    domain_xml::{
        self, Definition,
        metadata::{Element, LabellingError},
    },
    id::InstanceId,
};

use super::{
    Error, Fault, Libvirt, ffi,
    reading::{lookup, or_gone},
};

/// How long sizes are waited for: a table is worth more than a column of it.
const SIZE_LIMIT: Duration = Duration::from_secs(2);
/// The prefix that libvirt gives to our element.
const PREFIX: &str = "vmferry";

/// Makes an element of a definition's metadata into what it shall be.
pub type LabelChange = Arc<dyn Fn(&Definition) -> Result<Element, LabellingError> + Send + Sync>;

/// Why labels were not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// They cannot be so.
    #[error(transparent)]
    Labelling(#[from] LabellingError),
    /// libvirt did not answer, or said no.
    #[error(transparent)]
    Libvirt(#[from] Error),
}

impl Libvirt {
    /// How large these disks of a running domain are; those that libvirt knows at once.
    pub async fn sizes(&self, id: InstanceId, targets: Vec<String>) -> Vec<(String, ByteSize)> {
        let read = self.read(format!("tell the sizes of the disks of domain {id}"), move |connection| {
            let Some(domain) = lookup(connection, id)? else { return Ok(vec![]) };
            // libvirt would wait for a QEMU that hangs.
            if !matches!(ffi::control(&domain), Ok((sys::VIR_DOMAIN_CONTROL_OK, _))) {
                return Ok(vec![]);
            }
            let size =
                |target: &String| Some((target.clone(), ByteSize::b(domain.block_info(target, 0).ok()?.capacity)));
            Ok(targets.iter().filter_map(size).collect())
        });
        match tokio::time::timeout(SIZE_LIMIT, read).await {
            Ok(Ok(sizes)) => sizes,
            Ok(Err(error)) => {
                tracing::debug!(%error, "sizes are left out");
                vec![]
            }
            Err(_) => vec![],
        }
    }

    /// Changes what a domain's metadata say of its volumes, its vifs or its live migrations: in the definition that runs, and in the one that it starts
    /// with next. A device may be in one of them only.
    pub async fn change_labels(&self, id: InstanceId, change: LabelChange) -> Result<(), ChangeError> {
        let asked = format!("change what domain {id} says of its devices");
        let done = self
            .change(asked.clone(), move |connection| match lookup(connection, id)? {
                Some(domain) => or_gone(change_both(&domain, &*change)),
                None => Ok(None),
            })
            .await?;
        match done {
            None => Err(Error::NoDomain { id }.into()),
            Some(Err(Unchanged::Unreadable(source))) => Err(Error::Unreadable { asked, source }.into()),
            Some(Err(Unchanged::Refused(error))) => Err(error.into()),
            Some(Ok(())) => Ok(()),
        }
    }

    /// The definitions of all domains, as they run and as they start next. An error rather than too few.
    pub async fn definitions(&self) -> Result<Vec<Definition>, Error> {
        let asked = "give the definitions of its domains";
        let unreadable = |source| Error::Unreadable { asked: asked.to_owned(), source };
        let definitions = self.read(asked, definition_texts).await?;
        definitions.iter().map(|xml| Definition::parse(xml).map_err(unreadable)).collect()
    }
}

/// Of every domain, the definition that runs and the one that starts next.
pub(super) fn definition_texts(connection: &Connect) -> Result<Vec<String>, Fault> {
    let mut definitions = Vec::new();
    for domain in connection.list_all_domains(0)? {
        for flags in [0, sys::VIR_DOMAIN_XML_INACTIVE] {
            // One that has gone since needs nothing.
            definitions.extend(or_gone(domain.xml_desc(flags).map_err(Fault::from))?);
        }
    }
    Ok(definitions)
}

/// Why a domain was left as it is.
enum Unchanged {
    Unreadable(domain_xml::Error),
    Refused(LabellingError),
}

fn change_both(
    domain: &Domain,
    change: &(dyn Fn(&Definition) -> Result<Element, LabellingError> + Send + Sync),
) -> Result<Result<(), Unchanged>, Fault> {
    let mut wanted = Vec::new();
    if domain.is_active()? {
        wanted.push((0, sys::VIR_DOMAIN_AFFECT_LIVE));
    }
    if domain.is_persistent()? {
        wanted.push((sys::VIR_DOMAIN_XML_INACTIVE, sys::VIR_DOMAIN_AFFECT_CONFIG));
    }
    // First all decisions: nothing is half done because of one that is no.
    let (mut changed, mut refused) = (Vec::new(), None);
    for (read, affect) in wanted {
        let definition = match Definition::parse(&domain.xml_desc(read)?) {
            Ok(definition) => definition,
            Err(error) => return Ok(Err(Unchanged::Unreadable(error))),
        };
        match change(&definition) {
            Ok(element) => changed.push((affect, element)),
            Err(
                error @ (LabellingError::NoDisk { .. } | LabellingError::NoLabel { .. } | LabellingError::NoVif { .. }),
            ) => {
                refused.get_or_insert(error);
            }
            Err(error) => return Ok(Err(Unchanged::Refused(error))),
        }
    }
    if let Some(error) = refused.filter(|_| changed.is_empty()) {
        return Ok(Err(Unchanged::Refused(error)));
    }
    for (affect, Element { namespace, text }) in changed {
        let kind = sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed();
        domain.set_metadata(kind, text.as_deref(), Some(PREFIX), Some(namespace), affect)?;
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tempfile::NamedTempFile;
    use vmferry_core::{
        convergence::{GuestLimits, May},
        domain_xml::metadata::{self, VolumeLabel},
    };

    use super::*;

    const WEB: &str = "4dea22b3-1d52-48f3-9516-782e98ab3fa0";

    /// libvirt's own test driver, with one domain that runs.
    fn libvirt() -> (Libvirt, NamedTempFile) {
        let mut file = NamedTempFile::new().expect("a temporary file");
        let domain = format!(
            "<domain type='test'><name>web</name><uuid>{WEB}</uuid><memory unit='MiB'>256</memory><vcpu>2</vcpu>
             <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
             <metadata><other:thing xmlns:other='https://example.org/'>stays</other:thing></metadata><devices>
             <disk type='file' device='disk'><source file='/srv/a'/><target dev='vda' bus='virtio'/></disk>
             <disk type='block' device='disk'><source dev='/dev/sdb'/><target dev='vdb' bus='virtio'/></disk>
             </devices></domain>"
        );
        write!(file, "<node>{domain}</node>").expect("written");
        (Libvirt::new(&format!("test://{}", file.path().display())), file)
    }

    fn label(target: &str) -> LabelChange {
        let label = VolumeLabel {
            target: target.into(),
            id: "5a27".into(),
            name: "data".into(),
            bootable: true,
            connection: None,
        };
        Arc::new(move |definition: &_| {
            metadata::label(definition, label.clone()).map(|labels| Element::volumes(&labels))
        })
    }

    async fn labels(libvirt: &Libvirt) -> Vec<Vec<String>> {
        let of = |definition: Definition| {
            definition.labels.expect("readable").into_iter().map(|label| label.target).collect::<Vec<_>>()
        };
        libvirt.definitions().await.expect("an answer").into_iter().map(of).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn limits_are_in_the_definition_that_runs_and_in_the_next_beside_what_is_said_of_volumes() {
        let (libvirt, _file) = libvirt();
        let id: InstanceId = WEB.parse().expect("valid");
        libvirt.change_labels(id, label("vdb")).await.expect("set");
        let strict = GuestLimits {
            policy: Some("gentle".into()),
            max_downtime: Some(Duration::from_millis(200)),
            postcopy: Some(May::Never),
            suspend: Some(May::Allowed),
        };
        let short = GuestLimits { max_downtime: Some(Duration::from_millis(1_500)), ..GuestLimits::default() };
        for said in [strict, short, GuestLimits::default()] {
            let element = Element::limits(&said);
            libvirt.change_labels(id, Arc::new(move |_: &_| Ok(element.clone()))).await.expect("set");
            let definitions = libvirt.definitions().await.expect("an answer");
            assert_eq!(definitions.len(), 2, "as it runs, and as it starts next");
            for definition in definitions {
                assert_eq!(definition.limits, Ok(said.clone()));
                assert_eq!(definition.labels.expect("readable")[0].target, "vdb");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_label_is_in_the_definition_that_runs_and_in_the_next_until_it_is_taken_away() {
        let (libvirt, _file) = libvirt();
        let id: InstanceId = WEB.parse().expect("valid");
        for target in ["vdb", "vda", "vdb"] {
            libvirt.change_labels(id, label(target)).await.expect("set");
        }
        assert_eq!(labels(&libvirt).await, [["vdb", "vda"], ["vdb", "vda"]]);
        let domain = libvirt.domain(WEB).await.expect("an answer").expect("there");
        let volume = domain.definition.disks[1].disk.volume.clone().expect("labelled");
        assert_eq!((volume.id.as_deref(), volume.bootable), (Some("5a27"), Some(true)));

        let unlabel: LabelChange =
            Arc::new(|definition: &_| metadata::unlabel(definition, "vdb").map(|labels| Element::volumes(&labels)));
        libvirt.change_labels(id, Arc::clone(&unlabel)).await.expect("unset");
        assert_eq!(labels(&libvirt).await, [["vda"], ["vda"]]);
        assert!(matches!(libvirt.change_labels(id, unlabel).await, Err(ChangeError::Labelling(_))));
        libvirt.change_labels(id, Arc::new(|_: &_| Ok(Element::volumes(&[])))).await.expect("all of them");
        let texts = libvirt.read("look", definition_texts).await.expect("an answer");
        assert!(texts.iter().all(|xml| xml.contains("stays") && !xml.contains("vmferry")), "{texts:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_refused_changes_nothing() {
        let (libvirt, _file) = libvirt();
        let id: InstanceId = WEB.parse().expect("valid");
        let refused = libvirt.change_labels(id, label("vdx")).await.expect_err("no such disk");
        assert_eq!(refused.to_string(), "web has no disk vdx; it has vda, vdb");
        assert_eq!(labels(&libvirt).await, [Vec::<String>::new(), vec![]]);
        let absent: InstanceId = "4dea22b3-1d52-48f3-9516-782e98ab3fa9".parse().expect("valid");
        let missing = libvirt.change_labels(absent, label("vda")).await;
        assert!(matches!(missing, Err(ChangeError::Libvirt(Error::NoDomain { .. }))));
        // The test driver has no QEMU to ask.
        let sizes = libvirt.sizes(id, vec!["vdb".into()]).await;
        assert!(sizes.iter().all(|(target, _)| target == "vdb"), "{sizes:?}");
        assert_eq!(libvirt.secrets().await.expect("a libvirt without secrets has none"), []);
    }
}
