use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use bytesize::ByteSize;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Whence},
};
use tokio::{
    io::AsyncReadExt as _,
    process::Child,
    runtime::Handle,
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
    time::{sleep, timeout},
};

use super::Error;
use crate::storage::{
    digest::seek,
    image::argument,
    space::within_limit,
    tool::{Failed, Tool},
};

/// How long `qemu-nbd` may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(10);
/// It does not hear of it, if it is told in the moment in which a sender goes.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long it may take to end. What it wrote is on the disk by then, unless the source was cut off.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Receives an image, one sender at a time, as often as one connects. Killed when dropped; ends with the agent, however
/// that ends.
#[derive(Debug)]
pub struct Receiver {
    child: Child,
    said: JoinHandle<String>,
    command: String,
    socket: PathBuf,
    path: PathBuf,
    /// Its fsync tells every failure to write since it was opened.
    file: File,
    length: u64,
    _thread: mpsc::Sender<()>,
}

impl Receiver {
    /// Begins to receive into the file at `path`, which was created for it, as long as the source's, and holds nothing yet.
    /// When this returns, `socket` is there. What was at `socket` is replaced.
    ///
    /// # Errors
    ///
    /// [`Error::NotEmpty`], also for what an interrupted copy left: remove it and create it again. [`Error::File`] if it is
    /// no regular file; [`Error::Tool`] if `qemu-nbd` would not start, such as when QEMU has the file open.
    pub async fn start(socket: &Path, path: &Path) -> Result<Self, Error> {
        let opened = path.to_owned();
        let opened = within_limit(move || open(&opened)).await.and_then(std::convert::identity);
        let (file, length, is_empty) =
            opened.map_err(|source| Error::File { what: "open", path: path.to_owned(), source })?;
        // The sender does not send zeros.
        if !is_empty {
            return Err(Error::NotEmpty(path.to_owned()));
        }

        // Under systemd the agent's children survive it (KillMode=process): the kernel ends this one.
        let tool = Tool::new("setpriv")
            .args([
                "--pdeathsig",
                "TERM",
                "qemu-nbd",
                "--persistent",
                "--shared=1",
                "--format=raw",
                "--cache=writeback",
            ])
            .args(["--socket", argument(socket)?, argument(path)?]);
        let command = tool.command_line();
        let tool_failed = |how| {
            let source = Failed { command: command.clone(), code: None, how };
            Error::Tool { path: path.to_owned(), source }
        };
        let (mut child, thread) =
            spawn_on_its_own_thread(tool).await.map_err(|error| tool_failed(format!("cannot be run: {error}")))?;
        let mut words = child.stderr.take().expect("it was piped");
        let said = tokio::spawn(async move {
            let mut said = Vec::new();
            _ = words.read_to_end(&mut said).await;
            String::from_utf8_lossy(&said).into_owned()
        });
        let mut receiver = Self {
            child,
            said,
            command: command.clone(),
            socket: socket.to_owned(),
            path: path.to_owned(),
            file,
            length,
            _thread: thread,
        };
        match timeout(START_LIMIT, receiver.listens()).await {
            Ok(Ok(None)) => Ok(receiver),
            Ok(Ok(Some(status))) => Err(receiver.ended(status).await),
            Ok(Err(error)) => Err(tool_failed(format!("cannot be watched: {error}"))),
            Err(_) => Err(tool_failed(format!("did not listen within {START_LIMIT:?} and was killed"))),
        }
    }

    /// Ends receiving. Everything received is on the disk when this returns well; whether that is the whole image, only the
    /// sender knows. The file is cut to `length`, if it turned out to be shorter than it was made.
    ///
    /// # Errors
    ///
    /// If `qemu-nbd` ended badly or before its time, or the disk failed: the image is not to be used.
    pub async fn stop(mut self, length: Option<ByteSize>) -> Result<(), Error> {
        self.length = length.map_or(self.length, |length| length.as_u64().min(self.length));
        let asked = async {
            loop {
                if let Some(pid) = self.child.id() {
                    // Ended by itself just now: its status tells.
                    _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
                }
                if let Ok(ended) = timeout(ASK_AGAIN, self.child.wait()).await {
                    break ended;
                }
            }
        };
        let ended = timeout(STOP_LIMIT, asked).await;
        if ended.is_err() {
            _ = self.child.kill().await;
        }
        _ = fs::remove_file(&self.socket);
        let how = match ended {
            Ok(Ok(status)) if status.success() => return self.save().await,
            Ok(Ok(status)) => return Err(self.ended(status).await),
            Ok(Err(error)) => format!("cannot be waited for: {error}"),
            Err(_) => format!("did not end within {STOP_LIMIT:?} and was killed"),
        };
        Err(Error::Tool { path: self.path, source: Failed { command: self.command, code: None, how } })
    }

    async fn save(self) -> Result<(), Error> {
        let (file, length, path) = (self.file, self.length, self.path);
        // No limit: a disk may be slow, and nothing can be done about it.
        let saved = spawn_blocking(move || {
            // QEMU counts in sectors: it has filled up the last one. Beyond an image's end there is only a hole.
            if file.metadata()?.len() > length {
                file.set_len(length)?;
            }
            file.sync_all()
        });
        saved.await.map_err(io::Error::other).and_then(std::convert::identity).map_err(|source| Error::File {
            what: "save",
            path,
            source,
        })
    }

