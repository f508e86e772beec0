use bytesize::ByteSize;
use vmferry_core::{
    domain_xml::metadata::VolumeLabel,
    instance::VolumeAttachment,
    volume::{Attachment, Connection},
};

use super::Invalid;
use crate::v1;

impl From<VolumeLabel> for v1::VolumeLabel {
    fn from(label: VolumeLabel) -> Self {
        let VolumeLabel { target, id, name, bootable, connection } = label;
        Self { target, id, name, bootable, connection: connection.map(Into::into) }
    }
}

impl TryFrom<v1::VolumeLabel> for VolumeLabel {
    type Error = Invalid;

    fn try_from(label: v1::VolumeLabel) -> Result<Self, Invalid> {
        let connection = label.connection.map(Connection::try_from).transpose()?;
        Ok(Self { target: label.target, id: label.id, name: label.name, bootable: label.bootable, connection })
    }
}

impl From<VolumeAttachment> for v1::VolumeAttachment {
    fn from(volume: VolumeAttachment) -> Self {
        let attachment = match volume.attachment {
            None => v1::Attachment::Unspecified,
            Some(Attachment::ByQemu) => v1::Attachment::ByQemu,
            Some(Attachment::ByHost) => v1::Attachment::ByHost,
        };
        Self {
            id: volume.id,
            name: volume.name,
            bootable: volume.bootable,
            size_bytes: volume.size.map(|size| size.as_u64()),
            attachment: attachment.into(),
            connection: volume.connection.map(Into::into),
        }
    }
}

impl TryFrom<v1::VolumeAttachment> for VolumeAttachment {
    type Error = Invalid;

    fn try_from(volume: v1::VolumeAttachment) -> Result<Self, Invalid> {
        Ok(Self {
            attachment: match volume.attachment() {
                v1::Attachment::Unspecified => None,
                v1::Attachment::ByQemu => Some(Attachment::ByQemu),
                v1::Attachment::ByHost => Some(Attachment::ByHost),
            },
            id: volume.id,
            name: volume.name,
            bootable: volume.bootable,
            size: volume.size_bytes.map(ByteSize::b),
            connection: volume.connection.map(Connection::try_from).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use vmferry_core::volume::Rbd;

    use super::*;

    #[test]
    fn what_is_said_of_a_volume_arrives_and_what_is_not_said_stays_unknown() {
        let image = "vms/web".into();
        let rbd = Rbd { monitors: vec![], configuration: None, image, snapshot: None, login: None };
        let known = VolumeAttachment {
            id: Some("5a27".into()),
            name: Some("data".into()),
            bootable: Some(false),
            size: Some(ByteSize::gib(1)),
            attachment: Some(Attachment::ByHost),
            connection: Some(Connection::Rbd(rbd.clone())),
        };
        for volume in [known, VolumeAttachment::default()] {
            assert_eq!(VolumeAttachment::try_from(v1::VolumeAttachment::from(volume.clone())), Ok(volume));
        }
        let label = VolumeLabel {
            target: "vdb".into(),
            id: "5a27".into(),
            name: String::new(),
            bootable: true,
            connection: Some(Connection::Rbd(rbd)),
        };
        assert_eq!(VolumeLabel::try_from(v1::VolumeLabel::from(label.clone())), Ok(label));
    }
}
