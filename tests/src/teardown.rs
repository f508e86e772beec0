//! Taking a testbed down: from its name alone if need be, as often as you like, from whatever state it is in.

use std::{fs, io::ErrorKind, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use crate::{
    boot,
    layout::{Layout, netns},
    network,
    process::{self, Process},
    state::{State, lock},
};

/// Ends every process of the testbed, and removes its namespaces, cgroups and files. What is not there is no error; one
/// failure does not keep the rest.
pub fn tear_down(layout: &Layout) -> Result<()> {
    // A state that can't be read must not be in the way: names tell the rest.
    let state = State::read(layout).ok().flatten();
    let mut failures = Vec::new();

    let machines = machines(layout, state.as_ref());
    // The init first: with it the kernel ends all that is in the container, and nspawn then ends by itself.
    let inits = state.iter().flat_map(State::machines).filter_map(|machine| machine.init);
    for process in inits {
        failures.extend(process.signal(Signal::SIGKILL).err());
    }
    failures.extend(end_all(layout, &machines).err());

    for name in machines.iter().chain([&layout.fabric()]) {
        failures.extend(network::delete_namespace(name).err());
        failures.extend(boot::remove_cgroups(name).err());
        // nspawn's own, and empty.
        failures.extend(remove(&Path::new("/run/systemd/nspawn/propagate").join(name)).err());
    }
    failures.extend(remove(&layout.disk_dir()).err());
    // Last: as long as something is left, the testbed is listed.
    if failures.is_empty() {
        failures.extend(remove(&layout.run_dir()).err());
    }
    match failures.as_slice() {
        [] => Ok(()),
        failures => {
            let lines: Vec<_> = failures.iter().map(|failure| format!("{failure:#}")).collect();
            bail!("testbed {} is not quite gone: {}", layout.name(), lines.join("; "))
        }
    }
}

/// Takes down every testbed whose owner is dead. Called by each `up`: a killed test's hosts don't stay.
pub fn tear_down_stale() -> Result<()> {
    if !Layout::root().exists() {
        return Ok(());
    }
    // One at a time: two would be in each other's way.
    let _lock = lock(&Layout::root().join(".lock"))?;
    for layout in all()? {
        let owner = State::read(&layout).ok().flatten().and_then(|state| state.owner);
        if owner.is_some_and(|owner| !owner.is_alive()) {
            eprintln!("testbed: {} was left behind by a process that died: taking it down", layout.name());
            tear_down(&layout)?;
        }
    }
    Ok(())
}

/// Every testbed of this machine, whatever its state.
pub fn all() -> Result<Vec<Layout>> {
    let entries = match fs::read_dir(Layout::root()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut layouts: Vec<_> =
        entries.flatten().filter_map(|entry| Layout::new(entry.file_name().to_str()?).ok()).collect();
    layouts.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(layouts)
}

/// The hosts' machine names: those recorded, and those that have a namespace.
fn machines(layout: &Layout, state: Option<&State>) -> Vec<String> {
    let prefix = layout.machine("");
    let present = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let mut machines: Vec<_> = present
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect();
    machines.extend(state.into_iter().flat_map(State::machines).map(|machine| layout.machine(&machine.name)));
    machines.sort();
    machines.dedup();
    machines
}

/// Kills what is in the testbed's namespaces, and the nspawn processes, which are not. No other testbed has either.
fn end_all(layout: &Layout, machines: &[String]) -> Result<()> {
    let own = Process::own();
    let arguments: Vec<_> =
        machines.iter().map(|name| format!("--network-namespace-path={}", netns(name).display())).collect();
    let namespaces: Vec<_> =
        machines.iter().chain([&layout.fabric()]).filter_map(|name| identity(&netns(name))).collect();
    let find = |with_nspawn: bool| {
        process::all(|path| {
            identity(&path.join("ns/net")).is_some_and(|id| namespaces.contains(&id))
                || with_nspawn && fs::read(path.join("cmdline")).is_ok_and(|line| has_argument(&line, &arguments))
        })
    };
    // nspawn is given a moment to end by itself: it cleans up behind it.
    for (round, patience) in [200, 1000, 3000, 5000].into_iter().enumerate() {
        for process in find(round > 1).iter().filter(|process| **process != own) {
            process.signal(Signal::SIGKILL)?;
        }
        let gone = find(true)
            .iter()
            .filter(|process| **process != own)
            .all(|process| process.wait_gone(Duration::from_millis(patience)));
        if gone && find(true).iter().all(|process| *process == own) {
            return Ok(());
        }
    }
    let left: Vec<_> = find(true).iter().map(|process| process.pid.to_string()).collect();
    bail!("processes that cannot be killed: {}", left.join(", "))
}

fn has_argument(cmdline: &[u8], arguments: &[String]) -> bool {
    cmdline.split(|byte| *byte == 0).any(|word| arguments.iter().any(|argument| argument.as_bytes() == word))
}

/// Device and inode: two paths with the same ones are the same namespace.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => bail!("cannot remove {}: {error}", directory.display()),
    }
}
