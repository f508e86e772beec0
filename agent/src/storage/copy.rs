//! Carries an image to which nobody writes from one host to the other: a backing image, an ISO, a disk of a guest that is off.
//! QEMU's own tools do it, over a UNIX socket at each end of the agents' tunnel; no port is opened.
//!
//! ```text
//!  source                                                  destination
//!  image ─▶ qemu-img convert ─▶ socket ══ tunnel ══ socket ─▶ qemu-nbd ─▶ image
//! ```
//!
//! What is copied is the *file*, byte by byte, raw at both ends, whatever format it has. So a layer of a chain remains what
//! it is: its own clusters and none of its backing image's, its snapshots, bitmaps, compression and the name of what it lies
//! on. No program has to open a chain, and none interprets what a guest or a stranger wrote. To copy by format instead, with
//! the backing image left out, would turn clusters that are not there into zeros that hide it. Holes in the file stay holes.
//!
//! The destination's file is created first ([`image::create`], [`Raw`](super::image::Layout::Raw),
//! as long as the source's file).

mod receive;
mod send;

use std::{io, path::PathBuf};

use super::{image, tool::Failed};

pub use self::{receive::Receiver, send::send};

/// Why an image was not copied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has no path that the programs would take for a file's.
    #[error(transparent)]
    Path(#[from] image::Error),
    /// There is something in the file that is to be received into: it is left as it is.
    #[error("{} is not empty: an image is copied into a file that was created for it", .0.display())]
    NotEmpty(PathBuf),
    /// The file cannot be opened, cut to its length, or brought to its disk.
    #[error("cannot {what} {}", .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The program on this side failed. `qemu-img`, on the source, also tells what failed on the destination, such as a full
    /// disk.
    #[error("cannot copy {}", .path.display())]
    Tool {
        /// The image, as this side calls it.
        path: PathBuf,
        /// What became of the program.
        source: Failed,
    },
    /// It was called off.
    #[error("copying {} was called off", .0.display())]
    Cancelled(PathBuf),
}

#[cfg(test)]
mod tests;
