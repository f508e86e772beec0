//! `testbed`: real hosts on this machine, to play with and to debug on.

use std::{os::unix::process::CommandExt as _, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use vmferry_tests::{
    guest::{BootSectorGuest, Definition, LinuxGuest},
    layout::Layout,
    state::State,
    storage::{self, Backend},
    teardown,
    testbed::{HostSpec, Lifetime, Options, Testbed},
    tree::Tree,
};

mod demo;

/// Builds real hosts on this machine: containers with systemd, libvirt, an agent each, and guests to move.
#[derive(Parser)]
#[command(name = "testbed", version)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start hosts, which stay until `testbed down`
    Up {
        /// Name of the testbed: lower-case letters and digits [default: tb1, or the next that is free]
        #[arg(long)]
        name: Option<String>,
        /// How many hosts
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=90))]
        hosts: u8,
        /// Start a Linux guest, web-1, on the first host
        #[arg(long)]
        guest: bool,
        /// Leave the agents out: libvirt only
        #[arg(long)]
        without_agents: bool,
        /// Start a storage node that runs this; twice for both
        #[arg(long, value_enum)]
        storage: Vec<Backend>,
    },
    /// Show testbeds, their hosts and guests
    Status,
    /// Open a shell on a host, or, without one, where the operator is: all hosts in reach, vmferry in PATH
    Shell {
        /// The host, or storage
        host: Option<String>,
        /// The testbed [default: the only one]
        #[arg(long)]
        name: Option<String>,
    },
    /// Run a command where the operator is
    Run {
        /// The testbed [default: the only one]
        #[arg(long)]
        name: Option<String>,
        /// The command with its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Start guests
    #[command(subcommand)]
    Guest(GuestAction),
    /// Stop everything and remove it
    Down {
        /// The testbed [default: the only one]
        #[arg(long)]
        name: Option<String>,
        /// All testbeds of this machine
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Build the tree that all hosts share, and nothing else
    Tree,
    /// Two hosts, a guest, a live migration from one zone to the other, and what it cost
    Demo,
}

#[derive(Subcommand)]
enum GuestAction {
    /// Start a guest on a host and wait until it is up
    Start {
        /// The guest's name
        guest: String,
        /// The host
        host: String,
        /// linux answers pings; dirty writes memory at an exact rate and checks it
        #[arg(long, value_enum, default_value_t = GuestKind::Linux)]
        kind: GuestKind,
        /// For dirty: MiB of memory written per second
        #[arg(long, default_value_t = 25)]
        rate: u32,
        /// The testbed [default: the only one]
        #[arg(long)]
        name: Option<String>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum GuestKind {
    Linux,
    Dirty,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("testbed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> Result<ExitCode> {
    match action {
        Action::Up { name, hosts, guest, without_agents, storage } => up(name, hosts, guest, !without_agents, storage)?,
        Action::Status => status()?,
        Action::Shell { host, name } => shell(&the_one(name)?, host.as_deref())?,
        Action::Run { name, command } => run_in_fabric(&the_one(name)?, &command)?,
        Action::Guest(GuestAction::Start { guest, host, kind, rate, name }) => {
            let started = Instant::now();
            let definition: Definition = match kind {
                GuestKind::Linux => LinuxGuest::new(&guest).into(),
                GuestKind::Dirty => BootSectorGuest::new(&guest).dirtying(rate).into(),
            };
            let guest = the_one(name)?.start(definition, &host)?;
            let address = guest.address().map_or_else(|_| String::new(), |address| format!(", address {address}"));
            println!("guest {} is up on {host} after {:.1?}{address}", guest.name(), started.elapsed());
        }
        Action::Down { name, all } => down(name, all)?,
        Action::Tree => println!("{}", Tree::ensure()?.root().display()),
        Action::Demo => return demo::run(),
    }
    Ok(ExitCode::SUCCESS)
}

fn up(name: Option<String>, hosts: u8, guest: bool, agents: bool, storage: Vec<Backend>) -> Result<()> {
    let name = match name {
        Some(name) => name,
        None => free_name()?,
    };
    let started = Instant::now();
    let testbed = Testbed::up(Options {
        name: Some(name.clone()),
        hosts: HostSpec::defaults(hosts),
        agents,
        storage,
        lifetime: Lifetime::Kept,
    })?;
    println!("testbed {name} is up after {:.1?}", started.elapsed());
    if guest {
        let host = testbed.hosts().first().context("a testbed has a host")?.name();
        let guest = testbed.start(LinuxGuest::new("web-1"), host)?;
        println!("guest {} is up on {host}, address {}", guest.name(), guest.address()?);
    }
    for host in testbed.hosts() {
        println!("  {:<14} zone {:<8} {}", host.name(), host.zone(), host.address());
    }
    if let Ok(storage) = testbed.storage() {
        println!("  {:<28} {}", storage.node().name(), storage.node().address());
    }
    println!("next: `testbed shell` or `testbed shell HOST`; in the end `testbed down`");
    Ok(())
}

fn status() -> Result<()> {
    let layouts = teardown::all()?;
    if layouts.is_empty() {
        println!("no testbed");
    }
    for layout in layouts {
        let Some(state) = State::read(&layout)? else {
            println!("{}: incomplete; `testbed down --name {0}` removes it", layout.name());
            continue;
        };
        let owner = state.owner.map_or_else(String::new, |owner| format!(" (until process {} ends)", owner.pid));
        println!("{}{owner}", layout.name());
        let testbed = Testbed::open(layout.name())?;
        for host in testbed.hosts() {
            let agent = match (host.is_up(), state.binaries.is_some()) {
                (false, _) => "down",
                (true, false) => "up, no agent",
                (true, true) if host.agent().is_active()? => "up, agent ready",
                (true, true) => "up, agent not ready",
            };
            println!("  host  {:<14} zone {:<8} {:<12} {agent}", host.name(), host.zone(), host.address().to_string());
        }
        if let Ok(storage) = testbed.storage() {
            let up = if storage.node().is_up() { "up" } else { "down" };
            println!("  {:<34} {:<12} {up}", storage::NODE, storage.node().address().to_string());
        }
        for guest in &state.guests {
            let address = guest.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
            let at = testbed.runners(&guest.name)?.join(", ");
            println!("  guest {:<14} {address:<15} {}", guest.name, if at.is_empty() { "not running" } else { &at });
        }
    }
    Ok(())
}

fn shell(testbed: &Testbed, host: Option<&str>) -> Result<()> {
    let mut command = match host {
        Some(storage::NODE) => testbed.storage()?.node().command("bash")?,
        Some(host) => testbed.host(host)?.command("bash")?,
        None => {
            let mut command = testbed.command("bash");
            command.env("PATH", path(testbed)?);
            command
        }
    };
    // The prompt says where one is; bash's own configuration would set another.
    let prompt = format!("[{} {}] \\w# ", testbed.name(), host.unwrap_or("operator"));
    command.args(["--norc", "--noprofile"]).env("PS1", prompt);
    Err(command.exec()).context("cannot start a shell")
}

fn run_in_fabric(testbed: &Testbed, words: &[String]) -> Result<()> {
    let [program, arguments @ ..] = words else { bail!("no command") };
    // By a shell, so that the program is looked for in the new PATH.
    let mut command = testbed.command("sh");
    command.args(["-c", "exec \"$0\" \"$@\"", program]).args(arguments).env("PATH", path(testbed)?);
    Err(command.exec()).with_context(|| format!("cannot start {program}"))
}

/// This process's `PATH` with the directory of `vmferry` before it.
fn path(testbed: &Testbed) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own: Vec<PathBuf> = testbed.program_directory().into_iter().chain(std::env::split_paths(&path)).collect();
    std::env::join_paths(own).context("PATH cannot be extended")
}

fn down(name: Option<String>, all: bool) -> Result<()> {
    let layouts = match name {
        Some(name) => vec![Layout::new(&name)?],
        None => teardown::all()?,
    };
    ensure!(all || layouts.len() < 2, "there are several testbeds: give --name or --all ({})", names(&layouts));
    for layout in layouts {
        let started = Instant::now();
        teardown::tear_down(&layout)?;
        println!("testbed {} is gone after {:.1?}", layout.name(), started.elapsed());
    }
    Ok(())
}

fn the_one(name: Option<String>) -> Result<Testbed> {
    let name = match name {
        Some(name) => name,
        None => match teardown::all()?.as_slice() {
            [] => bail!("there is no testbed: `testbed up` makes one"),
            [one] => one.name().to_owned(),
            several => bail!("there are several testbeds: give --name ({})", names(several)),
        },
    };
    Testbed::open(&name)
}

fn free_name() -> Result<String> {
    let taken = teardown::all()?;
    let mut names = (1..).map(|number| format!("tb{number}"));
    names.find(|name| taken.iter().all(|layout| layout.name() != name)).context("numbers do not end")
}

fn names(layouts: &[Layout]) -> String {
    layouts.iter().map(Layout::name).collect::<Vec<_>>().join(", ")
}
