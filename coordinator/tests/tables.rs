//! What is listed, and the help.

use crate::cluster::{Cluster, said};

#[tokio::test]
async fn hosts_zones_and_instances() {
    let cluster = Cluster::new().await;
    let output = cluster.vmferry("hypervisors").await.success().get_output().clone();
    assert!(said(&output).contains("warning: the certificate of node-28 expires in 9 days"), "{}", said(&output));
    let (_, hosts) = cluster.json("hypervisors").await;
    assert_eq!(hosts["hypervisors"][1]["name"], "node-31");
    assert_eq!(hosts["hypervisors"][1]["state"], "up");

    let zones = cluster.vmferry("zones").await.success().get_output().clone();
    insta::assert_snapshot!(String::from_utf8_lossy(&zones.stdout), @"
    ZONE   HOST     STATE
    nova   node-28  up
    nova2  node-31  up
    ");
    let instances = cluster.vmferry("instances").await.success().get_output().clone();
    insta::assert_snapshot!(String::from_utf8_lossy(&instances.stdout), @"
    NAME  STATE   HOST     ZONE  VCPUS  MEMORY     UUID
    web   ACTIVE  node-28  nova  2      256.0 MiB  ed831ace-39ef-4960-8bae-a035d292c305
    ");
}

#[tokio::test]
async fn a_dead_host_is_a_row() {
    let mut cluster = Cluster::new().await;
    cluster.stop(1).await;
    let (code, hosts) = cluster.json("hypervisors").await;
    assert_eq!((code, hosts["hypervisors"][1]["reason"].as_str()), (0, Some("AGENT_UNREACHABLE")));
    let (code, instances) = cluster.json("instances").await;
    assert_eq!((code, instances["unreachable"][0]["host"].as_str()), (0, Some("node-31")));
    cluster.stop(0).await;
    for arguments in ["hypervisors", "zones", "instances", "migrations"] {
        cluster.vmferry(arguments).await.code(7);
    }
}

#[test]
fn the_help_teaches() {
    let mut command = assert_cmd::Command::new(assert_cmd::cargo::cargo_bin("vmferry"));
    let output = command.env_clear().arg("--help").assert().success().get_output().clone();
    insta::assert_snapshot!(String::from_utf8_lossy(&output.stdout), @r#"
    Moves running virtual machines between libvirt/KVM hosts

    Usage: vmferry [OPTIONS] <COMMAND>

    Commands:
      hypervisors     Lists the hosts: state, free memory, versions
      zones           Lists the availability zones and their hosts
      instances       Lists the instances of all hosts
      instance        Shows one instance, or says what its interfaces may do and its moves may cost
      migrate         Moves an instance to another host: while it runs, or with --cold while it is off
      plan            Says what `migrate` would do and how it would go; changes nothing
      check           Says which hosts could take an instance, and why others could not; changes nothing
      drain           Moves all guests that run away from a host, which takes none until `undrain`
      undrain         Lets guests come to a host again; with --return those that have left it come home
      migrations      Lists migrations, shows one, or ends what was left behind
      watch           Shows a migration as it goes on, from wherever it was begun
      report          Draws how a migration went, as a picture or a page
      abort           Ends a migration that goes on; the guest stays on its source
      set             Changes what a migration that goes on may cost
      pause           Has a migration that goes on send as little as can be, until `resume`
      resume          Has it send again as much as it may
      force-complete  Stops the guest of a migration that goes on, so that it arrives
      policies        Lists the policies by which live migrations come to their end
      volumes         Lists the volumes of all instances, or says what a disk is as a volume
      groups          Lists who is in which security group, or tells all hosts of it
      cordon          Has hosts take no guests from now on; those that they have stay
      uncordon        Has hosts take guests again
      doctor          Looks for what migrations have left on the hosts
      serve           Serves programs and other people's `vmferry`, as a coordinator that stays
      pki             Makes the certificates that hosts and users prove themselves with
      version         Prints the version
      help            Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Global options:
          --inventory <FILE>         The hosts and our certificate, a TOML file [env: VMFERRY_INVENTORY]
          --coordinator <HOST:PORT>  Calls agents through the coordinator that serves there (`vmferry
                                     serve`), and takes the hosts from it [env: VMFERRY_COORDINATOR]
      -o, --output <FORMAT>          How results are printed; json: one document, whatever happens
                                     [default: table] [possible values: table, json]
      -v, --verbose...               Tells on stderr what is done; twice: in every detail
          --no-color                 No colours, as if NO_COLOR were set

    Examples:
      vmferry hypervisors                          the hosts, and what they have left
      vmferry instances                            the instances, and where they run
      vmferry migrate web --to node-31 --dry-run   what would be done, and every check
      vmferry migrate web --to node-31             moves web while it runs
      vmferry migrate web                          the same, to the host that suits it best
      vmferry check web                            which hosts could take it, and why others could not
      vmferry drain node-28 --dry-run              how node-28 would be emptied, and what is in the way
      vmferry migrations                           what was moved, and what still goes on
      vmferry watch web                            how the migration of web goes on
      vmferry report web --html --file web.html    how it went: figures and a picture
      vmferry migrations resolve                   ends what was left behind
      vmferry set web max-downtime=500ms           lets web, which moves, stand still for longer
      vmferry volumes                              the volumes, and whose disks they are
      vmferry instance policy show web             what its interfaces may send and receive
      vmferry groups                               who is in which security group
      vmferry cordon node-28 --reason 'fan fails'  lets no guest come to node-28
      vmferry doctor                               what failures have left on the hosts
      vmferry serve                                a coordinator for programs and other people

    Inventory: the first of --inventory, $VMFERRY_INVENTORY,
    ~/.config/vmferry/inventory.toml, /etc/vmferry/inventory.toml:
      [tls]
      ca = "pki/ca.pem"
      certificate = "pki/cert.pem"
      key = "pki/key.pem"

      [[host]]
      name = "node-28"
      address = "192.0.2.10:7443"
    Hosts may also be in DNS or etcd ([dns], [etcd]): docs/inventory.md

    or, in the place of hosts, a coordinator that serves and knows them (or --coordinator):
      [coordinator]
      address = "fleet.example.org:7444"

    Exit codes:
      0    done
      1    failed; the guest stays on the source
      2    usage or configuration, unknown or ambiguous names
      3    refused by the checks; nothing was changed
      4    aborted; the guest stays on the source
      5    the policy gave it up in time; the guest stays on the source
      6    HELD: the guest is not running, or it cannot be told where it runs
      7    an agent, DNS or etcd cannot be reached or refuses us; nothing was changed
      9    some of several failed
      130  interrupted; the migration goes on without a coordinator
    "#);
}
