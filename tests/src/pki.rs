//! Certificates and inventories, made by the product's own commands.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{Testbed, binaries::Binaries, layout::Layout, process::run, state::HostState};

/// The coordinator's certificate.
const OPERATOR: &str = "operator";
/// The viewer's certificate.
const WATCHER: &str = "watcher";

/// Makes a CA, a certificate per host, one for the coordinator and one for a viewer, and the inventories that name them.
pub(crate) fn create(layout: &Layout, binaries: &Binaries, hosts: &[HostState]) -> Result<()> {
    let directory = layout.pki();
    let pki = |arguments: &[&str]| {
        run(Command::new(&binaries.vmferry).arg("pki").args(arguments).arg("--directory").arg(&directory))
    };
    pki(&["init", "--cluster", "testbed"])?;
    for host in hosts {
        pki(&["issue", "agent", &host.name, "--address", &host.address.to_string()])?;
    }
    pki(&["issue", "coordinator", OPERATOR])?;
    pki(&["issue", "viewer", WATCHER])?;
    fs::write(layout.inventory(), inventory(&directory.join(format!("coordinator-{OPERATOR}")), hosts))?;
    fs::write(layout.viewer_inventory(), inventory(&directory.join(format!("viewer-{WATCHER}")), hosts))?;
    Ok(())
}

/// A certificate of the testbed's CA for a server at the operator's place: the directory that it is in.
pub(crate) fn issue_to_server(testbed: &Testbed, name: &str, address: Ipv4Addr) -> Result<PathBuf> {
    let directory = testbed.layout().pki();
    let mut command = testbed.vmferry(["pki", "issue", "agent", name, "--address", &address.to_string()])?;
    run(command.arg("--directory").arg(&directory))?;
    Ok(directory.join(format!("agent-{name}")))
}

fn inventory(identity: &Path, hosts: &[HostState]) -> String {
    let at = identity.display();
    let tls = format!("[tls]\nca = \"{at}/ca.pem\"\ncertificate = \"{at}/cert.pem\"\nkey = \"{at}/key.pem\"\n");
    let entry =
        |host: &HostState| format!("\n[[host]]\nname = \"{}\"\naddress = \"{}:7443\"\n", host.name, host.address);
    hosts.iter().map(entry).fold(tls, |text, entry| text + &entry)
}
