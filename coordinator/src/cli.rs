//! The command line: what can be asked for, and the help that teaches it.

mod affinity;
mod check;
mod cold;
mod cordon;
mod drain;
mod groups;
mod guest_limits;
mod instance;
mod limits;
mod queue;
mod report;
mod serve;
mod steering;
mod target;
mod volumes;

use std::{ffi::OsString, path::PathBuf};

use clap::{ArgAction, Args, Parser, Subcommand, error::ErrorKind};
use vmferry_core::id::HostName;

pub(crate) use affinity::{Affinity, SetAffinity, UnsetAffinity};
pub(crate) use check::Check;
pub(crate) use cold::Cold;
pub(crate) use cordon::{Cordon, Uncordon};
pub(crate) use drain::{Drain, Pace, Undrain};
pub(crate) use groups::{Groups, GroupsCommand, SyncGroups};
pub(crate) use guest_limits::{OwnLimits, SetOwnLimits};
pub(crate) use instance::{Instance, Network, Policy, SetNetwork, SetPolicy, UnsetPolicy, Which, WhichVif};
pub(crate) use limits::Limits;
pub(crate) use queue::Queue;
pub(crate) use report::Report;
pub(crate) use serve::Serve;
pub(crate) use steering::{ForceComplete, How, Limit, SetLimits, Which as WhichMigration};
pub(crate) use target::Target;
pub(crate) use volumes::{Set, Unset, Volumes, VolumesCommand};

use crate::{pki, render::Output};

const EXAMPLES: &str = "\
Examples:
  vmferry hypervisors                          the hosts, and what they have left
  vmferry instances                            the instances, and where they run
  vmferry migrate web --to node-31 --dry-run   what would be done, and every check
  vmferry migrate web --to node-31             moves web while it runs
  vmferry migrate web                          the same, to the host that suits it best
  vmferry check web                            which hosts could take it, and why others could not
  vmferry drain node-28 --dry-run              how node-28 would be emptied, and what is in the way
  vmferry migrations                           what was moved, and what still goes on
  vmferry watch web                            how the migration of web goes on
  vmferry report web --html --file web.html    how it went: figures and a picture
  vmferry migrations resolve                   ends what was left behind
  vmferry set web max-downtime=500ms           lets web, which moves, stand still for longer
  vmferry volumes                              the volumes, and whose disks they are
  vmferry instance policy show web             what its interfaces may send and receive
  vmferry groups                               who is in which security group
  vmferry cordon node-28 --reason 'fan fails'  lets no guest come to node-28
  vmferry doctor                               what failures have left on the hosts
  vmferry serve                                a coordinator for programs and other people

Inventory: the first of --inventory, $VMFERRY_INVENTORY,
~/.config/vmferry/inventory.toml, /etc/vmferry/inventory.toml:
  [tls]
  ca = \"pki/ca.pem\"
  certificate = \"pki/cert.pem\"
  key = \"pki/key.pem\"

  [[host]]
  name = \"node-28\"
  address = \"192.0.2.10:7443\"
Hosts may also be in DNS or etcd ([dns], [etcd]): docs/inventory.md

or, in the place of hosts, a coordinator that serves and knows them (or --coordinator):
  [coordinator]
  address = \"fleet.example.org:7444\"

Exit codes:
  0    done
  1    failed; the guest stays on the source
  2    usage or configuration, unknown or ambiguous names
  3    refused by the checks; nothing was changed
  4    aborted; the guest stays on the source
  5    the policy gave it up in time; the guest stays on the source
  6    HELD: the guest is not running, or it cannot be told where it runs
  7    an agent, DNS or etcd cannot be reached or refuses us; nothing was changed
  9    some of several failed
  130  interrupted; the migration goes on without a coordinator";

