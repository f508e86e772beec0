//! What a volume's description asks for, checked before anything is done.

use std::fs;

use secrecy::SecretString;
use vmferry_core::volume::Iscsi;

use crate::storage::by_host::{Settings, failed::Failed, node, portal::Portal, release::Lun};

const INITIATOR: &str = "/etc/iscsi/initiatorname.iscsi";

/// A LUN to be connected, with all that its login takes.
pub(super) struct Wanted<'a> {
    pub(super) lun: Lun<'a>,
    pub(super) portals: Vec<Portal>,
    pub(super) chap: Option<(&'a str, &'a SecretString)>,
}

/// The LUN and its portals, without what only a login needs.
pub(super) fn described<'a>(iscsi: &'a Iscsi, settings: &Settings) -> Result<(Lun<'a>, Vec<Portal>), Failed> {
    let volume = iscsi.to_string();
    let wrong = |problem: String| Failed::Description { volume: volume.clone(), problem };
    // It goes into arguments and into a path.
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | ':' | '_');
    let named = ["iqn.", "eui.", "naa."].iter().any(|prefix| iscsi.target.starts_with(prefix));
    if !named || !iscsi.target.chars().all(is_plain) {
        return Err(wrong(format!("`{}` is no iSCSI name (iqn.…, eui.…, naa.…)", iscsi.target)));
    }
    let mut portals = Vec::new();
    for text in &iscsi.portals {
        let portal = Portal::parse(text).ok_or_else(|| wrong(format!("`{text}` is no portal (address:port)")))?;
        portals.push(portal);
    }
    if portals.is_empty() {
        return Err(wrong("it has no portal".to_owned()));
    }
    let lun = Lun { target: &iscsi.target, lun: iscsi.lun, device_timeout: settings.device_timeout, volume };
    Ok((lun, portals))
}

/// All of it.
pub(super) fn wanted<'a>(
    iscsi: &'a Iscsi,
    secret: Option<&'a SecretString>,
    settings: &Settings,
) -> Result<Wanted<'a>, Failed> {
    let (lun, portals) = described(iscsi, settings)?;
    let volume = &lun.volume;
    let wrong = |problem: String| Failed::Description { volume: volume.clone(), problem };
    if let Some(name) = &iscsi.initiator {
        let own = fs::read_to_string(INITIATOR).unwrap_or_default();
        if !is_initiator(&own, name) {
            let problem =
                format!("its initiator is {name}, and this host has another name; change {INITIATOR} or the volume's");
            return Err(wrong(problem));
        }
    }
    let chap = match (&iscsi.login, secret) {
        (None, _) => None,
        (Some(login), None) => {
            return Err(Failed::NoSecret { volume: volume.clone(), secret: login.secret.clone() });
        }
        (Some(login), Some(password)) => {
            if !node::is_writable(password) {
                return Err(wrong("its CHAP password is empty, too long, or has blanks around it".to_owned()));
            }
            Some((login.user.as_str(), password))
        }
    };
    Ok(Wanted { lun, portals, chap })
}

/// Whether a host with this `initiatorname.iscsi` goes by a name.
fn is_initiator(file: &str, name: &str) -> bool {
    file.lines().filter_map(|line| line.strip_prefix("InitiatorName=")).any(|own| own.trim() == name)
}

#[cfg(test)]
mod tests {
    use vmferry_core::volume::{Login, SecretName};

    use super::*;

    fn volume() -> Iscsi {
        Iscsi {
            portals: vec!["10.9.0.1:3260".to_owned(), "[fd00::2]".to_owned()],
            target: "iqn.2026-01.example:disks".to_owned(),
            lun: 1,
            initiator: None,
            login: Some(Login { user: "ferry".to_owned(), secret: SecretName::Usage("san".to_owned()) }),
        }
    }

    fn problem(iscsi: &Iscsi, secret: &str) -> Option<String> {
        wanted(iscsi, Some(&secret.into()), &Settings::default()).err().map(|failed| failed.to_string())
    }

    #[test]
    fn what_cannot_be_a_lun_is_refused_before_any_program_runs() {
        assert_eq!(problem(&volume(), "swordfish-1234"), None);
        for target in ["disks", "iqn.2026-01.example:../../etc", "iqn.2026-01.example: x", "--target"] {
            assert!(problem(&Iscsi { target: target.to_owned(), ..volume() }, "s").is_some(), "{target}");
        }
        for portals in [vec![], vec!["10.9.0.1:3260".to_owned(), "nowhere/".to_owned()]] {
            assert!(problem(&Iscsi { portals, ..volume() }, "s").is_some());
        }
    }

    #[test]
    fn a_password_that_cannot_be_used_is_told_without_being_shown() {
        let problem = problem(&volume(), "two\nlines").expect("it is refused");
        assert!(problem.contains("CHAP password") && !problem.contains("two"), "{problem}");
        let failed = wanted(&volume(), None, &Settings::default()).err().expect("it is refused");
        assert!(matches!(failed, Failed::NoSecret { .. }));
    }

    #[test]
    fn a_host_goes_by_one_name() {
        let file = "## DO NOT EDIT\nInitiatorName=iqn.1993-08.org.debian:01:5da07ce06e19\n";
        assert!(is_initiator(file, "iqn.1993-08.org.debian:01:5da07ce06e19"));
        assert!(!is_initiator(file, "iqn.1993-08.org.debian:01:5da07ce06e1"));
        assert!(!is_initiator("", ""));
    }
}
