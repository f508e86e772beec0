//! open-iscsi's node records: one per portal of a target, by which `iscsiadm` logs in and out.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::{ExposeSecret as _, SecretString};

use super::portal::Portal;
use crate::storage::tool::{self, Tool};

/// Where open-iscsi keeps them: Debian 12's place, then that of other builds.
pub(super) const DIRECTORIES: [&str; 2] = ["/etc/iscsi/nodes", "/var/lib/iscsi/nodes"];
/// Exit statuses of `iscsiadm` that a repeated call ends with.
const SESSION_EXISTS: i32 = 15;
const NOTHING_FOUND: i32 = 21;
const PASSWORD: &str = "node.session.auth.password";
/// What a record of ours differs in from one that was discovered, or that starts with the host. With `manual`, a login finds
/// no LUN by itself, only those that are asked for.
const OURS: [(&str, &str); 3] =
    [("node.startup", "manual"), ("node.session.scan", "manual"), ("node.session.initial_login_retry_max", "2")];
/// What `-o new` writes into a record, and discovery does not.
const MADE_BY_HAND: (&str, &str) = ("node.discovery_type", "static");
/// Where a record was discovered; open-iscsi keeps it and does nothing with it. Settings alone could be anybody's.
const MARK: (&str, &str) = ("node.discovery_address", "vmferry");

/// A portal of a target.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) target: &'a str,
    pub(super) portal: &'a Portal,
}

/// What `iscsiadm` means by the exit status of a login that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The target wants another login.
    WrongCredentials,
    /// The target is not there.
    NoTarget,
    /// Nobody answers.
    Unreachable,
    /// Anything else.
    Unknown,
}

/// Reads an exit status of `iscsiadm`; the numbers are those of its manual page.
pub(super) fn meaning(code: Option<i32>) -> Meaning {
    match code {
        Some(24) => Meaning::WrongCredentials,
        // "Non-retryable login failure": the portal answers, and refuses to serve this target.
        Some(19) => Meaning::NoTarget,
        // Transport failed, its time was up, login failed, iscsiadm itself was killed when its time was up.
        Some(4 | 5 | 8 | 11) | None => Meaning::Unreachable,
        Some(_) => Meaning::Unknown,
    }
}

impl Node<'_> {
    fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Tool {
        let node = ["-m", "node", "-T", self.target, "-p", &self.portal.to_string()].map(str::to_owned);
        Tool::new("iscsiadm").args(node).args(arguments)
    }

    /// Its record, if there is one.
    pub(super) fn record(&self) -> Option<PathBuf> {
        DIRECTORIES.iter().find_map(|directory| record_in(Path::new(directory), *self))
    }

    /// Makes a record, whose logins end after about `login_timeout`. It is ours once [`mark`] has been there.
    pub(super) async fn create(&self, login_timeout: Duration) -> Result<(), tool::Failed> {
        self.command(["-o", "new"]).run().await?;
        self.creation(login_timeout).run().await.map(|_| ())
    }

    fn creation(&self, login_timeout: Duration) -> Tool {
        // Two tries, each of which open-iscsi waits out even where a connection is refused at once.
        let each = (login_timeout.as_secs() / 2).max(1).to_string();
        let settings = OURS.into_iter().chain([("node.conn[0].timeo.login_timeout", each.as_str())]);
        self.command(["-o", "update"].into_iter().chain(settings.flat_map(|(name, value)| ["-n", name, "-v", value])))
    }

    /// Changes one setting of the record. Never a secret: everybody on the host can read it meanwhile.
    pub(super) async fn set(&self, name: &str, value: &str) -> Result<(), tool::Failed> {
        self.command(["-o", "update", "-n", name, "-v", value]).run().await.map(|_| ())
    }

    /// Whom to log in as. The password is written by [`write_password`].
    pub(super) async fn set_chap_user(&self, user: &str) -> Result<(), tool::Failed> {
        self.chap_user(user).run().await.map(|_| ())
    }

    fn chap_user(&self, user: &str) -> Tool {
        self.command(["-o", "update", "-n", "node.session.auth.authmethod", "-v", "CHAP"]).args([
            "-n",
            "node.session.auth.username",
            "-v",
            user,
        ])
    }

    /// Logs in. That there is a session already is success.
    pub(super) async fn log_in(&self, limit: Duration) -> Result<(), tool::Failed> {
        accept(SESSION_EXISTS, self.command(["--login"]).limit(limit).run().await)
    }

    /// Logs out. That there is no session is success.
    pub(super) async fn log_out(&self) -> Result<(), tool::Failed> {
        accept(NOTHING_FOUND, self.command(["--logout"]).run().await)
    }

    /// Deletes the record. That there is none is success.
    pub(super) async fn delete(&self) -> Result<(), tool::Failed> {
        accept(NOTHING_FOUND, self.command(["-o", "delete"]).run().await)
    }
}

