//! Certificates that are replaced while we run.

use std::{fs, os::unix::fs::MetadataExt, time::Duration};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use crate::{CertificateFiles, Credentials, Error, load};

/// Loads the files, and returns the credentials and a task that loads them again whenever they have changed.
///
/// The task looks every `interval`, acts on a change once it has stood still for one, and ends when all receivers are
/// gone. If the new files cannot serve, that is logged and the old credentials stay. Connections made before a change go on.
pub async fn watch_files(
    files: CertificateFiles,
    interval: Duration,
) -> Result<(watch::Receiver<Credentials>, impl Future<Output = ()> + Send + 'static), Error> {
    // Looked at before they are read: what changes in between is seen as a change later.
    let loaded = blocking(&files, look).await;
    let (sender, receiver) = watch::channel(blocking(&files, load).await?);
    Ok((receiver, watch_for_changes(files, interval, loaded, sender)))
}

async fn watch_for_changes(
    files: CertificateFiles,
    interval: Duration,
    mut loaded: Look,
    sender: watch::Sender<Credentials>,
) {
    let mut before = loaded;
    loop {
        tokio::select! {
            () = sender.closed() => return,
            () = sleep(interval) => {}
        }
        let now = blocking(&files, look).await;
        let standing = std::mem::replace(&mut before, now) == now;
        if now == loaded || !standing {
            continue;
        }
        loaded = now;
        match blocking(&files, load).await {
            Ok(newest) => {
                tracing::info!(identity = %newest.identity(), not_after = %newest.not_after(), "certificates renewed");
                sender.send_replace(newest);
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "new certificates cannot serve, the old ones stay in use");
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    files: &CertificateFiles,
    what: impl FnOnce(&CertificateFiles) -> T + Send + 'static,
) -> T {
    let files = files.clone();
    spawn_blocking(move || what(&files)).await.expect("reading files does not panic")
}

/// What a file looked like: equal looks, equal content. ctime is there for `chmod`, the remedy for a key that others can read.
type Look = [Option<FileLook>; 3];

#[derive(Clone, Copy, PartialEq, Eq)]
struct FileLook {
    inode: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

fn look(files: &CertificateFiles) -> Look {
    [&files.ca, &files.certificate, &files.key].map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some(FileLook {
            inode: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    })
}
