use std::time::Duration;

use bytesize::ByteSize;
use tokio::time::Instant;
use vmferry_core::volume::{Found, Iscsi};

use super::{FindError, Key, Sighting, common};
use crate::storage::tool::{Failed, Tool};

const CAPACITY: &str = "iscsi-readcapacity16";
const INQUIRY: &str = "iscsi-inq";
const PACKAGE: &str = "libiscsi-bin";

/// Pages of vital product data, SPC-4 7.8.
const SUPPORTED: u8 = 0x00;
const SERIAL: u8 = 0x80;
const IDENTIFICATION: u8 = 0x83;

/// Login statuses, RFC 7143 11.13.5: class and detail.
const AUTHENTICATION_FAILURE: u32 = 0x0201;
const AUTHORIZATION_FAILURE: u32 = 0x0202;
const NOT_FOUND: u32 = 0x0203;
const TARGET_REMOVED: u32 = 0x0204;
/// Additional sense code, SPC-4 D: logical unit not supported.
const NO_LUN: u32 = 0x25;

pub(super) async fn find(iscsi: &Iscsi, key: Key<'_>, limit: Duration) -> Result<Sighting, FindError> {
    let end = Instant::now() + limit;
    let mut told = None;
    for (index, portal) in iscsi.portals.iter().enumerate() {
        // A portal that hangs leaves the others their share.
        let left = end.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(iscsi.portals.len() - index).unwrap_or(u32::MAX);
        let lun = Lun { iscsi, key, portal, end: Instant::now() + share };
        match lun.find().await {
            Ok(found) => return Ok(Sighting { found, portal: Some(portal.clone()) }),
            Err(error @ FindError::NoTool { .. }) => return Err(error),
            // What a portal says of the volume tells more than that another one is silent.
            Err(error) if told.as_ref().is_none_or(FindError::is_transient) => told = Some(error),
            Err(_) => {}
        }
    }
    Err(told.unwrap_or_else(|| FindError::Unreachable {
        volume: iscsi.to_string(),
        at: "no portal".into(),
        why: "its definition names none".into(),
    }))
}

/// A LUN behind one portal.
struct Lun<'a> {
    iscsi: &'a Iscsi,
    key: Key<'a>,
    portal: &'a str,
    end: Instant,
}

impl Lun<'_> {
    async fn find(&self) -> Result<Found, FindError> {
        let answer = self.ask(CAPACITY, &["--size".to_owned()]).await?;
        let size = answer.trim().parse().map_err(|_| self.unreadable(CAPACITY, format!("its size is {answer:?}")))?;
        let supported = self.page(SUPPORTED).await?;
        let has = |page: u8| supported.lines().any(|line| line.starts_with(&format!("Page:{page:#04x}")));
        let mut names = Vec::new();
        if has(IDENTIFICATION) {
            names.extend(designators(&self.page(IDENTIFICATION).await?));
        }
        if has(SERIAL) {
            names.extend(serial(&self.page(SERIAL).await?).map(|serial| format!("serial {serial}")));
        }
        if names.is_empty() {
            return Err(self.unreadable(INQUIRY, "the LUN has neither a serial number nor a name".into()));
        }
        Ok(Found { size: ByteSize::b(size), identity: names.join(", ") })
    }

    async fn page(&self, page: u8) -> Result<String, FindError> {
        self.ask(INQUIRY, &["--evpd=1".to_owned(), format!("--pagecode={page}")]).await
    }

    async fn ask(&self, program: &'static str, question: &[String]) -> Result<String, FindError> {
        let Iscsi { target, lun, initiator, .. } = self.iscsi;
        let mut tool = Tool::new(program)
            .args(question.iter().cloned())
            .args(initiator.iter().map(|name| format!("--initiator-name={name}")))
            .args([format!("iscsi://{}/{target}/{lun}", self.portal)])
            .limit(self.end.saturating_duration_since(Instant::now()));
        if let Some((user, password)) = self.key {
            // I6: the URL could hold them too, and everybody could read it.
            tool = tool.secret_env("LIBISCSI_CHAP_USERNAME", user.into());
            tool = tool.secret_env("LIBISCSI_CHAP_PASSWORD", password.clone());
        }
        tool.run().await.map_err(|failed| judge(self.iscsi, self.portal, program, failed))
    }

    fn unreadable(&self, program: &'static str, what: String) -> FindError {
        FindError::Unreadable { program, volume: self.iscsi.to_string(), what }
    }
}

