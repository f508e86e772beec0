//! Can both hosts' QEMU send and take memory in the way that was asked for?

use super::{Checks, DestinationFacts, Refusal, SourceFacts, version_text};
use crate::{
    agent::Leaving,
    direct::{DirectEnd, DirectFacts},
    id::HostName,
    migration::{Handover, Kind, Limits, Path},
    reason::Reason,
};

/// What the check of the hand-over is about.
pub const HANDOVER: &str = "hand-over";
/// QEMU's first version whose several streams ("multifd") are no experiment of its own.
const STREAMS_SINCE: u64 = 4_000_000;
/// The first that has TLS on them.
const STREAMS_WITH_TLS_SINCE: u64 = 5_002_000;

/// What the source has for it.
pub(super) fn leaving(checks: &mut Checks<'_>, facts: &SourceFacts) {
    let SourceFacts { host, definition, limits, direct, qemu_version, kind, .. } = facts;
    if kind.is_cold() {
        return;
    }
    streams(checks, host, &definition.name, limits, *qemu_version);
    if let Some(refusal) = within_way(&definition.name, limits) {
        checks.refuse("postcopy", refusal);
    }
    if limits.path == Path::Direct {
        path(checks, host, &definition.name, direct.as_ref(), None);
    }
    handover(checks, &definition.name, *kind, limits);
}

/// What the destination has for it.
pub(super) fn arriving(checks: &mut Checks<'_>, facts: &DestinationFacts, leaving: &Leaving) {
    let DestinationFacts { host, limits, direct, qemu_version, kind, .. } = facts;
    if kind.is_cold() {
        return;
    }
    // A host without QEMU is refused for that.
    if *qemu_version > 0 {
        streams(checks, host, &leaving.definition.name, limits, *qemu_version);
    }
    if limits.path == Path::Direct {
        let end = direct.as_ref().map(|direct| &direct.end);
        path(checks, host, &leaving.definition.name, direct.as_ref(), end);
    }
    handover(checks, &leaving.definition.name, *kind, limits);
}

/// That this host's agent knows who lets the guest run, and when: one that says nothing of it does not (`flow`).
pub(super) fn handover(checks: &mut Checks<'_>, guest: &str, kind: Kind, limits: &Limits) {
    if kind.is_cold() {
        return;
    }
    let is_refused = limits.handover == Handover::Strict && limits.policy.may_postcopy();
    checks.ask(HANDOVER, !is_refused, limits.handover.to_string(), || Refusal {
        reason: Reason::HandoverUnsupported,
        message: format!(
            "{guest} may be switched to postcopy, and libvirt would then let it stand still until all of its memory has arrived, had it to \
             wait for its source's release"
        ),
        remedy: "migrate with --handover fast, or choose a policy without postcopy".into(),
    });
}

/// Of a host that says nothing of the hand-over.
pub fn handover_unknown(host: &HostName, guest: &str) -> Refusal {
    Refusal {
        reason: Reason::HandoverUnsupported,
        message: format!("the agent of {host} does not know the strict hand-over, by which {guest} was to move"),
        remedy: format!("upgrade the agent of {host}, or migrate with --handover fast"),
    }
}

/// What several streams need. What QEMU cannot do together with them is refused here, too.
fn streams(checks: &mut Checks<'_>, host: &HostName, guest: &str, limits: &Limits, qemu_version: u64) {
    let streams = limits.streams;
    if !streams.are_several() {
        return;
    }
    let (since, how) = match limits.path {
        Path::Tunnel => (STREAMS_SINCE, ""),
        Path::Direct => (STREAMS_WITH_TLS_SINCE, " with TLS"),
    };
    checks.ask("streams", qemu_version >= since, streams.to_string(), || Refusal {
        reason: Reason::StreamsUnsupported,
        message: format!(
            "QEMU {} on {host} cannot have the memory of {guest} in {streams} streams{how}; {} and later can",
            version_text(qemu_version),
            version_text(since)
        ),
        remedy: format!("upgrade QEMU on {host}, or migrate without --streams"),
    });
}

/// Whether the guest may be switched to postcopy though it goes by a way on which that cannot be done: QEMU sends what follows a guest
/// over one stream only, and a way that breaks is made anew only where it is the agents' own.
pub fn within_way(guest: &str, limits: &Limits) -> Option<Refusal> {
    let with = match limits.path {
        Path::Direct => "--path direct",
        Path::Tunnel if limits.streams.are_several() => "--streams",
        Path::Tunnel => return None,
    };
    limits.policy.may_postcopy().then(|| Refusal {
        reason: Reason::PostcopyUnavailable,
        message: format!("{guest} cannot be switched to postcopy when it goes by {with}"),
        remedy: format!("migrate without {with}, or choose a policy without postcopy"),
    })
}