/// What was to be done was done already.
fn accept(code: i32, result: Result<String, tool::Failed>) -> Result<(), tool::Failed> {
    match result {
        Err(failed) if failed.code == Some(code) => Ok(()),
        result => result.map(|_| ()),
    }
}

/// `-o new` names a record `ADDRESS,PORT`, discovery `ADDRESS,PORT,GROUP/INTERFACE`.
fn record_in(directory: &Path, node: Node<'_>) -> Option<PathBuf> {
    let wanted = format!("{},{}", node.portal.address, node.portal.port);
    let entries = fs::read_dir(directory.join(node.target)).ok()?;
    let record = entries.flatten().find(|entry| {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(&wanted));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
    })?;
    if record.path().is_dir() {
        let mut interfaces: Vec<_> = fs::read_dir(record.path()).ok()?.flatten().map(|entry| entry.path()).collect();
        interfaces.sort();
        // Others than the default one are an offload card's, or somebody's routes.
        let default = interfaces.iter().position(|path| path.ends_with("default")).unwrap_or(0);
        (default < interfaces.len()).then(|| interfaces.swap_remove(default))
    } else {
        Some(record.path())
    }
}

/// A setting of a record.
pub(super) fn setting<'a>(record: &'a str, name: &str) -> Option<&'a str> {
    let mut settings = record.lines().filter_map(|line| line.split_once(" = "));
    settings.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Whether we made the record: journals don't say it, and a crash may have come between.
pub(super) fn is_ours(record: &str) -> bool {
    OURS.iter().chain(&[MADE_BY_HAND, MARK]).all(|(name, value)| setting(record, name) == Some(value))
}

/// A password that a record can hold: a line, and nothing that open-iscsi would cut off.
pub(super) fn is_writable(password: &SecretString) -> bool {
    let password = password.expose_secret();
    !password.is_empty() && password.trim() == password && !password.contains(char::is_control) && password.len() < 256
}

fn with_setting(record: &str, name: &str, value: &str) -> SecretString {
    let line = format!("{name} = {value}");
    let others = record.lines().filter(|line| line.split_once(" = ").is_none_or(|(other, _)| other != name));
    let mut lines: Vec<_> = others.collect();
    let end = lines.iter().position(|line| line.starts_with("# END")).unwrap_or(lines.len());
    lines.insert(end, &line);
    (lines.join("\n") + "\n").into()
}

/// Marks a record as VMFerry's. `iscsiadm` sets this setting for nobody.
pub(super) fn mark(record: &Path) -> io::Result<()> {
    write_setting(record, MARK.0, MARK.1)
}

/// Writes the CHAP password into a record.
///
/// `iscsiadm` (2.1.8) takes settings by argument alone, which every user of the host can read. So the record itself is written
/// (I6); iscsiadm reads it anew for each login.
pub(super) fn write_password(record: &Path, password: &SecretString) -> io::Result<()> {
    write_setting(record, PASSWORD, password.expose_secret())
}