/// Moves running virtual machines between libvirt/KVM hosts
#[derive(Debug, Parser)]
#[command(name = "vmferry", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// For every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The hosts and our certificate, a TOML file
    #[arg(long, global = true, value_name = "FILE", env = "VMFERRY_INVENTORY", hide_env_values = true)]
    pub(crate) inventory: Option<PathBuf>,
    /// Calls agents through the coordinator that serves there (`vmferry serve`), and takes the hosts from it
    #[arg(long, global = true, value_name = "HOST:PORT", env = "VMFERRY_COORDINATOR", hide_env_values = true)]
    pub(crate) coordinator: Option<String>,
    /// How results are printed; json: one document, whatever happens
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
    pub(crate) output: Output,
    /// Tells on stderr what is done; twice: in every detail
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// No colours, as if NO_COLOR were set
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists the hosts: state, free memory, versions
    Hypervisors,
    /// Lists the availability zones and their hosts
    Zones,
    /// Lists the instances of all hosts
    Instances,
    /// Shows one instance, or says what its interfaces may do and its moves may cost
    #[command(subcommand)]
    Instance(Instance),
    /// Moves an instance to another host: while it runs, or with --cold while it is off
    Migrate(Migrate),
    /// Says what `migrate` would do and how it would go; changes nothing
    Plan(Migrate),
    /// Says which hosts could take an instance, and why others could not; changes nothing
    Check(Check),
    /// Moves all guests that run away from a host, which takes none until `undrain`
    Drain(Drain),
    /// Lets guests come to a host again; with --return those that have left it come home
    Undrain(Undrain),
    /// Lists migrations, shows one, or ends what was left behind
    Migrations(Migrations),
    /// Shows a migration as it goes on, from wherever it was begun
    Watch(Watch),
    /// Draws how a migration went, as a picture or a page
    Report(Report),
    /// Ends a migration that goes on; the guest stays on its source
    Abort(Abort),
    /// Changes what a migration that goes on may cost
    Set(SetLimits),
    /// Has a migration that goes on send as little as can be, until `resume`
    Pause(WhichMigration),
    /// Has it send again as much as it may
    Resume(WhichMigration),
    /// Stops the guest of a migration that goes on, so that it arrives
    ForceComplete(ForceComplete),
    /// Lists the policies by which live migrations come to their end
    Policies(Policies),
    /// Lists the volumes of all instances, or says what a disk is as a volume
    Volumes(Volumes),
    /// Lists who is in which security group, or tells all hosts of it
    Groups(Groups),
    /// Has hosts take no guests from now on; those that they have stay
    Cordon(Cordon),
    /// Has hosts take guests again
    Uncordon(Uncordon),
    /// Looks for what migrations have left on the hosts
    Doctor(Doctor),
    /// Serves programs and other people's `vmferry`, as a coordinator that stays
    Serve(Serve),
    #[command(subcommand)]
    Pki(pki::Command),
    /// Prints the version
    Version,
}

const MIGRATE_EXAMPLES: &str = "\
Examples:
  vmferry migrate web --to node-31
  vmferry migrate web                              to the host that suits it best; to the next best if that one refuses
  vmferry migrate web --zone nova2 --exclude node-33
  vmferry migrate web --to node-31 --dry-run       asks both hosts, changes nothing
  vmferry plan web --save web.plan                 the same for the host that suits it best, and writes it down
  vmferry migrate --plan web.plan                  does what is in it, or says what is not as it was planned
  vmferry migrate ed831ace --to node-31            by the beginning of its UUID
  vmferry migrate web --to node-31 --policy auto   measures first, then takes the gentlest policy by which it arrives
  vmferry migrate web --to node-31 --policy must-finish    stops it if there is no other way
  vmferry migrate web --to node-31 --streams 4     keeps several CPUs of each host busy
  vmferry migrate web --to node-31 --priority high     comes before others that wait for their turn
  vmferry migrate web --to node-31 --cold          shuts it down, moves it, starts it
  vmferry migrate web --to node-31 -o json | jq .downtime_ms

