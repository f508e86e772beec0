//! Links as the kernel has them, and changes to them: rtnetlink, and nothing that is decided.

use std::{io, net::IpAddr};

use futures::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec,
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        address::AddressAttribute,
        link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkMessage},
    },
};
use tokio::task::JoinHandle;
use vmferry_core::network::LinkName;

pub(super) use self::facts::{Link, Links, Special, Tunnel};
use crate::hypervisor::Fault;

mod facts;

/// What the kernel did not do.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {cause}")]
pub struct Failed {
    /// What it was asked for, with the object.
    pub action: String,
    /// Its answer.
    pub cause: io::Error,
}

impl Failed {
    /// Whether the answer is this error of the kernel's.
    pub fn is(&self, errno: i32) -> bool {
        self.cause.raw_os_error() == Some(errno)
    }
}

impl From<Failed> for Fault {
    fn from(failed: Failed) -> Self {
        Self::new(vmferry_core::reason::Reason::NetworkFailed, failed.to_string())
    }
}

/// A connection to the kernel, of the network namespace of the thread that opens it.
pub(super) struct Netlink {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    /// Opens one.
    pub(super) fn open() -> Result<Self, Failed> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|cause| Failed { action: "open a netlink socket".to_owned(), cause })?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// All links.
    pub(super) async fn links(&self) -> Result<Links, Failed> {
        let links = self.handle.link().get().execute().map_ok(|message| Link::read(&message)).try_collect::<Vec<_>>();
        Ok(Links(links.await.map_err(failed("list the links"))?.into_iter().flatten().collect()))
    }

    /// All addresses, with the index of the link that has each.
    pub(super) async fn addresses(&self) -> Result<Vec<(u32, IpAddr)>, Failed> {
        let messages = self.handle.address().get().execute().try_collect::<Vec<_>>().await;
        let messages = messages.map_err(failed("list the addresses"))?;
        let addresses = messages.iter().flat_map(|message| {
            // Of an end of a pair `Address` is the other end's; where there is no `Local` they are the same.
            message.attributes.iter().filter_map(|attribute| match attribute {
                AddressAttribute::Address(address) | AddressAttribute::Local(address) => {
                    Some((message.header.index, *address))
                }
                _ => None,
            })
        });
        Ok(addresses.collect())
    }

    /// Whether the kernel knows this kind of links. Nothing is made: every kind refuses an address of one byte.
    pub(super) async fn knows(&self, kind: InfoKind) -> Result<bool, Failed> {
        let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind.clone()).address(vec![0]).build();
        match self.handle.link().add(message).execute().await.map_err(failed("ask what the kernel knows")) {
            Err(error) if error.is(libc::EOPNOTSUPP) => Ok(false),
            Err(error) if error.is(libc::EINVAL) => Ok(true),
            Err(error) => Err(error),
            Ok(()) => Err(Failed {
                action: format!("ask whether the kernel knows {kind:?}"),
                cause: io::Error::other("it made one that cannot be"),
            }),
        }
    }

    /// Makes a link.
    pub(super) async fn make(&self, name: &LinkName, message: LinkMessage) -> Result<(), Failed> {
        self.handle.link().add(message).execute().await.map_err(failed(format!("make {name}")))
    }

    /// Changes what is particular to a link's kind.
    pub(super) async fn change(&self, name: &LinkName, message: LinkMessage) -> Result<(), Failed> {
        let request = self.handle.link().add(message).set_flags(NLM_F_REQUEST | NLM_F_ACK);
        request.execute().await.map_err(failed(format!("change {name}")))
    }

    /// Changes a link.
    pub(super) async fn set(&self, name: &LinkName, message: LinkMessage) -> Result<(), Failed> {
        self.handle.link().set(message).execute().await.map_err(failed(format!("change {name}")))
    }

    /// Keeps the kernel from giving a link an IPv6 address. A kernel without IPv6 does not.
    pub(super) async fn no_addresses(&self, name: &LinkName, index: u32) -> Result<(), Failed> {
        let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let message =
            LinkUnspec::new_with_index(index).append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![mode])).build();
        self.set(name, message).await.or_else(|error| if error.is(libc::EAFNOSUPPORT) { Ok(()) } else { Err(error) })
    }

    /// Removes a link. One that is gone is gone.
    pub(super) async fn remove(&self, name: &LinkName, index: u32) -> Result<(), Failed> {
        let removed = self.handle.link().del(index).execute().await.map_err(failed(format!("remove {name}")));
        removed.or_else(|error| if error.is(libc::ENODEV) { Ok(()) } else { Err(error) })
    }

    /// Takes a VLAN from a port of a bridge.
    pub(super) async fn drop_vlan(&self, name: &LinkName, message: LinkMessage) -> Result<(), Failed> {
        let mut request = self.handle.link().del(message.header.index);
        *request.message_mut() = message;
        request.execute().await.map_err(failed(format!("take a VLAN from {name}")))
    }

    /// Sends a request that rtnetlink has no words for, with these flags beside the usual.
    pub(super) async fn request(&self, action: &str, request: RouteNetlinkMessage, flags: u16) -> Result<(), Failed> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers = self.handle.clone().request(message).map_err(failed(action))?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(Failed { action: action.to_owned(), cause: error.to_io() });
            }
        }
        Ok(())
    }
}

pub(super) fn failed(action: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Failed {
    move |error| {
        let cause = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other),
        };
        Failed { action: action.into(), cause }
    }
}
