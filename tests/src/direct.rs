//! What hosts need for the direct path.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::host::Host;

/// What libvirt chooses ports from.
pub const PORTS: std::ops::RangeInclusive<u16> = 49152..=49215;
/// Where libvirt has QEMU look for its certificates.
pub const CERTIFICATES: &str = "/etc/pki/qemu";

/// What an agent's configuration says of it.
pub fn table(address: Ipv4Addr) -> String {
    format!("\n[direct]\naddress = \"{address}\"\n")
}

/// Gives the host's QEMU certificates: its agent's own serve it as well.
pub fn install_certificates(host: &Host) -> Result<()> {
    host.sh(&format!(
        "install -d -m 750 -g libvirt-qemu {CERTIFICATES}
         cp /etc/vmferry/pki/ca.pem {CERTIFICATES}/ca-cert.pem
         for end in server client; do
             cp /etc/vmferry/pki/cert.pem {CERTIFICATES}/$end-cert.pem
             cp /etc/vmferry/pki/key.pem {CERTIFICATES}/$end-key.pem
         done
         chgrp libvirt-qemu {CERTIFICATES}/*.pem
         chmod 640 {CERTIFICATES}/*.pem"
    ))
    .map(drop)
}
