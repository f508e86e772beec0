//! Where etcd is and how it is called: the same table in a coordinator's inventory and in an agent's configuration.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Where hosts' keys are if nothing else is said.
pub const DEFAULT_PREFIX: &str = "/vmferry/hosts/";

/// Where etcd is and how it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// URLs of its members, at least one.
    pub endpoints: Vec<String>,
    /// What all hosts' keys begin with. Ends with a `/`.
    pub prefix: String,
    /// The files for `https`.
    pub tls: Option<TlsFiles>,
    /// As whom, where etcd has users.
    pub user: Option<User>,
}

/// PEM files, read whenever a connection is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The CAs that etcd's certificate may come from.
    pub ca: PathBuf,
    /// Our certificate and its key, where etcd asks for one.
    pub ours: Option<(PathBuf, PathBuf)>,
}

/// A user of etcd's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// What has the password in it, and nothing else. Read whenever a connection is made.
    pub password_file: PathBuf,
}

/// The table as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct SettingsText {
    /// URLs.
    pub endpoints: Option<Vec<String>>,
    /// Ends with a `/`.
    pub prefix: Option<String>,
    /// For `https`.
    pub tls: Option<TlsText>,
    /// With `password_file`.
    pub username: Option<String>,
    /// With `username`.
    pub password_file: Option<PathBuf>,
}

/// The table below it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct TlsText {
    /// A PEM file.
    pub ca: Option<PathBuf>,
    /// A PEM file.
    pub certificate: Option<PathBuf>,
    /// A PEM file.
    pub key: Option<PathBuf>,
}

/// One thing that is wrong with the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The key, dotted, within the table.
    pub key: String,
    /// What is wrong, as the rest of a sentence that begins with the key.
    pub what: String,
    /// What to do.
    pub remedy: &'static str,
}

impl Settings {
    /// For messages.
    pub fn place(&self) -> String {
        format!("etcd at {}", self.endpoints.join(", "))
    }
}

impl SettingsText {
    /// The keys of the table.
    pub const KEYS: &[&str] = &["endpoints", "prefix", "tls", "username", "password_file"];
    /// The keys of the table below it.
    pub const TLS_KEYS: &[&str] = &["ca", "certificate", "key"];

    /// What it means; paths are relative to `directory`.
    ///
    /// # Errors
    ///
    /// All that is wrong with it, not the first.
    pub fn judge(self, directory: &Path) -> Result<Settings, Vec<Complaint>> {
        let mut judge = Judge { directory, complaints: Vec::new() };
        let endpoints = judge.endpoints(self.endpoints);
        let prefix = self.prefix.unwrap_or_else(|| DEFAULT_PREFIX.to_owned());
        if !prefix.ends_with('/') {
            let what = format!("is `{prefix}`, with no / at its end");
            judge.complain("prefix", what, "end it with a `/`, so that no host's key is the beginning of another's");
        }
        let tls = judge.tls(self.tls, &endpoints);
        let user = judge.user(self.username, self.password_file);
        if user.is_some() && endpoints.iter().any(|endpoint| endpoint.starts_with("http://")) {
            let what = "would go over the network for all to read: an endpoint is http://".into();
            judge.complain("password_file", what, "use https:// endpoints");
        }
        if judge.complaints.is_empty() { Ok(Settings { endpoints, prefix, tls, user }) } else { Err(judge.complaints) }
    }
}

struct Judge<'a> {
    directory: &'a Path,
    complaints: Vec<Complaint>,
}

