//! Guests on logical networks, what they may do there, and what hosts have made for them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vmferry_tests::{Host, Testbed, guest::Guest, wait::until};

use crate::rig::{Answer, vmferry};

/// Silence that only a guest keeps whose frames still go to the host that it has left: bridges remember for minutes. How short a
/// move's is, `make bench` says.
pub(crate) const ASTRAY: Duration = Duration::from_secs(5);

/// `vmferry ARGUMENTS`, which succeeds.
pub(crate) fn succeed(testbed: &Testbed, arguments: &[&str]) -> Result<Answer> {
    let answer = vmferry(testbed, arguments)?;
    ensure!(answer.exit == Some(0), "vmferry {arguments:?}: {answer:#?}");
    Ok(answer)
}

/// `vmferry instance policy set GUEST --address ITS-OWN ARGUMENTS`
pub(crate) fn restrict(testbed: &Testbed, guest: &Guest, arguments: &[&str]) -> Result<()> {
    let address = guest.address()?.to_string();
    let all = [&["instance", "policy", "set", guest.name(), "--address", &address], arguments].concat();
    succeed(testbed, &all).map(drop)
}

/// What is on a host for guests: links and ports of VMFerry's, and filters of taps.
pub(crate) fn made(host: &Host) -> Result<String> {
    host.sh(
        "ip -o link | awk '{ print $2 }' | grep '^vmf' || true
         if systemctl --quiet is-active openvswitch-switch; then ovs-vsctl --columns=name find port | grep vmf || true; fi
         nft list ruleset | grep 'vmft\\|vnet' || true",
    )
}

/// Fails if anything is on a host for guests: it has none.
pub(crate) fn assert_nothing_made(host: &Host) -> Result<()> {
    let mut made_now = String::new();
    let gone = until("the end of what was made", Duration::from_secs(5), || {
        made_now = made(host)?;
        Ok(made_now.is_empty().then_some(()))
    });
    gone.with_context(|| format!("on {}: {made_now}", host.name()))
}
