//! What passes a port: every frame, with its direction, its sender and its mark.

use std::{
    collections::BTreeMap,
    fmt, mem,
    os::fd::AsRawFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use etherparse::{SlicedPacket, TransportSlice};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket, sockopt,
    },
    sys::time::TimeVal,
};

use crate::{
    frames::{Kind, Mark},
    network,
};

/// `PACKET_OUTGOING` of packet(7).
const OUTGOING: u8 = 4;

/// Which way a frame passes a port, as the port's own namespace has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the wire, or from the guest if the port is its tap. Before any filter of that namespace.
    In,
    /// To the wire, or to the guest. After all filters.
    Out,
}

/// A frame.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// Its sender, by its own word.
    pub source: [u8; 6],
    /// What it is, if it is one of a forger's.
    pub mark: Option<Mark>,
    /// What it carries, if that is something of TCP's.
    pub tcp: Option<Tcp>,
}

/// What a frame of TCP carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// Where it was sent from.
    pub from: u16,
    /// Where it was sent to.
    pub to: u16,
    /// The first of its bytes.
    pub begin: [u8; 4],
}

impl Tcp {
    fn of(frame: &[u8]) -> Option<Self> {
        let sliced = SlicedPacket::from_ethernet(frame).ok()?;
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { return None };
        let begin = tcp.payload().get(..4)?.try_into().ok()?;
        Some(Self { from: tcp.source_port(), to: tcp.destination_port(), begin })
    }
}

impl Seen {
    /// Its sender as `ip link` has it.
    pub fn mac(&self) -> String {
        self.source.map(|byte| format!("{byte:02x}")).join(":")
    }

    fn is_of(&self, mac: &str) -> bool {
        self.mac() == mac
    }
}

type Look = Box<dyn FnOnce() -> Result<()> + Send>;

/// Looks at a port until dropped.
pub struct Capture {
    seen: Arc<Mutex<Vec<Seen>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").field("seen", &self.counts()).finish_non_exhaustive()
    }
}

impl Capture {
    /// Sees every frame from now on that passes the port of a namespace in this direction.
    pub(crate) fn start(namespace: &str, port: &str, direction: Direction) -> Result<Self> {
        Self::by(port, direction, |look| network::thread_in(namespace, look))
    }

    /// The same of a port of the namespace that this process is in.
    pub fn here(port: &str, direction: Direction) -> Result<Self> {
        Self::by(port, direction, |look| Ok(thread::spawn(look)))
    }

    fn by(
        port: &str,
        direction: Direction,
        spawn: impl FnOnce(Look) -> Result<JoinHandle<Result<()>>>,
    ) -> Result<Self> {
        let (seen, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (ready, is_ready) = mpsc::channel();
        let (records, until, port) = (Arc::clone(&seen), Arc::clone(&ended), port.to_owned());
        let thread = spawn(Box::new(move || {
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
            bind(socket.as_raw_fd(), &network::port_address(&port)?)?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 50_000))?;
            // On a busy machine this thread may not run for seconds.
            setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20))?;
            // Nobody waits any more if this fails.
            let _ = ready.send(());
            let mut frame = vec![0; 65536];
            while !until.load(Ordering::Relaxed) {
                let (length, from) = match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame) {
                    Ok(received) => received,
                    // A port that is taken down says so once.
                    Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => continue,
                    Err(error) => return Err(error).context("cannot read frames"),
                };
                let is_out = from.is_some_and(|from| from.pkttype() == OUTGOING);
                if is_out != (direction == Direction::Out) {
                    continue;
                }
                let frame = &frame[..length];
                let Some(source) = frame.get(6..12).and_then(|source| source.try_into().ok()) else { continue };
                let new = Seen { at: Instant::now(), source, mark: Mark::of(frame), tcp: Tcp::of(frame) };
                records.lock().unwrap_or_else(PoisonError::into_inner).push(new);
            }
            Ok(())
        }))?;
        if is_ready.recv().is_err() {
            // It has ended without a word: its result has one.
            let ended = thread.join().unwrap_or_else(|_| Err(anyhow!("the capture panicked")));
            return Err(ended.err().unwrap_or_else(|| anyhow!("the capture ended at once")));
        }
        Ok(Self { seen, ended, thread: Some(thread) })
    }

    /// All frames so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All frames since the last call of this.
    pub fn take(&self) -> Vec<Seen> {
        mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many of each kind of a forger's frames have passed.
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        let mut counts = BTreeMap::new();
        for mark in self.seen().iter().filter_map(|seen| seen.mark) {
            *counts.entry(mark.kind).or_default() += 1;
        }
        counts
    }

    /// When a frame of this sender has passed first.
    pub fn first_of(&self, mac: &str) -> Option<Instant> {
        self.seen().iter().find(|seen| seen.is_of(mac)).map(|seen| seen.at)
    }

    /// When a frame of this sender has passed last.
    pub fn last_of(&self, mac: &str) -> Option<Instant> {
        self.seen().iter().rev().find(|seen| seen.is_of(mac)).map(|seen| seen.at)
    }

    /// Waits until it has seen so many frames of a kind.
    pub fn wait_for(&self, kind: Kind, count: usize, timeout: Duration) -> Result<()> {
        let seen = || self.counts().get(&kind).copied().unwrap_or_default();
        let what = format!("{count} frames, {kind:?}");
        crate::wait::until(&what, timeout, || Ok((seen() >= count).then_some(())))
            .with_context(|| format!("seen: {:?}", self.counts()))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("capture: {error:#}");
        }
    }
}
