//! The examples in `docs/examples/python`: clients made from the protos with stock grpcio.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use vmferry_tests::{Options, Testbed, guest::BootSectorGuest, process};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace").to_owned()
}

/// One of the examples, and what was generated for it, which must last as long.
fn python(testbed: &Testbed, example: &str) -> Result<(Command, TempDir)> {
    let repository = repository();
    let python = repository.join(".tools/python/bin/python");
    ensure!(python.exists(), "{} is missing: `make setup` installs it", python.display());
    let generated = tempfile::tempdir()?;
    let mut protos = Vec::new();
    for package in ["agent", "coordinator"] {
        for entry in fs::read_dir(repository.join(format!("proto/vmferry/{package}/v1")))? {
            protos.push(entry?.path());
        }
    }
    let include = format!("-I{}", repository.join("proto").display());
    let out = generated.path().display();
    let mut protoc = testbed.command(&python);
    protoc.args(["-m", "grpc_tools.protoc", &include]);
    protoc.args([format!("--python_out={out}"), format!("--grpc_python_out={out}")]).args(protos);
    process::run(&mut protoc)?;
    let mut client = testbed.command(&python);
    client.env("PYTHONPATH", generated.path()).arg(repository.join("docs/examples/python").join(example));
    Ok((client, generated))
}

#[test]
fn a_stock_python_client_reflects_lists_and_moves() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    testbed.start(BootSectorGuest::new("web-1"), "node-28")?;
    let agent = |name: &str| Ok::<_, anyhow::Error>(format!("{name}={}:7443", testbed.host(name)?.address()));
    let pki = testbed.layout().pki().join("coordinator-operator");
    let (mut client, _generated) = python(&testbed, "migrate.py")?;
    client.arg("--pki").arg(pki).args(["--instance", "web-1"]);
    client.args(["--source", &agent("node-28")?, "--destination", &agent("node-31")?]);
    let printed = process::run(&mut client).context("the Python client")?;

    for expected in [
        "vmferry.agent.v1.MigrationService",
        "grpc.health.v1.Health",
        "web-1  ACTIVE",
        "completed: web-1 runs on node-31",
    ] {
        ensure!(printed.contains(expected), "`{expected}` is not in:\n{printed}");
    }
    ensure!(testbed.runners("web-1")? == ["node-31"]);
    Ok(())
}

#[test]
fn a_stock_python_client_lists_and_moves_by_a_coordinator() -> Result<()> {
    let testbed = Testbed::up(Options::default())?;
    let service = testbed.serve(7444)?;
    testbed.start(BootSectorGuest::new("web-1"), "node-28")?;
    let (mut client, _generated) = python(&testbed, "fleet.py")?;
    client.arg("--pki").arg(testbed.layout().pki().join("coordinator-operator"));
    client.args(["--coordinator", service.address(), "--instance", "web-1", "--destination", "node-31"]);
    let printed = process::run(&mut client).context("the Python client")?;
    for expected in ["node-28 in zone", "web-1  ACTIVE  on node-28", "  post", "completed: web-1 runs on node-31"] {
        ensure!(printed.contains(expected), "`{expected}` is not in:\n{printed}");
    }
    ensure!(testbed.runners("web-1")? == ["node-31"]);

    // And away again: a host that is emptied.
    let (mut client, _generated) = python(&testbed, "fleet.py")?;
    client.arg("--pki").arg(testbed.layout().pki().join("coordinator-operator"));
    let printed = process::run(client.args(["--coordinator", service.address(), "--drain", "node-31"]))?;
    for expected in ["1 to move, in about", "web-1 moved node-28", "1 moved, 0 stay"] {
        ensure!(printed.contains(expected), "`{expected}` is not in:\n{printed}");
    }
    ensure!(testbed.runners("web-1")? == ["node-28"]);
    Ok(())
}