/// What QEMU's own connections need. `server` is the end that is connected to, if it is the host's.
fn path(
    checks: &mut Checks<'_>,
    host: &HostName,
    guest: &str,
    facts: Option<&DirectFacts>,
    server: Option<&DirectEnd>,
) {
    let Some(facts) = facts else {
        return checks.refuse(
            "direct path",
            Refusal {
                reason: Reason::DirectPathMissing,
                message: format!(
                    "the agent of {host} is not configured for the direct path, which {guest} was to take"
                ),
                remedy: format!("add [direct] to its configuration on {host}, or migrate without --path direct"),
            },
        );
    };
    let listens = facts.listens.clone().map(|()| facts.end.address.to_string());
    checks.answer(
        "direct path",
        listens.map_err(|why| Refusal {
            reason: Reason::DirectPathMissing,
            message: format!("QEMU on {host} cannot listen on {} for {guest}: {why}", facts.end.address),
            remedy: format!("set direct.address on {host} to an address of its own"),
        }),
    );
    let what = if server.is_some() { "take" } else { "send" };
    for (file, judged) in facts.judged(server) {
        checks.answer(
            &format!("TLS file {file}"),
            judged.map_err(|why| Refusal {
                reason: Reason::MigrationTlsMissing,
                message: format!("QEMU on {host} cannot {what} {guest} by its own TLS: {file}: {why}"),
                remedy: format!(
                    "put it there on {host}, where QEMU's group can read it (direct.certificates of the agent and \
                     migrate_tls_x509_cert_dir of qemu.conf must name the same directory), or migrate without --path direct"
                ),
            }),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compatibility::{
            arriving, leaving,
            tests::{destination, leaving_guest, refused, source},
        },
        direct::tests::fit,
        migration::{Kind, Streams},
    };

    #[test]
    fn the_direct_path_needs_a_configuration_and_certificates_on_both_hosts() {
        let to = destination().host;
        let limits = Limits { path: Path::Direct, ..Limits::default() };
        let without_key = || {
            let mut facts = fit();
            facts.key.read = Err("it is not there".into());
            facts.certificate.read = Err("it is not there".into());
            facts.listens = Err("cannot assign requested address".into());
            facts
        };
        let (no_path, no_tls) = (Reason::DirectPathMissing, Reason::MigrationTlsMissing);
        for (direct, reasons) in
            [(Some(fit()), vec![]), (None, vec![no_path]), (Some(without_key()), vec![no_path, no_tls, no_tls])]
        {
            let from = SourceFacts { limits: limits.clone(), direct: direct.clone(), ..source() };
            assert_eq!(refused(&leaving(&from, &to)), reasons);
            let there = DestinationFacts { limits: limits.clone(), direct: direct.clone(), ..destination() };
            assert_eq!(refused(&arriving(&there, &leaving_guest())), reasons);
            // Who takes the tunnel needs none of it.
            let from = SourceFacts { direct, ..source() };
            assert_eq!(refused(&leaving(&from, &to)), []);
        }
        let both = Limits { path: Path::Direct, ..several() };
        let old = SourceFacts { limits: both, direct: Some(fit()), qemu_version: 5_001_000, ..source() };
        assert_eq!(refused(&leaving(&old, &to)), [Reason::StreamsUnsupported]);
    }

    fn several() -> Limits {
        Limits { streams: Streams::try_from(4).expect("some"), ..Limits::default() }
    }

    #[test]
    fn several_streams_need_a_qemu_that_has_them_on_both_hosts() {
        let to = destination().host;
        let old = Leaving { qemu_version: 3_001_000, ..leaving_guest() };
        for (limits, version, kind, reasons) in [
            (Limits::default(), 3_001_000, Kind::Live, vec![]),
            (several(), 7_002_000, Kind::Live, vec![]),
            (several(), 3_001_000, Kind::Cold { shutdown: None }, vec![]),
            (several(), 3_001_000, Kind::Live, vec![Reason::StreamsUnsupported]),
        ] {
            let from = SourceFacts { limits: limits.clone(), qemu_version: version, ..source() };
            if !kind.is_cold() {
                assert_eq!(refused(&leaving(&from, &to)), reasons, "{limits:?} {version}");
            }
            let there = DestinationFacts { limits: limits.clone(), qemu_version: version, kind, ..destination() };
            assert_eq!(refused(&arriving(&there, &old)), reasons, "{limits:?} {version}");
        }
    }
}
