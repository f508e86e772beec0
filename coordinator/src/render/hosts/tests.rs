use bytesize::ByteSize;
use vmferry_core::{agent::CallError, host::Cordon, migration::Endpoint, reason::Reason};

use super::*;

fn answer(name: &str, zone: Option<&str>) -> Answer<Host> {
    let endpoint = Endpoint { host: name.parse().expect("valid"), address: "192.0.2.10:7443".into() };
    let host = endpoint.host.clone();
    let result = match zone {
        Some(zone) => Ok(Host {
            name: host,
            zone: zone.into(),
            agent_version: "0.1.0".into(),
            libvirt_version: "9.0.0".into(),
            qemu_version: "7.2.22".into(),
            architecture: "x86_64".into(),
            cpu_model: "EPYC-Milan".into(),
            cpus: 64,
            memory_total: ByteSize::gib(256),
            memory_available: ByteSize::gib(97),
            instances_active: 3,
            instances_total: 4,
            migrations_active: 0,
            certificate_expires: "2027-02-20T00:00:00Z".parse().expect("valid"),
            cordon: None,
            room: None,
            answered: None,
        }),
        None => Err(CallError { host, reason: Reason::AgentUnreachable, message: "cannot reach it".into() }),
    };
    Answer { endpoint, result }
}

#[test]
fn a_dead_host_costs_its_own_row_only() {
    insta::assert_snapshot!(hypervisors(&[answer("node-28", Some("nova")), answer("node-31", None)]), @"
    NAME     ZONE  STATE                     ADDRESS          RUNNING  CPUS  MEMORY FREE            QEMU    LIBVIRT  AGENT  CERTIFICATE
    node-28  nova  up                        192.0.2.10:7443  3 of 4   64    97.0 GiB of 256.0 GiB  7.2.22  9.0.0    0.1.0  until 2027-02-20
    node-31  -     down (AGENT_UNREACHABLE)  192.0.2.10:7443  -        -     -                      -       -        -      -
    ");
}

#[test]
fn a_host_that_takes_no_guests_is_shown_with_the_reason() {
    let mut cordoned = answer("node-28", Some("nova"));
    let host = cordoned.result.as_mut().expect("it is up");
    host.cordon = Some(Cordon {
        reason: "a fan fails".into(),
        by: "vmferry://cloud/coordinator/ops".into(),
        since: "2026-11-23T14:00:00Z".parse().expect("valid"),
    });
    let answers = [cordoned, answer("node-31", Some("nova2"))];
    insta::assert_snapshot!(hypervisors(&answers), @"
    NAME     ZONE   STATE     ADDRESS          RUNNING  CPUS  MEMORY FREE            QEMU    LIBVIRT  AGENT  CERTIFICATE
    node-28  nova   cordoned  192.0.2.10:7443  3 of 4   64    97.0 GiB of 256.0 GiB  7.2.22  9.0.0    0.1.0  until 2027-02-20
    node-31  nova2  up        192.0.2.10:7443  3 of 4   64    97.0 GiB of 256.0 GiB  7.2.22  9.0.0    0.1.0  until 2027-02-20

    node-28 is cordoned since 2026-11-23 14:00 UTC: a fan fails (says vmferry://cloud/coordinator/ops)
    ");
    insta::assert_snapshot!(zones(&answers), @"
    ZONE   HOST     STATE
    nova   node-28  cordoned
    nova2  node-31  up
    ");
}

#[test]
fn zones_are_listed_as_nova_does() {
    let answers = [
        answer("node-31", Some("nova2")),
        answer("node-27", Some("nova")),
        answer("node-30", None),
        answer("node-28", Some("nova")),
    ];
    insta::assert_snapshot!(zones(&answers), @"
    ZONE       HOST     STATE
    nova       node-27  up
               node-28  up
    nova2      node-31  up
    (unknown)  node-30  down (AGENT_UNREACHABLE)
    ");
    insta::assert_snapshot!(crate::render::json(&zones_document(&answers)), @r#"
    {
      "zones": [
        {
          "name": "nova",
          "hosts": [
            {
              "name": "node-27",
              "state": "up",
              "reason": null
            },
            {
              "name": "node-28",
              "state": "up",
              "reason": null
            }
          ]
        },
        {
          "name": "nova2",
          "hosts": [
            {
              "name": "node-31",
              "state": "up",
              "reason": null
            }
          ]
        },
        {
          "name": null,
          "hosts": [
            {
              "name": "node-30",
              "state": "down",
              "reason": "AGENT_UNREACHABLE"
            }
          ]
        }
      ]
    }
    "#);
}

#[test]
fn a_document_has_the_reason_of_a_dead_host() {
    let answers = [answer("node-31", None)];
    insta::assert_snapshot!(crate::render::json(&hypervisors_document(&answers)), @r#"
    {
      "hypervisors": [
        {
          "name": "node-31",
          "address": "192.0.2.10:7443",
          "state": "down",
          "reason": "AGENT_UNREACHABLE",
          "message": "cannot reach it",
          "zone": null,
          "instances_active": null,
          "instances_total": null,
          "migrations_active": null,
          "cpus": null,
          "cpu_model": null,
          "architecture": null,
          "memory_available_bytes": null,
          "memory_total_bytes": null,
          "qemu_version": null,
          "libvirt_version": null,
          "agent_version": null,
          "certificate_expires": null,
          "cordon": null,
          "room": null
        }
      ]
    }
    "#);
}

#[test]
fn certificates_are_announced_thirty_days_before() {
    let now: Timestamp = "2026-11-22T00:00:00Z".parse().expect("valid");
    let days = |days: i64| now + SignedDuration::from_hours(24 * days);
    insta::assert_snapshot!(
        expiring([("node-27", days(31)), ("node-28", days(29)), ("node-31", days(-1))], now).join("\n"),
        @"
    the certificate of node-28 expires in 29 days; issue a new one with `vmferry pki issue`
    the certificate of node-31 expired on 2026-11-21; issue a new one with `vmferry pki issue`
    "
    );
}
