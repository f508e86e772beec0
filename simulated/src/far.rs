//! What two simulated hosts say to each other: where libvirt talks to libvirt, through the agents' tunnel.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream, copy, sink},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
    time::timeout,
};
use tracing::warn;
use vmferry_agent::tunnel;
use vmferry_core::id::{HostName, InstanceId, MigrationId};

use crate::guests::{self, Guests};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(30);

/// What the source asks, a line each, and is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// To make ready for a guest, which is still running on the source.
    Prepare { instance: InstanceId, migration: MigrationId, source: HostName, guest: guests::File },
    /// To let it go on: the source has stopped it, and has sent so many bytes of its memory.
    Finish { sent: u64 },
}

/// `Err` has a sentence.
pub(crate) type Answer = Result<(), String>;

/// A conversation with another host.
#[derive(Debug)]
pub(crate) struct Line(BufStream<UnixStream>);

impl Line {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self(BufStream::new(stream))
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask(&mut self, ask: &Ask) -> io::Result<Answer> {
        let asked = async {
            self.say(ask).await?;
            self.hear().await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        };
        timeout(LIMIT, asked).await?
    }

    async fn say(&mut self, what: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        self.0.write_all(&line).await?;
        self.0.flush().await
    }

    /// None: the other has left.
    async fn hear<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut line = String::new();
        if self.0.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&line)?))
    }
}

/// Takes guests from other hosts, for as long as the process lives.
pub(crate) fn serve(socket: &Path, guests: Arc<Guests>) -> io::Result<()> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => _ = tokio::spawn(take_one(Line::new(stream), Arc::clone(&guests))),
                Err(error) => warn!("cannot accept: {error}"),
            }
        }
    });
    Ok(())
}

/// One guest, from its first word to its last.
async fn take_one(mut line: Line, guests: Arc<Guests>) {
    let mut coming = None;
    let talked = async {
        while let Some(ask) = line.hear::<Ask>().await? {
            let answer = match (ask, &mut coming) {
                (Ask::Prepare { instance, migration, source, guest }, None) => {
                    let expected = guests.expect(instance, migration, source, guest);
                    let ready = expected.and_then(|()| {
                        let memory = receive(migration).map_err(|error| format!("no memory can come: {error}"));
                        memory.inspect_err(|_| guests.give_up(instance, Some(migration)))
                    });
                    ready.map(|memory| coming = Some((instance, migration, memory)))
                }
                (Ask::Finish { sent }, Some((instance, migration, memory))) => match timeout(LIMIT, memory).await {
                    Ok(Ok(Ok(received))) if received == sent => guests.take(*instance, *migration),
                    Ok(Ok(Ok(received))) => Err(format!("{received} bytes of its memory came, {sent} were sent")),
                    Ok(Ok(Err(error))) => Err(format!("its memory broke off: {error}")),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(late) => Err(late.to_string()),
                },
                (ask, _) => Err(format!("out of order: {ask:?}")),
            };
            line.say(&answer).await?;
        }
        Ok::<_, io::Error>(())
    };
    if let Err(error) = talked.await {
        warn!("the source is not heard any more: {error}");
    }
    if let Some((instance, migration, memory)) = coming {
        memory.abort();
        guests.give_up(instance, Some(migration));
    }
}

/// Where QEMU would take its memory; returns how much came.
fn receive(migration: MigrationId) -> io::Result<JoinHandle<io::Result<u64>>> {
    let listener = UnixListener::bind(tunnel::memory_socket(migration))?;
    Ok(tokio::spawn(async move {
        let (mut memory, _) = listener.accept().await?;
        copy(&mut memory, &mut sink()).await
    }))
}
