//! RBD images as Ceph's own library shows them, in [a process of its own](super::look) for each cluster; and what Ceph's error
//! numbers mean.

mod answer;
mod library;

use std::{borrow::Cow, fmt, time::Duration};

use nix::errno::Errno;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use vmferry_core::volume::{Found, Rbd};

pub use self::answer::answer;
pub use super::look::Meaning;
use super::look::{self, Silence};

/// The argument by which this program becomes the one that looks.
pub const ARGUMENT: &str = "look-at-rbd";

impl Meaning {
    /// Of an error number, or of an exit status of `rbd`, which is one.
    pub fn of(number: i32) -> Self {
        match Errno::from_raw(number) {
            Errno::ENOENT => Self::Gone,
            Errno::ETIMEDOUT | Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH => Self::Unreachable,
            // The last one: the cluster wants a key, and there is none.
            Errno::EPERM | Errno::EACCES | Errno::EOPNOTSUPP => Self::Denied,
            _ => Self::Other,
        }
    }
}

/// Why an image could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trouble {
    /// Ceph's libraries are not there, or not as they should be.
    Library(String),
    /// Ceph said no.
    Ceph {
        /// To what.
        step: Step,
        /// Its error number.
        number: i32,
    },
}

/// On the way to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Ceph's configuration is read.
    Configure,
    /// The monitors are asked.
    Connect,
    /// The pool is looked for.
    OpenPool,
    /// The image, or its snapshot, is opened.
    OpenImage,
    /// It is asked what it is.
    ReadImage,
}

impl Trouble {
    /// What it says of the image.
    pub fn meaning(&self) -> Meaning {
        match self {
            Self::Library(_) => Meaning::Other,
            // Nobody knows the monitors, which is no answer of a cluster.
            Self::Ceph { step: Step::Configure | Step::Connect, number: libc::ENOENT } => Meaning::Unreachable,
            Self::Ceph { number, .. } => Meaning::of(*number),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library(why) => f.write_str(why),
            Self::Ceph { step: Step::Connect, number: libc::ENOENT } => {
                f.write_str("Ceph's configuration on this host names no monitors")
            }
            Self::Ceph { step, number } => write!(f, "cannot {step}: {}", Errno::from_raw(*number).desc()),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configure => "read Ceph's configuration",
            Self::Connect => "connect to the cluster",
            Self::OpenPool => "open the pool",
            Self::OpenImage => "open the image",
            Self::ReadImage => "read what the image is",
        })
    }
}

/// What tells an image from every other: ids are given by each cluster for itself.
pub fn identity(image: &str, cluster: &str) -> String {
    format!("{image} in cluster {cluster}")
}

/// What is asked of a cluster. The key goes through a pipe and nowhere else (I6).
#[derive(Serialize, Deserialize)]
struct Question<'a> {
    /// None: Ceph's configuration names them.
    monitors: Vec<String>,
    configuration: Option<String>,
    /// Without `client.`. None: Ceph's own, the administrator.
    user: Option<String>,
    /// In base64.
    key: Option<Cow<'a, str>>,
    /// After that, what has not answered does not answer.
    patience: Duration,
    images: Vec<Name>,
}

/// Where an image is in its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Name {
    pool: String,
    /// Empty: the pool's own.
    namespace: String,
    image: String,
    snapshot: Option<String>,
}

impl Name {
    fn of(rbd: &Rbd) -> Self {
        let (pool, image) = rbd.image.split_once('/').unwrap_or(("rbd", &rbd.image));
        let (namespace, image) = image.split_once('/').unwrap_or(("", image));
        Self {
            pool: pool.to_owned(),
            namespace: namespace.to_owned(),
            image: image.to_owned(),
            snapshot: rbd.snapshot.clone(),
        }
    }
}

/// Looks at images within `limit`; they are of one cluster, which is reached in the way of the first, and as its user.
pub async fn ask(
    images: &[&Rbd],
    key: Option<&SecretString>,
    limit: Duration,
) -> Result<Vec<Result<Found, Trouble>>, Silence<Trouble>> {
    let Some(first) = images.first() else { return Ok(Vec::new()) };
    let question = Question {
        monitors: first.monitors.clone(),
        configuration: first.configuration.clone(),
        user: first.login.as_ref().map(|login| login.user.clone()),
        key: key.map(|key| key.expose_secret().trim().into()),
        patience: look::patience(limit),
        images: images.iter().map(|rbd| Name::of(rbd)).collect(),
    };
    look::ask(ARGUMENT, &question, images.len(), limit).await
}

#[cfg(test)]
mod tests;
