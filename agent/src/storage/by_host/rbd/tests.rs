use vmferry_core::volume::{Login, SecretName};

use super::*;

/// From the kernel tests' machine, Ceph 16.2.
const INFO: &str = include_str!("../recordings/rbd-info.json");
/// The same: an image and its snapshot, each mapped several times by hand.
const SHOWMAPPED: &str = include_str!("../recordings/rbd-showmapped.json");

fn rbd(image: &str) -> Rbd {
    Rbd { monitors: Vec::new(), configuration: None, image: image.to_owned(), snapshot: None, login: None }
}

#[test]
fn an_image_is_told_by_its_id_and_size() {
    let image: Image = serde_json::from_str(INFO).expect("it was recorded");
    assert_eq!(image, Image { id: "1009473f54c2".to_owned(), size: ByteSize::mib(64) });
}

#[test]
fn mapped_images_are_told_from_their_snapshots_and_namesakes() {
    let all: Vec<Mapped> = serde_json::from_str(SHOWMAPPED).expect("it was recorded");
    let devices = |rbd: &Rbd| {
        let name = name(rbd).expect("a name");
        all.iter().filter(|mapped| name.is(mapped)).map(|mapped| mapped.device.clone()).collect::<Vec<_>>()
    };
    assert_eq!(devices(&rbd("volumes/web")), ["/dev/rbd0", "/dev/rbd2", "/dev/rbd3"]);
    assert_eq!(devices(&Rbd { snapshot: Some("monday".to_owned()), ..rbd("volumes/web") }), ["/dev/rbd1", "/dev/rbd4"]);
    assert_eq!(devices(&rbd("volumes/blue/web")), Vec::<String>::new());
    assert_eq!(devices(&rbd("backup/web")), Vec::<String>::new());
}

#[test]
fn paths_are_those_of_cephs_udev_rules() {
    let path = |rbd: &Rbd| name(rbd).expect("a name").path();
    assert_eq!(path(&rbd("volumes/web")), "/dev/rbd/volumes/web");
    assert_eq!(path(&rbd("volumes/blue/web")), "/dev/rbd/volumes/blue/web");
    assert_eq!(path(&Rbd { snapshot: Some("monday".to_owned()), ..rbd("volumes/web") }), "/dev/rbd/volumes/web@monday");
}

#[test]
fn what_is_no_image_is_refused_before_any_program_runs() {
    for image in ["web", "", "/web", "volumes/", "volumes//web", "a/b/c/d", "volumes/web@monday", "--pool/web"] {
        assert!(matches!(name(&rbd(image)), Err(Failed::Description { .. })), "{image}");
    }
}

#[test]
fn a_key_is_in_a_file_of_its_own_and_in_no_argument() {
    let login = Login { user: "ferry".to_owned(), secret: SecretName::Usage("ceph".to_owned()) };
    let rbd = Rbd {
        monitors: vec!["10.0.0.1:3300".to_owned(), "10.0.0.2:3300".to_owned()],
        login: Some(login),
        ..rbd("p/i")
    };
    let key = KeyFile::new(&"AQBsecretkey==\n".into()).expect("memory");
    let line = map(&rbd, Some(&key), Duration::from_secs(30)).command_line();
    let expected = format!(
        "rbd -m 10.0.0.1:3300,10.0.0.2:3300 --id ferry --keyfile {} --client_mount_timeout 30 map p/i --options ms_mode=prefer-crc",
        key.path()
    );
    assert_eq!(line, expected);
    assert_eq!(fs::read_to_string(key.path()).expect("it is ours"), "AQBsecretkey==");
    let gone = key.path();
    drop(key);
    assert!(!fs::read_to_string(gone).is_ok_and(|text| text.contains("AQB")));
}

#[test]
fn what_rbd_means_by_its_exit_status_is_told() {
    let failed =
        |code| failed(&rbd("volumes/web"), tool::Failed { command: "rbd".to_owned(), code, how: String::new() });
    assert!(matches!(failed(Some(2)), Failed::Missing { .. }));
    assert!(matches!(failed(Some(13)), Failed::WrongCredentials { .. }));
    assert!(matches!(failed(Some(1)), Failed::WrongCredentials { .. }));
    assert!(matches!(failed(Some(110)), Failed::Unreachable { .. }));
    assert!(matches!(failed(None), Failed::Unreachable { .. }));
    assert!(matches!(failed(Some(22)), Failed::Tool { .. }));
}
