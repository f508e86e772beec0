use bytesize::ByteSize;
use vmferry_core::{
    agent::CallError,
    agent::Leaving,
    compatibility::{Check, Finding, Refusal},
    disk::Shown,
    domain_xml::Definition,
    flow::Plan,
    id::HostName,
    instance::{Instance, InstanceState},
    migration::Side,
};

use super::*;
use crate::{history::tests::half, render::Output};

const ID: &str = "0190f5fe-7c00-7a00-8abc-012345678901";
const DOMAIN: &str = "<domain type='kvm'><name>web</name><uuid>ed831ace-39ef-4960-8bae-a035d292c305</uuid>\
    <memory unit='MiB'>256</memory><vcpu>2</vcpu><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>\
    <devices/></domain>";

fn host(name: &str) -> HostName {
    name.parse().expect("valid")
}

fn order() -> Order {
    half(Side::Source, ID, 0, None).order
}

fn cause(reason: Reason, message: &str) -> Cause {
    Cause { reason, host: host("node-28"), message: message.into() }
}

fn plan() -> Plan {
    let instance = Instance {
        id: order().instance,
        name: "web".into(),
        state: InstanceState::Active,
        host: host("node-28"),
        memory: ByteSize::mib(256),
        vcpus: 2,
        persistent: true,
        disks: vec![],
        vifs: vec![],
        migration: None,
        problems: vec![],
        affinity: vec![],
        limits: Default::default(),
    };
    let definition = Definition::parse(DOMAIN).expect("valid");
    let refused = |subject: &str, reason, message: &str, remedy: &str| Check {
        host: host("node-31"),
        subject: subject.into(),
        finding: Finding::Refused(Refusal { reason, message: message.into(), remedy: remedy.into() }),
    };
    Plan {
        leaving: Leaving {
            instance,
            domain_xml: DOMAIN.into(),
            definition,
            qemu_version: 7_002_022,
            shown: Shown::default(),
            autostart: false,
            members: Default::default(),
            filters: vec![],
        },
        resolved: vec![],
        checks: vec![
            Check {
                host: host("node-28"),
                subject: "state".into(),
                finding: Finding::Passed { detail: "ACTIVE".into() },
            },
            refused(
                "memory",
                Reason::MemoryShort,
                "web needs 256.0 MiB of memory, node-31 has 12.0 MiB available",
                "move other guests away from it, or choose a host with more",
            ),
            refused(
                "vif 52:54:00:00:00:01",
                Reason::NetworkMissing,
                "vif 52:54:00:00:00:01 of web needs bridge br0, which node-31 does not have",
                "create it on node-31",
            ),
        ],
    }
}

fn statistics() -> Statistics {
    half(Side::Source, ID, 0, Some((2, Outcome::Completed))).statistics.expect("it completed")
}

fn completed(warnings: Vec<String>) -> Result<Completed, Failure> {
    Ok(Completed { statistics: Some(statistics()), guest: Some(Sighting::Running), warnings })
}

fn report<'a>(order: &'a Order, result: &'a Result<Completed, Failure>) -> Report<'a> {
    Report {
        order,
        result,
        exit: Exit::of_flow(result),
        statistics: result.as_ref().ok().and_then(|completed| completed.statistics),
        wall: Duration::from_millis(2_230),
        phases: vec![
            (Phase::Check, Duration::from_millis(52)),
            (Phase::Pre, Duration::from_millis(11)),
            (Phase::Migrate, Duration::from_millis(1_950)),
        ],
        tried: &[],
    }
}

