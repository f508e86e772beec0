//! Two hosts that stay up from one run to the next, and a guest of one kind that goes back and forth between them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::draw::Kind;
use crate::{
    Host, Options, Testbed,
    capture::Capture,
    guest::{Guest, LinuxGuest, Tool},
    layout::LOCAL,
    leaks::{Difference, Snapshot},
    network::{Link, STORAGE},
    storage::{Backend, Lun, RbdImage, Secret, Target},
};

/// The guest's name.
pub(crate) const GUEST: &str = "web-1";
/// The guest writes a block of this size for each heartbeat, and has room for so many.
const BLOCK: usize = 4096;
const BLOCKS: u64 = 16_384;
/// A guest whose volume is about to be full is made anew.
const FULL: u64 = BLOCKS - 2000;
/// How often the guest sends its number, in milliseconds.
const PAUSE: u64 = 10;
/// Ceph remembers a client that died for 30 s, as one that has the image open. Of one that lives its host's connections tell.
const WATCH: Duration = Duration::from_secs(40);
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the guest's writes go.
#[derive(Debug)]
enum Volume {
    Shared,
    Rbd(RbdImage),
    Iscsi(Lun),
    Local,
}

/// The hosts and the guest.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) testbed: Testbed,
    pub(crate) kind: Kind,
    /// What was on the hosts before there was a guest, and afterwards is there only for its sake.
    empty: Vec<Snapshot>,
    /// What the guest says on the wire, by the host that it comes from.
    pub(crate) wire: Vec<Capture>,
    /// Where LUNs are made.
    target: Option<Target>,
    /// What opens volumes.
    secret: Option<Secret>,
    volume: Option<Volume>,
    guest: Option<Guest>,
    made: u32,
    /// Since when clients of Ceph have been seen that should not be there.
    foreign: RefCell<BTreeMap<String, Instant>>,
}

/// Where guests start: the host whose libvirt was given their secret by hand.
pub(crate) const HOME: usize = 0;

impl Rig {
    /// Hosts of this kind, without a guest yet.
    pub(crate) fn up(kind: Kind) -> Result<Self> {
        let storage = match kind {
            Kind::Rbd => vec![Backend::Ceph],
            Kind::Iscsi => vec![Backend::Iscsi],
            Kind::Plain | Kind::Block => Vec::new(),
        };
        let testbed = Testbed::up(Options { storage, ..Options::default() })?;
        let wire = testbed
            .hosts()
            .iter()
            .map(|host| testbed.capture_from(host.name(), Link::Guests))
            .collect::<Result<_>>()?;
        let target = match kind {
            Kind::Iscsi => Some(testbed.storage()?.iscsi()?.create_target("campaign")?),
            _ => None,
        };
        let secret = match (kind, &target) {
            (Kind::Rbd, _) => Some(testbed.storage()?.ceph()?.secret()?),
            (_, target) => target.as_ref().map(|target| target.secret.clone()),
        };
        if let Some(secret) = &secret {
            for host in testbed.hosts() {
                host.give_secret(secret)?;
            }
            testbed.hosts()[HOME].define_secret(secret)?;
        }
        let empty = testbed.hosts().iter().map(Host::snapshot).collect::<Result<_>>()?;
        Ok(Self {
            testbed,
            kind,
            empty,
            wire,
            target,
            secret,
            volume: None,
            guest: None,
            made: 0,
            foreign: RefCell::default(),
        })
    }

    /// The guest.
    pub(crate) fn guest(&self) -> Result<&Guest> {
        self.guest.as_ref().context("there is a guest")
    }

    /// A host by its place.
    pub(crate) fn host(&self, index: usize) -> &Host {
        &self.testbed.hosts()[index]
    }

    /// Asks both hosts at once.
    pub(crate) fn both<T: Send>(&self, ask: impl Fn(&Host) -> Result<T> + Sync) -> Result<[T; 2]> {
        let [one, other] = self.testbed.hosts() else { bail!("two hosts were asked for") };
        thread::scope(|scope| {
            let asked = scope.spawn(|| ask(other));
            let one = ask(one);
            let other = asked.join().unwrap_or_else(|_| Err(anyhow!("it panicked")));
            Ok([one?, other?])
        })
    }

