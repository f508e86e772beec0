//! The programs under test.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
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

/// The agent as a release after this one would be: the same program, which gives itself for another version. To compile a second one would
/// take longer than all that it is needed for.
pub(crate) fn agent_of_version(version: &str) -> Result<Vec<u8>> {
    let built = env!("CARGO_PKG_VERSION").as_bytes();
    ensure!(version.len() == built.len(), "{version} does not fit in the place of {}", env!("CARGO_PKG_VERSION"));
    let mut program = fs::read(Binaries::locate()?.agent)?;
    // Other versions, and those of libraries' symbols.
    let is_part_of_another =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_digit() || [b'.', b'_'].contains(byte));
    let places: Vec<_> = memchr::memmem::find_iter(&program, built)
        .filter(|place| {
            let before = place.checked_sub(1).and_then(|before| program.get(before));
            !is_part_of_another(before) && !is_part_of_another(program.get(place + built.len()))
        })
        .collect();
    for place in places {
        program[place..place + version.len()].copy_from_slice(version.as_bytes());
    }
    Ok(program)
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