/// Writes a record as iscsiadm does it, one setting per line. It is replaced in one step, and has never been readable by
/// others.
fn write_setting(record: &Path, name: &str, value: &str) -> io::Result<()> {
    let changed = with_setting(&fs::read_to_string(record)?, name, value);
    // Not beside the record: iscsiadm takes every file there for one.
    let directory = record.ancestors().find(|path| path.ends_with("nodes")).and_then(Path::parent);
    let draft = directory.unwrap_or(Path::new("/etc/iscsi")).join(format!(".vmferry-{}", uuid::Uuid::new_v4()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(changed.expose_secret().as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, record)
    })();
    written.inspect_err(|_| drop(fs::remove_file(&draft)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// From the kernel tests' machine (open-iscsi 2.1.8, Debian 12): after `-o new`, our settings and our mark.
    const RECORD: &str = include_str!("recordings/node-record.txt");

    fn portal() -> Portal {
        Portal::parse("10.9.0.1:3260").expect("a portal")
    }

    #[test]
    fn chap_users_are_set_on_the_record_and_passwords_are_in_no_argument() {
        let portal = portal();
        let node = Node { target: "iqn.2026-01.example:disks", portal: &portal };
        assert_eq!(
            node.chap_user("ferry").command_line(),
            "iscsiadm -m node -T iqn.2026-01.example:disks -p 10.9.0.1:3260 -o update \
             -n node.session.auth.authmethod -v CHAP -n node.session.auth.username -v ferry"
        );
        assert_eq!(
            node.creation(Duration::from_secs(30)).command_line(),
            "iscsiadm -m node -T iqn.2026-01.example:disks -p 10.9.0.1:3260 -o update -n node.startup -v manual \
             -n node.session.scan -v manual -n node.session.initial_login_retry_max -v 2 \
             -n node.conn[0].timeo.login_timeout -v 15"
        );
    }

    #[test]
    fn a_password_is_written_into_the_record_that_only_root_reads() {
        let etc = tempfile::tempdir().expect("a directory");
        let directory = etc.path().join("nodes/iqn.2026-01.example:disks");
        fs::create_dir_all(&directory).expect("it is ours");
        let record = directory.join("10.9.0.1,3260");
        fs::write(&record, RECORD).expect("it is ours");
        for password in ["first-one-1234", "swordfish 5678"] {
            write_password(&record, &password.into()).expect("it is ours");
        }
        let text = fs::read_to_string(&record).expect("it is ours");
        assert_eq!(setting(&text, PASSWORD), Some("swordfish 5678"));
        assert_eq!(text.matches(PASSWORD).count(), 1);
        assert!(text.ends_with("# END RECORD\n") && text.lines().count() == RECORD.lines().count() + 1);
        assert_eq!(fs::metadata(&record).expect("it is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(etc.path()).expect("it is there").count(), 1, "no draft is left");
    }

    #[test]
    fn a_password_cannot_smuggle_in_other_settings() {
        assert!(is_writable(&"swordfish 5678".into()));
        for password in ["", "two\nlines", " blank", "blank ", "\0"] {
            assert!(!is_writable(&password.into()));
        }
    }

    #[test]
    fn only_records_made_by_us_are_ours() {
        assert!(is_ours(RECORD));
        assert!(!is_ours(&RECORD.replace("node.session.scan = manual", "node.session.scan = auto")));
        assert!(!is_ours(&RECORD.replace("discovery_type = static", "discovery_type = send_targets")));
        let by_hand = RECORD.replace("node.discovery_address = vmferry\n", "");
        assert!(by_hand != RECORD && !is_ours(&by_hand), "an administrator may want the same settings");
        assert!(!is_ours(""));
    }

    #[test]
    fn records_are_found_whoever_made_them() {
        let nodes = tempfile::tempdir().expect("a directory");
        let (target, portal) = ("iqn.2026-01.example:disks", portal());
        let node = Node { target, portal: &portal };
        assert_eq!(record_in(nodes.path(), node), None);
        let discovered = nodes.path().join(target).join("10.9.0.1,3260,1");
        fs::create_dir_all(&discovered).expect("it is ours");
        fs::create_dir_all(nodes.path().join(target).join("10.9.0.1,32600,1")).expect("it is ours");
        assert_eq!(record_in(nodes.path(), node), None);
        for interface in ["bond0", "default"] {
            fs::write(discovered.join(interface), "").expect("it is ours");
        }
        assert_eq!(record_in(nodes.path(), node), Some(discovered.join("default")));
    }

    #[test]
    fn a_session_that_exists_is_success() {
        let failed = |code| Err(tool::Failed { command: String::new(), code: Some(code), how: String::new() });
        assert_eq!(accept(SESSION_EXISTS, failed(15)), Ok(()));
        assert!(accept(SESSION_EXISTS, failed(21)).is_err(), "no record is no session");
        assert_eq!(accept(NOTHING_FOUND, failed(21)), Ok(()));
    }

    #[test]
    fn wrong_credentials_are_told_from_silence() {
        assert_eq!(meaning(Some(24)), Meaning::WrongCredentials);
        assert_eq!(meaning(Some(19)), Meaning::NoTarget);
        assert_eq!(meaning(Some(8)), Meaning::Unreachable);
        assert_eq!(meaning(None), Meaning::Unreachable);
        assert_eq!(meaning(Some(1)), Meaning::Unknown);
    }
}
