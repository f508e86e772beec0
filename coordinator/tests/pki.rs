//! `vmferry pki`: what it makes serves, what it must not do it refuses.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use assert_cmd::Command;
use tempfile::TempDir;
use tokio::net::TcpListener;
use vmferry_transport::{
    CertificateFacts, CertificateFiles, Distrust, Fault, Protocol, accept, dial, load, read_certificates, untrusted,
};

const LIMIT: Duration = Duration::from_secs(10);

/// A home without anything in it.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(TempDir::new().expect("a directory"))
    }

    fn with_ca() -> Self {
        let home = Self::new();
        home.pki("init --cluster prod").success();
        home
    }

    fn vmferry(&self, arguments: &str) -> Command {
        let mut command = Command::cargo_bin("vmferry").expect("built");
        command.env_clear().env("HOME", self.0.path()).args(arguments.split(' '));
        command
    }

    /// What `vmferry pki ARGUMENTS` did. Whatever it is: no key is in what it says (I6).
    fn pki(&self, arguments: &str) -> assert_cmd::assert::Assert {
        let assert = self.vmferry(&format!("pki {arguments}")).assert();
        let said = [&assert.get_output().stdout[..], &assert.get_output().stderr[..]].concat();
        let said = String::from_utf8(said).expect("UTF-8");
        for key in self.keys() {
            let key = fs::read_to_string(key).expect("read");
            assert!(key.lines().all(|line| line.starts_with("-----") || !said.contains(line)), "I6: {said}");
        }
        assert
    }

    fn refused(&self, arguments: &str) -> String {
        let assert = self.pki(arguments).code(2);
        assert!(assert.get_output().stdout.is_empty());
        String::from_utf8(assert.get_output().stderr.clone()).expect("UTF-8")
    }

    fn directory(&self) -> PathBuf {
        self.0.path().join(".config/vmferry/pki")
    }

    fn issued(&self, name: &str) -> CertificateFiles {
        CertificateFiles::in_directory(&self.directory().join(name))
    }

    fn keys(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.directory()) else { return Vec::new() };
        let directories = entries.map(|entry| entry.expect("an entry").path().join("key.pem"));
        directories.chain([self.directory().join("ca-key.pem")]).filter(|path| path.exists()).collect()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

fn facts(path: &Path) -> CertificateFacts {
    CertificateFacts::read(&read_certificates(path).expect("PEM")[0]).expect("a certificate")
}

#[test]
fn keys_are_their_owners_alone_and_directories_too() {
    let home = Home::with_ca();
    home.pki("issue agent node-28").success();
    home.pki("issue coordinator alice").success();
    home.pki("issue viewer dashboard").success();

    assert_eq!(home.keys().len(), 4);
    for key in home.keys() {
        assert_eq!(mode(&key), 0o600, "{}", key.display());
    }
    assert_eq!(mode(&home.directory()), 0o700);
    assert_eq!(mode(&home.directory().join("agent-node-28")), 0o700);
    assert_eq!(mode(&home.directory().join("ca.pem")), 0o644);
}

#[test]
fn certificates_say_what_the_design_says() {
    let home = Home::with_ca();
    home.pki("issue agent node-28 --address 192.0.2.28 --address node-28.example.org --address node-28").success();
    home.pki("issue coordinator alice --days 7").success();

    let ca = facts(&home.directory().join("ca.pem"));
    assert!(ca.is_ca);
    assert_eq!(ca.uris, ["vmferry://prod"]);
    assert_eq!(ca.subject, "VMFerry CA of prod");

    let agent = facts(&home.issued("agent-node-28").certificate);
    assert!(!agent.is_ca);
    assert_eq!(agent.uris, ["vmferry://prod/agent/node-28"]);
    assert_eq!(agent.names, ["node-28", "192.0.2.28", "node-28.example.org"]);
    let lifetime = |facts: &CertificateFacts| facts.not_after.duration_since(facts.not_before).as_hours();
    assert_eq!(lifetime(&agent), 397 * 24 + 1, "backdated by an hour");

    let alice = facts(&home.issued("coordinator-alice").certificate);
    assert_eq!(alice.names, [""; 0]);
    assert_eq!(lifetime(&alice), 7 * 24 + 1);
}

#[tokio::test]
async fn what_was_issued_serves_for_a_call() {
    let home = Home::with_ca();
    home.pki("issue agent node-28").success();
    home.pki("issue agent node-29").success();
    home.pki("issue coordinator alice").success();
    let agent = load(&home.issued("agent-node-28")).expect("loads");

    for caller in ["coordinator-alice", "agent-node-29"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (agent, caller) = (agent.clone(), load(&home.issued(caller)).expect("loads"));
        let server = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.expect("a connection");
            accept(&agent, tcp, LIMIT).await
        });
        dial(&caller, &address, "node-28", Protocol::Tunnel, LIMIT).await.expect("dialed");
        assert_eq!(&server.await.expect("no panic").expect("accepted").identity, caller.identity());
    }
}

