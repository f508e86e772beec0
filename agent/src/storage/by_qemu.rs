//! What this host sees of a volume that QEMU will open itself: asked of librbd and libiscsi, which go the way
//! that QEMU will go, and ask no kernel.

mod iscsi;
mod rbd;

use std::time::Duration;

use futures::future::join;
use secrecy::SecretString;
use vmferry_core::volume::{Connection, Found};

use super::{look::Silence, tool::Failed};

/// The program that looks.
const AGENT: &str = "vmferry-agent";

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
    /// The tool, or library, is not there.
    #[error("`{program}` cannot be used; install it (Debian: apt-get install {package}): {why}")]
    NoTool {
        /// The program.
        program: &'static str,
        /// Debian's package of it.
        package: &'static str,
        /// What the system says.
        why: String,
    },
    /// The storage answers, and it cannot be opened all the same.
    #[error("{volume} cannot be opened at {at}: {why}")]
    Unusable {
        /// The volume.
        volume: String,
        /// Where.
        at: String,
        /// What the storage said.
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

/// Looks at volumes as QEMU on this host would, all at once and within `limit`; answers in the order of the question. With each
/// comes the key in base64 or the password that belongs to its login. Changes nothing: the volumes may be in use.
pub async fn find(
    volumes: &[(&Connection, Option<&SecretString>)],
    limit: Duration,
) -> Vec<Result<Sighting, FindError>> {
    let (mut luns, mut images, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (connection, secret)) in volumes.iter().enumerate() {
        match (key(connection, *secret), connection) {
            (Ok(key), Connection::Iscsi(iscsi)) => luns.push((index, (iscsi, key))),
            (Ok(key), Connection::Rbd(rbd)) => images.push((index, (rbd, key))),
            (Err(error), _) => errors.push((index, Err(error))),
        }
    }
    let (luns, images): ((Vec<_>, Vec<_>), (Vec<_>, Vec<_>)) = (luns.into_iter().unzip(), images.into_iter().unzip());
    let (sights, views) = join(iscsi::find(&luns.1, limit), rbd::find(&images.1, limit)).await;
    let mut answers: Vec<_> = luns.0.into_iter().zip(sights).chain(images.0.into_iter().zip(views)).collect();
    answers.extend(errors);
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Who logs in, and with what.
type Key<'a> = Option<(&'a str, &'a SecretString)>;

fn key<'a>(connection: &'a Connection, secret: Option<&'a SecretString>) -> Result<Key<'a>, FindError> {
    match (connection.login(), secret) {
        (Some(login), Some(secret)) => Ok(Some((&login.user, secret))),
        // A secret without a login opens nothing.
        (None, _) => Ok(None),
        (Some(login), None) => Err(FindError::NoSecret { volume: connection.to_string(), user: login.user.clone() }),
    }
}

/// What it says of a volume that none was looked at.
fn unanswered<Trouble>(
    silence: &Silence<Trouble>,
    volume: String,
    at: String,
    library: &'static str,
    judge: impl FnOnce(&Trouble) -> FindError,
) -> FindError {
    match silence {
        Silence::Trouble(trouble) => judge(trouble),
        Silence::Unreadable(what) => FindError::Unreadable { program: library, volume, what: what.clone() },
        // The process has no status of its own: it was not started, or it was killed.
        Silence::Failed(failed @ Failed { code: None, .. }) => match failed.how.strip_prefix("cannot be run: ") {
            Some(why) => FindError::NoTool { program: AGENT, package: AGENT, why: why.to_owned() },
            None => FindError::Unreachable { volume, at, why: format!("`{AGENT}` {}", failed.how) },
        },
        Silence::Failed(failed) => FindError::Failed(failed.clone()),
    }
}

#[cfg(test)]
mod tests;