#[test]
fn a_completed_migration_in_figures() {
    let (order, result) = (order(), completed(vec![]));
    insta::assert_snapshot!(report(&order, &result).text(), @"
    outcome      completed
    runs on      node-31
    total time   1.92 s (libvirt's job)
    downtime     74 ms (QEMU)
    transferred  268.0 MiB in 2 rounds
    wall time    2.23 s
    overhead     310 ms (wall time less total time)
    migration    0190f5fe-7c00-7a00-8abc-012345678901
    ");
    insta::assert_snapshot!(crate::render::json(&report(&order, &result).document()), @r#"
    {
      "migration_id": "0190f5fe-7c00-7a00-8abc-012345678901",
      "instance": "web",
      "instance_id": "ed831ace-39ef-4960-8bae-a035d292c305",
      "source": "node-28",
      "destination": "node-31",
      "outcome": "completed",
      "kind": "live",
      "exit_code": 0,
      "runs_on": "node-31",
      "guest": "running",
      "wall_ms": 2230,
      "overhead_ms": 310,
      "total_time_ms": 1920,
      "downtime_ms": 74,
      "transferred_bytes": 281018368,
      "total_bytes": 285212672,
      "rounds": 2,
      "phases": [
        {
          "phase": "check",
          "ms": 52
        },
        {
          "phase": "pre",
          "ms": 11
        },
        {
          "phase": "migrate",
          "ms": 1950
        }
      ],
      "warnings": [],
      "cause": null,
      "refusals": [],
      "tried": [],
      "message": "web runs on node-31"
    }
    "#);
}

#[test]
fn a_dry_run_shows_every_check() {
    insta::assert_snapshot!(checks::plan(&order(), &plan(), None), @"
    web (ed831ace-39ef-4960-8bae-a035d292c305, 2 vCPUs, 256.0 MiB of memory) cannot move from node-28 to node-31

    HOST     CHECK                  OUTCOME                  DETAIL
    node-28  state                  ok                       ACTIVE
    node-31  memory                 REFUSED MEMORY_SHORT     web needs 256.0 MiB of memory, node-31 has 12.0 MiB available; move other guests away from it, or choose a host with more
    node-31  vif 52:54:00:00:00:01  REFUSED NETWORK_MISSING  vif 52:54:00:00:00:01 of web needs bridge br0, which node-31 does not have; create it on node-31
    ");
}

#[test]
fn refusals_come_all_at_once_with_remedies() {
    let terminal = Terminal { output: Output::Text, color: false, live: false };
    let plan = plan();
    insta::assert_snapshot!(
        format!("{}\n{}", checks::refused(&order(), &plan), checks::refusals(terminal, &plan)),
        @"
    web cannot move to node-31: node-31 refused, 2 of 3 checks failed; nothing was changed, web stays on node-28 as it was
      node-31 memory: web needs 256.0 MiB of memory, node-31 has 12.0 MiB available [MEMORY_SHORT]
        → move other guests away from it, or choose a host with more
      node-31 vif 52:54:00:00:00:01: vif 52:54:00:00:00:01 of web needs bridge br0, which node-31 does not have [NETWORK_MISSING]
        → create it on node-31
    "
    );
    let (order, result) = (order(), Err(Failure::Refused(Box::new(plan))));
    let report = report(&order, &result);
    assert_eq!(report.exit, Exit::Refused);
    assert_eq!(report.text(), "");
    let document = serde_json::json!(report.document());
    assert_eq!(document["outcome"], serde_json::Value::Null);
    insta::assert_snapshot!(format!("{:#}", document["refusals"]), @r#"
    [
      {
        "host": "node-31",
        "message": "web needs 256.0 MiB of memory, node-31 has 12.0 MiB available",
        "outcome": "refused",
        "reason": "MEMORY_SHORT",
        "remedy": "move other guests away from it, or choose a host with more",
        "subject": "memory"
      },
      {
        "host": "node-31",
        "message": "vif 52:54:00:00:00:01 of web needs bridge br0, which node-31 does not have",
        "outcome": "refused",
        "reason": "NETWORK_MISSING",
        "remedy": "create it on node-31",
        "subject": "vif 52:54:00:00:00:01"
      }
    ]
    "#);
}

#[test]
fn every_end_has_its_sentence() {
    let unreachable = CallError {
        host: host("node-31"),
        reason: Reason::AgentUnreachable,
        message: "cannot reach the agent of node-31 at 192.0.2.11:7443: start it (connection refused)".into(),
    };
    let denied = CallError {
        host: host("node-28"),
        reason: Reason::PermissionDenied,
        message: "role viewer may not call Check on node-28".into(),
    };
    let rolled_back =
        |reason, message, guest| Err(Failure::RolledBack { cause: cause(reason, message), guest, leftovers: vec![] });
    let (runs, off) = (Some(Sighting::Running), Some(Sighting::Shutoff));
    let ends = [
        completed(vec!["node-28: the tunnel is still open".into()]),
        Err(Failure::NotStarted(unreachable)),
        Err(Failure::NotStarted(denied)),
        rolled_back(Reason::MigrationFailed, "the job failed: connection reset", runs),
        rolled_back(Reason::MigrationAborted, "aborted by the user", runs),
        // It died on the way, or as soon as it had arrived; or its host did.
        rolled_back(Reason::HandoverFailed, "domain is not running", off),
        rolled_back(Reason::MigrationAborted, "aborted by the user", off),
        rolled_back(Reason::AgentUnreachable, "cannot reach the agent of node-28", None),
        Ok(Completed { statistics: Some(statistics()), guest: off, warnings: vec!["it is off".into()] }),
        Ok(Completed { statistics: Some(statistics()), guest: None, warnings: vec!["node-31: no answer".into()] }),
        Err(Failure::Held {
            reason: Reason::RunnerUnknown,
            message: "web does not run on node-31, and node-28 could not be asked: no answer".into(),
            cause: cause(Reason::AgentUnreachable, "lost the connection"),
        }),
    ];
    let lines: Vec<_> = ends
        .iter()
        .map(|end| {
            let order = order();
            let report = report(&order, end);
            let runs_on = report.runs_on().unwrap_or("?").to_owned();
            format!("{} {runs_on}: {}", report.exit.code(), sentence(&order, end))
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    0 node-31: web runs on node-31
    7 node-28: cannot reach the agent of node-31 at 192.0.2.11:7443: start it (connection refused); nothing was changed, web stays on node-28 as it was
    7 node-28: role viewer may not call Check on node-28; nothing was changed, web stays on node-28 as it was; use a certificate of role coordinator
    1 node-28: web was not moved to node-31: the job failed: connection reset [MIGRATION_FAILED on node-28]; web runs on node-28 as before; details: vmferry migrations show 0190f5fe-7c00-7a00-8abc-012345678901
    4 node-28: aborted: web runs on node-28 as before
    1 ?: web was not moved to node-31: domain is not running [HANDOVER_FAILED on node-28]; web is shut off on node-28: start it there (virsh start web); details: vmferry migrations show 0190f5fe-7c00-7a00-8abc-012345678901
    4 ?: aborted: web is shut off on node-28: start it there (virsh start web)
    1 ?: web was not moved to node-31: cannot reach the agent of node-28 [AGENT_UNREACHABLE on node-28]; web is on node-28, which could not be asked whether it runs there; details: vmferry migrations show 0190f5fe-7c00-7a00-8abc-012345678901
    0 ?: web was moved and is shut off on node-31: start it there (virsh start web)
    0 ?: web was moved and is on node-31, which could not be asked whether it runs there
    6 ?: HELD: web does not run on node-31, and node-28 could not be asked: no answer [RUNNER_UNKNOWN], after: lost the connection [AGENT_UNREACHABLE on node-28]; nothing is undone until that is known: when the hosts can be asked again, run vmferry migrations resolve 0190f5fe-7c00-7a00-8abc-012345678901
    ");
}