    /// Returns the program's status if it ends instead.
    async fn listens(&mut self) -> io::Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            // To connect would take the one sender's place and make qemu-nbd complain.
            if is_listening(&fs::read("/proc/net/unix")?, &self.socket) {
                return Ok(None);
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn ended(&mut self, status: ExitStatus) -> Error {
        let said = (&mut self.said).await.unwrap_or_default();
        Error::Tool { path: self.path.clone(), source: Failed::ended(&self.command, status, &said) }
    }
}

/// The file, its length, and whether there is nothing in it.
fn open(path: &Path) -> io::Result<(File, u64, bool)> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    // Not every file system tells data from holes, or counts no blocks for what is empty; either one's word is enough.
    let is_empty = metadata.blocks() == 0 || seek(&file, 0, Whence::SeekData)?.is_none();
    Ok((file, metadata.len(), is_empty))
}

/// Starts the program on a thread that lasts until the handle is dropped. The kernel sends a child its parent's death when
/// the *thread* that started it ends, as the runtime's threads may do at any time.
async fn spawn_on_its_own_thread(tool: Tool) -> io::Result<(Child, mpsc::Sender<()>)> {
    let (keep, kept) = mpsc::channel::<()>();
    let (started, start) = oneshot::channel();
    let runtime = Handle::current();
    thread::Builder::new().name("qemu-nbd".to_owned()).spawn(move || {
        let _runtime = runtime.enter();
        let child = tool.command().stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        if started.send(child).is_ok() {
            _ = kept.recv();
        }
    })?;
    let child = start.await.map_err(io::Error::other)??;
    Ok((child, keep))
}

/// Whether somebody listens on the socket, by `/proc/net/unix`: `Num RefCount Protocol Flags Type St Inode Path`.
fn is_listening(sockets: &[u8], socket: &Path) -> bool {
    const LISTENS: &str = "00010000";
    let path = format!(" {}", socket.display());
    String::from_utf8_lossy(sockets)
        .lines()
        .any(|line| line.split_ascii_whitespace().nth(3) == Some(LISTENS) && line.ends_with(&path))
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    struct Files {
        directory: tempfile::TempDir,
        socket: PathBuf,
        image: PathBuf,
    }

    fn files() -> Files {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (socket, image) = (directory.path().join("disk.sock"), directory.path().join("disk"));
        File::create(&image).expect("writable").set_len(1 << 20).expect("writable");
        Files { directory, socket, image }
    }

    #[tokio::test]
    async fn it_listens_when_it_has_started_and_leaves_no_socket_when_it_is_stopped() {
        let files = files();
        let receiver = Receiver::start(&files.socket, &files.image).await.expect("started");
        drop(UnixStream::connect(&files.socket).await.expect("it listens"));
        receiver.stop(None).await.expect("nothing was received, and that is on the disk");
        assert!(!files.socket.exists());
        assert_eq!(fs::metadata(&files.image).expect("there").len(), 1 << 20);
    }

    #[tokio::test]
    async fn it_does_not_write_into_what_holds_something() {
        let files = files();
        fs::write(&files.image, "precious").expect("writable");
        let error = Receiver::start(&files.socket, &files.image).await.expect_err("not empty");
        assert!(matches!(error, Error::NotEmpty(_)), "{error}");
        assert_eq!(fs::read(&files.image).expect("readable"), b"precious");
    }

    #[tokio::test]
    async fn why_it_does_not_start_is_told_in_its_own_words() {
        let files = files();
        let socket = files.directory.path().join("missing/disk.sock");
        let error = Receiver::start(&socket, &files.image).await.expect_err("no directory");
        let Error::Tool { source, .. } = error else { panic!("{error:?}") };
        assert!(source.how.contains("Failed to bind socket"), "{source}");
    }

    #[tokio::test]
    async fn one_that_was_killed_did_not_receive_all() {
        let files = files();
        let mut receiver = Receiver::start(&files.socket, &files.image).await.expect("started");
        receiver.child.start_kill().expect("it runs");
        receiver.child.wait().await.expect("it ends");
        let error = receiver.stop(None).await.expect_err("it was killed");
        assert!(matches!(&error, Error::Tool { source, .. } if source.how.contains("SIGKILL")), "{error:?}");
    }

    #[tokio::test]
    async fn it_ends_gracefully_when_the_agent_does() {
        let files = files();
        let mut receiver = Receiver::start(&files.socket, &files.image).await.expect("started");
        // To the kernel, the end of the process is the end of the thread.
        (receiver._thread, _) = mpsc::channel();
        let status = timeout(START_LIMIT, receiver.child.wait()).await.expect("soon").expect("it can be waited for");
        assert!(status.success(), "{status}");
    }

    #[tokio::test]
    async fn it_does_not_outlive_its_handle() {
        let files = files();
        drop(Receiver::start(&files.socket, &files.image).await.expect("started"));
        let gone = async {
            while is_listening(&fs::read("/proc/net/unix").expect("readable"), &files.socket) {
                tokio::task::yield_now().await;
            }
        };
        timeout(START_LIMIT, gone).await.expect("it is killed");
    }
}
