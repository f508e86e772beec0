//! Coordinators that serve, where the operator is.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{network::OPERATOR, process::run, testbed::Testbed, wait};

/// Whose certificate they have.
const NAME: &str = "fleet";

/// `vmferry serve`, running. It dies with the value.
#[derive(Debug)]
pub struct Coordinator {
    child: Child,
    address: String,
    log: PathBuf,
}

impl Testbed {
    /// Starts one more, and returns once it is ready. All have the same certificate.
    pub fn serve(&self, port: u16) -> Result<Coordinator> {
        let inventory = self.coordinator_inventory()?;
        let address = format!("{OPERATOR}:{port}");
        let log = self.layout().run_dir().join(format!("serve-{port}.log"));
        let mut command = self.vmferry(["serve", "--listen", &address])?;
        command.env("VMFERRY_INVENTORY", inventory).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(File::create(&log)?).spawn().context("cannot start vmferry serve")?;
        let mut coordinator = Coordinator { child, address, log };
        wait::until("the coordinator to be ready", wait::SOON, || {
            if let Some(status) = coordinator.child.try_wait()? {
                bail!("vmferry serve ended: {status}: {}", coordinator.log()?);
            }
            Ok(coordinator.log()?.contains("is ready on").then_some(()))
        })?;
        Ok(coordinator)
    }

    /// An example client of the crate `vmferry-client`: moves an instance by what is at `address`, as the operator. No `destination`: it is
    /// chosen.
    pub fn client(&self, address: &str, instance: &str, destination: &str) -> Result<Command> {
        let mut command = self.example("move", address)?;
        command.args([instance, destination]);
        Ok(command)
    }

    /// Another: empties a host by what is at `address`.
    pub fn emptier(&self, address: &str, host: &str) -> Result<Command> {
        let mut command = self.example("drain", address)?;
        command.arg(host);
        Ok(command)
    }

    /// Another: aborts a migration by what is at `address`.
    pub fn aborting_client(&self, address: &str, migration: &str) -> Result<Command> {
        let mut command = self.example("abort", address)?;
        command.arg(migration);
        Ok(command)
    }

    fn example(&self, name: &str, address: &str) -> Result<Command> {
        let programs = self.program_directory().context("a testbed without agents has no use for a client")?;
        let example = programs.join("examples").join(name);
        ensure!(example.exists(), "{} is missing: run `make build` first", example.display());
        let mut command = self.command(example);
        command.arg("--coordinator").arg(address).arg("--pki").arg(self.layout().pki().join("coordinator-operator"));
        Ok(command)
    }

    /// The inventory of those that serve, with their certificate, which is made when it is first needed.
    fn coordinator_inventory(&self) -> Result<PathBuf> {
        let path = self.layout().run_dir().join(format!("inventory-{NAME}.toml"));
        if !path.exists() {
            let directory = self.layout().pki();
            let mut issue = self.vmferry(["pki", "issue", "coordinator", NAME, "--address", &OPERATOR.to_string()])?;
            run(issue.arg("--directory").arg(directory))?;
            let operators = fs::read_to_string(self.layout().inventory())?;
            fs::write(&path, operators.replace("coordinator-operator", &format!("coordinator-{NAME}")))?;
        }
        Ok(path)
    }
}

impl Coordinator {
    /// ADDRESS:PORT.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it has said so far.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// Waits for its end, and returns its exit code; `None`: it was killed.
    pub fn end(mut self, timeout: Duration) -> Result<Option<i32>> {
        Ok(wait::until("the coordinator's end", timeout, || Ok(self.child.try_wait()?))?.code())
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
