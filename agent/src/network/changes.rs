//! Hears of links that come, go or change, by whomever.

use std::{fmt, io};

use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket, protocols::NETLINK_ROUTE};

/// The kernel's RTNLGRP_LINK.
const GROUP: u32 = 1;

/// A subscription. What it was told is not kept: whoever hears of a change looks at what is there.
pub struct Changes(TokioSocket);

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

impl Changes {
    pub(super) fn subscribe() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_mut().add_membership(GROUP)?;
        Ok(Self(socket))
    }

    /// Waits for the next change.
    pub async fn next(&mut self) -> io::Result<()> {
        match self.0.recv_from_full().await {
            // There was more than it could keep: a change for sure.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            heard => heard.map(drop),
        }
    }

    /// Takes in all that is known already: one look at what is there answers it.
    pub(crate) fn drain(&mut self) {
        // An empty queue ends it, and so does an error, of which the next call hears again.
        while self.0.socket_ref().recv_from_full().is_ok() {}
    }
}
