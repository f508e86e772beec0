//! Certificates and inventories, made by the product's own commands.

use std::{fs, path::Path, process::Command};

use anyhow::Result;

use crate::{binaries::Binaries, layout::Layout, process::run, state::HostState};

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

fn inventory(identity: &Path, hosts: &[HostState]) -> String {
    let at = identity.display();
    let tls = format!("[tls]\nca = \"{at}/ca.pem\"\ncertificate = \"{at}/cert.pem\"\nkey = \"{at}/key.pem\"\n");
    let entry =
        |host: &HostState| format!("\n[[host]]\nname = \"{}\"\naddress = \"{}:7443\"\n", host.name, host.address);
    hosts.iter().map(entry).fold(tls, |text, entry| text + &entry)
}
