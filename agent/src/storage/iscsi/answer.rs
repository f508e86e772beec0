//! The process that looks at LUNs.

use std::{
    io,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use vmferry_core::volume::Found;

use super::{Lun, Question, Sight, Trouble, Why, library, library::Libiscsi, pages};
use crate::storage::look::{self, Answer};

/// Each LUN tells by itself for which portal it waited, a moment before all is said.
const MOMENT: Duration = Duration::from_millis(300);

/// Answers one question, and ends the process.
pub fn answer() -> io::Result<()> {
    look::answer(look_at_all)
}

/// Each LUN has a session of its own, as it has with QEMU: one that does not answer holds up no other.
fn look_at_all(question: Question<'static>) -> Answer<Sight, Trouble> {
    let end = Instant::now() + question.patience;
    let library = Arc::new(Libiscsi::find().map_err(Trouble::Library)?);
    let silent = Err(Trouble::Portal { at: "any of its portals".into(), why: Why::Silent });
    let look = move |lun| {
        try_portals(&Arc::new(lun), end, |lun, portal| {
            let (library, lun, portal) = (Arc::clone(&library), Arc::clone(lun), portal.to_owned());
            move || look_at(&library, &lun, &portal)
        })
    };
    Ok(look::all(question.luns, end + MOMENT, silent, look))
}

/// One portal after the other, until one shows the LUN.
fn try_portals<Look: FnOnce() -> Result<Found, Why> + Send + 'static>(
    lun: &Arc<Lun<'static>>,
    end: Instant,
    look: impl Fn(&Arc<Lun<'static>>, &str) -> Look,
) -> Result<Sight, Trouble> {
    let mut told: Option<Trouble> = None;
    for (index, portal) in lun.portals.iter().enumerate() {
        // A portal that hangs leaves the others their share.
        let left = end.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(lun.portals.len() - index).unwrap_or(u32::MAX);
        let why = match within(share, look(lun, portal)) {
            Ok(found) => return Ok(Sight { found, portal: portal.clone() }),
            Err(why) => why,
        };
        // What a portal says of the volume tells more than that another one is silent.
        if told.as_ref().is_none_or(|told| told.meaning() == super::Meaning::Unreachable) {
            told = Some(Trouble::Portal { at: portal.clone(), why });
        }
    }
    let none = || Trouble::Portal { at: "no portal".into(), why: Why::Session("its definition names none".into()) };
    Err(told.unwrap_or_else(none))
}

/// libiscsi waits as long as the kernel does, and has no word to stop it: who is too slow is left behind.
fn within(share: Duration, look: impl FnOnce() -> Result<Found, Why> + Send + 'static) -> Result<Found, Why> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let _ = send.send(look());
    });
    receive.recv_timeout(share).unwrap_or(Err(Why::Silent))
}

fn look_at(library: &Libiscsi, lun: &Lun<'_>, portal: &str) -> Result<Found, Why> {
    let session = library::Session::open(library, lun, portal)?;
    let capacity = session.capacity()?;
    let size = pages::size(capacity).ok_or_else(|| Why::Senseless(format!("its capacity is {capacity:02x?}")))?;
    let identity = identity(|page| session.page(page))?;
    session.close();
    Ok(Found { size, identity })
}

/// What a LUN is known by, from its pages of vital product data. Only what it supports is asked: a page that it has not is an
/// error.
fn identity(page: impl Fn(u8) -> Result<&'static [u8], Why>) -> Result<String, Why> {
    let supported = pages::supported(page(pages::SUPPORTED)?);
    let mut names = Vec::new();
    if supported.contains(&pages::IDENTIFICATION) {
        names.extend(pages::designators(page(pages::IDENTIFICATION)?));
    }
    if supported.contains(&pages::SERIAL) {
        names.extend(pages::serial(page(pages::SERIAL)?).map(|serial| format!("serial {serial}")));
    }
    if names.is_empty() {
        return Err(Why::Senseless("the LUN has neither a serial number nor a name".into()));
    }
    Ok(names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lun(portals: &[&str]) -> Arc<Lun<'static>> {
        let portals = portals.iter().map(ToString::to_string).collect();
        Arc::new(Lun { portals, target: "iqn.a".into(), lun: 1, initiator: "iqn.b".into(), login: None })
    }

    fn found() -> Found {
        Found { size: bytesize::ByteSize::b(512), identity: "serial 1".into() }
    }

    /// What portals say: `a` nothing, `b` that there is no session, `c` that the LUN is not ready, `d` what it is.
    fn tried(portals: &[&str]) -> Result<Sight, Trouble> {
        let end = Instant::now() + Duration::from_millis(200);
        try_portals(&lun(portals), end, |_, portal| {
            let portal = portal.to_owned();
            move || match portal.as_str() {
                "a" => {
                    thread::sleep(Duration::from_secs(60));
                    Err(Why::Silent)
                }
                "b" => Err(Why::Session("refused".into())),
                "c" => Err(Why::Command("SENSE KEY:NOT_READY(2) ASCQ:(null)(0x0401)".into())),
                _ => Ok(found()),
            }
        })
    }

    #[test]
    fn a_portal_that_hangs_or_fails_leaves_the_others_their_share() {
        for portals in [&["d", "b"][..], &["a", "d"], &["b", "a", "c", "d"]] {
            assert_eq!(tried(portals), Ok(Sight { found: found(), portal: "d".into() }), "{portals:?}");
        }
        for (portals, told) in [(&["a", "b"][..], "b"), (&["c", "b"], "c"), (&["b", "c"], "c"), (&[], "no portal")] {
            let Err(Trouble::Portal { at, .. }) = tried(portals) else { panic!("{portals:?} show nothing") };
            assert_eq!(at, told, "{portals:?}");
        }
        assert_eq!(tried(&["a"]), Err(Trouble::Portal { at: "a".into(), why: Why::Silent }));
    }

    #[test]
    fn a_lun_is_known_by_its_names_and_its_serial_number_and_not_without() {
        let page = |code| {
            Ok(match code {
                pages::SUPPORTED => &[0, 0, 0, 2, 0x00, 0x80][..],
                pages::SERIAL => b"\0\x80\0\x06beaf11",
                _ => panic!("it has no page {code:#04x}"),
            })
        };
        assert_eq!(identity(page).as_deref(), Ok("serial beaf11"));
        assert!(matches!(identity(|_| Ok(&[0, 0, 0, 1, 0])), Err(Why::Senseless(_))));
    }
}
