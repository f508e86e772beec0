//! Disk images: what one is, as `qemu-img` says, and how an empty one like it comes to be.
//!
//! An image's format is what libvirt says it is, never a guess: what a guest writes at the start of its raw disk may look like
//! another format that names the host's own files.

mod reading;

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Seek as _, SeekFrom},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

use bytesize::ByteSize;
use vmferry_core::disk::Qcow2;

use super::{
    space::within_limit,
    tool::{Failed, Tool},
};

/// As libvirt's own limit.
const LONGEST_CHAIN: usize = 200;
const RAW: &str = "raw";

/// An image as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// What the guest sees, in whole sectors.
    pub virtual_size: ByteSize,
    /// What it takes on its file system.
    pub allocated: ByteSize,
    /// The file's own length, to the byte, holes included: a copy of the file has the same.
    pub length: ByteSize,
    /// What its unallocated parts are read from.
    pub backing: Option<BackingName>,
    /// How it is laid out, if it is a qcow2 image.
    pub qcow2: Option<Qcow2>,
    /// Where a qcow2 image keeps its data, if not in itself: a copy of the image alone would lack it.
    pub data_file: Option<String>,
    /// Whether it can be read only with a key.
    pub encrypted: bool,
    /// How many snapshots are inside it: a copy of the file has them, a copy of what the guest sees does not.
    pub snapshots: usize,
}

/// A backing image as the image above it names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingName {
    /// As written in the image: relative to its directory, or absolute, or a description in JSON.
    pub file: String,
    /// Its format, where the image says it.
    pub format: Option<String>,
}

/// An image to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImage {
    /// Its format, and what belongs to it.
    pub layout: Layout,
    /// What the guest will see. A raw image's file has exactly this length; qcow2 counts in sectors of 512 bytes.
    pub virtual_size: ByteSize,
    /// Whose it is.
    pub ownership: Ownership,
}

/// The formats that are created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// A file as long as the disk; also what a file of any format is copied into.
    Raw,
    /// A qcow2 image.
    Qcow2 {
        /// How it is laid out: as its source is.
        qcow2: Qcow2,
        /// The name and format of what it lies on, which need not be there yet.
        backing: Option<(String, String)>,
    },
}

/// Whose a file is, and who may open it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ownership {
    /// User id.
    pub user: u32,
    /// Group id.
    pub group: u32,
    /// Permission bits.
    pub mode: u32,
}

impl Default for Ownership {
    /// Root's alone: libvirt gives a disk to the user of the QEMU that it starts.
    fn default() -> Self {
        Self { user: 0, group: 0, mode: 0o600 }
    }
}

/// What could not be done with an image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// QEMU's tools might take it for something else than a file.
    #[error("{} is no path of an image: it must be absolute and UTF-8", .0.display())]
    Path(PathBuf),
    /// Something has the name of an image to be created. It was left alone.
    #[error("{} exists already and is left as it is: move it away if nothing needs it", .0.display())]
    Exists(PathBuf),
    /// `qemu-img` could not do it.
    #[error("cannot {what} image {}", .path.display())]
    Tool {
        /// What was tried.
        what: &'static str,
        /// With which image.
        path: PathBuf,
        /// What became of it.
        source: Failed,
    },
    /// `qemu-img` says something that this agent does not understand.
    #[error("cannot understand what qemu-img says of image {}", .path.display())]
    Output {
        /// The image.
        path: PathBuf,
        /// Where it stops making sense.
        source: serde_json::Error,
    },
    /// The file system would not do it.
    #[error("cannot {what} image {}", .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With which image.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Reads what the image is. It may be in use; what it lies on is not opened and need not be there.
///
/// # Errors
///
/// If it cannot be read, or is not of this format.
pub async fn info(path: &Path, format: &str) -> Result<ImageInfo, Error> {
    let tool = Tool::new("qemu-img").args(["info", "--output=json", "-U", "-f", format, argument(path)?]);
    let said = tool.run().await.map_err(|source| Error::Tool { what: "read", path: path.to_owned(), source })?;
    let length = on_file("read", path, length).await?;
    reading::parse(&said, ByteSize(length)).map_err(|source| Error::Output { path: path.to_owned(), source })
}

