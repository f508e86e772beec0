//! Hosts as they are bought, with Debian and libvirt, and the packages beside them.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use vmferry_tests::{
    Host, Options, Testbed,
    testbed::HostSpec,
    wait::{SOON, until},
};

use crate::page::{Block, What};

/// Where it is operated from.
pub(crate) const ADMIN: &str = "admin";
/// Where the guest is at first, and where it goes.
pub(crate) const HOSTS: [&str; 2] = ["node-28", "node-31"];

/// Where somebody has put the packages, and types commands.
const DESK: &str = "/root";

/// A version of the packages.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Version {
    /// As `make packages` leaves them.
    This,
    /// One revision later.
    Next,
}

/// `vmferry-agent_0.1.0-1_amd64.deb`, wherever it was made.
pub(crate) fn package(name: &str, version: Version, ending: &str) -> Result<PathBuf> {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/packages");
    let directory = match version {
        Version::This => made,
        Version::Next => made.join("next"),
    };
    let entries = fs::read_dir(&directory).with_context(|| format!("no {}: run make packages", directory.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        // `vmferry` is the beginning of `vmferry-agent`, too.
        let rest = file.strip_prefix(name).and_then(|rest| rest.strip_prefix(['_', '-']));
        if rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) && rest.ends_with(ending)) {
            found.push(path);
        }
    }
    ensure!(found.len() == 1, "{name}*{ending} in {}: {found:?}", directory.display());
    found.pop().context("there is one")
}

/// Two hosts and the machine from which they are operated, none of which has heard of VMFerry.
pub(crate) fn up() -> Result<Testbed> {
    let hosts = vec![HostSpec::new(HOSTS[0], "nova"), HostSpec::new(HOSTS[1], "nova2"), HostSpec::new(ADMIN, "nova")];
    let testbed = Testbed::up(Options { hosts, agents: false, ..Options::default() })?;
    for host in testbed.hosts() {
        // The tree does without documentation; what packages bring shall be looked at.
        host.sh("rm -f /etc/dpkg/dpkg.cfg.d/99mmdebstrap")?;
    }
    Ok(testbed)
}

/// Puts a version's packages onto everybody's desk, in the place of others.
pub(crate) fn hand_out(testbed: &Testbed, version: Version) -> Result<()> {
    for host in testbed.hosts() {
        host.sh(&format!("rm -f {DESK}/*.deb"))?;
        let name = if host.name() == ADMIN { "vmferry" } else { "vmferry-agent" };
        let file = package(name, version, ".deb")?;
        let place = Path::new(DESK).join(file.file_name().context("a file has a name")?);
        host.write(place, fs::read(&file)?)?;
    }
    Ok(())
}

/// Does what a block says, where it says.
pub(crate) fn follow(testbed: &Testbed, block: &Block) -> Result<()> {
    for name in &block.hosts {
        let host = testbed.host(name)?;
        match &block.what {
            What::File(path, text) => host.write(path, text)?,
            What::Commands(text) => {
                for line in text.lines() {
                    println!("{name}# {line}");
                    match line.strip_prefix("scp -p ") {
                        // The hosts have no SSH.
                        Some(arguments) => copy(testbed, host, arguments)?,
                        None => print!("{}", shell(host, line)?),
                    }
                }
            }
        }
    }
    Ok(())
}

/// A line as somebody types it there. The error has all that was said.
pub(crate) fn shell(host: &Host, line: &str) -> Result<String> {
    let (status, said) = attempt(host, line)?;
    ensure!(status.success(), "on {}: {line}: {status}:\n{said}", host.name());
    Ok(said)
}

/// The same; how it ended, and all that was said.
pub(crate) fn attempt(host: &Host, line: &str) -> Result<(ExitStatus, String)> {
    let mut command = host.command("sh")?;
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-c", &format!("cd {DESK}; exec 2>&1; {}", unattended(line))]);
    let output = command.stdin(Stdio::null()).output()?;
    Ok((output.status, String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// `apt-get` asks whether it may; somebody says yes.
fn unattended(line: &str) -> String {
    line.replace("apt-get install ", "apt-get install --yes ").replace("apt-get purge ", "apt-get purge --yes ")
}

/// `scp -p FILES root@HOST:DIRECTORY`
fn copy(testbed: &Testbed, from: &Host, arguments: &str) -> Result<()> {
    let Some((files, to)) = arguments.rsplit_once(" root@") else { bail!("scp {arguments}: where to?") };
    let (host, directory) = to.split_once(':').context("scp HOST:DIRECTORY")?;
    for file in shell(from, &format!("ls {files}"))?.lines() {
        let source = from.path(file)?;
        let name = Path::new(file).file_name().context("a file has a name")?;
        let to = testbed.host(host)?;
        ensure!(to.path(directory)?.is_dir(), "{host} has no {directory}");
        // With its mode: keys are nobody else's.
        fs::copy(&source, to.path(directory)?.join(name))?;
    }
    Ok(())
}

/// `vmferry migrate web --to HOST`, as it goes on. It is left to its end.
#[derive(Debug)]
pub(crate) struct Move {
    child: Child,
    told: PathBuf,
}

impl Move {
    /// Begins it, and returns once the guest's memory flows: slowly, until [`speed_up`].
    pub(crate) fn begin(testbed: &Testbed, from: &str, to: &str) -> Result<Self> {
        let source = testbed.host(from)?;
        source.virsh(["migrate-setspeed", "web", "10"])?;
        let told = testbed.layout().run_dir().join(format!("move-to-{to}"));
        let file = File::create(&told)?;
        let mut command = testbed.host(ADMIN)?.command("vmferry")?;
        command.args(["migrate", "web", "--to", to]).stdin(Stdio::null());
        let child = command.stdout(file.try_clone()?).stderr(file).spawn()?;
        let mut begun = Self { child, told };
        until("memory to flow", SOON, || {
            ensure!(begun.child.try_wait()?.is_none(), "it ended: {}", begun.told()?);
            let job = source.virsh(["domjobinfo", "web"]).unwrap_or_default();
            let sent = job.lines().find_map(|line| line.strip_prefix("Memory processed:"));
            // "12.345 MiB": below that it is "KiB" or "B".
            Ok(sent.is_some_and(|sent| sent.trim_end().ends_with("MiB")).then_some(()))
        })?;
        Ok(begun)
    }

    fn told(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.told)?)
    }

    /// Fails if it is over.
    pub(crate) fn assert_goes_on(&mut self) -> Result<()> {
        ensure!(self.child.try_wait()?.is_none(), "it ended: {}", self.told()?);
        Ok(())
    }

    /// Lets it go as fast as it can, and fails unless it completes.
    pub(crate) fn complete(mut self, testbed: &Testbed, from: &str) -> Result<()> {
        testbed.host(from)?.virsh(["migrate-setspeed", "web", "10000"])?;
        let status = until("the move's end", Duration::from_secs(60), || Ok(self.child.try_wait()?))?;
        let told = self.told()?;
        ensure!(status.success() && told.contains("completed"), "{status}: {told}");
        Ok(())
    }
}
