use super::*;
use crate::{domain_xml::Definition, id::HostName};

const WRITABLE: &str = "<disk type='file'><driver cache='none'/><source file='/srv/a'/><target dev='vda'/></disk>";
const READ_ONLY: &str = "<disk type='file'><source file='/srv/a'/><target dev='vda'/><readonly/></disk>";
const OVERLAY: &str = "<disk type='file'><driver cache='none'/><source file='/srv/a'/><target dev='vda'/>
    <backingStore type='file'><source file='/srv/base'/><backingStore/></backingStore></disk>";

fn disks(xml: &str) -> Vec<DiskDefinition> {
    let domain = format!(
        "<domain><name>web</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid><memory>1</memory><vcpu>1</vcpu>
         <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{xml}</devices></domain>"
    );
    Definition::parse(&domain).expect("valid").disks
}

fn host(name: &str) -> HostName {
    name.parse().expect("valid")
}

fn file(path: &str, inode: u64) -> File {
    File { path: path.into(), directory: "/srv".into(), size: 4096, inode, device: 1 }
}

/// Two hosts that share `/srv`, with `/srv/a` and `/srv/base`.
struct World {
    disks: Vec<DiskDefinition>,
    shown: Shown,
    seen: Vec<Seen>,
}

impl World {
    fn sharing(xml: &str) -> Self {
        let probe =
            Probe { directory: "/srv".into(), file_name: ".vmferry-probe-1-0".into(), token: "t".into(), device: 1 };
        let files = vec![file("/srv/a", 7), file("/srv/base", 8)];
        // Its device numbers are its own.
        let seen = files.iter().map(|file| Seen {
            file: File { device: 90, ..file.clone() },
            probe: Some(SeenProbe { token: "t".into(), device: 90 }),
        });
        let seen = seen.collect();
        Self { disks: disks(xml), shown: Shown { files, probes: vec![probe], problems: vec![] }, seen }
    }

