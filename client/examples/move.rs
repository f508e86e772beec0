//! Lists a fleet and moves one of its instances.
//!
//! ```text
//! cargo run -p vmferry-client --example move -- --coordinator fleet.example.org:7444 --pki DIRECTORY web node-31
//! ```
//!
//! Killed and started again with the same `--id`, it takes up where it was.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use vmferry_client::{
    Client, Config, Event, Wish,
    agent::{Outcome, Phase, check::Finding},
    messages::fleet_host::State,
};

#[derive(Parser)]
struct Arguments {
    /// HOST:PORT
    #[arg(long)]
    coordinator: String,
    /// What the coordinator's certificate is for, if not HOST
    #[arg(long)]
    name: Option<String>,
    /// A directory with ca.pem, cert.pem and key.pem of a coordinator
    #[arg(long)]
    pki: PathBuf,
    /// The migration's id, to join one that goes on
    #[arg(long)]
    id: Option<uuid::Uuid>,
    instance: String,
    /// Without: wherever it suits best
    #[arg(default_value = "")]
    destination: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut config = Config::new(&arguments.coordinator, &arguments.pki);
    if let Some(name) = arguments.name {
        config.name = name;
    }
    let client = Client::connect(&config).await?;

    for host in client.list_hosts().await? {
        match host.state {
            Some(State::Up(host)) => {
                println!("{} in zone {}, {} instances", host.name, host.zone, host.instances_active)
            }
            Some(State::Unreachable(why)) => println!("{}", why.message),
            None => {}
        }
    }
    let wish = Wish { instance: arguments.instance, destination: arguments.destination, ..Wish::default() };
    for check in client.plan(wish.clone()).await?.checks {
        if let Some(Finding::Refused(refusal)) = check.finding {
            println!("  {}: {}; {}", refusal.reason, refusal.message, refusal.remedy);
        }
    }
    let id = arguments.id.unwrap_or_else(uuid::Uuid::now_v7);
    let ended = client.migrate_as(id, wish, tell).await?;
    println!("{}", ended.message);
    Ok(match ended.outcome() {
        Outcome::Completed | Outcome::CompletedWithWarnings => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn tell(event: Event) {
    match event {
        Event::Order(order) => println!("migration {} of {}", order.migration_id, order.instance_name),
        Event::Phase(phase) => println!("  {}", Phase::try_from(phase).unwrap_or_default().as_str_name()),
        Event::Progress(progress) => println!("  {} %", progress.percent),
        _ => {}
    }
}
