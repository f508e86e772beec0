//! Can both hosts' QEMU send and take memory in the way that was asked for?

use super::{Checks, DestinationFacts, Refusal, SourceFacts, version_text};
use crate::{agent::Leaving, id::HostName, migration::Limits, reason::Reason};

/// QEMU's first version whose several streams ("multifd") are no experiment of its own.
const STREAMS_SINCE: u64 = 4_000_000;

/// What the source has for it.
pub(super) fn leaving(checks: &mut Checks<'_>, facts: &SourceFacts) {
    let SourceFacts { host, definition, limits, qemu_version, kind, .. } = facts;
    if kind.is_cold() {
        return;
    }
    streams(checks, host, &definition.name, limits, *qemu_version);
}

/// What the destination has for it.
pub(super) fn arriving(checks: &mut Checks<'_>, facts: &DestinationFacts, leaving: &Leaving) {
    let DestinationFacts { host, limits, qemu_version, kind, .. } = facts;
    // A host without QEMU is refused for that.
    if kind.is_cold() || *qemu_version == 0 {
        return;
    }
    streams(checks, host, &leaving.definition.name, limits, *qemu_version);
}

/// What several streams need. What QEMU cannot do together with them is refused here, too.
fn streams(checks: &mut Checks<'_>, host: &HostName, guest: &str, limits: &Limits, qemu_version: u64) {
    let streams = limits.streams;
    if !streams.are_several() {
        return;
    }
    checks.ask("streams", qemu_version >= STREAMS_SINCE, streams.to_string(), || Refusal {
        reason: Reason::StreamsUnsupported,
        message: format!(
            "QEMU {} on {host} cannot have the memory of {guest} in {streams} streams; {} and later can",
            version_text(qemu_version),
            version_text(STREAMS_SINCE)
        ),
        remedy: format!("upgrade QEMU on {host}, or migrate without --streams"),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compatibility::{
            arriving, leaving,
            tests::{destination, leaving_guest, refused, source},
        },
        migration::{Kind, Streams},
    };

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
