//! What this host sees of a volume that QEMU will open itself: asked of Ceph's and libiscsi's own tools, which go the way that
//! librbd and libiscsi will go, and ask no kernel.

mod iscsi;
mod rbd;

use std::time::Duration;

use secrecy::SecretString;
use vmferry_core::volume::{Connection, Found};

use super::tool::Failed;

/// A volume that this host can open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// What it is.
    pub found: Found,
    /// Which portal of an iSCSI target answered, as its definition names it.
    pub portal: Option<String>,
}

/// A volume that this host could not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// Nobody answers: no monitor, no portal, or not in time. May pass.
    #[error("{volume} cannot be reached at {at}: {why}")]
    Unreachable {
        /// The volume.
        volume: String,
        /// Where it was looked for.
        at: String,
        /// The tool's last words.
        why: String,
    },
    /// The storage lets this user do nothing with this secret, or asks for one and was given none.
    #[error("the storage does not let {user} open {volume}: {why}")]
    Denied {
        /// The volume.
        volume: String,
        /// Who logged in.
        user: String,
        /// The tool's last words.
        why: String,
    },
    /// The storage answers, and has no such pool, image, snapshot, target or LUN, or hides it from this host.
    #[error("{volume} does not exist for this host: {why}")]
    Gone {
        /// The volume.
        volume: String,
        /// The tool's last words.
        why: String,
    },
    /// The volume has a login, and nobody knows its secret.
    #[error("{volume} is opened by {user}, and this host does not have the secret for that")]
    NoSecret {
        /// The volume.
        volume: String,
        /// Who would log in.
        user: String,
    },
    /// The tool is not there.
    #[error("`{program}` cannot be run; install it (Debian: apt-get install {package}): {why}")]
    NoTool {
        /// The program.
        program: &'static str,
        /// Debian's package of it.
        package: &'static str,
        /// What the system says.
        why: String,
    },
    /// The tool failed in a way that says nothing of the volume.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// The tool's answer is not what it should be.
    #[error("what `{program}` says of {volume} makes no sense: {what}")]
    Unreadable {
        /// The program.
        program: &'static str,
        /// The volume.
        volume: String,
        /// What is wrong.
        what: String,
    },
}

impl FindError {
    /// Whether it may be gone when it is tried again.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// Looks at a volume as QEMU on this host would, within `limit`. `secret` is the key in base64 or the password that belongs to
/// the connection's login. Changes nothing: the volume may be in use.
pub async fn find(
    connection: &Connection,
    secret: Option<&SecretString>,
    limit: Duration,
) -> Result<Sighting, FindError> {
    let login = match connection {
        Connection::Rbd(rbd) => rbd.login.as_ref(),
        Connection::Iscsi(iscsi) => iscsi.login.as_ref(),
    };
    // A secret without a login opens nothing.
    let key = match (login, secret) {
        (Some(login), Some(secret)) => Some((login.user.as_str(), secret)),
        (None, _) => None,
        (Some(login), None) => {
            return Err(FindError::NoSecret { volume: connection.to_string(), user: login.user.clone() });
        }
    };
    match connection {
        Connection::Rbd(rbd) => rbd::find(rbd, key, limit).await,
        Connection::Iscsi(iscsi) => iscsi::find(iscsi, key, limit).await,
    }
}

/// Who logs in, and with what.
type Key<'a> = Option<(&'a str, &'a SecretString)>;

/// What a failure says if it is the same for every tool.
fn common(failed: &Failed, volume: &str, at: &str, program: &'static str, package: &'static str) -> Option<FindError> {
    // The tool has no status of its own: it was not started, or it was killed.
    match failed.code {
        None if failed.how.starts_with("cannot be run: ") => {
            let why = failed.how.trim_start_matches("cannot be run: ").to_owned();
            Some(FindError::NoTool { program, package, why })
        }
        None => {
            let (volume, at) = (volume.to_owned(), at.to_owned());
            Some(FindError::Unreachable { volume, at, why: format!("`{program}` {}", failed.how) })
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests;