impl Judge<'_> {
    fn endpoints(&mut self, endpoints: Option<Vec<String>>) -> Vec<String> {
        let remedy = "write the URLs of etcd's members, e.g. [\"https://etcd-1.example.org:2379\"]";
        let endpoints = endpoints.unwrap_or_default();
        if endpoints.is_empty() {
            self.complain("endpoints", "is missing".into(), remedy);
        }
        for (number, endpoint) in endpoints.iter().enumerate() {
            if !is_endpoint(endpoint) {
                let what = format!("is `{endpoint}`, not https://HOST:PORT or http://HOST:PORT");
                self.complain(&format!("endpoints[{}]", number + 1), what, remedy);
            }
        }
        endpoints
    }

    fn tls(&mut self, tls: Option<TlsText>, endpoints: &[String]) -> Option<TlsFiles> {
        let Some(tls) = tls else {
            if endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) {
                let remedy = "name the PEM file of the CA that etcd's certificate comes from";
                self.complain("tls.ca", "is missing, and an endpoint is https://".into(), remedy);
            }
            return None;
        };
        if endpoints.iter().all(|endpoint| endpoint.starts_with("http://")) {
            let what = "is of no use: no endpoint is https://".into();
            self.complain("tls", what, "remove it, or write https:// endpoints");
        }
        if tls.ca.is_none() {
            let remedy = "name the PEM file of the CA that etcd's certificate comes from";
            self.complain("tls.ca", "is missing".into(), remedy);
        }
        let both = "name certificate and key, both or neither";
        match (&tls.certificate, &tls.key) {
            (Some(_), None) => self.complain("tls.key", "is missing".into(), both),
            (None, Some(_)) => self.complain("tls.certificate", "is missing".into(), both),
            _ => {}
        }
        let ca = tls.ca.and_then(|path| self.file("tls.ca", &path));
        let certificate = tls.certificate.and_then(|path| self.file("tls.certificate", &path));
        let key = tls.key.and_then(|path| self.file("tls.key", &path));
        Some(TlsFiles { ca: ca?, ours: certificate.zip(key) })
    }

    fn user(&mut self, name: Option<String>, password_file: Option<PathBuf>) -> Option<User> {
        let both = "name username and password_file, both or neither";
        match (name, password_file) {
            (Some(name), Some(file)) => Some(User { name, password_file: self.file("password_file", &file)? }),
            (Some(_), None) => {
                self.complain("password_file", "is missing".into(), both);
                None
            }
            (None, Some(_)) => {
                self.complain("username", "is missing".into(), both);
                None
            }
            (None, None) => None,
        }
    }

    fn file(&mut self, key: &str, path: &Path) -> Option<PathBuf> {
        let path = self.directory.join(path);
        if path.is_file() {
            return Some(path);
        }
        let what = format!("names {}, which is not a file", path.display());
        self.complain(key, what, "correct the path");
        None
    }

    fn complain(&mut self, key: &str, what: String, remedy: &'static str) {
        self.complaints.push(Complaint { key: key.to_owned(), what, remedy });
    }
}

fn is_endpoint(text: &str) -> bool {
    let address = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    address.is_some_and(vmferry_core::identity::is_address)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn judge(text: &str) -> Result<Settings, Vec<String>> {
        let directory = tempfile::tempdir().expect("a directory");
        for file in ["ca.pem", "cert.pem", "key.pem", "password"] {
            fs::write(directory.path().join(file), "").expect("written");
        }
        let text: SettingsText = toml::from_str(text).expect("TOML");
        text.judge(directory.path()).map_err(|complaints| {
            complaints.into_iter().map(|complaint| format!("{} {}", complaint.key, complaint.what)).collect()
        })
    }

    #[test]
    fn endpoints_are_enough() {
        let settings = judge("endpoints = ['http://127.0.0.1:2379', 'http://[::1]:2379']").expect("whole");
        assert_eq!((settings.prefix.as_str(), settings.tls, settings.user), (DEFAULT_PREFIX, None, None));
    }

    #[test]
    fn files_are_found_beside_the_one_that_names_them() {
        let settings = judge(
            "endpoints = ['https://etcd-1.example.org:2379']\nprefix = '/fleet/'\nusername = 'vmferry'\n\
             password_file = 'password'\ntls = { ca = 'ca.pem', certificate = 'cert.pem', key = 'key.pem' }",
        );
        let settings = settings.expect("whole");
        let tls = settings.tls.expect("TLS");
        assert!(tls.ca.is_absolute() && tls.ours.is_some());
        assert_eq!(settings.user.expect("a user").name, "vmferry");
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let complaints = judge(
            "endpoints = ['127.0.0.1:2379', 'https://etcd-1.example.org']\nprefix = '/fleet'\nusername = 'vmferry'\n\
             tls = { certificate = 'cert.pem' }",
        );
        let complaints = complaints.expect_err("all wrong").join("\n");
        for what in [
            "endpoints[1] is `127.0.0.1:2379`",
            "endpoints[2] is `https://etcd-1.example.org`",
            "prefix is `/fleet`",
            "tls.ca is missing",
            "tls.key is missing",
            "password_file is missing",
        ] {
            assert!(complaints.contains(what), "{what} in {complaints}");
        }
        assert_eq!(judge("").expect_err("nothing"), ["endpoints is missing"]);
    }

    #[test]
    fn nothing_secret_goes_in_the_clear_and_https_needs_its_ca() {
        let user = "username = 'vmferry'\npassword_file = 'password'";
        let complaints = judge(&format!("endpoints = ['http://127.0.0.1:2379']\n{user}")).expect_err("in the clear");
        assert!(complaints[0].starts_with("password_file would go over the network"), "{complaints:?}");
        let complaints = judge("endpoints = ['https://127.0.0.1:2379']").expect_err("no CA");
        assert_eq!(complaints, ["tls.ca is missing, and an endpoint is https://"]);
        let complaints = judge("endpoints = ['http://127.0.0.1:2379']\ntls = { ca = 'none.pem' }").expect_err("no use");
        assert_eq!(complaints.len(), 2, "{complaints:?}");
    }
}
