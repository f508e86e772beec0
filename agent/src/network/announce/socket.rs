//! Frames out of a link, past everything that is on top of it.

#![expect(unsafe_code, reason = "an address of a packet socket, which no library makes")]

use std::{io, os::fd::AsRawFd as _};

use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, sendto, socket};

/// Sends frames, each with its Ethernet header, out of the link of this index.
pub(in crate::network) fn send(link: u32, frames: &[Vec<u8>]) -> io::Result<()> {
    // With no protocol it receives nothing.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    let address = address(link).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    for frame in frames {
        sendto(socket.as_raw_fd(), frame, &address, MsgFlags::empty())?;
    }
    Ok(())
}

fn address(link: u32) -> Option<LinkAddr> {
    let raw = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).ok()?,
        sll_protocol: 0,
        sll_ifindex: i32::try_from(link).ok()?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of_val(&raw)).ok()?;
    // SAFETY: it points to a whole `sockaddr_ll`, of that length, whose family says so; it is copied.
    unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) }
}
