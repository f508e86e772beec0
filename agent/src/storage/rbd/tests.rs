use vmferry_core::volume::{Login, SecretName};

use super::*;

fn rbd(image: &str) -> Rbd {
    let login = Some(Login { user: "web".into(), secret: SecretName::Usage("ceph".into()) });
    Rbd { monitors: vec![], configuration: None, image: image.to_owned(), snapshot: None, login }
}

#[test]
fn an_image_has_a_pool_and_may_be_in_a_namespace() {
    let names = ["vms/web", "vms/blue/web", "web"].map(|image| {
        let Name { pool, namespace, image, .. } = Name::of(&rbd(image));
        [pool, namespace, image]
    });
    assert_eq!(names, [["vms", "", "web"], ["vms", "blue", "web"], ["rbd", "", "web"]]);
}

#[test]
fn a_number_says_whether_it_is_the_cluster_the_user_or_the_image() {
    let meant = |step, number| Trouble::Ceph { step, number }.meaning();
    assert_eq!(meant(Step::OpenImage, libc::ENOENT), Meaning::Gone);
    assert_eq!(meant(Step::Connect, libc::ENOENT), Meaning::Unreachable);
    assert_eq!(meant(Step::Connect, libc::EACCES), Meaning::Denied);
    assert_eq!(meant(Step::ReadImage, libc::EIO), Meaning::Other);
    assert_eq!(Trouble::Library("no".into()).meaning(), Meaning::Other);
    let told = Trouble::Ceph { step: Step::OpenImage, number: libc::ENOENT }.to_string();
    assert_eq!(told, "cannot open the image: No such file or directory");
}

#[test]
fn what_is_told_of_images_is_understood_by_who_asked() {
    let found = Found { size: bytesize::ByteSize::b(67_108_865), identity: identity("1016ea72d720", "a2529904") };
    let silent = Trouble::Ceph { step: Step::OpenImage, number: libc::ETIMEDOUT };
    for answer in [Ok(vec![Ok(found), Err(silent)]), Err(Trouble::Library("none".into()))] {
        let said = serde_json::to_string(&answer).expect("JSON");
        assert_eq!(serde_json::from_str::<look::Answer<Found, Trouble>>(&said).expect("the same"), answer);
    }
}
