//! Runs inside guests: `guest-tool forge` sends frames that no guest may send, `count` numbered ones, `serve` answers on TCP, `ask` opens a
//! conversation. And where others are that meet them: `read ADDRESS PORT`, `tell` and `hear PORT MAC…`.

use std::{
    env,
    net::Ipv4Addr,
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, send, socket};
use vmferry_tests::{
    capture::{Capture, Direction},
    frames::{KINDS, Kind, Mark, Sender},
    network,
    stream::{self, PATIENCE, Pace, Reader},
    told,
};

/// One after the other, so that each kind comes four times a second, unless the guest was told otherwise (`pause=`).
const PAUSE: u64 = 20;
/// How often it is said what was read or heard.
const TURN: Duration = Duration::from_millis(200);

fn main() -> Result<()> {
    let words: Vec<_> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["forge"] => send_each(&KINDS),
        ["count"] => send_each(&KINDS[..1]),
        ["serve"] => {
            let servers = stream::PORTS.map(|port| thread::spawn(move || stream::serve(port)));
            servers.into_iter().try_for_each(|server| server.join().unwrap_or_else(|_| bail!("a server panicked")))
        }
        ["ask"] => told::ask(env::var("peer").context("nobody can be asked")?.parse()?),
        ["read", address, port] => read(address.parse()?, port.parse()?),
        ["tell"] => told::tell(),
        ["hear", port, ref strangers @ ..] => hear(port, strangers),
        _ => bail!("{words:?} is nothing that it does"),
    }
}

/// Prints `READ` and how long it has read, for as long as the connection is alive.
fn read(address: Ipv4Addr, port: u16) -> Result<()> {
    let (reader, start) = (Reader::here(address, port, Pace::Seldom)?, Instant::now());
    loop {
        if let Err(error) = reader.wait_for_more(PATIENCE) {
            return reader.stop().and(Err(error));
        }
        println!("READ {}", start.elapsed().as_secs());
        thread::sleep(TURN);
    }
}

/// Prints every frame of a forger's that comes in by the port, `<its sender> <what it is> <its number>`, and every frame at all of
/// those who have no business there.
fn hear(port: &str, strangers: &[&str]) -> Result<()> {
    let capture = Capture::here(port, Direction::In)?;
    loop {
        for seen in capture.take() {
            let mac = seen.mac();
            match seen.mark {
                Some(Mark { kind, sequence }) => println!("{mac} {kind:?} {sequence}"),
                None if strangers.contains(&mac.as_str()) => println!("{mac} Plain 0"),
                None => {}
            }
        }
        thread::sleep(TURN);
    }
}

/// Sends one frame of each of these kinds in turn, for as long as the guest lives.
fn send_each(kinds: &[Kind]) -> Result<()> {
    // As the kernel got it for the guest: `address=198.51.100.100/24`.
    let own = env::var("address").context("the guest has no address")?;
    let address: Ipv4Addr = own.split('/').next().unwrap_or_default().parse()?;
    let pause = Duration::from_millis(env::var("pause").map_or(Ok(PAUSE), |pause| pause.parse())?);
    let port = network::port_address("eth0")?;
    let sender = Sender { mac: port.addr().context("eth0 has no MAC address")?, address };
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    bind(socket.as_raw_fd(), &port)?;
    for (sequence, kind) in (0..).zip(kinds.iter().copied().cycle()) {
        let frame = sender.frame(Mark { kind, sequence })?;
        // A full queue while the guest is moved is no reason to give up.
        if let Err(error) = send(socket.as_raw_fd(), &frame, MsgFlags::empty()) {
            eprintln!("FORGE {kind:?}: {error}");
        }
        thread::sleep(pause);
    }
    Ok(())
}
