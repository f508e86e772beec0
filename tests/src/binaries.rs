//! The programs under test.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The programs under test, as built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binaries {
    /// The coordinator's CLI.
    pub vmferry: PathBuf,
    /// The agent.
    pub agent: PathBuf,
}

impl Binaries {
    /// In `VMFERRY_BIN_DIR`, or beside the running program (a test's is one directory further down).
    pub fn locate() -> Result<Self> {
        let directory = directory()?;
        let found = Self { vmferry: directory.join("vmferry"), agent: directory.join("vmferry-agent") };
        for program in [&found.vmferry, &found.agent] {
            if !program.exists() {
                bail!("{} is missing: run `cargo build` first, or set VMFERRY_BIN_DIR", program.display());
            }
        }
        Ok(found)
    }
}

/// The program that runs inside guests.
pub(crate) fn guest_tool() -> Result<PathBuf> {
    Ok(directory()?.join("guest-tool"))
}

/// The agent whose host is simulated.
pub(crate) fn simulated_agent() -> Result<PathBuf> {
    let program = directory()?.join("simulated-agent");
    if !program.exists() {
        bail!("{} is missing: run `cargo build --workspace` first", program.display());
    }
    Ok(program)
}

fn directory() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os("VMFERRY_BIN_DIR") {
        return Ok(PathBuf::from(directory));
    }
    let own = std::env::current_exe().context("cannot find the running program")?;
    let parent = own.parent().context("a program is in a directory")?;
    Ok(if parent.ends_with("deps") { parent.parent().unwrap_or(parent) } else { parent }.to_owned())
}
