use std::path::PathBuf;

use clap::{ArgGroup, Args};

const EXAMPLES: &str = "\
Examples:
  vmferry report web --html --file web.html   the last migration of web: figures and a picture
  vmferry report 0190f5fe --svg > move.svg    the picture alone

The picture has, over time: the phases, what was left to be sent, what was sent and what the
guest wrote to per second, its blackout, and what its policy or somebody did to the move. It is
one file, without scripts, that needs nothing from elsewhere.";

/// `report`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("format").required(true)))]
pub(crate) struct Report {
    /// The migration, the beginning of its id, or the instance of which it was the last
    pub(crate) migration: String,
    /// The picture
    #[arg(long, group = "format")]
    pub(crate) svg: bool,
    /// A page: the figures and the picture
    #[arg(long, group = "format")]
    pub(crate) html: bool,
    /// Where it is written; without: to stdout, if that is no terminal
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}
