//! Certificates that change under a running server.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use vmferry_transport::{Protocol, dial, watch_files};

use crate::support::{Ca, LIMIT, accept_one};

const AGENT: &str = "vmferry://test/agent/node-1";
const INTERVAL: Duration = Duration::from_millis(20);

#[tokio::test]
async fn new_connections_use_new_certificates_and_open_ones_go_on() {
    let ca = Ca::new();
    let directory = TempDir::new().expect("a directory");
    let files = ca.issue(AGENT, |_| {}).write(directory.path());
    let (mut newest, task) = watch_files(files, INTERVAL).await.expect("loads");
    let task = tokio::spawn(task);
    let client = ca.credentials("vmferry://test/coordinator/alice");

    let before = newest.borrow_and_update().clone();
    let (address, accepted) = accept_one(before.clone()).await;
    let mut open = dial(&client, &address.to_string(), "node-1", Protocol::Tunnel, LIMIT).await.expect("dialed");
    let mut server = accepted.await.expect("no panic").expect("accepted");

    // The cluster moves to another CA: the agent trusts both, its certificate is of the new one.
    let new_ca = Ca::new();
    let mut issued = new_ca.issue(AGENT, |params| params.not_after += Duration::from_secs(3600));
    issued.ca += &ca.pem();
    issued.write(directory.path());
    timeout(LIMIT, newest.changed()).await.expect("noticed").expect("still watching");
    let after = newest.borrow_and_update().clone();
    assert!(after.not_after() > before.not_after());

    open.write_all(b"still here").await.expect("written");
    open.flush().await.expect("written");
    let mut heard = [0; 10];
    server.read_exact(&mut heard).await.expect("read");

    let (address, _accepted) = accept_one(after).await;
    let client = new_ca.credentials("vmferry://test/coordinator/bob");
    dial(&client, &address.to_string(), "node-1", Protocol::Tunnel, LIMIT).await.expect("dialed");

    drop(newest);
    timeout(LIMIT, task).await.expect("ends with its receivers").expect("no panic");
}

#[tokio::test]
async fn bad_files_leave_the_old_credentials_in_use_until_they_are_mended() {
    let ca = Ca::new();
    let directory = TempDir::new().expect("a directory");
    let files = ca.issue(AGENT, |_| {}).write(directory.path());
    let (mut newest, task) = watch_files(files.clone(), INTERVAL).await.expect("loads");
    tokio::spawn(task);
    let before = newest.borrow_and_update().not_after();

    // A good pair, but the key is no secret.
    ca.issue(AGENT, |params| params.not_after += Duration::from_secs(60)).write(directory.path());
    fs::set_permissions(&files.key, Permissions::from_mode(0o644)).expect("changed");
    assert!(timeout(INTERVAL * 20, newest.changed()).await.is_err(), "nothing new is published");
    assert_eq!(newest.borrow().not_after(), before);

    // The remedy that the error names is enough.
    fs::set_permissions(&files.key, Permissions::from_mode(0o600)).expect("changed");
    timeout(LIMIT, newest.changed()).await.expect("noticed").expect("still watching");
    assert!(newest.borrow().not_after() > before);
}

#[tokio::test]
async fn files_that_cannot_serve_at_the_start_are_an_error() {
    let directory = TempDir::new().expect("a directory");
    let files = vmferry_transport::CertificateFiles::in_directory(directory.path());
    assert!(watch_files(files, INTERVAL).await.is_err());
}
