//! Two hosts, a guest and its disks, as values; each file of tests changes one thing at a time.

mod digests;
mod doubts;
mod refusals;
mod resolutions;
mod rooms;
mod transfers;
mod volumes;

use super::*;
use crate::domain_xml::Definition;

const WRITTEN: &str = "<disk type='file'><driver cache='none'/><source file='/srv/a'/><target dev='vda'/></disk>";
const READ_ONLY: &str = "<disk type='file'><source file='/srv/iso'/><target dev='vda'/><readonly/></disk>";
const OVERLAY: &str = "<disk type='file'><driver type='qcow2' cache='none'/><source file='/srv/a'/><target dev='vda'/>
    <backingStore type='file'><format type='qcow2'/><source file='/srv/mid'/>
    <backingStore type='file'><format type='raw'/><source file='/srv/base'/><backingStore/></backingStore></backingStore></disk>";
const RBD: &str = "<disk type='network'><source protocol='rbd' name='vms/web'/><target dev='vda'/></disk>";
const BLOCK: &str =
    "<disk type='block'><driver cache='none'/><source dev='/dev/disk/by-id/b'/><target dev='vda'/></disk>";

/// The device number of every file on the source; on the destination, the same file has another.
const HERE: u64 = 1;
const THERE: u64 = 90;

/// What the hosts know of the disks of `web`, which moves from node-28 to node-31.
struct World {
    disks: Vec<DiskDefinition>,
    shown: Shown,
    sight: Sight,
    kind: Kind,
}

impl World {
    /// The destination has none of the files, and room for all of them.
    fn apart(xml: &str) -> Self {
        let files = vec![file("/srv/a", 7), file("/srv/base", 8), file("/srv/iso", 9), file("/srv/mid", 10)];
        let probe =
            Probe { directory: "/srv".into(), file_name: ".vmferry-probe-1-0".into(), token: "t".into(), device: HERE };
        let room = |file: &File| Room {
            path: file.path.clone(),
            directory: "/srv".into(),
            device: THERE,
            available: ByteSize::gib(100),
            read_only: false,
        };
        let rooms = files.iter().map(room).collect();
        Self {
            disks: disks(xml),
            shown: Shown { images: vec![image("/srv/a")], files, probes: vec![probe], ..Shown::default() },
            sight: Sight { rooms, ..Sight::default() },
            kind: Kind::Live,
        }
    }

    /// The guest is off meanwhile.
    fn cold(mut self) -> Self {
        self.kind = Kind::Cold { shutdown: None };
        self
    }

    /// Both hosts mount `/srv`.
    fn sharing(xml: &str) -> Self {
        let mut world = Self::apart(xml);
        world.sight.rooms.clear();
        for path in ["/srv/a", "/srv/base", "/srv/iso", "/srv/mid"] {
            world.see(path, true, None);
        }
        world
    }

    /// The destination has a file of the same size, the same one or another.
    fn see(&mut self, path: &str, same: bool, digest: Option<&str>) {
        let here = self.shown.file(path).expect("the source has it").clone();
        let inode = if same { here.inode } else { here.inode + 1000 };
        let probe = same.then(|| SeenProbe { token: "t".into(), device: THERE });
        let file = File { inode, device: THERE, ..here };
        self.sight.files.push(Seen { file, probe, digest: digest.map(str::to_owned) });
    }

    fn seen(&mut self, path: &str) -> &mut Seen {
        self.sight.files.iter_mut().find(|seen| seen.file.path == path).expect("it is seen")
    }

    fn forget(&mut self, path: &str) {
        self.sight.files.retain(|seen| seen.file.path != path);
    }

    /// The source cannot write beside the disks.
    fn without_probes(mut self) -> Self {
        self.shown.probes.clear();
        self.shown.problems.push(Problem { place: "/srv".into(), why: "Read-only file system".into() });
        self
    }

    fn ask<T>(&self, question: impl FnOnce(&Disks<'_>) -> T) -> T {
        let (source, destination) = (host("node-28"), host("node-31"));
        let Self { disks, shown, sight, kind } = self;
        let kind = *kind;
        question(&Disks { guest: "web", disks, source: &source, destination: &destination, shown, sight, kind })
    }

    fn leaving(&self) -> Result<String, Refusal> {
        self.ask(|disks| disks.leaving(&self.disks[0]))
    }

    fn arriving(&self) -> Option<Result<Resolution, Refusal>> {
        self.ask(|disks| disks.arriving(&self.disks[0]))
    }

    /// The first disk's way.
    fn to_copy(&self) -> ByteSize {
        self.ask(|disks| super::to_copy(&disks.resolved()))
    }

    fn way(&self) -> Resolution {
        self.arriving().expect("the source lets it go").expect("the destination takes it")
    }

    /// The refusal of a disk that the source lets go: it names disk and guest, and has these words.
    fn refused_there(&self, reason: Reason, words: &[&str]) -> Refusal {
        assert!(self.leaving().is_ok(), "{:?}", self.leaving());
        let refusal = self.arriving().expect("an answer").expect_err("it is refused");
        judge(refusal, reason, words)
    }

    /// The refusal of a disk that the source keeps.
    fn refused_here(&self, reason: Reason, words: &[&str]) -> Refusal {
        assert_eq!(self.arriving(), None, "what would become of it cannot be said");
        judge(self.leaving().expect_err("it is refused"), reason, words)
    }
}

fn judge(refusal: Refusal, reason: Reason, words: &[&str]) -> Refusal {
    let Refusal { message, remedy, .. } = &refusal;
    assert_eq!(refusal.reason, reason, "{message}");
    for word in ["web", "vda"].iter().chain(words) {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
    assert!(!remedy.is_empty(), "{message}");
    refusal
}

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
    let (size, allocated) = (2 << 30, 1 << 30);
    File { path: path.into(), directory: "/srv".into(), size, allocated, inode, device: HERE }
}

fn image(path: &str) -> Image {
    let (virtual_size, allocated) = (ByteSize::gib(10), ByteSize::gib(3));
    Image { path: path.into(), format: "qcow2".into(), virtual_size, allocated, qcow2: None, obstacle: None }
}

/// An image that nobody writes to, as large as [`file`].
fn layer(path: &str, format: &str, presence: Presence) -> StaticImage {
    let (size, allocated) = (ByteSize::gib(2), ByteSize::gib(1));
    StaticImage { path: path.into(), format: format.into(), size, allocated, presence }
}

fn present(digest: &str) -> Presence {
    Presence::Present { digest: digest.into() }
}

/// The second of two disks like the first.
fn another(xml: &str) -> String {
    xml.replace("vda", "vdb")
}
