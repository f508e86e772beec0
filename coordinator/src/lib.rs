//! `vmferry`: moves running virtual machines between hosts. Sequences the phases that the hosts' agents carry out, and keeps
//! no state of its own: wherever one coordinator stops, another goes on.

mod catalogue;
mod cli;
mod client;
mod clock;
mod command;
mod convoy;
mod exit;
mod find;
mod fleet;
mod heed;
mod history;
mod interrupt;
mod inventory;
mod journey;
mod lease;
mod pki;
mod render;
mod service;

use std::{io, process::ExitCode};

use clap::{CommandFactory as _, Parser as _};
use tracing_subscriber::EnvFilter;

use cli::{
    Affinity, Cli, Command, Global, GroupsCommand, Instance, MigrationsCommand, Network, OwnLimits, Policy,
    VolumesCommand,
};
use command::{
    Session, abort, affinity, check, cordon, doctor, drain, groups, hypervisors, instance, instances, limits, migrate,
    migrations, policies, report, resolve, serve, steer, vif, volumes, watch, zones,
};
use exit::{Exit, Failed};
use inventory::{Cache, Places, Source};
use render::{Output, Terminal};
use vmferry_core::reason::Reason;
use vmferry_remote::chain::chain;

/// What can be asked for on the command line: for the manual and for shells that complete.
pub fn command_line() -> clap::Command {
    Cli::command()
}

/// Does what the process's arguments ask for.
pub fn main() -> ExitCode {
    let Cli { global, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misread(&error),
    };
    let terminal = Terminal::new(global.output, global.no_color, global.verbose > 0);
    log(global.verbose, terminal);
    let exit = run(global, command, terminal).unwrap_or_else(|failed| {
        terminal.fail(&failed);
        failed.exit
    });
    exit.into()
}

/// Ends the program that was not asked for anything it can do; or for help.
fn misread(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && cli::wants_json(std::env::args_os().skip(1)) {
        let _ = error.print();
        let _ = Terminal::new(Output::Json, true, false)
            .document_of(&Failed::because(Reason::InvalidRequest, cli::essence(error)));
        return Exit::Usage.into();
    }
    error.exit()
}

fn run(global: Global, command: Command, terminal: Terminal) -> Result<Exit, Failed> {
    match command {
        Command::Pki(command) => {
            let text = pki::run(command, global.output).map_err(|error| Failed::usage(chain(&error)))?;
            terminal.print(&text)?;
            Ok(Exit::Done)
        }
        Command::Version => {
            let version = env!("CARGO_PKG_VERSION");
            terminal.show(|| format!("vmferry {version}\n"), &serde_json::json!({ "version": version }))?;
            Ok(Exit::Done)
        }
        command => {
            fleet::allow_connections();
            let source = Source::new(Places::of_user(global.inventory, global.coordinator), Cache::of_user());
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(
                    |error| Failed { exit: Exit::Failed, ..Failed::usage(format!("cannot start: {error}")) },
                )?;
            runtime.block_on(async {
                if let Command::Serve(args) = &command {
                    return Box::pin(serve::run(source, args)).await;
                }
                let session = Session::open(terminal, &source).await?;
                Box::pin(ask(&session, command)).await
            })
        }
    }
}

/// The commands that call agents.
async fn ask(session: &Session, command: Command) -> Result<Exit, Failed> {
    match command {
        Command::Hypervisors => hypervisors::run(session).await,
        Command::Zones => zones::run(session).await,
        Command::Instances => instances::run(session).await,
        Command::Instance(Instance::Show(which)) => instance::run(session, &which).await,
        Command::Instance(Instance::Policy(command)) => match &command {
            Policy::Show(which) => vif::show_policies(session, which).await,
            Policy::Set(args) => vif::set_policy(session, args).await,
            Policy::Unset(args) => vif::unset_policy(session, args).await,
        },
        Command::Instance(Instance::Network(command)) => match &command {
            Network::Set(args) => vif::set_network(session, args).await,
            Network::Unset(args) => vif::unset_network(session, args).await,
        },
        Command::Instance(Instance::Limits(command)) => match &command {
            OwnLimits::Show(which) => limits::show(session, which).await,
            OwnLimits::Set(args) => limits::set(session, args).await,
            OwnLimits::Unset(which) => limits::unset(session, which).await,
        },
        Command::Instance(Instance::Affinity(command)) => match &command {
            Affinity::Show(which) => affinity::show(session, which).await,
            Affinity::Set(args) => affinity::set(session, args).await,
            Affinity::Unset(args) => affinity::unset(session, args).await,
        },
        Command::Migrate(args) => Box::pin(migrate::run(session, &args)).await,
        Command::Plan(args) => Box::pin(migrate::plan(session, &args)).await,
        Command::Drain(args) => Box::pin(drain::drain(session, &args)).await,
        Command::Undrain(args) => Box::pin(drain::undrain(session, &args)).await,
        Command::Check(args) => Box::pin(check::run(session, &args)).await,
        Command::Migrations(args) => match &args.command {
            None => migrations::run(session, &args).await,
            Some(MigrationsCommand::Show { id }) => migrations::show_one(session, id).await,
            Some(MigrationsCommand::Resolve { id }) => resolve::run(session, id.as_deref()).await,
        },
        Command::Watch(args) => watch::run(session, &args).await,
        Command::Report(args) => report::run(session, &args).await,
        Command::Abort(args) => abort::run(session, &args).await,
        Command::Set(args) => steer::set(session, &args).await,
        Command::Pause(which) => steer::pause(session, &which).await,
        Command::Resume(which) => steer::resume(session, &which).await,
        Command::ForceComplete(args) => steer::force_complete(session, &args).await,
        Command::Policies(args) => policies::run(session, &args).await,
        Command::Volumes(args) => match &args.command {
            None => volumes::run(session, &args).await,
            Some(VolumesCommand::Set(args)) => volumes::set(session, args).await,
            Some(VolumesCommand::Unset(args)) => volumes::unset(session, args).await,
        },
        Command::Groups(args) => match &args.command {
            None => groups::run(session).await,
            Some(GroupsCommand::Sync(args)) => groups::sync(session, args).await,
        },
        Command::Cordon(args) => cordon::close(session, &args).await,
        Command::Uncordon(args) => cordon::open(session, &args).await,
        Command::Doctor(args) => doctor::run(session, &args).await,
        Command::Pki(_) | Command::Version | Command::Serve(_) => Ok(Exit::Done),
    }
}

fn log(verbose: u8, terminal: Terminal) {
    let filter = match verbose {
        0 => return,
        1 => "vmferry=debug,vmferry_transport=debug",
        _ => "trace",
    };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(io::stderr)
        .with_ansi(terminal.color)
        .init();
}
