//! The last question of libvirt's hand-over, and what may become of its answer: a way to a host's libvirt, in front of its agent's tunnel,
//! that looks at the packets which pass.
//!
//! libvirt's packets are XDR: their length, then program, version, procedure, type, serial and status, four bytes each.

use std::{
    fs,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::host::Host;

/// Where the host's agent is told that libvirt answers, for its `agent.toml`.
pub const CONFIGURATION: &str = "[libvirt]\nsocket = \"/run/finish.sock\"\n";
const SOCKET: &str = "/run/finish.sock";
const LIBVIRT: &str = "/run/libvirt/libvirt-sock";
/// `REMOTE_PROGRAM`, and `REMOTE_PROC_DOMAIN_MIGRATE_FINISH3_PARAMS` of it.
const FINISH: [u32; 2] = [0x2000_8086, 306];
/// `VIR_NET_REPLY`.
const REPLY: u32 = 1;

/// What is done with the answer that the guest has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is lost, with its connection.
    Lost,
    /// It is held until [`Finish::let_through`].
    Held,
}

/// The way.
#[derive(Debug)]
pub struct Finish {
    seen: Receiver<()>,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Finish {
    /// From now on on this host, whose agent was configured with [`CONFIGURATION`].
    pub fn on(host: &Host, answer: Answer) -> Result<Self> {
        Self::between(&host.path(SOCKET)?, host.path(LIBVIRT)?, answer)
    }

    fn between(path: &Path, libvirt: PathBuf, answer: Answer) -> Result<Self> {
        let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
        let gate = Arc::new((Mutex::new(answer == Answer::Lost), Condvar::new()));
        let (sender, seen) = channel();
        let opened = Arc::clone(&gate);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (sender, libvirt, gate) = (sender.clone(), libvirt.clone(), Arc::clone(&opened));
                thread::spawn(move || carry(client, &libvirt, answer, &sender, &gate));
            }
        });
        Ok(Self { seen, gate })
    }

    /// Waits until libvirt has answered that the guest has arrived. The answer is lost or held then.
    pub fn wait(&self, timeout: Duration) -> Result<()> {
        self.seen
            .recv_timeout(timeout)
            .map_err(|error: RecvTimeoutError| anyhow::anyhow!("no guest has arrived: {error}"))
    }

    /// Lets the answer through.
    pub fn let_through(&self) {
        let (open, changed) = &*self.gate;
        *open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }
}

/// The same in the place of libvirt's own socket, for whoever connects there; until it is dropped.
#[derive(Debug)]
pub struct InPlace {
    finish: Finish,
    own: PathBuf,
    moved: PathBuf,
}

impl InPlace {
    /// From now on.
    pub fn of_libvirt(host: &Host, answer: Answer) -> Result<Self> {
        let own = host.path(LIBVIRT)?;
        let moved = own.with_extension("own");
        // systemd goes on listening to it, whatever it is called.
        fs::rename(&own, &moved).with_context(|| own.display().to_string())?;
        let finish = Finish::between(&own, moved.clone(), answer);
        let in_place = Self { finish: finish?, own, moved };
        fs::set_permissions(&in_place.own, fs::Permissions::from_mode(0o777))?;
        Ok(in_place)
    }

    /// Whether libvirt has answered that a guest has arrived.
    pub fn is_seen(&self) -> bool {
        self.finish.seen.try_recv().is_ok()
    }
}

impl Drop for InPlace {
    fn drop(&mut self) {
        // A host that has booted has a new one.
        let _ = fs::rename(&self.moved, &self.own);
    }
}

fn carry(client: UnixStream, libvirt: &PathBuf, answer: Answer, seen: &Sender<()>, gate: &(Mutex<bool>, Condvar)) {
    let carried = || -> io::Result<()> {
        let server = UnixStream::connect(libvirt)?;
        let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || {
            let _ = io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Write);
        });
        let (mut from_server, mut to_client) = (server, client.try_clone()?);
        loop {
            let mut length = [0; 4];
            from_server.read_exact(&mut length)?;
            let rest = u32::from_be_bytes(length).saturating_sub(4);
            let mut packet = vec![0; usize::try_from(rest).map_err(io::Error::other)?];
            from_server.read_exact(&mut packet)?;
            let word = |index: usize| {
                packet
                    .get(index * 4..index * 4 + 4)
                    .map_or(0, |word| u32::from_be_bytes(word.try_into().unwrap_or_default()))
            };
            if [word(0), word(2)] == FINISH && word(3) == REPLY {
                let _ = seen.send(());
                if answer == Answer::Lost {
                    from_server.shutdown(Shutdown::Both)?;
                    return to_client.shutdown(Shutdown::Both);
                }
                let (open, changed) = gate;
                let open = open.lock().unwrap_or_else(PoisonError::into_inner);
                drop(changed.wait_while(open, |open| !*open).unwrap_or_else(PoisonError::into_inner));
            }
            to_client.write_all(&length)?;
            to_client.write_all(&packet)?;
        }
    };
    // One that ends ends for both.
    let _ = carried();
    let _ = client.shutdown(Shutdown::Both);
}
