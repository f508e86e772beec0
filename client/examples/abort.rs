//! Ends a migration: one that goes on, or that waits for its turn.
//!
//! ```text
//! cargo run -p vmferry-client --example abort -- --coordinator fleet.example.org:7444 --pki DIRECTORY web
//! ```

use std::path::PathBuf;

use clap::Parser;
use vmferry_client::{Client, Config};

#[derive(Parser)]
struct Arguments {
    /// HOST:PORT
    #[arg(long)]
    coordinator: String,
    /// A directory with ca.pem, cert.pem and key.pem of a coordinator
    #[arg(long)]
    pki: PathBuf,
    /// The migration's id, or the instance that shall stay where it is
    migration: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let client = Client::connect(&Config::new(&arguments.coordinator, &arguments.pki)).await?;
    println!("{}", client.abort_migration(&arguments.migration).await?.message);
    Ok(())
}
