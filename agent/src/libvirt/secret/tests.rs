//! The test driver keeps no secrets: that ours come and go, guests show that move between real hosts.

use std::io::Write as _;

use tempfile::NamedTempFile;

use super::*;

fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(0x2a5b_08e4_3bf0_4db2_8e5b_7c1c_0000_0000 + number)
}

fn usage(usage: &str) -> SecretName {
    SecretName::Usage(usage.to_owned())
}

#[tokio::test]
async fn the_secrets_that_domains_need_are_told() {
    let mut file = NamedTempFile::new().expect("a temporary file");
    let disk = |target: &str, secret: &str| {
        format!(
            "<disk type='network' device='disk'><source protocol='rbd' name='vms/{target}'>
             <auth username='u'><secret type='ceph' {secret}/></auth></source><target dev='{target}' bus='virtio'/></disk>"
        )
    };
    let domain = |name: &str, disk: &str| {
        format!(
            "<domain type='test'><name>{name}</name><memory unit='MiB'>256</memory><vcpu>2</vcpu>
             <os><type arch='x86_64'>hvm</type></os><devices>{disk}</devices></domain>"
        )
    };
    let web = domain("web", &disk("vda", &format!("uuid='{}'", uuid(1))));
    let database = domain("database", &disk("vdb", "usage='san'"));
    write!(file, "<node>{web}{database}{}</node>", domain("bare", "")).expect("written");
    let libvirt = Libvirt::new(&format!("test://{}", file.path().display()));
    let used = libvirt.secrets_in_use().await.expect("an answer");
    assert_eq!(used, BTreeSet::from([SecretName::Uuid(uuid(1)), usage("san")]));
    let reading = SecretReading { uuid: uuid(5), kind: None, usage: "san".into(), ours: true, has_value: None };
    assert!(reading.is_among(&used) && !SecretReading { usage: "lan".into(), ..reading }.is_among(&used));
}
