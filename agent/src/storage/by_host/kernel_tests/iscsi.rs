use vmferry_core::volume::Iscsi;

use super::*;
use crate::storage::by_host::{
    multipath::map_over,
    node::{Node, is_ours},
    portal::Portal,
    session::{SYS, Session, sessions},
};

const TARGET: &str = "iqn.2026-01.example:disks";
const PORTALS: [&str; 2] = ["10.9.0.1:3260", "10.9.0.2:3260"];
const NODES: &str = "/etc/iscsi/nodes";

fn password() -> SecretString {
    "swordfish-1234".into()
}

fn volume(lun: u16, portals: &[&str]) -> Connection {
    Connection::Iscsi(Iscsi {
        portals: portals.iter().map(|&portal| portal.to_owned()).collect(),
        target: TARGET.to_owned(),
        lun,
        initiator: None,
        login: login(),
    })
}

fn all_sessions() -> Vec<Session> {
    sessions(Path::new(SYS)).expect("sysfs")
}

fn disks() -> Vec<String> {
    let names = fs::read_dir("/sys/block").expect("sysfs").flatten();
    let mut names: Vec<_> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.starts_with("sd") || name.starts_with("dm-"));
    names.sort();
    names
}

fn records() -> Vec<String> {
    let targets = fs::read_dir(NODES).into_iter().flatten().flatten();
    let records = targets.flat_map(|target| fs::read_dir(target.path()).into_iter().flatten().flatten());
    records.map(|record| record.file_name().to_string_lossy().into_owned()).collect()
}

/// I2: no session, node record, disk, map, or WWID that multipath waits for; I6: no password in an argument.
fn assert_nothing_is_left() {
    assert_eq!(all_sessions(), []);
    assert_eq!(records(), Vec::<String>::new());
    assert_eq!(disks(), Vec::<String>::new());
    let wwids = fs::read_to_string("/etc/multipath/wwids").unwrap_or_default();
    assert!(!wwids.lines().any(|line| line.starts_with('/')), "{wwids}");
    let drafts = fs::read_dir("/etc/iscsi").expect("open-iscsi").flatten();
    assert!(!drafts.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(".vmferry")));
    assert_secret(&password(), None);
}

/// An earlier test that failed must not fail this one.
async fn begin() {
    for lun in [1, 2] {
        let _ = disconnect(&volume(lun, &PORTALS), &Settings::default()).await;
    }
    let _ = Tool::new("iscsiadm").args(["-m", "node", "-U", "all"]).run().await;
    let _ = Tool::new("iscsiadm").args(["-m", "node", "-o", "delete"]).run().await;
    stop_multipathd().await;
}

/// LM-056, LM-057.
#[tokio::test]
#[ignore = "needs the kernel tests' machine"]
async fn a_login_with_chap_gives_a_disk_and_a_second_connect_changes_nothing() {
    begin().await;
    let (volume, settings) = (volume(1, &PORTALS[..1]), settings(Multipath::Off));
    let first = connect(&volume, Some(&password()), &settings).await.expect("connected");
    assert_eq!(first.path, "/dev/disk/by-id/wwn-0x60000000000000000e00000000010001");
    assert_eq!(first.found.identity, "naa.60000000000000000e00000000010001");
    assert_eq!(first.found.size, bytesize::ByteSize::mib(64));
    assert_eq!(first.warnings, Vec::<String>::new());
    assert_eq!(disks().len(), 1, "only the LUN that was asked for was looked for");
    write_and_read(&first.path, "written by one host");

    let before = all_sessions();
    let second = connect(&volume, Some(&password()), &settings).await.expect("connected already");
    assert_eq!(second, first);
    assert_eq!(all_sessions(), before);

    disconnect(&volume, &settings).await.expect("disconnected");
    assert_nothing_is_left();
    disconnect(&volume, &settings).await.expect("nothing to disconnect");
    let on_storage = fs::read("/tmp/lun1").expect("the storage's file");
    assert!(on_storage.starts_with(b"written by one host"));
}

/// LM-061.
#[tokio::test]
#[ignore = "needs the kernel tests' machine"]
async fn a_session_ends_with_its_last_lun() {
    begin().await;
    let settings = settings(Multipath::Off);
    let [one, two] = [volume(1, &PORTALS[..1]), volume(2, &PORTALS[..1])];
    let first = connect(&one, Some(&password()), &settings).await.expect("connected");
    let second = connect(&two, Some(&password()), &settings).await.expect("connected");
    assert_ne!(first.found.identity, second.found.identity);
    assert_eq!(all_sessions().len(), 1);

    disconnect(&one, &settings).await.expect("disconnected");
    assert_eq!((all_sessions().len(), records().len(), disks().len()), (1, 1, 1));
    write_and_read(&second.path, "still here");
    disconnect(&two, &settings).await.expect("disconnected");
    assert_nothing_is_left();
}