#[tokio::test]
async fn an_expired_certificate_can_be_made_and_is_refused() {
    let home = Home::with_ca();
    home.pki("issue agent node-28 --expires-at 2020-01-01T00:00:00Z").success();
    home.pki("issue coordinator alice").success();
    let (agent, alice) = (load(&home.issued("agent-node-28")), load(&home.issued("coordinator-alice")));
    let (agent, alice) = (agent.expect("loads"), alice.expect("loads"));

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.expect("a connection");
        accept(&agent, tcp, LIMIT).await.map(drop)
    });
    let error = dial(&alice, &address, "node-28", Protocol::Grpc, LIMIT).await.expect_err("expired");
    assert_eq!(untrusted(&error), Some(Distrust::OfPeer(Fault::Expired)));

    let shown = home.pki(&format!("show {}", home.issued("agent-node-28").certificate.display())).success();
    assert!(String::from_utf8_lossy(&shown.get_output().stdout).contains("EXPIRED at 2020-01-01T00:00:00Z"));
}

#[test]
fn nothing_is_overwritten() {
    let home = Home::with_ca();
    home.pki("issue agent node-28").success();
    let before: Vec<_> = home.keys().iter().map(|key| fs::read(key).expect("read")).collect();

    let said = home.refused("init --cluster prod");
    assert!(said.contains("ca.pem exists already"), "{said}");
    let said = home.refused("issue agent node-28");
    assert!(said.contains("agent-node-28 exists already"), "{said}");

    fs::remove_file(home.directory().join("ca.pem")).expect("removed");
    let said = home.refused("init");
    assert!(said.contains("ca-key.pem exists already"), "{said}");
    let after: Vec<_> = home.keys().iter().map(|key| fs::read(key).expect("read")).collect();
    assert_eq!(before, after);
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_nothing() {
    let home = Home::with_ca();
    let before = fs::read_dir(home.directory()).expect("listed").count();
    for arguments in [
        "issue agent ../node-28",
        "issue agent node/28",
        "issue agent -node",
        "issue agent node..28",
        "issue admin alice",
        "issue agent node-28 --address not/an/address",
        "issue viewer dashboard --address 192.0.2.1",
        "issue coordinator fleet --address not/an/address",
        "issue agent node-28 --days 0",
        "issue agent node-28 --days 5 --expires-at 2020-01-01T00:00:00Z",
        "init --cluster a/b",
        "issue agent node-28 --directory /nonexistent",
        "show /nonexistent",
    ] {
        assert!(!home.refused(arguments).is_empty(), "{arguments}");
    }
    assert_eq!(fs::read_dir(home.directory()).expect("listed").count(), before);
}

#[test]
fn a_ca_key_that_others_can_read_or_that_is_another_cas_does_not_issue() {
    let home = Home::with_ca();
    let key = home.directory().join("ca-key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("changed");
    assert!(home.refused("issue agent node-28").contains("chmod 600"));

    let other = Home::with_ca();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("changed");
    fs::write(&key, fs::read(other.directory().join("ca-key.pem")).expect("read")).expect("written");
    assert!(home.refused("issue agent node-28").contains("issued together"));
    assert!(!home.directory().join("agent-node-28").exists(), "nothing is left of the attempt");

    fs::write(&key, "not a key").expect("written");
    assert!(home.refused("issue agent node-28").contains("ca-key.pem"));
}

#[test]
fn people_are_told_what_was_made_and_what_to_do_with_it() {
    let home = Home::new();
    let said = |arguments: &str| {
        let assert = home.pki(arguments).success();
        String::from_utf8(assert.get_output().stdout.clone()).expect("UTF-8")
    };
    let text = said("init");
    assert!(text.contains(".config/vmferry/pki/ca.pem") && text.contains("vmferry pki issue agent"), "{text}");
    let text = said("issue agent node-28");
    assert!(text.contains("vmferry://default/agent/node-28"), "{text}");
    assert!(text.contains("copy this directory to node-28:/etc/vmferry/pki"), "{text}");
    let text = said(&format!("show {}", home.issued("agent-node-28").certificate.display()));
    assert!(text.contains("identity  vmferry://default/agent/node-28"), "{text}");
    assert!(text.contains("issuer    VMFerry CA of default") && text.contains("397 days left"), "{text}");
}

#[test]
fn programs_get_json() {
    let home = Home::new();
    let said = |arguments: &str| -> serde_json::Value {
        let assert = home.pki(&format!("--output json {arguments}")).success();
        serde_json::from_slice(&assert.get_output().stdout).expect("JSON")
    };
    assert_eq!(said("init --cluster prod")["cluster"], "prod");
    let issued = said("issue agent node-28");
    assert_eq!(issued["identity"], "vmferry://prod/agent/node-28");
    assert_eq!(issued["certificate"], home.issued("agent-node-28").certificate.to_str().expect("UTF-8"));
    let shown = said(&format!("show {}", issued["certificate"].as_str().expect("a path")));
    assert_eq!(shown["certificates"][0]["identity"], "vmferry://prod/agent/node-28");
    assert_eq!(shown["certificates"][0]["valid_now"], true);
}
