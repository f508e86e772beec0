use std::path::PathBuf;

use serde::Deserialize;
use uuid::Uuid;
use vmferry_core::domain_xml::SecretKind;

use super::check;
use crate::storage::{
    by_host::{Multipath, Settings},
    secrets::{SecretFile, Secrets},
};

/// How this host uses its storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// How volumes are connected that QEMU does not open itself.
    pub by_host: Settings,
    /// Whether images may promise guests more than the file system has left.
    pub disk_overcommit: bool,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct StorageTable {
    multipath: Option<String>,
    device_timeout: Option<String>,
    disk_overcommit: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct SecretTable {
    uuid: Option<String>,
    usage: Option<String>,
    kind: Option<String>,
    file: Option<PathBuf>,
}

/// Every problem is added to the others.
pub(super) fn storage(problems: &mut Vec<String>, table: StorageTable) -> Option<Storage> {
    // By default what a SAN's users expect: its several ways are used where the host is set up for that, and a host
    // that is not still gets at the volume.
    let multipath = table.multipath.unwrap_or_else(|| "wanted".into());
    let modes = "\"off\", \"wanted\" or \"enforced\"";
    let multipath = check(problems, Some(multipath), "storage.multipath", modes, |text| match text.as_str() {
        "off" => Ok(Multipath::Off),
        "wanted" => Ok(Multipath::Wanted),
        "enforced" => Ok(Multipath::Enforced),
        _ => Err(format!("`{text}` is unknown")),
    });
    let timeout = table.device_timeout.unwrap_or_else(|| "30s".into());
    let key = "storage.device_timeout";
    let device_timeout = check(problems, Some(timeout), key, "a time above 0, e.g. \"30s\"", |text| {
        let time = humantime::parse_duration(&text).map_err(|error| format!("`{text}`: {error}"))?;
        if time.is_zero() { Err(format!("`{text}`: no device is that fast")) } else { Ok(time) }
    });
    let disk_overcommit = table.disk_overcommit.unwrap_or(false);
    let by_host = Settings { multipath: multipath?, device_timeout: device_timeout? };
    Some(Storage { by_host, disk_overcommit })
}

/// Those that can be used. The values are looked at and forgotten.
pub(super) fn secrets(problems: &mut Vec<String>, tables: Vec<SecretTable>) -> Secrets {
    let mut secrets = Vec::<SecretFile>::new();
    for (index, table) in tables.into_iter().enumerate() {
        // As a person counts them in the file.
        let key = |name: &str| format!("secret {} ({name})", index + 1);
        let before = problems.len();
        let uuid = table.uuid.and_then(|uuid| {
            let uuid = Uuid::parse_str(&uuid).map_err(|error| format!("`{uuid}`: {error}"));
            check(problems, Some(uuid), &key("uuid"), "the UUID that definitions have in <secret uuid=…/>", |uuid| {
                uuid
            })
        });
        let usage = table.usage.and_then(|usage| {
            check(problems, Some(usage), &key("usage"), "what definitions have in <secret usage=…/>", |usage| {
                if usage.trim().is_empty() || usage.contains(char::is_control) {
                    Err(format!("{usage:?} is no name"))
                } else {
                    Ok(usage)
                }
            })
        });
        let kind = check(problems, table.kind, &key("kind"), "\"ceph\" or \"iscsi\"", |kind| match kind.as_str() {
            "ceph" => Ok(SecretKind::Ceph),
            "iscsi" => Ok(SecretKind::Iscsi),
            _ => Err(format!("`{kind}` is unknown")),
        });
        let wanted = "the path of a file that holds the value, e.g. \"/etc/vmferry/secrets/NAME\"";
        let file = check(problems, table.file, &key("file"), wanted, |file| {
            if file.is_absolute() { Ok(file) } else { Err(format!("{} is not absolute", file.display())) }
        });
        if problems.len() == before && uuid.is_none() && usage.is_none() {
            problems.push(format!("{}: has no name; write uuid, usage or both", key("uuid, usage")));
        }
        if uuid.is_some() && secrets.iter().any(|other| other.uuid == uuid) {
            problems.push(format!("{}: another secret has the same; remove one of them", key("uuid")));
        }
        if usage.is_some() && secrets.iter().any(|other| (Some(other.kind), &other.usage) == (kind, &usage)) {
            problems.push(format!("{}: another secret of its kind has the same; remove one of them", key("usage")));
        }
        if let (Some(kind), Some(file)) = (kind, file) {
            let secret = SecretFile { uuid, usage, kind, file };
            if let Err(error) = secret.read() {
                problems.push(format!("{}: {error}", key("file")));
            }
            secrets.push(secret);
        }
    }
    Secrets(secrets)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

    use tempfile::TempDir;

    use super::*;
    use crate::config::Config;

    const UUID: &str = "2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01";

    fn problems(text: &str) -> Vec<String> {
        Config::parse(text).expect_err("there is no certificate")
    }

    fn told(problems: &[String], start: &str, words: &str) {
        assert!(problems.iter().any(|p| p.starts_with(start) && p.contains(words)), "{start} {words} in {problems:#?}");
    }

    #[test]
    fn storage_is_used_as_people_expect_unless_they_say_otherwise() {
        let mut problems = Vec::new();
        let expected = Storage {
            by_host: Settings { multipath: Multipath::Wanted, device_timeout: Duration::from_secs(30) },
            disk_overcommit: false,
        };
        assert_eq!(storage(&mut problems, StorageTable::default()), Some(expected));
        assert_eq!(problems, [""; 0]);
    }

    #[test]
    fn a_secret_has_its_names_and_its_file_but_not_its_value() {
        let file = tempfile::NamedTempFile::new().expect("a file, of mode 0600");
        fs::write(file.path(), "hunter2\n").expect("written");
        let text =
            format!("[[secret]]\nuuid = '{UUID}'\nusage = 'san'\nkind = 'iscsi'\nfile = '{}'", file.path().display());
        let tables = toml::from_str::<super::super::File>(&text).expect("valid").secret;
        let mut problems = Vec::new();
        let read = secrets(&mut problems, tables);
        assert_eq!(problems, [""; 0]);
        let (uuid, file) = (Uuid::parse_str(UUID).ok(), file.path().to_owned());
        assert!(!format!("{read:?}").contains("hunter2"));
        assert_eq!(read.0, [SecretFile { uuid, usage: Some("san".into()), kind: SecretKind::Iscsi, file }]);
    }

    #[test]
    fn every_problem_with_storage_is_reported_at_once() {
        let told_of = problems("[storage]\nmultipath = 'yes'\ndevice_timeout = '0s'\nfast = true");
        told(&told_of, "storage.multipath: `yes` is unknown", "\"enforced\"");
        told(&told_of, "storage.device_timeout: `0s`", "30s");
        told(&told_of, "storage.fast: is unknown", "storage.disk_overcommit");
    }

    #[test]
    fn every_problem_with_secrets_is_reported_at_once_and_none_tells_a_value() {
        let directory = TempDir::new().expect("a directory");
        let file = |name: &str, value: &str, mode: u32| {
            let file = directory.path().join(name);
            fs::write(&file, value).expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("permissions");
            file.display().to_string()
        };
        let (open, good) = (file("open", "hunter2", 0o644), file("good", "hunter2", 0o600));
        let text = format!(
            "[[secret]]\nuuid = '{UUID}'\nkind = 'iscsi'\nfile = '{good}'\n
             [[secret]]\nuuid = '{UUID}'\nkind = 'ceph'\nfile = '{good}'\n
             [[secret]]\nusage = 'san'\nkind = 'iscsi'\nfile = '{open}'\n
             [[secret]]\nusage = 'san'\nkind = 'iscsi'\nfile = '/nonexistent/secret'\n
             [[secret]]\nuuid = 'one'\nkind = 'nfs'\nfile = 'secret'\n
             [[secret]]\nkind = 'iscsi'\nfile = '{good}'\npassword = 'hunter2'\n
             [[secret]]\nusage = ''"
        );
        let told_of = problems(&text);
        told(&told_of, "secret 2 (uuid)", "another secret has the same");
        told(&told_of, "secret 2 (file)", "is not base64");
        told(&told_of, "secret 3 (file)", "chmod 600");
        told(&told_of, "secret 4 (usage)", "another secret of its kind");
        told(&told_of, "secret 4 (file)", "No such file");
        told(&told_of, "secret 5 (uuid)", "`one`");
        told(&told_of, "secret 5 (kind)", "`nfs` is unknown");
        told(&told_of, "secret 5 (file)", "is not absolute");
        told(&told_of, "secret 6 (uuid, usage)", "has no name");
        told(&told_of, "secret.5.password", "is unknown");
        told(&told_of, "secret 7 (usage)", "is no name");
        told(&told_of, "secret 7 (kind)", "is missing");
        told(&told_of, "secret 7 (file)", "is missing");
        assert!(!told_of.iter().any(|problem| problem.starts_with("secret 1") || problem.contains("hunter2")));
    }
}
