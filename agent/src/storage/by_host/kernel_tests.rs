//! What holds on a real kernel, with real storage. They run in a machine of their own, which `tests/kernel/attach.sh` prepares:
//! `make test-kernel`.

use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use vmferry_core::volume::{Connection, Login, SecretName};

use super::*;
use crate::storage::tool::Tool;

mod iscsi;
mod rbd;

fn settings(multipath: Multipath) -> Settings {
    Settings { multipath, ..Settings::default() }
}

fn login() -> Option<Login> {
    Some(Login { user: "ferry".to_owned(), secret: SecretName::Usage("storage".to_owned()) })
}

/// Writes to a device past the host's cache of it, and reads it back.
fn write_and_read(path: &str, text: &str) {
    let mut device =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_SYNC).open(path).expect("it is there");
    device.write_all(text.as_bytes()).expect("it can be written");
    device.rewind().expect("it can be read");
    let mut read = vec![0; text.len()];
    device.read_exact(&mut read).expect("it can be read");
    assert_eq!(String::from_utf8_lossy(&read), text);
}

/// I6: what the machine's wrappers of `iscsiadm` and `rbd` were called with holds no secret, nor does the error.
fn assert_secret(secret: &SecretString, failed: Option<&Failed>) {
    use secrecy::ExposeSecret as _;
    let arguments = fs::read_to_string("/run/arguments").expect("programs were called");
    assert!(!arguments.contains(secret.expose_secret()), "{arguments}");
    assert!(!format!("{failed:?}").contains(secret.expose_secret()));
}

/// An error as people see it.
fn told(failed: &Failed) -> String {
    let source = std::error::Error::source(failed).map(|source| format!(": {source}"));
    let text = format!("{failed}{}", source.unwrap_or_default());
    println!("{text}");
    text
}

async fn run(program: &str, arguments: &[&str]) -> String {
    Tool::new(program).args(arguments.iter().copied()).run().await.unwrap_or_else(|failed| panic!("{failed}"))
}

async fn start_multipathd() {
    run("multipathd", &[]).await;
    for _ in 0..100 {
        if multipath::running().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("multipathd does not answer");
}

async fn stop_multipathd() {
    let _ = Tool::new("multipathd").args(["shutdown"]).run().await;
    while Tool::new("pidof").args(["multipathd"]).run().await.is_ok() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