    /// Whether the guest must be made anew: there is none, or its volume is about to be full.
    pub(crate) fn wants_guest(&self) -> Result<bool> {
        let Some(guest) = &self.guest else { return Ok(true) };
        Ok(guest.console().heartbeats()?.last().is_none_or(|last| last.number > FULL))
    }

    /// Removes the guest from everywhere, with its volume, and with what came with it: it goes behind the agents' backs.
    pub(crate) fn remove_guest(&mut self) -> Result<()> {
        self.guest = None;
        for (index, host) in self.testbed.hosts().iter().enumerate() {
            let state = host.domain_state(GUEST)?;
            if state.as_deref().is_some_and(|state| state != "shut off") {
                host.virsh(["destroy", GUEST])?;
            }
            if state.is_some() {
                host.virsh(["undefine", GUEST])?;
            }
            host.sh(&format!("rm -f {LOCAL}/{GUEST}.*"))?;
            if let Some(secret) = self.secret.as_ref().filter(|_| index != HOME)
                && host.virsh(["secret-list"])?.contains(&secret.uuid)
            {
                host.undefine_secret(secret)?;
            }
        }
        match self.volume.take() {
            Some(Volume::Iscsi(lun)) => self.testbed.storage()?.iscsi()?.remove_lun(&lun)?,
            // Until Ceph has forgotten a client that died, it refuses.
            Some(Volume::Rbd(image)) => drop(self.testbed.storage()?.ceph()?.delete(&image)),
            Some(Volume::Shared | Volume::Local) | None => {}
        }
        Ok(())
    }

    /// Starts a new guest, with a new volume, at [`HOME`].
    pub(crate) fn start_guest(&mut self) -> Result<()> {
        self.remove_guest()?;
        self.made += 1;
        let (volume, disk) = self.make_volume()?;
        self.volume = Some(volume);
        let mut definition = LinuxGuest::new(GUEST).with_tool(Tool::Count).with_disk(&disk);
        definition.parameters = format!("pause={PAUSE}");
        let guest = self.testbed.start(definition, self.host(HOME).name())?;
        guest.console().wait_for_writes(3, PATIENCE)?;
        self.guest = Some(guest);
        Ok(())
    }

    fn make_volume(&self) -> Result<(Volume, String)> {
        let size = BLOCKS * BLOCK as u64;
        let file = |path: &str| {
            format!(
                "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/><source file='{path}'/>\
                 <target dev='vdb' bus='virtio'/></disk>"
            )
        };
        let make =
            |host: &Host, path: &str| host.sh(&format!("rm -f {path}; truncate -s {size} {path}; chmod 666 {path}"));
        let host = self.host(HOME);
        let name = format!("data-{}", self.made);
        Ok(match self.kind {
            Kind::Plain => {
                let path = host.shared(&format!("{GUEST}.data"));
                make(host, &path)?;
                (Volume::Shared, file(&path))
            }
            Kind::Block => {
                let path = format!("{LOCAL}/{GUEST}.data");
                make(host, &path)?;
                (Volume::Local, file(&path))
            }
            Kind::Rbd => {
                let ceph = self.testbed.storage()?.ceph()?;
                let image = ceph.create_image(&format!("volumes/{name}"), &format!("{size}B"))?;
                let disk = image.disk("vdb", self.secret.as_ref().context("a key")?);
                (Volume::Rbd(image), disk)
            }
            Kind::Iscsi => {
                let target = self.target.as_ref().context("a target")?;
                let lun = self.testbed.storage()?.iscsi()?.create_lun(target, size >> 20)?;
                let disk = lun.disk("vdb");
                (Volume::Iscsi(lun), disk)
            }
        })
    }

