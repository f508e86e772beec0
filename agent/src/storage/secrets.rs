//! The secrets that open this host's storage: each in a file of its own, named in the configuration, read when it is needed, so
//! that it can be replaced at any time.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::PathBuf};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString, zeroize::Zeroizing};
use uuid::Uuid;
use vmferry_core::{domain_xml::SecretKind, volume::SecretName};

use crate::libvirt::{self, Libvirt};

/// Nobody's password is longer; what is, was meant for something else.
const LONGEST: u64 = 4096;

/// A secret that this host has been given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// Its UUID, by which definitions may name it.
    pub uuid: Option<Uuid>,
    /// Its usage, by which they may name it too. It has one of both.
    pub usage: Option<String>,
    /// What it opens.
    pub kind: SecretKind,
    /// Holds the value and nothing else: Ceph's key in base64, or a password.
    pub file: PathBuf,
}

/// All the secrets that this host has been given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets(pub Vec<SecretFile>);

/// A secret whose value cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Its file cannot be read.
    #[error("{} cannot be read: {source}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than root could have read it.
    #[error("{} can be read by others than root (mode {mode:04o}, owner {owner}); run: chown root {0} && chmod 600 {0}", .file.display())]
    Exposed {
        /// The file.
        file: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Its owner's number.
        owner: u32,
    },
    /// What it holds is no such secret.
    #[error("{} {problem}", .file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// What is wrong, without the value.
        problem: &'static str,
    },
    /// libvirt has a secret, and it is no text.
    #[error("the value of libvirt's secret {name} is no text, so it is no password")]
    NoText {
        /// The secret.
        name: SecretName,
    },
    /// libvirt did not answer.
    #[error(transparent)]
    Libvirt(#[from] libvirt::Error),
}

impl SecretFile {
    /// Whether a definition that names this secret means this file.
    pub fn is(&self, kind: SecretKind, name: &SecretName) -> bool {
        self.kind == kind
            && match name {
                SecretName::Uuid(uuid) => self.uuid == Some(*uuid),
                SecretName::Usage(usage) => self.usage.as_ref() == Some(usage),
            }
    }

    /// The value as Ceph's and iSCSI's tools want it: a key in base64, or a password.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        let file = || self.file.clone();
        let unreadable = |source| SecretError::Unreadable { file: file(), source };
        let invalid = |problem| SecretError::Invalid { file: file(), problem };
        // Judged by the open file: whatever the path leads to a moment later.
        let opened = fs::File::open(&self.file).map_err(unreadable)?;
        let metadata = opened.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(invalid("is not a file"));
        }
        let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
        if mode & 0o077 != 0 || owner != nix::unistd::geteuid().as_raw() {
            return Err(SecretError::Exposed { file: file(), mode, owner });
        }
        if metadata.len() > LONGEST {
            return Err(invalid("is too long for a key or a password; it must hold nothing else"));
        }
        let text = Zeroizing::new(io::read_to_string(opened).map_err(unreadable)?);
        // An editor's last line feed is no part of a password; a space may be.
        let value = text.trim_end_matches(['\n', '\r']);
        match self.kind {
            _ if value.is_empty() => return Err(invalid("is empty")),
            _ if value.contains(['\n', '\0']) => {
                return Err(invalid("has more than one line; it must hold only the value"));
            }
            SecretKind::Ceph if !is_key(value) => {
                return Err(invalid(
                    "is not base64; write the key alone, as `ceph auth print-key client.NAME` prints it",
                ));
            }
            SecretKind::Ceph | SecretKind::Iscsi => {}
        }
        Ok(value.into())
    }

    /// The value as libvirt keeps it: a key as bytes, or a password.
    pub fn read_for_libvirt(&self) -> Result<SecretSlice<u8>, SecretError> {
        let value = self.read()?;
        let value = value.expose_secret();
        Ok(match self.kind {
            SecretKind::Ceph => BASE64_STANDARD.decode(value).unwrap_or_default().into(),
            SecretKind::Iscsi => value.as_bytes().to_vec().into(),
        })
    }
}

fn is_key(value: &str) -> bool {
    BASE64_STANDARD.decode(value).map(Zeroizing::new).is_ok_and(|key| !key.is_empty())
}

impl Secrets {
    /// The secret that a definition means by this name, if this host has been given it.
    pub fn find(&self, kind: SecretKind, name: &SecretName) -> Option<&SecretFile> {
        self.0.iter().find(|secret| secret.is(kind, name))
    }