Ctrl-C aborts: the guest stays where it is. A second Ctrl-C leaves at once; the
migration then goes on, and `vmferry migrations resolve` waits for its end.";

/// `migrate`
#[derive(Debug, Args)]
#[command(after_help = MIGRATE_EXAMPLES)]
pub(crate) struct Migrate {
    /// Name, UUID, or the beginning of one of them
    #[arg(value_name = "INSTANCE", required_unless_present = "plan")]
    pub(crate) instance: Option<String>,
    /// The host it runs on, if several have one of that name
    #[arg(long, value_name = "HOST")]
    pub(crate) from: Option<HostName>,
    /// Insists on a plan that was saved: does what is in it, or is refused with what is not as it was planned
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["instance", "from", "to", "zone", "exclude", "retries", "cold", "policy", "max_downtime", "deadline",
            "postcopy", "bandwidth", "streams", "path", "handover"]
    )]
    pub(crate) plan: Option<PathBuf>,
    /// Of a plan: writes it to a file, for `migrate --plan`
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    /// Prints the plan and every check with its outcome, and changes nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How many further hosts are tried if one refuses; without: all that come into question
    #[arg(long, value_name = "N")]
    pub(crate) retries: Option<u32>,
    /// Where to.
    #[command(flatten)]
    pub(crate) target: Target,
    /// What it may cost if it is not.
    #[command(flatten)]
    pub(crate) limits: Limits,
    /// Whether it is off meanwhile.
    #[command(flatten)]
    pub(crate) cold: Cold,
    /// What is done if its hosts have no place for it yet.
    #[command(flatten)]
    pub(crate) queue: Queue,
}

const MIGRATIONS_EXAMPLES: &str = "\
Examples:
  vmferry migrations                    those that wait for their turn, and the newest 20
  vmferry migrations --active           those that have not ended
  vmferry migrations show 0190f5fe      one, with its forecast and what was done to it
  vmferry migrations show web -o json   the last one of web, with all its samples
  vmferry migrations resolve            ends all that were left behind";

/// `migrations`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = MIGRATIONS_EXAMPLES)]
pub(crate) struct Migrations {
    /// Without: lists them.
    #[command(subcommand)]
    pub(crate) command: Option<MigrationsCommand>,
    /// Only those that have not ended
    #[arg(long)]
    pub(crate) active: bool,
    /// How many at most, the newest first; 0: all
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) limit: usize,
}

/// What can be done with migrations.
#[derive(Debug, Subcommand)]
pub(crate) enum MigrationsCommand {
    /// Shows one migration: both hosts' records, forecast and outcome, and what was done to it
    Show {
        /// The migration, the beginning of its id, or the instance of which it was the last
        id: String,
    },
    /// Brings migrations to their end that nobody drives any more
    ///
    /// Asks both hosts where the guest runs. Before the memory began to move, and wherever the guest is on its source, it
    /// takes back what was done; a job that runs is waited for; where the guest is on its destination, it does the rest.
    Resolve {
        /// The migration, or the beginning of its id; without: all that have not ended
        id: Option<String>,
    },
}

const WATCH_EXAMPLES: &str = "\
Examples:
  vmferry watch web                     the migration of web that goes on, or was the last
  vmferry watch 0190f5fe                by the beginning of its id
  vmferry watch web -o json             a line for each sample, and one for the end
  vmferry watch web -o json --after 52  those after the line with token 52

Ctrl-C leaves, and changes nothing. Exit code: that of the migration.";

/// `watch`
#[derive(Debug, Args)]
#[command(after_help = WATCH_EXAMPLES)]
pub(crate) struct Watch {
    /// The instance that moves, the migration, or the beginning of its id
    pub(crate) migration: String,
    /// Only what came after the line with this token
    #[arg(long, value_name = "TOKEN", default_value_t = 0)]
    pub(crate) after: u64,
}