    /// The numbers that the guest was told to be stable and that are not on its volume, which it may be writing to. `host`: where it ran last.
    pub(crate) fn lost_writes(&self, host: usize) -> Result<Vec<u64>> {
        let acknowledged: BTreeSet<_> = self.guest()?.console().acknowledged()?.into_iter().collect();
        ensure!(!acknowledged.is_empty(), "the guest has written nothing");
        let contents = tempfile::tempdir()?;
        let path = self.contents(host, contents.path().join("contents"))?;
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut block = vec![0; BLOCK];
        let mut is_there = |number: u64| -> Result<bool> {
            file.read_exact_at(&mut block, number * BLOCK as u64)?;
            Ok(std::str::from_utf8(&block).ok().and_then(|text| text.trim().parse().ok()) == Some(number))
        };
        let mut lost = Vec::new();
        for number in acknowledged {
            if !is_there(number)? {
                lost.push(number);
            }
        }
        Ok(lost)
    }

    fn contents(&self, host: usize, export: PathBuf) -> Result<PathBuf> {
        let file = format!("{GUEST}.data");
        Ok(match self.volume.as_ref().context("the guest has a volume")? {
            Volume::Shared => self.testbed.layout().shared().join(file),
            Volume::Local => self.testbed.layout().local(self.host(host).name()).join(file),
            Volume::Iscsi(lun) => self.testbed.storage()?.iscsi()?.contents(lun),
            Volume::Rbd(image) => {
                self.testbed.storage()?.ceph()?.export(image, &export)?;
                export
            }
        })
    }

    /// What is on the hosts and was not before there was a guest, but for what the guest needs where it is now.
    pub(crate) fn leaks(
        &self,
        guest_on: Option<usize>,
        is_excused: impl Fn(&Difference) -> bool,
    ) -> Result<Vec<String>> {
        let mut leaks = Vec::new();
        let now = self.both(Host::snapshot)?;
        for (index, (now, empty)) in now.iter().zip(&self.empty).enumerate() {
            let host = self.host(index);
            let is_guests = |new: &Difference| {
                guest_on == Some(index)
                    && match new.kind {
                        "domain" | "qemu process" => new.item.strip_prefix("guest=").unwrap_or(&new.item) == GUEST,
                        "image" => new.item.starts_with(&format!("{LOCAL}/{GUEST}.")),
                        "link" => new.item.starts_with("tap "),
                        "TCP connection" => STORAGE.iter().any(|address| new.item.starts_with(&format!("{address}:"))),
                        "secret" => self.secret.as_ref().is_some_and(|secret| secret.uuid == new.item),
                        _ => false,
                    }
            };
            let new = now.since(empty).into_iter();
            leaks.extend(
                new.filter(|new| new.came && !is_guests(new) && !is_excused(new))
                    .map(|new| format!("{}: {new}", host.name())),
            );
        }
        leaks.extend(self.sessions(guest_on)?);
        Ok(leaks)
    }

    /// Who has the guest's volume open and should not, by the storage's own word.
    fn sessions(&self, guest_on: Option<usize>) -> Result<Vec<String>> {
        let own = guest_on.map(|index| self.host(index).address().to_string());
        let is_foreign = |client: &String| own.as_deref() != client.split(':').next();
        let foreign: Vec<_> = match &self.volume {
            Some(Volume::Iscsi(lun)) => {
                self.testbed.storage()?.iscsi()?.initiators(&lun.target)?.into_iter().filter(is_foreign).collect()
            }
            Some(Volume::Rbd(image)) => {
                let watchers = self.testbed.storage()?.ceph()?.watchers(image)?.into_iter().filter(is_foreign);
                let mut seen = self.foreign.borrow_mut();
                watchers
                    .filter(|watcher| seen.entry(watcher.clone()).or_insert_with(Instant::now).elapsed() > WATCH)
                    .collect()
            }
            _ => Vec::new(),
        };
        Ok(foreign.into_iter().map(|client| format!("storage: the guest's volume is open from {client}")).collect())
    }
}