    /// The value as tools want it: this host's own, else libvirt's, if that shows it. `None` if neither has one.
    pub async fn value(
        &self,
        libvirt: &Libvirt,
        kind: SecretKind,
        name: &SecretName,
    ) -> Result<Option<SecretString>, SecretError> {
        if let Some(own) = self.find(kind, name) {
            return own.read().map(Some);
        }
        let Some(value) = libvirt.secret_value(kind, name).await? else { return Ok(None) };
        let value = value.expose_secret();
        match kind {
            SecretKind::Ceph => Ok(Some(BASE64_STANDARD.encode(value).into())),
            SecretKind::Iscsi => {
                let text = str::from_utf8(value).map_err(|_| SecretError::NoText { name: name.clone() })?;
                Ok(Some(text.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;

    const KEY: &str = "AQBzRGdnAAAAABAAw5bmBRBLGqKx6uNxbVsRzA==";

    fn secret(directory: &TempDir, kind: SecretKind, value: &str, mode: u32) -> SecretFile {
        let file = directory.path().join("secret");
        fs::write(&file, value).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("permissions");
        SecretFile { uuid: Some(Uuid::from_u128(1)), usage: Some("san".into()), kind, file }
    }

    #[test]
    fn a_value_is_read_as_tools_and_as_libvirt_want_it() {
        let directory = TempDir::new().expect("a directory");
        let key = secret(&directory, SecretKind::Ceph, &format!("{KEY}\n"), 0o600);
        assert_eq!(key.read().expect("valid").expose_secret(), KEY);
        assert_eq!(key.read_for_libvirt().expect("valid").expose_secret().len(), 28);
        assert!(!format!("{:?} {key:?}", key.read()).contains("AQBz"));
        let password = secret(&directory, SecretKind::Iscsi, " pass word \r\n", 0o400);
        assert_eq!(password.read().expect("valid").expose_secret(), " pass word ");
        assert_eq!(password.read_for_libvirt().expect("valid").expose_secret(), b" pass word ");
        fs::set_permissions(&password.file, fs::Permissions::from_mode(0o600)).expect("permissions");
        fs::write(&password.file, "rotated").expect("written");
        assert_eq!(password.read().expect("valid").expose_secret(), "rotated");
    }

    #[test]
    fn a_file_that_is_no_secret_is_refused_without_its_value() {
        let directory = TempDir::new().expect("a directory");
        let cases = [
            (SecretKind::Iscsi, "hunter2", 0o640, "chmod 600"),
            (SecretKind::Iscsi, "hunter2", 0o604, "mode 0604"),
            (SecretKind::Iscsi, "\n", 0o600, "is empty"),
            (SecretKind::Iscsi, "hunter2\nhunter3", 0o600, "more than one line"),
            (SecretKind::Iscsi, &"hunter2".repeat(1000), 0o600, "too long"),
            (SecretKind::Ceph, "hunter2", 0o600, "is not base64"),
            (SecretKind::Ceph, "[client.web]\n\tkey = AQ==\n", 0o600, "more than one line"),
        ];
        for (kind, value, mode, words) in cases {
            let error = secret(&directory, kind, value, mode).read().expect_err(words);
            assert!(error.to_string().contains(words), "{words} in {error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        let mut missing = secret(&directory, SecretKind::Iscsi, "a", 0o600);
        missing.file = directory.path().join("missing");
        assert!(matches!(missing.read(), Err(SecretError::Unreadable { .. })));
        missing.file = directory.path().to_owned();
        assert!(missing.read().is_err());
    }

    #[test]
    fn a_secret_is_found_by_either_name_and_only_for_its_kind() {
        let directory = TempDir::new().expect("a directory");
        let secrets = Secrets(vec![secret(&directory, SecretKind::Iscsi, "a", 0o600)]);
        let (uuid, usage) = (SecretName::Uuid(Uuid::from_u128(1)), SecretName::Usage("san".into()));
        assert!(secrets.find(SecretKind::Iscsi, &uuid).is_some() && secrets.find(SecretKind::Iscsi, &usage).is_some());
        assert!(secrets.find(SecretKind::Ceph, &uuid).is_none());
        assert!(secrets.find(SecretKind::Iscsi, &SecretName::Usage("lan".into())).is_none());
    }
}
