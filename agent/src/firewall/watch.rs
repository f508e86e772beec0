//! Hears of every change of nftables, by whomever.

use std::{fmt, io};

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket, protocols::NETLINK_NETFILTER};

/// The kernel's NFNLGRP_NFTABLES.
const GROUP: u32 = 7;

/// The kernel's NFT_MSG_NEWGEN of NFNL_SUBSYS_NFTABLES: there is one at the end of each transaction.
const NEW_GENERATION: u16 = 10 << 8 | 15;

/// A subscription.
pub(super) struct Watch {
    socket: TokioSocket,
    /// Transactions that it was told of and has not said yet.
    heard: u64,
    /// The kernel had more to say than there was room for.
    lost: bool,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("heard", &self.heard).field("lost", &self.lost).finish_non_exhaustive()
    }
}

impl Watch {
    pub(super) fn new() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_mut().add_membership(GROUP)?;
        Ok(Self { socket, heard: 0, lost: false })
    }

    /// Waits for the next word.
    pub(super) async fn listen(&mut self) -> io::Result<()> {
        let heard = self.socket.recv_from_full().await;
        self.note(heard)
    }

    /// Takes in all that the kernel has said already. Returns how many transactions there were since it was last asked; none: nobody
    /// knows.
    pub(super) fn heard(&mut self) -> io::Result<Option<u64>> {
        loop {
            match self.socket.socket_ref().recv_from_full() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                heard => self.note(heard)?,
            }
        }
        let heard = std::mem::take(&mut self.heard);
        Ok(Some(heard).filter(|_| !std::mem::take(&mut self.lost)))
    }

    fn note<A>(&mut self, heard: io::Result<(Vec<u8>, A)>) -> io::Result<()> {
        match heard {
            Ok((bytes, _)) => self.heard += generations(&bytes),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.lost = true,
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// How many transactions end in these messages.
fn generations(mut bytes: &[u8]) -> u64 {
    let mut count = 0;
    while let Ok(message) = NetlinkBuffer::new_checked(bytes) {
        count += u64::from(message.message_type() == NEW_GENERATION);
        let next = (message.length() as usize).next_multiple_of(4);
        bytes = bytes.get(next..).unwrap_or_default();
    }
    count
}
