//! Why etcd is of no use just now.

use std::{error::Error as StdError, io, path::PathBuf, time::Duration};

/// Why etcd is of no use just now. What is displayed is the rest of a sentence that begins with where it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of ours is not there, or not for us.
    #[error("cannot be asked: cannot read {}: {source}; it must exist and be readable for the user who runs this", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// No endpoint could be used: a reason each.
    #[error("does not answer ({})", .0.join("; "))]
    Unreachable(Vec<String>),
    /// Nothing came in time.
    #[error("does not answer (nothing came within {0:?})")]
    Silent(Duration),
    /// It answered with an error.
    #[error("refuses ({0})")]
    Refused(String),
    /// The host's key is gone, or its lease.
    #[error("has lost the host's registration ({0})")]
    Lost(&'static str),
    /// Another address is registered for the name.
    #[error(
        "has {key} already, and it says {found}: another agent is registered by that name, or the key was put there by hand; \
         give each host a name of its own, or wait until the other's lease is over"
    )]
    Taken {
        /// The host's key.
        key: String,
        /// What is there.
        found: String,
    },
}

impl From<etcd_client::Error> for Error {
    fn from(error: etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => match status.source() {
                Some(source) => Self::Unreachable(vec![innermost(source)]),
                None => Self::Refused(status.message().to_owned()),
            },
            etcd_client::Error::TransportError(error) => Self::Unreachable(vec![innermost(&error)]),
            other => Self::Refused(other.to_string()),
        }
    }
}

/// What the system or TLS said. What is around it says only who heard it.
pub(crate) fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
