//! Runs inside guests: `guest-tool forge` sends frames that no guest may send, `guest-tool serve` answers on TCP.

use std::{env, net::Ipv4Addr, os::fd::AsRawFd as _, thread, time::Duration};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, send, socket};
use vmferry_tests::{
    frames::{KINDS, Mark, Sender},
    network, stream,
};

/// One after the other, so that each kind comes four times a second.
const PAUSE: Duration = Duration::from_millis(20);

fn main() -> Result<()> {
    match env::args().nth(1).as_deref() {
        Some("forge") => forge(),
        Some("serve") => {
            let servers = stream::PORTS.map(|port| thread::spawn(move || stream::serve(port)));
            servers.into_iter().try_for_each(|server| server.join().unwrap_or_else(|_| bail!("a server panicked")))
        }
        other => bail!("{other:?} is neither forge nor serve"),
    }
}

/// Sends one frame of each kind in turn, for as long as the guest lives.
fn forge() -> Result<()> {
    // As the kernel got it for the guest: `address=198.51.100.100/24`.
    let own = env::var("address").context("the guest has no address")?;
    let address: Ipv4Addr = own.split('/').next().unwrap_or_default().parse()?;
    let port = network::port_address("eth0")?;
    let sender = Sender { mac: port.addr().context("eth0 has no MAC address")?, address };
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    bind(socket.as_raw_fd(), &port)?;
    for (sequence, kind) in (0..).zip(KINDS.into_iter().cycle()) {
        let frame = sender.frame(Mark { kind, sequence })?;
        // A full queue while the guest is moved is no reason to give up.
        if let Err(error) = send(socket.as_raw_fd(), &frame, MsgFlags::empty()) {
            eprintln!("FORGE {kind:?}: {error}");
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
