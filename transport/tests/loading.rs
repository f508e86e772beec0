//! What `load` takes, and what it says of the rest.

use std::{
    error::Error as _,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

use rcgen::SanType;
use tempfile::TempDir;
use vmferry_core::identity::Role;
use vmferry_transport::{Error, IdentityError, load};

use crate::support::{Ca, expired, identity};

const AGENT: &str = "vmferry://test/agent/node-1";

#[test]
fn good_files_say_who_we_are_and_until_when() {
    let credentials = Ca::new().credentials(AGENT);
    assert_eq!(credentials.identity(), &identity(Role::Agent, "node-1"));
    let left = credentials.not_after().duration_since(jiff::Timestamp::now());
    assert!((3590..=3600).contains(&left.as_secs()), "{left}");
}

#[test]
fn an_expired_certificate_loads_and_can_be_told() {
    let credentials = Ca::new().issue(AGENT, expired).load();
    assert!(credentials.not_after() < jiff::Timestamp::now());
}

#[test]
fn debug_output_has_nothing_of_the_key() {
    let issued = Ca::new().issue(AGENT, |_| {});
    let credentials = issued.load();
    let text = format!(
        "{credentials:?} {:?} {:?}",
        credentials.server_config(),
        credentials.client_config(vmferry_transport::Protocol::Grpc)
    );
    assert!(text.contains(AGENT));
    for line in issued.key.lines().filter(|line| !line.starts_with("-----")) {
        assert!(!text.contains(line), "I6");
    }
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let directory = TempDir::new().expect("a directory");
    let files = Ca::new().issue(AGENT, |_| {}).write(directory.path());
    for mode in [0o644, 0o640, 0o604, 0o620] {
        fs::set_permissions(&files.key, Permissions::from_mode(mode)).expect("changed");
        let text = load(&files).expect_err("exposed").to_string();
        let remedy = format!("chmod 600 {}", files.key.display());
        assert!(text.contains(&remedy) && text.contains(&format!("{mode:04o}")), "{text}");
    }
    fs::set_permissions(&files.key, Permissions::from_mode(0o400)).expect("changed");
    load(&files).expect("private");
}

#[test]
fn every_error_names_its_file() {
    let ca = Ca::new();
    let directory = TempDir::new().expect("a directory");
    let files = ca.issue(AGENT, |_| {}).write(directory.path());
    for path in [&files.ca, &files.certificate, &files.key] {
        let before = fs::read(path).expect("read");
        for bad in [None, Some(""), Some("-----BEGIN CERTIFICATE-----\n!\n"), Some("-----BEGIN")] {
            match bad {
                None => fs::remove_file(path).expect("removed"),
                Some(bad) => fs::write(path, bad).expect("written"),
            }
            fs::set_permissions(path, Permissions::from_mode(0o600)).ok();
            let error = load(&files).expect_err("bad");
            assert!(error.to_string().contains(path.to_str().expect("UTF-8")), "{error}");
        }
        fs::write(path, before).expect("written");
        fs::set_permissions(path, Permissions::from_mode(0o600)).expect("changed");
    }
    load(&files).expect("good again");
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let (ca, other) = (Ca::new(), Ca::new());
    let directory = TempDir::new().expect("a directory");
    let mut issued = ca.issue(AGENT, |_| {});
    issued.key = ca.issue(AGENT, |_| {}).key;
    assert!(matches!(load(&issued.write(directory.path())), Err(Error::NoPair { .. })));

    let mut issued = ca.issue(AGENT, |_| {});
    issued.ca = other.pem();
    assert!(matches!(load(&issued.write(directory.path())), Err(Error::Refused { .. })));
}

#[test]
fn a_certificate_must_name_exactly_one_identity() {
    let ca = Ca::new();
    let directory = TempDir::new().expect("a directory");
    let uri = |text: &str| SanType::URI(text.try_into().expect("ASCII"));
    let refusal = |uris: Vec<SanType>| {
        let issued = ca.issue(AGENT, |params| params.subject_alt_names = uris);
        let error = load(&issued.write(directory.path())).expect_err("nobody");
        let source = error.source().and_then(|source| source.downcast_ref::<IdentityError>());
        source.expect("an identity error").clone()
    };
    assert_eq!(refusal(vec![]), IdentityError::Missing);
    assert_eq!(refusal(vec![uri("spiffe://test/agent/node-1")]), IdentityError::Missing);
    assert_eq!(refusal(vec![uri(AGENT), uri("vmferry://test/coordinator/alice")]), IdentityError::Several);
    assert!(matches!(refusal(vec![uri("vmferry://test/root/alice")]), IdentityError::Invalid(_)));
}

#[test]
fn an_agent_whose_certificate_lacks_its_dns_name_is_told_before_it_serves() {
    let directory = TempDir::new().expect("a directory");
    let issued = Ca::new().issue(AGENT, |params| {
        params.subject_alt_names.retain(|name| matches!(name, SanType::URI(_)));
    });
    let error = load(&issued.write(directory.path())).expect_err("nobody could call it");
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
}
