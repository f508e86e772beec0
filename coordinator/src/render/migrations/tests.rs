use super::*;
use crate::history::{merge, tests::half};

const DONE: &str = "0190f5fe-7c00-7a00-8abc-012345678901";
const OPEN: &str = "0190f600-0000-7a00-8abc-012345678902";
const FAILED: &str = "0190f601-0000-7a00-8abc-012345678903";

fn all() -> (Vec<Migration>, Timestamp) {
    let completed = Some((2, Outcome::Completed));
    let migrations = merge([
        half(Side::Source, DONE, 0, completed),
        half(Side::Destination, DONE, 0, completed),
        half(Side::Source, OPEN, 60, None),
        half(Side::Source, FAILED, 120, Some((123, Outcome::FailedRolledBack))),
    ]);
    let now = migrations[0].started() + jiff::SignedDuration::from_secs(30);
    (migrations, now)
}

#[test]
fn the_list_has_the_newest_first() {
    let (migrations, now) = all();
    insta::assert_snapshot!(list(&migrations, now), @"
    ID                                    INSTANCE  SOURCE   DESTINATION  PHASE    OUTCOME             STARTED               DURATION    DOWNTIME
    0190f601-0000-7a00-8abc-012345678903  web       node-28  node-31      cleanup  failed_rolled_back  2026-11-22T00:02:00Z  3.00 s      -
    0190f600-0000-7a00-8abc-012345678902  web       node-28  node-31      migrate  (open)              2026-11-22T00:01:00Z  1 min 30 s  -
    0190f5fe-7c00-7a00-8abc-012345678901  web       node-28  node-31      migrate  completed           2026-11-22T00:00:00Z  2.00 s      74 ms
    ");
}

#[test]
fn one_with_both_halves() {
    let (migrations, now) = all();
    insta::assert_snapshot!(show(&migrations[2], now), @"
    migration    0190f5fe-7c00-7a00-8abc-012345678901
    instance     web (ed831ace-39ef-4960-8bae-a035d292c305)
    from         node-28 (192.0.2.10:7443)
    to           node-31 (192.0.2.11:7443)
    outcome      completed
    duration     2.00 s
    policy       default
    total time   1.92 s (libvirt's job)
    downtime     74 ms (QEMU)
    transferred  268.0 MiB in 2 rounds

    source: node-28
      asked by  vmferry://example/coordinator/ops
      started   2026-11-22T00:00:00Z
      ended     2026-11-22T00:00:02Z
      outcome   completed
      phase     pre      00:00:00.000 12 ms
      phase     migrate  00:00:00.000 2.00 s

    destination: node-31
      asked by  vmferry://example/coordinator/ops
      started   2026-11-22T00:00:00Z
      ended     2026-11-22T00:00:02Z
      outcome   completed
      phase     pre      00:00:00.000 12 ms
      phase     migrate  00:00:00.000 2.00 s
    ");
    insta::assert_snapshot!(crate::render::json(&show_document(&migrations[2], now)), @r#"
    {
      "id": "0190f5fe-7c00-7a00-8abc-012345678901",
      "source_host": "node-28",
      "destination_host": "node-31",
      "instance": "web",
      "instance_id": "ed831ace-39ef-4960-8bae-a035d292c305",
      "policy": "default",
      "bandwidth_bytes_per_second": null,
      "streams": 1,
      "path": "tunnel",
      "phase": "migrate",
      "outcome": "completed",
      "started": "2026-11-22T00:00:00Z",
      "ended": "2026-11-22T00:00:02Z",
      "duration_ms": 2000,
      "total_time_ms": 1920,
      "downtime_ms": 74,
      "transferred_bytes": 281018368,
      "total_bytes": 285212672,
      "rounds": 2,
      "cause": null,
      "warnings": [],
      "source": {
        "host": "node-28",
        "address": "192.0.2.10:7443",
        "requested_by": "vmferry://example/coordinator/ops",
        "started": "2026-11-22T00:00:00Z",
        "ended": "2026-11-22T00:00:02Z",
        "phase": "migrate",
        "phases": [
          {
            "phase": "pre",
            "started": "2026-11-22T00:00:00Z",
            "duration_ms": 12
          },
          {
            "phase": "migrate",
            "started": "2026-11-22T00:00:00Z",
            "duration_ms": 2000
          }
        ],
        "outcome": "completed",
        "cause": null,
        "pending": [],
        "warnings": []
      },
      "destination": {
        "host": "node-31",
        "address": "192.0.2.11:7443",
        "requested_by": "vmferry://example/coordinator/ops",
        "started": "2026-11-22T00:00:00Z",
        "ended": "2026-11-22T00:00:02Z",
        "phase": "migrate",
        "phases": [
          {
            "phase": "pre",
            "started": "2026-11-22T00:00:00Z",
            "duration_ms": 12
          },
          {
            "phase": "migrate",
            "started": "2026-11-22T00:00:00Z",
            "duration_ms": 2000
          }
        ],
        "outcome": "completed",
        "cause": null,
        "pending": [],
        "warnings": []
      }
    }
    "#);
}

#[test]
fn an_open_one_says_how_to_end_it() {
    let (migrations, now) = all();
    insta::assert_snapshot!(show(&migrations[1], now), @"
    migration     0190f600-0000-7a00-8abc-012345678902
    instance      web (ed831ace-39ef-4960-8bae-a035d292c305)
    from          node-28 (192.0.2.10:7443)
    to            node-31 (192.0.2.11:7443)
    outcome       open, in phase migrate
    duration      1 min 30 s
    policy        default
    to finish it  vmferry migrations resolve 0190f600-0000-7a00-8abc-012345678902
    to abort it   vmferry abort 0190f600-0000-7a00-8abc-012345678902

    source: node-28
      asked by  vmferry://example/coordinator/ops
      started   2026-11-22T00:01:00Z
      ended     not yet
      outcome   open
      phase     pre      00:01:00.000 12 ms
      phase     migrate  00:01:00.000 goes on

    destination: node-31 has no record of it, or could not be asked
    ");
}
