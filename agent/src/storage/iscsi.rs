//! LUNs as libiscsi shows them: the way that QEMU goes, and no kernel is asked. A process of its own [looks](super::look).

mod answer;
mod library;
mod pages;

use std::{borrow::Cow, fmt, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use vmferry_core::volume::{Found, Iscsi};

pub use self::answer::answer;
use super::look::{self, Meaning, Silence};

/// The argument by which this program becomes the one that looks.
pub const ARGUMENT: &str = "look-at-iscsi";

/// Whose name a login has if the volume's definition has none: libiscsi's own tools have the same.
const INITIATOR: &str = "iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-inq";

/// Login statuses, RFC 7143 11.13.5: class and detail.
const AUTHENTICATION_FAILURE: u32 = 0x0201;
const AUTHORIZATION_FAILURE: u32 = 0x0202;
const NOT_FOUND: u32 = 0x0203;
const TARGET_REMOVED: u32 = 0x0204;
/// Additional sense code, SPC-4 D: logical unit not supported.
const NO_LUN: u32 = 0x25;

/// What is asked. The passwords go through a pipe and nowhere else (I6).
#[derive(Serialize, Deserialize)]
struct Question<'a> {
    /// After that, what has not answered does not answer.
    patience: Duration,
    luns: Vec<Lun<'a>>,
}

/// A LUN, and who logs in to its target.
#[derive(Serialize, Deserialize)]
struct Lun<'a> {
    /// The preferred one first.
    portals: Vec<String>,
    target: String,
    lun: u16,
    initiator: String,
    /// For CHAP: name and password.
    login: Option<(String, Cow<'a, str>)>,
}

/// A LUN that this host can open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// What it is.
    pub found: Found,
    /// Where.
    pub portal: String,
}

/// Why a LUN could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trouble {
    /// libiscsi is not there, or not as it should be.
    Library(String),
    /// A portal said no, or nothing.
    Portal {
        /// Which.
        at: String,
        /// What is wrong there.
        why: Why,
    },
}

/// What is wrong at a portal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// No answer in time.
    Silent,
    /// There is no session, or none any more; libiscsi's words.
    Session(String),
    /// The LUN does not do what it is told to; libiscsi's words.
    Command(String),
    /// What it says of itself makes no sense.
    Senseless(String),
}

impl Trouble {
    /// What it says of the LUN.
    pub fn meaning(&self) -> Meaning {
        match self {
            Self::Library(_) => Meaning::Other,
            Self::Portal { why, .. } => why.meaning(),
        }
    }
}

impl Why {
    /// libiscsi tells in words only; the numbers among them are the protocols' own.
    fn meaning(&self) -> Meaning {
        let (words, otherwise) = match self {
            Self::Silent => return Meaning::Unreachable,
            Self::Senseless(_) => return Meaning::Other,
            Self::Session(words) => (words, Meaning::Unreachable),
            Self::Command(words) => (words, Meaning::Other),
        };
        let number = |radix: u32, prefix: &str| {
            let digits = words.rsplit_once(&format!("({prefix}"))?.1.strip_suffix(')')?;
            u32::from_str_radix(digits, radix).ok()
        };
        if let Some(code) = number(16, "0x").filter(|_| words.contains("SENSE KEY")) {
            return if code >> 8 == NO_LUN { Meaning::Gone } else { Meaning::Other };
        }
        match number(10, "").filter(|_| words.contains("Status:")) {
            Some(AUTHENTICATION_FAILURE | AUTHORIZATION_FAILURE) => Meaning::Denied,
            Some(NOT_FOUND | TARGET_REMOVED) => Meaning::Gone,
            _ => otherwise,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library(why) => f.write_str(why),
            Self::Portal { why: Why::Silent, .. } => f.write_str("no answer in time"),
            Self::Portal { why: Why::Session(why) | Why::Command(why) | Why::Senseless(why), .. } => f.write_str(why),
        }
    }
}

/// Looks at LUNs within `limit`. With each comes who logs in to its target, and the password.
pub async fn ask(
    luns: &[(&Iscsi, Option<(&str, &SecretString)>)],
    limit: Duration,
) -> Result<Vec<Result<Sight, Trouble>>, Silence<Trouble>> {
    if luns.is_empty() {
        return Ok(Vec::new());
    }
    let asked = luns.iter().map(|(iscsi, login)| Lun {
        portals: iscsi.portals.clone(),
        target: iscsi.target.clone(),
        lun: iscsi.lun,
        initiator: iscsi.initiator.as_deref().unwrap_or(INITIATOR).to_owned(),
        login: login.map(|(user, password)| (user.to_owned(), password.expose_secret().into())),
    });
    let question = Question { patience: look::patience(limit), luns: asked.collect() };
    look::ask(ARGUMENT, &question, luns.len(), limit).await
}

#[cfg(test)]
mod tests;
