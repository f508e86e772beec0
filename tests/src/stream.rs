//! A TCP connection that proves itself: every byte says where in the stream it belongs, in both directions.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{layout::Layout, network, wait};

/// Where the guest listens.
pub const PORTS: [u16; 2] = [7000, 7001];

/// A request: its number, and how many bytes are wanted.
const REQUEST: usize = 16;
/// What is sent at once.
const CHUNK: u64 = 2048;
/// Some 100 KiB a second: a guest without hardware help keeps up with it.
const PAUSE: Duration = Duration::from_millis(20);
/// A guest that is let through answers at once; twice, if the first packet is lost.
const CONNECTED: Duration = Duration::from_secs(3);
/// For a guest in an emulated machine, to which each packet is work.
const LONG_PAUSE: Duration = Duration::from_millis(300);
/// Longer than any move, even of a guest in an emulated machine, which has no time for anything meanwhile: TCP itself would try for
/// many minutes.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// What belongs at this position.
fn byte(position: u64) -> u8 {
    (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Answers everybody on a port, for ever. Whoever skips a request is cut off.
pub fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    for connection in listener.incoming() {
        let connection = connection?;
        thread::spawn(move || {
            // The client sees its end of it, but not why.
            if let Err(error) = answer(connection) {
                println!("CUT {error:#}");
            }
        });
    }
    Ok(())
}

fn answer(mut connection: TcpStream) -> Result<()> {
    connection.set_nodelay(true)?;
    let (mut position, mut request) = (0, [0; REQUEST]);
    for expected in 0_u64.. {
        match connection.read_exact(&mut request) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            other => other?,
        }
        let (number, wanted) = request.split_at(8);
        ensure!(number == expected.to_be_bytes(), "a request is missing");
        let end = position + u64::from_be_bytes(wanted.try_into()?);
        while position < end {
            let next = end.min(position + CHUNK);
            connection.write_all(&(position..next).map(byte).collect::<Vec<_>>())?;
            position = next;
            if position < end {
                thread::sleep(PAUSE);
            }
        }
    }
    Ok(())
}

/// Who sets the pace of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// The reader: it asks for each piece.
    Asked,
    /// The reader, three times a second.
    Seldom,
    /// The guest: asked once, it sends for ever, and hears nothing but acknowledgements.
    Told,
}

/// A connection that reads, and proves what it reads, until it is stopped.
#[derive(Debug)]
pub struct Reader {
    bytes: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Flow>>>,
}

/// What went over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Bytes read, each the right one.
    pub bytes: u64,
    /// The longest time that an answer took.
    pub longest_wait: Duration,
}

impl Reader {
    /// Connects from the fabric to a guest's port.
    pub(crate) fn connect(layout: &Layout, address: Ipv4Addr, port: u16, pace: Pace) -> Result<Self> {
        let connecting = network::thread_in(&layout.fabric(), move || connected(address, port))?;
        // A connection belongs to the namespace it was made in, whoever has it.
        let connection = connecting.join().map_err(|_| anyhow!("the connecting thread panicked"))??;
        Ok(Self::of(connection, pace))
    }

    /// The same from the namespace that this process is in.
    pub fn here(address: Ipv4Addr, port: u16, pace: Pace) -> Result<Self> {
        Ok(Self::of(connected(address, port)?, pace))
    }

    fn of(connection: TcpStream, pace: Pace) -> Self {
        let (bytes, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, until) = (Arc::clone(&bytes), Arc::clone(&ended));
        let thread = thread::spawn(move || read(connection, pace, &count, &until));
        Self { bytes, ended, thread: Some(thread) }
    }

    /// Waits until more has been read: the connection is alive.
    pub fn wait_for_more(&self, timeout: Duration) -> Result<()> {
        let wanted = self.bytes.load(Ordering::Relaxed) + 4 * CHUNK;
        wait::until("more of the stream", timeout, || {
            let is_dead = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            ensure!(!is_dead, "the connection has ended");
            Ok((self.bytes.load(Ordering::Relaxed) >= wanted).then_some(()))
        })
    }

    /// Ends it, and fails if a byte was wrong or missing or if the connection broke.
    pub fn stop(mut self) -> Result<Flow> {
        self.ended.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it is stopped once")?;
        thread.join().map_err(|_| anyhow!("the reader panicked"))?
    }
}

fn connected(address: Ipv4Addr, port: u16) -> Result<TcpStream> {
    TcpStream::connect_timeout(&SocketAddr::from((address, port)), CONNECTED)
        .with_context(|| format!("cannot connect to {address}:{port}"))
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn read(mut connection: TcpStream, pace: Pace, bytes: &AtomicU64, ended: &AtomicBool) -> Result<Flow> {
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let (mut position, mut longest_wait) = (0, Duration::ZERO);
    let mut answer = vec![0; usize::try_from(CHUNK)?];
    for number in 0_u64.. {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let asked = Instant::now();
        let wanted = if pace == Pace::Told { u64::MAX / 2 } else { CHUNK };
        if pace != Pace::Told || number == 0 {
            let request = [number.to_be_bytes(), wanted.to_be_bytes()].concat();
            connection.write_all(&request).with_context(|| format!("at request {number}"))?;
        }
        connection.read_exact(&mut answer).with_context(|| format!("after {position} bytes"))?;
        longest_wait = longest_wait.max(asked.elapsed());
        for found in &answer {
            ensure!(*found == byte(position), "byte {position} of the stream is wrong");
            position += 1;
        }
        bytes.store(position, Ordering::Relaxed);
        match pace {
            Pace::Asked => thread::sleep(PAUSE),
            Pace::Seldom => thread::sleep(LONG_PAUSE),
            Pace::Told => {}
        }
    }
    Ok(Flow { bytes: position, longest_wait })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_with_a_lost_request_is_cut_off() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let server = thread::spawn(move || answer(listener.accept().expect("somebody connects").0));
        let mut client = TcpStream::connect(address).expect("it listens");
        let mut answer = [0; 3];
        client.write_all(&[0_u64.to_be_bytes(), 3_u64.to_be_bytes()].concat()).expect("it is open");
        client.read_exact(&mut answer).expect("it answers");
        assert_eq!(answer, [byte(0), byte(1), byte(2)]);
        client.write_all(&[2_u64.to_be_bytes(), 3_u64.to_be_bytes()].concat()).expect("it is open");
        assert!(server.join().expect("it does not panic").is_err());
    }
}
