use std::time::Duration;

use vmferry_core::volume::Iscsi;

use super::{FindError, Key, Sighting, unanswered};
use crate::storage::{
    iscsi::{self, Trouble, Why},
    look::Meaning,
};

const LIBRARY: &str = "libiscsi";
const PACKAGE: &str = "libiscsi7";

/// All LUNs, in one look. Answers in the order of the question.
pub(super) async fn find(luns: &[(&Iscsi, Key<'_>)], limit: Duration) -> Vec<Result<Sighting, FindError>> {
    match iscsi::ask(luns, limit).await {
        Ok(answers) => luns.iter().zip(answers).map(|((lun, _), answer)| told(lun, answer)).collect(),
        Err(silence) => luns
            .iter()
            .map(|(lun, _)| {
                let at = lun.portals.join(", ");
                Err(unanswered(&silence, lun.to_string(), at, LIBRARY, |trouble| judge(lun, trouble)))
            })
            .collect(),
    }
}

fn told(lun: &Iscsi, answer: Result<iscsi::Sight, Trouble>) -> Result<Sighting, FindError> {
    let iscsi::Sight { found, portal } = answer.map_err(|trouble| judge(lun, &trouble))?;
    Ok(Sighting { found, portal: Some(portal) })
}

fn judge(lun: &Iscsi, trouble: &Trouble) -> FindError {
    let (volume, why) = (lun.to_string(), trouble.to_string());
    let at = match trouble {
        Trouble::Library(_) => return FindError::NoTool { program: LIBRARY, package: PACKAGE, why },
        Trouble::Portal { why: Why::Senseless(_), .. } => {
            return FindError::Unreadable { program: LIBRARY, volume, what: why };
        }
        Trouble::Portal { at, .. } => at.clone(),
    };
    match trouble.meaning() {
        Meaning::Gone => FindError::Gone { volume, why },
        Meaning::Unreachable => FindError::Unreachable { volume, at, why },
        Meaning::Denied => {
            let user = lun.login.as_ref().map_or("nobody", |login| &login.user).to_owned();
            FindError::Denied { volume, user, why }
        }
        Meaning::Other => FindError::Unusable { volume, at, why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmferry_core::volume::{Login, SecretName};

    fn lun() -> Iscsi {
        Iscsi {
            portals: vec!["127.0.0.1:3260".into(), "[::1]:3260".into()],
            target: "iqn.2026-11.org.example:open".into(),
            lun: 1,
            initiator: None,
            login: Some(Login { user: "web".into(), secret: SecretName::Usage("san".into()) }),
        }
    }

    #[test]
    fn what_a_portal_says_no_with_says_what_is_wrong() {
        let judged = |why| judge(&lun(), &Trouble::Portal { at: "[::1]:3260".into(), why });
        let login = |status: &str| judged(Why::Session(format!("Failed to log in to target. Status: {status}")));
        let denied = login("Authentication failure(513)");
        assert!(matches!(&denied, FindError::Denied { user, .. } if user == "web"), "{denied:?}");
        assert!(matches!(login("Target not found(515)"), FindError::Gone { .. }));
        let silent = judged(Why::Silent);
        assert!(silent.is_transient() && silent.to_string().contains("at [::1]:3260"), "{silent}");
        let not_ready = judged(Why::Command("SENSE KEY:NOT_READY(2) ASCQ:(null)(0x0401)".into()));
        assert!(matches!(not_ready, FindError::Unusable { .. }), "{not_ready:?}");
        assert!(matches!(judged(Why::Senseless("no name".into())), FindError::Unreadable { .. }));
        let missing = judge(&lun(), &Trouble::Library("libiscsi.so.7: cannot open shared object file".into()));
        assert!(missing.to_string().contains("apt-get install libiscsi7"), "{missing}");
    }
}
