//! Whether a host can do its part of a postcopy.

use super::{Checks, Refusal, version_text};
use crate::reason::Reason;

/// The first libvirt that takes a postcopy up again whose way was broken, by its numbers.
const RESUMES: u64 = 8_005_000;

/// What a host can do of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Postcopy {
    /// libvirt's version, comparable.
    pub libvirt_version: u64,
    /// Whether a QEMU that is not root may take page faults of its guest: the sysctl vm.unprivileged_userfaultfd. The source needs no
    /// such thing.
    pub takes_page_faults: bool,
}

/// The source's part: it must be able to send what is left once the way is there again.
pub(super) fn leaving(checks: &mut Checks<'_>, name: &str, postcopy: Option<Postcopy>) {
    let Some(Postcopy { libvirt_version, .. }) = postcopy else { return };
    let host = checks.host;
    let detail = format!("libvirt {}", version_text(libvirt_version));
    checks.ask("postcopy", libvirt_version >= RESUMES, detail, || Refusal {
        reason: Reason::PostcopyUnavailable,
        message: format!(
            "libvirt {} on {host} cannot take the postcopy of {name} up again if its way breaks, {} and newer can",
            version_text(libvirt_version),
            version_text(RESUMES)
        ),
        remedy: "choose a policy without postcopy, or upgrade libvirt there".into(),
    });
}

/// The destination's part: it must be able to let the guest wait for what has not come yet.
pub(super) fn arriving(checks: &mut Checks<'_>, name: &str, postcopy: Option<Postcopy>) {
    leaving(checks, name, postcopy);
    let Some(Postcopy { takes_page_faults, .. }) = postcopy else { return };
    let host = checks.host;
    checks.ask("page faults", takes_page_faults, "vm.unprivileged_userfaultfd=1".into(), || Refusal {
        reason: Reason::PostcopyUnavailable,
        message: format!("QEMU on {host} may not take page faults of {name}, as postcopy needs it"),
        remedy: format!("on {host}, sysctl -w vm.unprivileged_userfaultfd=1; or choose a policy without postcopy"),
    });
}