/// `policies`
#[derive(Debug, Args)]
pub(crate) struct Policies {
    /// Those that a migration from this host can name, its agent's configuration included
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<HostName>,
}

/// `abort`
#[derive(Debug, Args)]
pub(crate) struct Abort {
    /// The instance that moves, the migration, or the beginning of its id
    pub(crate) id: String,
}

const DOCTOR_EXAMPLES: &str = "\
Examples:
  vmferry doctor                    all hosts of the inventory
  vmferry doctor node-28 node-31    these two
  vmferry doctor --fix --dry-run    what would be removed, and what is left to do by hand
  vmferry doctor --fix              removes what is surely VMFerry's and in nobody's use, after a question
  vmferry doctor -o json | jq -r '.hosts[].leftovers[]? | select(.level == \"problem\") | .remedy'

Without --fix it changes nothing. A problem is VMFerry's own and in nobody's use: libvirt secrets
and filters, links, iSCSI sessions and node records that it made, directories, probe files and
receivers of migrations that have ended, steps that could not be taken back, and migrations open
for more than a day; and guests that are on their way, or on two hosts, and no migration knows of
it, of which nothing is ever removed. A note may be somebody else's: an iSCSI session that VMFerry
did not make, a mapped RBD image, a definition of a guest that is on another host. Disk images are
not judged: one that a failure left looks like one that somebody keeps.

--fix removes only what it has shown, and of that only what still has VMFerry's mark and is still in
nobody's use when its agent looks again; notes are never removed. Each problem that is left has the
command by which it is removed by hand. It may be repeated.

Exit codes: 0, no host has a problem (any more); 1, all have; 7, none could be asked; 9, some of them.";

/// `doctor`
#[derive(Debug, Args)]
#[command(after_help = DOCTOR_EXAMPLES)]
pub(crate) struct Doctor {
    /// The hosts to look at; without: all
    #[arg(value_name = "HOST")]
    pub(crate) hosts: Vec<HostName>,
    /// Removes what is VMFerry's and in nobody's use
    #[arg(long)]
    pub(crate) fix: bool,
    /// Removes it without a question; needed where nobody can be asked
    #[arg(long, short = 'y', requires = "fix", conflicts_with = "dry_run")]
    pub(crate) yes: bool,
    /// Only shows what would be removed
    #[arg(long, requires = "fix")]
    pub(crate) dry_run: bool,
}

/// Whether arguments that could not be read ask for JSON.
pub(crate) fn wants_json(arguments: impl IntoIterator<Item = OsString>) -> bool {
    let mut wants = false;
    let mut arguments = arguments.into_iter().take_while(|argument| argument != "--");
    while let Some(argument) = arguments.next() {
        wants = match argument.to_str() {
            Some("-o" | "--output") => arguments.next().is_some_and(|format| format == "json"),
            Some("-ojson" | "-o=json" | "--output=json") => true,
            _ => wants,
        };
    }
    wants
}

/// What is wrong with the arguments, without the usage.
pub(crate) fn essence(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is missing; see vmferry --help".into();
    }
    let text = error.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = paragraph.trim_start_matches("error: ").split_whitespace().collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_seen_in_arguments_that_cannot_be_read() {
        let wants = |line: &str| wants_json(line.split(' ').map(OsString::from));
        for line in ["-o json migrate web", "migrate --output json", "--output=json", "-ojson x", "-o table -o json"] {
            assert!(wants(line), "{line}");
        }
        for line in ["migrate json", "-o table json", "-o", "-- -o json", "-o json -o table"] {
            assert!(!wants(line), "{line}");
        }
    }

    #[test]
    fn the_essence_of_an_error_is_one_line() {
        let of = |line: &str| essence(&Cli::try_parse_from(line.split(' ')).expect_err("wrong"));
        assert_eq!(of("vmferry migrate"), "the following required arguments were not provided: <INSTANCE>");
        assert_eq!(of("vmferry"), "a command is missing; see vmferry --help");
    }
}
