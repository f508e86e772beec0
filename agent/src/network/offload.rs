//! What a link leaves for others to sum up.

#![expect(unsafe_code, reason = "an ioctl of the kernel's, which no library has")]

use std::{ffi::c_char, io, os::fd::AsRawFd as _};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use vmferry_core::network::LinkName;

/// `SIOCETHTOOL` and `ETHTOOL_STXCSUM`, of the kernel's `sockios.h` and `ethtool.h`.
const ETHTOOL: libc::Ioctl = 0x8946;
const SET_CHECKSUMS: u32 = 0x17;

#[repr(C)]
struct Value {
    command: u32,
    value: u32,
}

/// Makes the kernel sum up every packet before it leaves by this link. Guests leave that to their card; a switch in user
/// space, which takes packets from the link's other end, sends them on as they are, and no receiver would accept them.
pub(super) fn checksum(link: &LinkName) -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut value = Value { command: SET_CHECKSUMS, value: 0 };
    let mut name = [0; libc::IFNAMSIZ];
    // Fifteen bytes at most, all of them ASCII, and a zero.
    for (to, from) in name.iter_mut().zip(link.as_str().bytes()) {
        *to = from as c_char;
    }
    let data = libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() };
    let mut request = libc::ifreq { ifr_name: name, ifr_ifru: data };
    // SAFETY: the request is whole, and so is the value that it points to; both outlive the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), ETHTOOL, &raw mut request) };
    nix::errno::Errno::result(done).map(drop).map_err(Into::into)
}
