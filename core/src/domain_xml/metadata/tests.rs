use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::volume::SecretName;

fn domain(inner: &str) -> Result<Vec<VolumeLabel>, LabelError> {
    let xml = format!("<domain><metadata>{inner}</metadata></domain>");
    read(roxmltree::Document::parse(&xml).expect("well-formed").root_element())
}

fn volumes(inner: &str) -> Result<Vec<VolumeLabel>, LabelError> {
    domain(&format!("<v:volumes xmlns:v='{NAMESPACE}'>{inner}</v:volumes>"))
}

fn connected(inner: &str) -> Result<Vec<VolumeLabel>, LabelError> {
    volumes(&format!("<v:volume target='vdb' id='1'>{inner}</v:volume>"))
}

#[test]
fn labels_are_read_as_virsh_writes_them_and_as_we_do() {
    let inner = "<volume target='vdb' id='5a27' name='a' bootable='yes'>
        <iscsi target='iqn.a' lun='1'><portal address='192.0.2.1'/><portal address='[::1]:3261'/></iscsi></volume>";
    // As `virsh metadata --set` stores it: the outermost element alone is in the namespace.
    let read = volumes(inner).expect("valid");
    assert_eq!((read[0].id.as_str(), read[0].name.as_str(), read[0].bootable), ("5a27", "a", true));
    let Some(Connection::Iscsi(iscsi)) = &read[0].connection else { panic!("{read:?}") };
    assert_eq!(iscsi.portals, ["192.0.2.1:3260", "[::1]:3261"]);
    let stored = write::write_bare(&read).replacen("<volumes", &format!("<v:volumes xmlns:v='{NAMESPACE}'"), 1);
    assert_eq!(domain(&stored.replace("</volumes>", "</v:volumes>")), Ok(read.clone()));
    assert_eq!(domain(&write(&read)), Ok(read));
}

#[test]
fn what_is_not_ours_is_none_of_our_business() {
    assert_eq!(domain(""), Ok(vec![]));
    assert_eq!(domain("<volumes xmlns='https://example.org/'><volume/></volumes>"), Ok(vec![]));
    assert_eq!(volumes("<nova:volume xmlns:nova='https://example.org/' target='a'/><colour/>"), Ok(vec![]));
    let no_metadata = roxmltree::Document::parse("<domain/>").expect("well-formed");
    assert_eq!(read(no_metadata.root_element()), Ok(vec![]));
}

#[test]
fn labels_that_cannot_be_believed_are_refused_with_what_is_wrong() {
    let portal = "<v:portal address='192.0.2.1:3260'/>";
    let iscsi = |attributes: &str| connected(&format!("<v:iscsi {attributes}>{portal}</v:iscsi>"));
    let address = |address: &str| {
        connected(&format!("<v:iscsi target='iqn.a' lun='1'><v:portal address='{address}'/></v:iscsi>"))
    };
    let image = |image: &str| connected(&format!("<v:rbd image='{image}'/>"));
    let auth = |auth: &str| connected(&format!("<v:rbd image='a/b'><v:auth {auth}/></v:rbd>"));
    let cases = [
        (volumes("<v:volume id='1'/>"), "no target"),
        (volumes("<v:volume target='' id='1'/>"), "no target"),
        (volumes("<v:volume target='vdb'/>"), "volume vdb have no id"),
        (volumes("<v:volume target='vdb' id='1' bootable='1'/>"), "bootable `1`"),
        (volumes("<v:volume target='vdb' id='1'/><volume target='vdb' id='2'/>"), "volume vdb twice"),
        (connected("<v:rbd image='a/b'/><v:rbd image='a/c'/>"), "connection of volume vdb twice"),
        (connected("<v:iscsi target='iqn.a' lun='1'/>"), "no portal"),
        (iscsi("target='iqn.a'"), "no LUN"),
        (iscsi("target='iqn.a' lun='65536'"), "LUN `65536`"),
        (iscsi("target='iqn.a' lun='one'"), "LUN `one`"),
        (iscsi("lun='1'"), "no iSCSI target"),
        (iscsi("target='--help' lun='1'"), "name `--help`"),
        (iscsi("target='iqn.a/../b' lun='1'"), "name `iqn.a/../b`"),
        (iscsi("target='iqn.a' lun='1' initiator='me'"), "name `me`"),
        (address("192.0.2.1:port"), "address `192.0.2.1:port`"),
        (address("-a:1"), "address `-a:1`"),
        (address("a b:1"), "address"),
        (address("::1"), "address"),
        (address("[x]:1"), "address"),
        (address(""), "no address"),
        (image("b"), "image `b`"),
        (image("a//b"), "image"),
        (image("a/b/c/d"), "image"),
        (image("--pool/b"), "image"),
        (auth("uuid='2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01'"), "no username"),
        (auth("username='u'"), "no secret"),
        (auth("username='u' uuid='ceph'"), "secret `ceph`"),
    ];
    for (read, words) in cases {
        let error = read.expect_err(words).to_string();
        assert!(error.contains(words), "{words} in {error}");
    }
}

fn login() -> impl Strategy<Value = Option<Login>> {
    let secret = prop_oneof![
        any::<u128>().prop_map(|number| SecretName::Uuid(Uuid::from_u128(number))),
        "[^\\x00-\\x1f\\x7f]{1,8}".prop_map(SecretName::Usage),
    ];
    proptest::option::of(("\\PC{1,8}", secret).prop_map(|(user, secret)| Login { user, secret }))
}

fn addresses(least: usize) -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(
        prop_oneof!["[a-z0-9.]{1,9}:[1-9][0-9]{0,3}", Just("[2001:db8::1]:3260".into())],
        least..4,
    )
}

fn connection() -> impl Strategy<Value = Connection> {
    let text = || proptest::option::of("\\PC{1,8}");
    let rbd = (addresses(0), text(), "[a-z<&'\"]{1,4}(/[a-z@ ]{1,4}){1,2}", text(), login()).prop_map(
        |(monitors, configuration, image, snapshot, login)| {
            Connection::Rbd(Rbd { monitors, configuration, image, snapshot, login })
        },
    );
    let iqn = || "iqn\\.[a-z0-9.:<&]{1,9}";
    let iscsi = (addresses(1), iqn(), any::<u16>(), proptest::option::of(iqn()), login()).prop_map(
        |(portals, target, lun, initiator, login)| Connection::Iscsi(Iscsi { portals, target, lun, initiator, login }),
    );
    prop_oneof![rbd, iscsi]
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        id in "[^\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\u{fffe}\u{ffff}]{1,12}",
        name in "\\PC{0,12}",
        bootable: bool,
        connection in proptest::option::of(connection()),
    ) {
        let label = |target: &str| VolumeLabel {
            target: target.to_owned(), id: id.clone(), name: name.clone(), bootable, connection: connection.clone(),
        };
        let labels = vec![label("vda"), label("vdb")];
        prop_assert_eq!(domain(&write(&labels)), Ok(labels));
    }

    #[test]
    fn whatever_a_label_holds_what_is_written_is_xml(id in any::<String>()) {
        let label = VolumeLabel { target: "vda".into(), id, name: String::new(), bootable: false, connection: None };
        let written = write(&[label]);
        prop_assert!(roxmltree::Document::parse(&written).is_ok(), "{}", written);
    }
}
