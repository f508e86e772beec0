//! Runs `nft`.

use std::{io, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt as _, time::timeout};
use vmferry_core::reason::Reason;

use super::{
    part::{Kind, Parts, TABLE},
    read::Listing,
};
use crate::{hypervisor::Fault, storage::tool::Tool};

/// How long it may take. Ten thousand vifs take a tenth of that.
const LIMIT: Duration = Duration::from_secs(60);

/// A run of `nft` that failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// What it asked for is not there.
    Absent(String),
    /// Anything else.
    Fault(Fault),
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Absent(said) => failed(said),
            Failure::Fault(fault) => fault,
        }
    }
}

/// Something went wrong with the filters.
pub(super) fn failed(said: impl Into<String>) -> Fault {
    Fault::new(Reason::FirewallFailed, said)
}

/// Does a transaction, all of it or nothing.
pub(super) async fn apply(transaction: &str) -> Result<(), Failure> {
    run(&["--file", "-"], transaction).await.map(drop)
}

/// The table's parts without what comes and goes with packets. `None`: it is not there.
pub(super) async fn parts() -> Result<Option<Parts>, Fault> {
    let table = match list(&format!("list table {TABLE}"), &["--terse"]).await {
        Ok(table) => table,
        Err(Failure::Absent(_)) => return Ok(None),
        Err(Failure::Fault(fault)) => return Err(fault),
    };
    // One by one: nft 1.0.6 cannot list some sets of a table in one run, and all of them have every flow.
    let mut sets = Vec::new();
    for (kind, name) in table.settled() {
        let word = if kind == Kind::Set { "set" } else { "map" };
        sets.push(list(&format!("list {word} {TABLE} {name}"), &[]).await?);
    }
    table.parts(&sets).map(Some).map_err(failed)
}

/// A set's listing.
pub(super) async fn set(name: &str) -> Result<Listing, Failure> {
    list(&format!("list set {TABLE} {name}"), &[]).await
}

async fn list(command: &str, options: &[&str]) -> Result<Listing, Failure> {
    let arguments: Vec<&str> =
        ["--json", "--numeric"].iter().chain(options).copied().chain(command.split(' ')).collect();
    let listing = run(&arguments, "").await?;
    serde_json::from_str(&listing)
        .map_err(|error| Failure::Fault(failed(format!("what `nft {command}` lists is not understood: {error}"))))
}

/// Runs it with an input. What it says first is what is wrong; below that it points at the place.
async fn run(arguments: &[&str], input: &str) -> Result<String, Failure> {
    let fault = |how: String| Failure::Fault(failed(format!("`nft {}` {how}", arguments.join(" "))));
    let mut command = Tool::new("nft").args(arguments.iter().copied()).command();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::Fault(missing("it has no program `nft`")),
        _ => fault(format!("cannot be run: {error}")),
    })?;
    let mut pipe = child.stdin.take();
    let fed = async {
        // It may end without having read all: what it says then tells more than that.
        if let Some(pipe) = &mut pipe {
            let _ = pipe.write_all(input.as_bytes()).await;
        }
        drop(pipe);
        child.wait_with_output().await
    };
    let output = match timeout(LIMIT, fed).await {
        Ok(output) => output.map_err(|error| fault(format!("cannot be run: {error}")))?,
        Err(_) => return Err(fault(format!("gave no answer within {LIMIT:?} and was killed"))),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no word of why");
    if [
        "Operation not supported",
        "Protocol not supported",
        "Address family not supported",
        "cache initialization failed: Invalid",
    ]
    .iter()
    .any(|words| first.contains(words))
    {
        return Err(Failure::Fault(missing(&format!("its kernel cannot filter bridges (nft: {first})"))));
    }
    let said = format!("`nft {}` failed ({}): {first}", arguments.join(" "), output.status);
    if first.contains("No such file or directory") {
        return Err(Failure::Absent(said));
    }
    Err(Failure::Fault(failed(said)))
}

fn missing(what: &str) -> Fault {
    let message = format!(
        "the host cannot filter what guests send and receive: {what}; install `nftables` on it, and a kernel with \
         CONFIG_NF_TABLES_BRIDGE"
    );
    Fault::new(Reason::FirewallMissing, message)
}