/// LM-062.
#[tokio::test]
#[ignore = "needs the kernel tests' machine"]
async fn a_wrong_password_is_told_and_leaves_nothing() {
    begin().await;
    let (volume, wrong) = (volume(1, &PORTALS), SecretString::from("not-swordfish-99"));
    for multipath in [Multipath::Off, Multipath::Wanted] {
        let failed = connect(&volume, Some(&wrong), &settings(multipath)).await.expect_err("refused");
        assert!(matches!(&failed, Failed::WrongCredentials { at, user, .. } if at == PORTALS[0] && user == "ferry"));
        assert!(told(&failed).contains("exit status: 24"), "{failed}");
        assert_secret(&wrong, Some(&failed));
        assert_nothing_is_left();
    }
    assert!(matches!(
        connect(&volume, None, &Settings::default()).await.expect_err("no secret"),
        Failed::NoSecret { .. }
    ));
}

/// LM-058, LM-062.
#[tokio::test]
#[ignore = "needs the kernel tests' machine"]
async fn a_missing_lun_is_told_in_time_and_what_was_there_stays() {
    begin().await;
    let settings = Settings { device_timeout: Duration::from_secs(6), ..settings(Multipath::Off) };
    let missing = volume(9, &PORTALS[..1]);
    let failed = connect(&missing, Some(&password()), &settings).await.expect_err("there is none");
    assert!(matches!(failed, Failed::LunMissing { lun: 9, .. }), "{failed:?}");
    told(&failed);
    assert_nothing_is_left();

    let there = volume(1, &PORTALS[..1]);
    let connected = connect(&there, Some(&password()), &settings).await.expect("connected");
    let before = (all_sessions(), records(), disks());
    connect(&missing, Some(&password()), &settings).await.expect_err("there is none");
    assert_eq!((all_sessions(), records(), disks()), before);
    write_and_read(&connected.path, "undisturbed");
    disconnect(&missing, &settings).await.expect("nothing to disconnect");
    assert_eq!((all_sessions(), records(), disks()), before);
    disconnect(&there, &settings).await.expect("disconnected");
    assert_nothing_is_left();
}

/// LM-059, LM-061.
#[tokio::test]
#[ignore = "needs the kernel tests' machine"]
async fn two_portals_become_a_map_with_two_paths() {
    begin().await;
    start_multipathd().await;
    let (volume, settings) = (volume(1, &PORTALS), settings(Multipath::Enforced));
    let first = connect(&volume, Some(&password()), &settings).await.expect("connected");
    assert_eq!(first.warnings, Vec::<String>::new());
    assert_eq!(first.path, "/dev/disk/by-id/dm-uuid-mpath-360000000000000000e00000000010001");
    assert_eq!(first.found.identity, "naa.60000000000000000e00000000010001");
    let map = map_over(Path::new(SYS), "sda").expect("a map");
    assert_eq!((map.paths.len(), all_sessions().len()), (2, 2));
    write_and_read(&first.path, "on two ways");
    assert_eq!(connect(&volume, Some(&password()), &settings).await.expect("connected already"), first);

    disconnect(&volume, &settings).await.expect("disconnected");
    assert_nothing_is_left();
    disconnect(&volume, &settings).await.expect("nothing to disconnect");
    stop_multipathd().await;
}

/// LM-061: somebody else has a session by another portal, and keeps its path.
#[tokio::test]
#[ignore = "needs the kernel tests' machine"]
async fn a_map_lives_on_with_paths_that_are_not_ours() {
    begin().await;
    start_multipathd().await;
    let settings = settings(Multipath::Enforced);
    let [both, first] = [&PORTALS[..], &PORTALS[..1]].map(|portals| volume(1, portals));
    let connected = connect(&both, Some(&password()), &settings).await.expect("connected");
    disconnect(&first, &settings).await.expect("disconnected");
    assert_eq!((all_sessions().len(), records().len()), (1, 1));
    write_and_read(&connected.path, "by the other portal");
    disconnect(&both, &settings).await.expect("disconnected");
    assert_nothing_is_left();
    stop_multipathd().await;
}

/// LM-059: one portal is dead, and the map is there with the other.
#[tokio::test]
#[ignore = "needs the kernel tests' machine"]
async fn a_map_is_built_from_the_one_portal_that_answers() {
    begin().await;
    start_multipathd().await;
    let settings = Settings { device_timeout: Duration::from_secs(6), ..settings(Multipath::Wanted) };
    let volume = volume(1, &["10.9.0.1:3261", PORTALS[1]]);
    let connected = connect(&volume, Some(&password()), &settings).await.expect("connected");
    assert!(connected.path.contains("dm-uuid-mpath-"), "{}", connected.path);
    let [warning] = &connected.warnings[..] else { panic!("{:?}", connected.warnings) };
    assert!(warning.contains("cannot reach 10.9.0.1:3261"), "{warning}");
    assert_eq!((all_sessions().len(), records().len()), (1, 1));
    disconnect(&volume, &settings).await.expect("disconnected");
    assert_nothing_is_left();
    stop_multipathd().await;
}

