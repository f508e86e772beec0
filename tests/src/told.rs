//! A conversation that a guest opens, by UDP: it asks until it is answered, and from then on says nothing more. So what it is
//! told after a move reaches it because the conversation is remembered there, not because it was opened once more.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::Result;

/// Who is asked, and answers.
pub const TELLER: u16 = 7100;
/// Who was not asked, and says the same.
pub const STRANGER: u16 = 7101;
/// Where the guest listens.
const ASKER: u16 = 7102;
const PAUSE: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks, and prints what it is told, for ever: `TOLD <number> <port of who has said so>`.
pub fn ask(teller: Ipv4Addr) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, ASKER))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let (mut number, mut is_answered) = ([0; 8], false);
    loop {
        if !is_answered {
            // Nobody may be there yet.
            let _ = socket.send_to(b"?", (teller, TELLER));
        }
        match socket.recv_from(&mut number) {
            Ok((_, from)) => {
                is_answered |= from.port() == TELLER;
                println!("TOLD {} {}", u64::from_be_bytes(number), from.port());
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Tells whoever asks first, for ever.
pub fn tell() -> Result<()> {
    let [teller, stranger] = [TELLER, STRANGER].map(|port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
    let (teller, stranger) = (teller?, stranger?);
    let (_, asker) = teller.recv_from(&mut [0])?;
    for number in 0_u64.. {
        for socket in [&teller, &stranger] {
            // What is lost while the guest moves is lost.
            let _ = socket.send_to(&number.to_be_bytes(), asker);
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
