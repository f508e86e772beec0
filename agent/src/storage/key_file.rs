//! A Ceph key where `rbd` can read it and nobody else can.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::AsRawFd as _,
};

use nix::sys::memfd::{MFdFlags, memfd_create};
use secrecy::{ExposeSecret as _, SecretString};

/// I6: the key is in memory of ours alone, in a file without a name that nobody inherits and that is gone with this.
#[derive(Debug)]
pub(super) struct KeyFile(File);

impl KeyFile {
    /// A file with this key, which is base64.
    pub(super) fn new(key: &SecretString) -> io::Result<Self> {
        let mut file = File::from(memfd_create(c"cephx", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(key.expose_secret().trim().as_bytes())?;
        Ok(Self(file))
    }

    /// Where a program of the same user can open it.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}
