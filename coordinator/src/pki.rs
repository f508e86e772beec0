//! `vmferry pki`: a CA and certificates, so that nobody needs to know openssl to get started.
//!
//! The CA's certificate carries the cluster's name as SAN URI `vmferry://CLUSTER`; issuing needs `ca.pem` and `ca-key.pem`
//! alone. Certificates from any other CA serve as well, if they carry `vmferry://CLUSTER/ROLE/NAME`.

mod authority;
mod files;
mod issue;
mod show;

use std::{env, io, path::PathBuf};

use clap::{
    Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use jiff::Timestamp;
use vmferry_core::identity::{Role, is_label};
use vmferry_transport::IdentityError;

use crate::Output;

/// Makes the certificates that hosts and users prove themselves with
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes a cluster's CA: ca.pem, and ca-key.pem, which stays secret
    Init {
        #[command(flatten)]
        place: Place,
        /// The cluster's name; certificates of other clusters are refused
        #[arg(long, value_name = "NAME", default_value = "default", value_parser = label)]
        cluster: String,
    },
    /// Issues a certificate to an agent or a user: ROLE-NAME/{ca,cert,key}.pem beside the CA
    Issue(issue::Order),
    /// Shows whose a certificate is, who issued it and until when it is valid
    Show {
        /// A PEM file with certificates
        file: PathBuf,
    },
}

/// Where the CA is.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// The CA's directory [default: $XDG_CONFIG_HOME/vmferry/pki, else ~/.config/vmferry/pki]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl Place {
    fn directory(&self) -> Result<PathBuf, Error> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        match &self.directory {
            Some(directory) => Ok(directory.clone()),
            None => set("XDG_CONFIG_HOME")
                .or_else(|| set("HOME").map(|home| home.join(".config")))
                .map(|config| config.join("vmferry/pki"))
                .ok_or(Error::NoDirectory),
        }
    }
}

/// Why a certificate was not made or shown. In none is anything of a key (I6).
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no directory for the CA: give --directory, for neither $HOME nor $XDG_CONFIG_HOME is set")]
    NoDirectory,
    #[error("{} exists already and is never overwritten; move it away, or give another --directory", .0.display())]
    Exists(PathBuf),
    #[error("cannot write {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("there is no CA in {}; make one with `vmferry pki init`, or give its --directory", .0.display())]
    NoCa(PathBuf),
    #[error("{} is not a CA made by `vmferry pki init`; give the --directory of one that is", .0.display())]
    NotOurCa(PathBuf),
    #[error("the CA {} has expired ({at}); make another with `vmferry pki init` in another --directory", .path.display())]
    CaExpired { path: PathBuf, at: Timestamp },
    #[error("{} is not a CA's key; put the one there that belongs to ca.pem", .0.display())]
    NotAKey(PathBuf),
    #[error("`{0}` cannot be an agent's name, for it is no host name")]
    NotAHostName(String),
    #[error("viewers are not called: leave out --address, or issue to an agent or a coordinator")]
    AddressOfViewer,
    #[error("`{0}` is neither an IP address nor a host name")]
    NotAnAddress(String),
    #[error("cannot make the certificate")]
    Make(#[from] rcgen::Error),
    #[error(transparent)]
    Files(#[from] vmferry_transport::Error),
    #[error("cannot make sense of {}", .path.display())]
    Certificate { path: PathBuf, source: IdentityError },
}

/// Does it, and says what was done.
pub(crate) fn run(command: Command, output: Output) -> Result<String, Error> {
    match command {
        Command::Init { place, cluster } => authority::init(&place.directory()?, &cluster, output),
        Command::Issue(order) => issue::issue(&order, output),
        Command::Show { file } => show::show(&file, output),
    }
}

fn label(text: &str) -> Result<String, String> {
    match is_label(text) {
        true => Ok(text.to_owned()),
        false => Err("only letters, digits, `-`, `.` and `_`, and no `-` or `.` in front".into()),
    }
}

fn role_parser() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new(["agent", "coordinator", "viewer"])
        .map(|role| role.parse().expect("these are the roles there are"))
}

fn json(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

/// The day, for people.
fn day(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}
