//! Empties a host, or fills it again.
//!
//! ```text
//! cargo run -p vmferry-client --example drain -- --coordinator fleet.example.org:7444 --pki DIRECTORY node-28
//! ```
//!
//! Ended before its time it lets nobody start any more; started again, with this coordinator or another, it goes on.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use vmferry_client::{
    Client, Config,
    messages::{DrainRequest, Pace, UndrainRequest, drain_event::Event, guest_ended::End},
};

#[derive(Parser)]
struct Arguments {
    /// HOST:PORT
    #[arg(long)]
    coordinator: String,
    /// A directory with ca.pem, cert.pem and key.pem of a coordinator
    #[arg(long)]
    pki: PathBuf,
    /// Moves at the same time
    #[arg(long, default_value_t = 4)]
    parallel: u32,
    /// Opens the host, and brings its guests home
    #[arg(long)]
    back: bool,
    host: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Arguments { coordinator, pki, parallel, back, host } = Arguments::parse();
    let client = Client::connect(&Config::new(&coordinator, &pki)).await?;
    let pace = Some(Pace { parallel, ..Pace::default() });
    let totals = if back {
        client.undrain(UndrainRequest { host, bring_back: true, pace }, tell).await?
    } else {
        client.drain(DrainRequest { host, pace, ..DrainRequest::default() }, tell).await?
    };
    let totals = totals.unwrap_or_default();
    println!("{} moved, {} did not", totals.moved + totals.moved_by_others, totals.failed + totals.blocked);
    Ok(if totals.failed + totals.blocked == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(event: Event) {
    match event {
        Event::Plan(plan) => {
            for planned in plan.moves {
                println!("{} shall go to {}", planned.instance_name, planned.destination);
            }
        }
        Event::Waits(waits) => println!("{} waits: {}", waits.instance_name, waits.message),
        Event::Begins(order) => {
            println!("{} goes to {}", order.instance_name, order.destination.unwrap_or_default().host);
        }
        Event::Ended(ended) => {
            let name = ended.instance_name;
            match ended.end {
                Some(End::Moved(_)) => println!("{name} has moved to {}", ended.destination),
                Some(End::MovedByOthers(_)) => println!("{name} was moved to {} by somebody else", ended.destination),
                Some(End::Failed(message)) => println!("{message}"),
                Some(End::Blocked(blocked)) => {
                    for objection in blocked.objections {
                        println!("{name} stays: {}", objection.refusal.unwrap_or_default().message);
                    }
                }
                Some(End::NotBegun(_)) | None => println!("{name} was not begun"),
            }
        }
        Event::Moves(_) | Event::Refused(_) | Event::Totals(_) => {}
    }
}