/// Names of the LUN itself, not of the port that was asked. Those in binary, the tool cuts at their first zero: such a name
/// would tell two volumes to be one.
fn designators(page: &str) -> Vec<String> {
    let mut names = Vec::new();
    for designator in page.split("DEVICE DESIGNATOR #").skip(1) {
        let field = |name: &str| designator.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let readable = field("Code Set").is_some_and(|set| set.ends_with("ASCII") || set.ends_with("UTF8"));
        let of_the_lun = field("Association").is_some_and(|association| association.ends_with("LOGICAL_UNIT"));
        let name = field("Designator").and_then(|name| name.strip_prefix('[')?.strip_suffix(']')).map(str::trim);
        if let Some(name) = name.filter(|name| readable && of_the_lun && !name.is_empty()) {
            names.push(name.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    names
}

fn serial(page: &str) -> Option<&str> {
    let serial = page.lines().find_map(|line| line.strip_prefix("Unit Serial Number:["))?.strip_suffix(']')?.trim();
    Some(serial).filter(|serial| !serial.is_empty())
}

/// The tools exit with 10 whatever happens; the numbers in their last words are the protocols' own.
fn judge(iscsi: &Iscsi, portal: &str, program: &'static str, failed: Failed) -> FindError {
    let (volume, at) = (iscsi.to_string(), portal.to_owned());
    if let Some(error) = common(&failed, &volume, &at, program, PACKAGE) {
        return error;
    }
    let why = failed.how.clone();
    let number = |radix: u32, prefix: &str| {
        let digits = why.rsplit_once(&format!("({prefix}"))?.1.strip_suffix(')')?;
        u32::from_str_radix(digits, radix).ok()
    };
    if let Some(code) = number(16, "0x").filter(|_| why.contains("SENSE KEY")) {
        return if code >> 8 == NO_LUN { FindError::Gone { volume, why } } else { FindError::Failed(failed) };
    }
    match number(10, "").filter(|_| why.contains("Status:")) {
        Some(AUTHENTICATION_FAILURE | AUTHORIZATION_FAILURE) => {
            let user = iscsi.login.as_ref().map_or("nobody", |login| &login.user).to_owned();
            FindError::Denied { volume, user, why }
        }
        Some(NOT_FOUND | TARGET_REMOVED) => FindError::Gone { volume, why },
        _ if why.contains("Login Failed") => FindError::Unreachable { volume, at, why },
        _ => FindError::Failed(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmferry_core::volume::{Login, SecretName};

    fn lun() -> Iscsi {
        Iscsi {
            portals: vec!["127.0.0.1:3260".into()],
            target: "iqn.2026-11.org.example:open".into(),
            lun: 1,
            initiator: None,
            login: Some(Login { user: "web".into(), secret: SecretName::Usage("san".into()) }),
        }
    }

    /// libiscsi 1.19 asks tgt 1.0.85, Debian 12. The first two are binary, and were cut.
    const PAGE: &str = "Peripheral Qualifier:CONNECTED
Peripheral Device Type:DIRECT_ACCESS
Page Code:(0x83) DEVICE_IDENTIFICATION
DEVICE DESIGNATOR #0
Code Set:(1) BINARY
PIV:0
Association:(0) LOGICAL_UNIT
Designator Type:(3) NAA
Designator:[`]
DEVICE DESIGNATOR #1
Code Set:(1) BINARY
PIV:0
Association:(0) LOGICAL_UNIT
Designator Type:(3) NAA
Designator:[0]
DEVICE DESIGNATOR #2
Code Set:(2) ASCII
PIV:0
Association:(0) LOGICAL_UNIT
Designator Type:(1) T10_VENDORT_ID
Designator:[IET     00010001]
";

    #[test]
    fn a_lun_is_known_by_its_readable_names_and_its_serial_number() {
        assert_eq!(designators(PAGE), ["IET 00010001"]);
        assert_eq!(designators(&PAGE.replace("(0) LOGICAL_UNIT", "(1) TARGET_PORT")), [""; 0]);
        assert_eq!(designators(""), [""; 0]);
        assert_eq!(serial("Unit Serial Number:[                              beaf11]\n"), Some("beaf11"));
        assert_eq!(serial("Unit Serial Number:[        ]\n"), None);
        assert_eq!(serial(""), None);
    }

    #[test]
    fn what_the_tools_fail_with_says_what_is_wrong() {
        let judged = |how: &str| {
            let failed = Failed { command: "iscsi-inq".into(), code: Some(10), how: how.into() };
            judge(&lun(), "127.0.0.1:3260", INQUIRY, failed)
        };
        let denied = judged(
            "failed (exit status: 10): Login Failed. Failed to log in to target. Status: Authentication failure(513)",
        );
        assert!(matches!(&denied, FindError::Denied { user, .. } if user == "web"), "{denied:?}");
        for gone in [
            "failed (exit status: 10): Login Failed. Failed to log in to target. Status: Target not found(515)",
            "failed (exit status: 10): Login Failed. SENSE KEY:ILLEGAL_REQUEST(5) ASCQ:LOGICAL_UNIT_NOT_SUPPORTED(0x2500)",
        ] {
            assert!(matches!(judged(gone), FindError::Gone { .. }), "{gone}");
        }
        for silent in [
            "failed (exit status: 10): Login Failed. iscsi_service failed with : iscsi_service_reconnect_if_loggedin. Can not reconnect right now.",
            "failed (exit status: 10): Login Failed. Failed to start full connect Couldn't connect transport: Connect failed with errno : Network is unreachable(101)",
            "failed (exit status: 10): Login Failed. Failed to start full connect Invalid target:nohost.invalid:3260  Can not resolv into IPv4/v6.",
        ] {
            assert!(judged(silent).is_transient(), "{silent}");
        }
        let other = "failed (exit status: 10): Login Failed. SENSE KEY:NOT_READY(2) ASCQ:(null)(0x0401)";
        assert!(matches!(judged(other), FindError::Failed(_)));
    }
}
