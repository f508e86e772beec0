use bytesize::ByteSize;
use vmferry_core::domain_xml::rewrite::{Place, Relocation};
use vmferry_core::volume::{Attachment, Connection, Found, Iscsi, Login, Rbd, SecretName, Volume};

use super::{Invalid, invalid, required};
use crate::v1::{self, connection, login, relocation};

impl From<Volume> for v1::Volume {
    fn from(volume: Volume) -> Self {
        let attachment = match volume.attachment {
            Attachment::ByQemu => v1::Attachment::ByQemu,
            Attachment::ByHost => v1::Attachment::ByHost,
        };
        Self { target: volume.target, attachment: attachment.into(), connection: Some(volume.connection.into()) }
    }
}

impl TryFrom<v1::Volume> for Volume {
    type Error = Invalid;

    fn try_from(volume: v1::Volume) -> Result<Self, Invalid> {
        let attachment = match volume.attachment() {
            v1::Attachment::Unspecified => return Err(Invalid { field: "volume.attachment" }),
            v1::Attachment::ByQemu => Attachment::ByQemu,
            v1::Attachment::ByHost => Attachment::ByHost,
        };
        Ok(Self { target: volume.target, attachment, connection: required(volume.connection, "volume.connection")? })
    }
}

impl From<Connection> for v1::Connection {
    fn from(connection: Connection) -> Self {
        let protocol = match connection {
            Connection::Rbd(rbd) => connection::Protocol::Rbd(v1::Rbd {
                monitors: rbd.monitors,
                configuration: rbd.configuration.unwrap_or_default(),
                image: rbd.image,
                snapshot: rbd.snapshot.unwrap_or_default(),
                login: rbd.login.map(Into::into),
            }),
            Connection::Iscsi(iscsi) => connection::Protocol::Iscsi(v1::Iscsi {
                portals: iscsi.portals,
                target: iscsi.target,
                lun: iscsi.lun.into(),
                initiator: iscsi.initiator.unwrap_or_default(),
                login: iscsi.login.map(Into::into),
            }),
        };
        Self { protocol: Some(protocol) }
    }
}

impl TryFrom<v1::Connection> for Connection {
    type Error = Invalid;

    fn try_from(connection: v1::Connection) -> Result<Self, Invalid> {
        let login = |login: Option<v1::Login>| login.map(TryInto::try_into).transpose();
        Ok(match connection.protocol.ok_or(Invalid { field: "connection.protocol" })? {
            connection::Protocol::Rbd(rbd) => Self::Rbd(Rbd {
                monitors: rbd.monitors,
                configuration: unless_empty(rbd.configuration),
                image: rbd.image,
                snapshot: unless_empty(rbd.snapshot),
                login: login(rbd.login)?,
            }),
            connection::Protocol::Iscsi(iscsi) => Self::Iscsi(Iscsi {
                portals: iscsi.portals,
                target: iscsi.target,
                lun: iscsi.lun.try_into().map_err(invalid("iscsi.lun"))?,
                initiator: unless_empty(iscsi.initiator),
                login: login(iscsi.login)?,
            }),
        })
    }
}

fn unless_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

impl From<Login> for v1::Login {
    fn from(login: Login) -> Self {
        let secret = match login.secret {
            SecretName::Uuid(uuid) => login::Secret::Uuid(uuid.to_string()),
            SecretName::Usage(usage) => login::Secret::Usage(usage),
        };
        Self { user: login.user, secret: Some(secret) }
    }
}

impl TryFrom<v1::Login> for Login {
    type Error = Invalid;

    fn try_from(login: v1::Login) -> Result<Self, Invalid> {
        let secret = match login.secret.ok_or(Invalid { field: "login.secret" })? {
            login::Secret::Uuid(uuid) => SecretName::Uuid(uuid.parse().map_err(invalid("login.uuid"))?),
            login::Secret::Usage(usage) => SecretName::Usage(usage),
        };
        Ok(Self { user: login.user, secret })
    }
}

impl From<Found> for v1::FoundVolume {
    fn from(found: Found) -> Self {
        Self { size_bytes: found.size.as_u64(), identity: found.identity }
    }
}

impl From<v1::FoundVolume> for Found {
    fn from(found: v1::FoundVolume) -> Self {
        Self { size: ByteSize::b(found.size_bytes), identity: found.identity }
    }
}

impl From<Relocation> for v1::Relocation {
    fn from(relocation: Relocation) -> Self {
        let place = match relocation.place {
            Place::Device { path } => relocation::Place::Device(path),
            Place::Portal { host, port } => relocation::Place::Portal(relocation::Portal { host, port: port.into() }),
            Place::Bridge { bridge, tap, network } => relocation::Place::Bridge(relocation::Bridge {
                name: bridge.into(),
                tap: tap.map(Into::into),
                logical_network: network.map(Into::into),
            }),
        };
        Self { target: relocation.target, place: Some(place) }
    }
}

impl TryFrom<v1::Relocation> for Relocation {
    type Error = Invalid;

    fn try_from(relocation: v1::Relocation) -> Result<Self, Invalid> {
        let place = match relocation.place.ok_or(Invalid { field: "relocation.place" })? {
            relocation::Place::Device(path) => Place::Device { path },
            relocation::Place::Bridge(relocation::Bridge { name, tap, logical_network }) => Place::Bridge {
                bridge: name.try_into().map_err(invalid("relocation.bridge"))?,
                tap: tap.map(TryInto::try_into).transpose().map_err(invalid("relocation.tap"))?,
                network: logical_network
                    .map(TryInto::try_into)
                    .transpose()
                    .map_err(invalid("relocation.logical_network"))?,
            },
            relocation::Place::Portal(portal) => {
                let port = portal.port.try_into().map_err(invalid("relocation.portal.port"))?;
                Place::Portal { host: portal.host, port }
            }
        };
        Ok(Self { target: relocation.target, place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_arrives_as_it_was_sent() {
        let by_uuid = Login { user: "libvirt".into(), secret: SecretName::Uuid(uuid::Uuid::from_u128(7)) };
        let by_usage = Login { user: "chap".into(), secret: SecretName::Usage("iscsi".into()) };
        let rbd = Rbd {
            monitors: vec!["192.0.2.1:6789".into()],
            configuration: None,
            image: "volumes/a".into(),
            snapshot: Some("s".into()),
            login: Some(by_uuid),
        };
        let iscsi = Iscsi {
            portals: vec!["192.0.2.1:3260".into(), "[2001:db8::1]:3260".into()],
            target: "iqn.2026-01.org.vmferry:a".into(),
            lun: 3,
            initiator: None,
            login: Some(by_usage),
        };
        for (attachment, connection) in
            [(Attachment::ByQemu, Connection::Rbd(rbd)), (Attachment::ByHost, Connection::Iscsi(iscsi))]
        {
            let volume = Volume { target: "vda".into(), attachment, connection };
            assert_eq!(Volume::try_from(v1::Volume::from(volume.clone())), Ok(volume));
        }
        let far = v1::Iscsi { lun: 70_000, ..v1::Iscsi::default() };
        let far = v1::Connection { protocol: Some(connection::Protocol::Iscsi(far)) };
        assert!(Connection::try_from(far).is_err(), "there are no such LUNs");
    }
}