    fn ask<T>(&self, question: impl FnOnce(&Disks<'_>) -> T) -> T {
        let (source, destination) = (host("node-28"), host("node-31"));
        let Self { disks, shown, seen } = self;
        question(&Disks { guest: "web", disks, source: &source, destination: &destination, shown, seen })
    }

    fn leaving(&self) -> Result<String, Reason> {
        self.ask(|disks| disks.leaving(&self.disks[0])).map_err(judged)
    }

    fn arriving(&self) -> Option<Result<Resolution, Reason>> {
        self.ask(|disks| disks.arriving(&self.disks[0])).map(|answer| answer.map_err(judged))
    }
}

fn judged(refusal: Refusal) -> Reason {
    assert!(refusal.message.contains("web") && refusal.message.contains("vda"), "{}", refusal.message);
    assert!(!refusal.remedy.is_empty());
    refusal.reason
}

#[test]
fn each_disk_has_its_resolution() {
    let (path, empty) = ("/srv/a".to_owned(), "<disk device='cdrom'><target dev='sda'/><readonly/></disk>");
    let directsync = WRITABLE.replace("none", "directsync");
    let shareable = WRITABLE.replace("</disk>", "<shareable/></disk>");
    let both = format!("{shareable}{}", shareable.replace("vda", "vdb"));
    let cases = [
        (empty, Resolution::Empty),
        (READ_ONLY, Resolution::ReadOnlyFile { path: path.clone() }),
        (WRITABLE, Resolution::SharedFile { path: path.clone() }),
        (&directsync, Resolution::SharedFile { path: path.clone() }),
        (OVERLAY, Resolution::SharedFile { path: path.clone() }),
        (&both, Resolution::SharedFile { path }),
    ];
    for (xml, resolution) in cases {
        let world = World::sharing(xml);
        assert!(world.leaving().is_ok(), "{xml}");
        assert_eq!(world.arriving(), Some(Ok(resolution)), "{xml}");
    }
}

#[test]
fn what_the_definition_rules_out_is_refused_by_the_source_alone() {
    let cases = [
        (WRITABLE.replace("none", "writeback"), Reason::DiskCacheUnsafe),
        (WRITABLE.replace("none", "writethrough"), Reason::DiskCacheUnsafe),
        (WRITABLE.replace("<driver cache='none'/>", ""), Reason::DiskCacheUnsafe),
        (WRITABLE.replace("</disk>", "<transient/></disk>"), Reason::DiskKindUnsupported),
        (READ_ONLY.replace("</disk>", "<transient/></disk>"), Reason::DiskKindUnsupported),
        ("<disk type='block'><source dev='/dev/sdb'/><target dev='vda'/></disk>".into(), Reason::DiskKindUnsupported),
        ("<disk type='network'><source protocol='rbd'/><target dev='vda'/></disk>".into(), Reason::DiskKindUnsupported),
        ("<disk type='nvme'><source/><target dev='vda'/></disk>".into(), Reason::DiskKindUnsupported),
        (
            OVERLAY.replace("type='file'><source file='/srv/base'", "type='block'><source dev='/b'"),
            Reason::DiskKindUnsupported,
        ),
        (format!("{WRITABLE}{}", WRITABLE.replace("vda", "vdb")), Reason::DiskUsedTwice),
        // The other path leads to the same file.
        (format!("{WRITABLE}{}", WRITABLE.replace("vda", "vdb").replace("/srv/a", "/srv/link")), Reason::DiskUsedTwice),
    ];
    for (xml, reason) in cases {
        let mut world = World::sharing(&xml);
        world.shown.files.push(file("/srv/link", 7));
        assert_eq!(world.leaving(), Err(reason), "{xml}");
        assert_eq!(world.arriving(), None, "{xml}");
        world.seen.clear();
        let missing = world.disks[0].files().next().map(|_| Err(Reason::DiskMissing));
        assert_eq!(world.arriving(), missing, "what is missing is told besides: {xml}");
    }
}

#[test]
fn what_cannot_be_probed_is_refused_by_the_source() {
    type Change = fn(&mut World);
    let cases: [(Change, Reason, &str); 3] = [
        (|world| world.shown.files.clear(), Reason::ProbeFailed, "No such file"),
        (|world| world.shown.probes.clear(), Reason::ProbeFailed, "Read-only file system"),
        (|world| world.shown.files[0].device = 2, Reason::DiskNotShared, "a mount of its own on node-28"),
    ];
    for (change, reason, words) in cases {
        let mut world = World::sharing(WRITABLE);
        let problem = |place: &str, why: &str| Problem { place: place.into(), why: why.into() };
        world.shown.problems = vec![problem("/srv/a", "No such file"), problem("/srv", "Read-only file system")];
        change(&mut world);
        let refusal = world.ask(|disks| disks.leaving(&world.disks[0])).expect_err("it is refused");
        assert_eq!(refusal.reason, reason);
        assert!(refusal.message.contains(words), "{}", refusal.message);
        assert_eq!(world.arriving(), None);
    }
}

#[test]
fn only_the_same_file_beside_the_probe_is_shared() {
    type Change = fn(&mut World);
    let cases: [(Change, Reason, &str); 8] = [
        (|world| world.seen.clear(), Reason::DiskMissing, "does not exist"),
        (|world| world.seen.truncate(1), Reason::DiskMissing, "/srv/base, does not exist"),
        (|world| world.seen[0].probe = None, Reason::DiskNotShared, "is not in /srv there"),
        (|world| world.seen[1].probe = None, Reason::DiskNotShared, "/srv/base"),
        (|world| set_token(world, "other"), Reason::DiskNotShared, "is another"),
        (|world| world.seen[0].file.device = 91, Reason::DiskNotShared, "a mount of its own"),
        (|world| world.seen[0].file.inode = 9, Reason::DiskNotShared, "inode 9, not 7"),
        (|world| world.seen[0].file.size = 4095, Reason::DiskNotShared, "smaller"),
    ];
    for (change, reason, words) in cases {
        let mut world = World::sharing(OVERLAY);
        change(&mut world);
        let refusal = world.ask(|disks| disks.arriving(&world.disks[0])).expect("an answer").expect_err("refused");
        assert_eq!(refusal.reason, reason);
        assert!(refusal.message.contains(words), "{}", refusal.message);
        assert_eq!(world.ask(|disks| disks.proven()), Vec::<String>::new());
    }
    let mut grown = World::sharing(OVERLAY);
    grown.seen[0].file.size += 1;
    assert!(matches!(grown.arriving(), Some(Ok(_))), "a running guest makes its image larger");
    assert_eq!(grown.ask(|disks| disks.proven()), ["/srv/a", "/srv/base"]);
}

fn set_token(world: &mut World, token: &str) {
    world.seen[0].probe = Some(SeenProbe { token: token.into(), device: 90 });
}

#[test]
fn a_read_only_file_needs_no_probe_but_its_size() {
    let mut world = World::sharing(READ_ONLY);
    world.shown.probes.clear();
    world.seen[0].probe = None;
    world.seen[0].file.inode = 9;
    assert!(matches!(world.arriving(), Some(Ok(Resolution::ReadOnlyFile { .. }))));
    assert_eq!(world.ask(|disks| disks.proven()), Vec::<String>::new());
    world.seen[0].file.size = 1;
    assert_eq!(world.arriving(), Some(Err(Reason::DiskDiffers)));
}

#[test]
fn a_disk_that_came_since_the_checks_is_not_proved() {
    let proven = ["/srv/a".to_owned()];
    assert_eq!(sharing(&disks(READ_ONLY), &[]), Ok(Sharing::Unneeded));
    assert_eq!(sharing(&disks(WRITABLE), &proven), Ok(Sharing::Proved));
    assert_eq!(sharing(&disks(WRITABLE), &[]), Err("vda".into()));
    let attached = WRITABLE.replace("vda", "vdb").replace("/srv/a", "/srv/b");
    assert_eq!(sharing(&disks(&format!("{WRITABLE}{attached}")), &proven), Err("vdb".into()));
    assert_eq!(sharing(&disks(OVERLAY), &proven), Err("vda".into()));
    let block = "<disk type='block'><source dev='/dev/sdb'/><target dev='vda'/></disk>";
    assert_eq!(sharing(&disks(block), &proven), Err("vda".into()));
}
