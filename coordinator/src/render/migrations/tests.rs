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
    policy       default, fast hand-over
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
      "priority": "normal",
      "streams": 1,
      "path": "tunnel",
      "handover": "fast",
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
      "guest": null,
      "warnings": [],
      "forecast": null,
      "events": [],
      "timeline": null,
      "source": {
        "host": "node-28",
        "address": "192.0.2.10:7443",
        "requested_by": "vmferry://example/coordinator/ops",
        "driver": null,
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
        "guest": null,
        "pending": [],
        "warnings": []
      },
      "destination": {
        "host": "node-31",
        "address": "192.0.2.11:7443",
        "requested_by": "vmferry://example/coordinator/ops",
        "driver": null,
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
        "guest": null,
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
    policy        default, fast hand-over
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

#[test]
fn what_was_foreseen_stands_beside_what_came_of_it() {
    let migration = crate::render::report::tests::told();
    let text = show(&migration, migration.started());
    let (_, story) = text.split_once("rounds\n").expect("the figures");
    let (story, _) = story.split_once("\nsource:").expect("the halves");
    insta::assert_snapshot!(story, @"

    forecast: made after 1.05 s: 200.0 MiB ever written to, web writes to 25.0 MiB/s, sent 150.0 MiB/s as former moves were
                   FORECAST                            ACTUAL     FACTOR
      total time   1.95 s (1.32 s to 5.65 s)           1.92 s     × 0.98
      transferred  238.9 MiB (216.8 MiB to 396.9 MiB)  268.0 MiB  × 1.12
      downtime     97 ms (65 ms to 101 ms)             74 ms      × 0.76
      rounds       3 (3 to 7)                          2          × 0.67

    events
      AFTER   BY                                   WHAT
      700 ms  policy                               the guest may stand still for 100 ms
      1.20 s  vmferry://example/coordinator/<ops>  1.0 GiB/s of memory may be sent

    timeline  7 samples; its picture: vmferry report 0190f5fe-7c00-7a00-8abc-012345678901 --html --file FILE
    ");
    let document = crate::render::json(&show_document(&migration, migration.started()));
    let document: serde_json::Value = serde_json::from_str(&document).expect("JSON");
    let forecast = &document["forecast"];
    assert_eq!(
        (&forecast["made_after_ms"], &forecast["rate_from"]),
        (&1_050.into(), &"former_moves".into()),
        "{forecast}"
    );
    assert_eq!(forecast["actual_by_likely"]["transferred"], 1.122, "{forecast}");
    let [first, second] = document["events"].as_array().expect("events").as_slice() else { panic!("{document}") };
    assert_eq!(
        (&first["by"], &first["after_ms"], &first["max_downtime_ms"]),
        (&"policy".into(), &700.into(), &100.into())
    );
    assert_eq!((&second["what"], &second["bandwidth_bytes_per_second"]), (&"bandwidth".into(), &(1_u64 << 30).into()));
    let timeline = &document["timeline"];
    assert_eq!((&timeline["began_after_ms"], &timeline["points"][0]["elapsed_ms"]), (&20.into(), &250.into()));
    assert_eq!(timeline["points"].as_array().map(Vec::len), Some(7));
}
