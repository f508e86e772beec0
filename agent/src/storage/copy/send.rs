use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
    process::Stdio,
};

use bytesize::ByteSize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::storage::{
    image::{self, argument},
    space::within_limit,
    tool::{Failed, Tool},
};

/// How long a connection that broke is sought again, in seconds. It leads through the tunnel: that may be replaced.
const RECONNECT: &str = "10";

/// More than `qemu-img` prints between two figures.
const FIGURE_LIMIT: usize = 256;

/// Sends the image file to the [`Receiver`](super::Receiver) to which `socket` leads, and returns when that has it all; when
/// the receiver has stopped well, it is on the disk. May be repeated after a failure, to the same receiver, as long as the
/// image is the same.
///
/// `progress` is told what is done of what the image takes on its file system, in steps of about a percent. It takes as
/// long as it takes; a connection that breaks ends it after ten seconds.
///
/// # Errors
///
/// [`Error::Tool`] if QEMU has the image open for writing, it cannot be read, the destination cannot be reached, or its
/// disk is full; [`Error::Cancelled`].
pub async fn send(
    path: &Path,
    socket: &Path,
    progress: impl Fn(ByteSize),
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let measured = path.to_owned();
    let allocated = within_limit(move || allocated(&measured)).await.and_then(std::convert::identity);
    let allocated = allocated.map_err(|source| Error::File { what: "read", path: path.to_owned(), source })?;

    let server = argument(socket)?.replace(',', ",,");
    let destination = format!("driver=nbd,server.type=unix,server.path={server},reconnect-delay={RECONNECT}");
    // No -U: QEMU's lock keeps an image away from here as long as a guest writes to it.
    // -W: writes wait for each other's answers otherwise, which halves the throughput.
    let options = ["convert", "-p", "-n", "--target-is-zero", "-W", "-t", "writeback", "-f", "raw"];
    let tool = Tool::new("qemu-img").args(options).args(["--target-image-opts", argument(path)?, &destination]);

    let sent = cancel.run_until_cancelled(convert(&tool, move |share| {
        progress(ByteSize((allocated as f64 * share) as u64));
    }));
    // Dropped when cancelled, and the program with it.
    let sent = sent.await.ok_or_else(|| Error::Cancelled(path.to_owned()))?;
    sent.map_err(|source| Error::Tool { path: path.to_owned(), source })
}

async fn convert(tool: &Tool, progress: impl Fn(f64)) -> Result<(), Failed> {
    let command = tool.command_line();
    let cannot_run =
        |error: io::Error| Failed { command: command.clone(), code: None, how: format!("cannot be run: {error}") };
    let mut child = tool.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(cannot_run)?;
    let figures = child.stdout.take().expect("it was piped");
    let mut words = child.stderr.take().expect("it was piped");
    let mut said = Vec::new();
    let (_, _, status) = tokio::join!(watch(figures, progress), words.read_to_end(&mut said), child.wait());
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failed::ended(&command, status, &String::from_utf8_lossy(&said))),
        Err(error) => Err(cannot_run(error)),
    }
}

async fn watch(mut figures: impl AsyncRead + Unpin, progress: impl Fn(f64)) -> io::Result<()> {
    let (mut buffer, mut line) = ([0; 1024], Vec::new());
    loop {
        let length = figures.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        for &byte in &buffer[..length] {
            match byte {
                b'\r' | b'\n' => share(&std::mem::take(&mut line)).map(&progress).unwrap_or_default(),
                _ if line.len() < FIGURE_LIMIT => line.push(byte),
                _ => {}
            }
        }
    }
}

/// Of `    (12.34/100%)`, 0.1234.
fn share(line: &[u8]) -> Option<f64> {
    let percent = str::from_utf8(line).ok()?.trim().strip_prefix('(')?.strip_suffix("/100%)")?;
    percent.parse().ok().map(|percent: f64| (percent / 100.0).clamp(0.0, 1.0))
}

/// As [`image::info`] says it, in bytes; a block device is full.
fn allocated(path: &Path) -> io::Result<u64> {
    let metadata = fs::metadata(path)?;
    if metadata.file_type().is_block_device() { image::length(path) } else { Ok(metadata.blocks() * 512) }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn progress_is_read_as_it_comes_in_whatever_pieces() {
        let seen = RefCell::new(Vec::new());
        let (mut printed, figures) = tokio::io::duplex(3);
        let print = async move {
            use tokio::io::AsyncWriteExt as _;
            printed
                .write_all(b"    (0.00/100%)\r    (12.50/100%)\rnonsense\r    (100.00/100%)\r\n")
                .await
                .expect("read");
        };
        let (watched, ()) = tokio::join!(watch(figures, |share| seen.borrow_mut().push(share)), print);
        watched.expect("readable");
        assert_eq!(seen.into_inner(), [0.0, 0.125, 1.0]);
    }
}