/// LM-060.
#[tokio::test]
#[ignore = "needs the kernel tests' machine"]
async fn without_multipathd_a_wanted_map_is_a_warning_and_an_enforced_one_an_error() {
    begin().await;
    let volume = volume(1, &PORTALS);
    let failed = connect(&volume, Some(&password()), &settings(Multipath::Enforced)).await.expect_err("enforced");
    assert!(matches!(failed, Failed::MultipathNotRunning { .. }), "{failed:?}");
    told(&failed);
    assert_nothing_is_left();
    let settings = settings(Multipath::Wanted);
    let connected = connect(&volume, Some(&password()), &settings).await.expect("connected");
    assert!(connected.warnings[0].contains("multipathd does not run"), "{:?}", connected.warnings);
    assert!(connected.path.contains("wwn-"), "{}", connected.path);
    disconnect(&volume, &settings).await.expect("disconnected");
    assert_nothing_is_left();
}

/// Nothing is taken from under somebody, map or disk.
#[tokio::test]
#[ignore = "needs the kernel tests' machine"]
async fn a_device_in_use_is_not_taken_away() {
    begin().await;
    for multipath in [Multipath::Off, Multipath::Enforced] {
        if multipath == Multipath::Enforced {
            start_multipathd().await;
        }
        let (volume, settings) = (volume(1, &PORTALS[..1]), settings(multipath));
        let connected = connect(&volume, Some(&password()), &settings).await.expect("connected");
        let claim = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&connected.path).expect("ours alone");
        let failed = disconnect(&volume, &settings).await.expect_err("it is in use");
        assert!(matches!(failed, Failed::InUse { .. }), "{failed:?}");
        write_and_read(&connected.path, "in use");
        drop(claim);
        disconnect(&volume, &settings).await.expect("disconnected");
        assert_nothing_is_left();
    }
    stop_multipathd().await;
}

/// LM-062: what an administrator discovered is not ours to delete or to change.
#[tokio::test]
#[ignore = "needs the kernel tests' machine"]
async fn a_discovered_node_record_is_used_and_stays() {
    begin().await;
    run("iscsiadm", &["-m", "discovery", "-t", "sendtargets", "-p", PORTALS[0]]).await;
    let before = records();
    assert!(!before.is_empty());
    let (volume, settings) = (volume(1, &PORTALS[..1]), settings(Multipath::Off));
    connect(&volume, Some(&password()), &settings).await.expect("connected");
    assert_eq!(disks().len(), 1, "the login found nothing by itself");
    disconnect(&volume, &settings).await.expect("disconnected");
    assert_eq!((all_sessions(), disks()), (Vec::new(), Vec::new()));
    assert_eq!(records(), before);
    let record = run("iscsiadm", &["-m", "node", "-T", TARGET, "-p", PORTALS[0]]).await;
    assert!(record.contains("node.session.scan = auto"), "{record}");
    run("iscsiadm", &["-m", "node", "-o", "delete"]).await;
    assert_nothing_is_left();
}

/// LM-062: nor is one that he made himself, with the same settings as ours.
#[tokio::test]
#[ignore = "needs the kernel tests' machine"]
async fn a_node_record_made_by_hand_is_used_and_stays_whatever_it_says() {
    begin().await;
    let portal = Portal::parse(PORTALS[0]).expect("a portal");
    let node = Node { target: TARGET, portal: &portal };
    node.create(Duration::from_secs(30)).await.expect("it is new");
    let before = records();
    assert_eq!(before.len(), 1);
    let (volume, settings) = (volume(1, &PORTALS[..1]), settings(Multipath::Off));
    connect(&volume, Some(&password()), &settings).await.expect("connected");
    disconnect(&volume, &settings).await.expect("disconnected");
    assert_eq!((all_sessions(), disks()), (Vec::new(), Vec::new()));
    assert_eq!(records(), before);
    node.delete().await.expect("it is there");

    // Ours says so through all that iscsiadm does with it.
    connect(&volume, Some(&password()), &settings).await.expect("connected");
    let record = run("iscsiadm", &["-m", "node", "-T", TARGET, "-p", PORTALS[0]]).await;
    assert!(is_ours(&record), "{record}");
    disconnect(&volume, &settings).await.expect("disconnected");
    assert_nothing_is_left();
}

/// Each failure by its name, with the portal that it is about.
#[tokio::test]
#[ignore = "needs the kernel tests' machine"]
async fn silent_portals_and_missing_targets_are_told_apart() {
    begin().await;
    let settings = Settings { device_timeout: Duration::from_secs(6), ..settings(Multipath::Off) };
    let failed = connect(&volume(1, &["10.9.0.1:3261"]), Some(&password()), &settings).await.expect_err("no portal");
    assert!(matches!(failed, Failed::Unreachable { .. }), "{failed:?}");
    told(&failed);
    let Connection::Iscsi(iscsi) = volume(1, &PORTALS[..1]) else { unreachable!("it is one") };
    let nowhere = Connection::Iscsi(Iscsi { target: format!("{TARGET}-of-others"), ..iscsi });
    let failed = connect(&nowhere, Some(&password()), &settings).await.expect_err("no target");
    assert!(matches!(failed, Failed::Missing { .. }), "{failed:?}");
    told(&failed);
    assert_nothing_is_left();
}