/// The names and formats of the images below this one, nearest first; a file has its absolute path. An error comes with those
/// above what cannot be read.
pub async fn chain(path: &Path, format: &str) -> (Vec<(String, String)>, Result<(), Error>) {
    let mut chain: Vec<(String, String)> = Vec::new();
    let (mut path, mut format) = (path.to_owned(), format.to_owned());
    // A raw image has nothing below it, whatever its guest wrote into it.
    while format != RAW && chain.len() < LONGEST_CHAIN {
        let read = match info(&path, &format).await {
            Ok(read) => read,
            Err(error) => return (chain, Err(error)),
        };
        let Some(BackingName { file, format: below }) = read.backing else { break };
        // QEMU's own rule: a name with a scheme is no path.
        let is_path = !file.split('/').next().is_some_and(|first| first.contains(':'));
        let name = if is_path { path.with_file_name(&file).display().to_string() } else { file };
        format = below.unwrap_or_else(|| RAW.to_owned());
        chain.push((name.clone(), format.clone()));
        if !is_path {
            break;
        }
        path = PathBuf::from(name);
    }
    (chain, Ok(()))
}

/// Creates an empty image, which its directory has safely when this returns. Nothing is ever overwritten.
///
/// # Errors
///
/// [`Error::Exists`] if something has its name. After every other error it is not there.
pub async fn create(path: &Path, image: &NewImage) -> Result<(), Error> {
    let qcow2 = match &image.layout {
        Layout::Raw => None,
        Layout::Qcow2 { qcow2, backing } => Some(qcow2_arguments(path, image.virtual_size, qcow2, backing.as_ref())?),
    };
    argument(path)?;
    let (length, ownership) = (image.virtual_size.as_u64(), image.ownership);
    let raw = qcow2.is_none();
    // qemu-img would overwrite what is there: the name is taken first, and it fills the file that has it.
    let created = on_file("create", path, move |path| {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        own(&file, ownership).and_then(|()| if raw { file.set_len(length) } else { Ok(()) }).inspect_err(|_| {
            _ = fs::remove_file(path);
        })
    });
    created.await.map_err(|error| match error {
        Error::File { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => Error::Exists(path.to_owned()),
        error => error,
    })?;

    let finished = async {
        if let Some(arguments) = qcow2 {
            let made = Tool::new("qemu-img").args(arguments).run().await;
            made.map_err(|source| Error::Tool { what: "create", path: path.to_owned(), source })?;
        }
        // The source deletes its disk one day because this one is here.
        on_file("save", path, |path| {
            File::open(path)?.sync_all()?;
            File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
        })
        .await
    };
    match finished.await {
        Ok(()) => Ok(()),
        Err(error) => {
            _ = remove(path).await;
            Err(error)
        }
    }
}

/// Removes an image, if it is there.
///
/// # Errors
///
/// If the file system would not.
pub async fn remove(path: &Path) -> Result<(), Error> {
    on_file("remove", path, |path| match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    })
    .await
}

/// The path as an argument of QEMU's tools, which take `nbd:…`, `json:…` and the like for what is no file.
pub(super) fn argument(path: &Path) -> Result<&str, Error> {
    path.to_str().filter(|path| path.starts_with('/')).ok_or_else(|| Error::Path(path.to_owned()))
}

/// The length of a file or of a block device.
pub fn length(path: &Path) -> io::Result<u64> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?.seek(SeekFrom::End(0))
}

fn qcow2_arguments(
    path: &Path,
    size: ByteSize,
    qcow2: &Qcow2,
    backing: Option<&(String, String)>,
) -> Result<Vec<String>, Error> {
    let mut options = vec![format!("compat={}", qcow2.compat), format!("cluster_size={}", qcow2.cluster_size)];
    if qcow2.refcount_bits != 16 {
        options.push(format!("refcount_bits={}", qcow2.refcount_bits));
    }
    if qcow2.compression_type != "zlib" {
        options.push(format!("compression_type={}", qcow2.compression_type));
    }
    options.extend(qcow2.lazy_refcounts.then(|| "lazy_refcounts=on".to_owned()));
    options.extend(qcow2.extended_l2.then(|| "extended_l2=on".to_owned()));

    let mut arguments: Vec<String> =
        ["create", "-q", "-f", "qcow2", "-o", &options.join(",")].map(str::to_owned).into();
    if let Some((file, format)) = backing {
        arguments.extend(["-u", "-b", file, "-F", format].map(str::to_owned));
    }
    arguments.extend([argument(path)?.to_owned(), size.as_u64().to_string()]);
    Ok(arguments)
}

fn own(file: &File, ownership: Ownership) -> io::Result<()> {
    fchown(file, Some(ownership.user), Some(ownership.group))?;
    // After the owner: to change that clears bits.
    file.set_permissions(Permissions::from_mode(ownership.mode))
}

async fn on_file<T: Send + 'static>(
    what: &'static str,
    path: &Path,
    action: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let file = path.to_owned();
    let done = within_limit(move || action(&file)).await.and_then(std::convert::identity);
    done.map_err(|source| Error::File { what, path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
