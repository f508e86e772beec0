//! The files that disks lie in, and probes beside them. All of this blocks, for as long as a dead file server does: it
//! runs on threads that nobody waits for longer than `LIMIT`.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, statfs};
use vmferry_core::disk::{File, Probe, Seen, SeenProbe};

use crate::storage::blocking::within;

/// How long a file system may take for an answer.
const LIMIT: Duration = Duration::from_secs(5);
/// How long a probe may take to be seen: NFS clients believe for a while what they saw last.
const PATIENCE: Duration = Duration::from_secs(1);
/// What `stat` counts in, whatever the file system.
const BLOCK: u64 = 512;
/// More than any token.
const TOKEN_LIMIT: u64 = 128;

/// Runs what blocks; gives it up after a while.
pub async fn within_limit<T: Send + 'static>(
    blocking: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    within(LIMIT, blocking).await
}

/// A disk's file, every symbolic link followed.
pub fn look_at(path: &str) -> io::Result<File> {
    let real = fs::canonicalize(path)?;
    // To open it makes an NFS client ask its server. Where root may not open it, it may still look.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&real);
    let metadata = opened.and_then(|file| file.metadata()).or_else(|_| fs::metadata(&real))?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let directory = real.parent().and_then(Path::to_str).ok_or_else(|| io::Error::other("its path is not UTF-8"))?;
    Ok(File {
        path: path.to_owned(),
        directory: directory.to_owned(),
        size: metadata.size(),
        allocated: metadata.blocks() * BLOCK,
        inode: metadata.ino(),
        device: metadata.dev(),
    })
}

/// Writes a probe and returns its device number. It is on the server when this returns.
pub fn place(probe: &Probe) -> io::Result<u64> {
    let path = Path::new(&probe.directory).join(&probe.file_name);
    // Others may write to the directory too: what has this name already is not followed, and not ours to write.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(probe.token.as_bytes())?;
    // Root here may be nobody there; the token is no secret.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.sync_all()?;
    Ok(file.metadata()?.dev())
}

/// Removes a probe, if it is there.
pub fn remove(probe: &Probe) -> io::Result<()> {
    let path = Path::new(&probe.directory).join(&probe.file_name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Said of a file that is not there, too: the kernel does not look that far.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem && !fs::exists(&path)? => Ok(()),
        result => result,
    }
}

/// What is here at this path, which the source has `shown` to be so; `probe` is what it has put beside it.
///
/// Looks again for a while, as long as a probe that should be here is not; but where a file system believes nothing of what it
/// saw before, what is not there at once is not there.
pub fn see(path: &str, shown: Option<&File>, probe: Option<&Probe>) -> io::Result<Option<Seen>> {
    let patience = if sees_at_once(Path::new(path)) { Duration::ZERO } else { PATIENCE };
    let deadline = Instant::now() + patience;
    loop {
        let seen = match look_at(path) {
            Ok(file) => {
                let found = probe.and_then(|probe| read(&file.directory, &probe.file_name).ok());
                Some(Seen { file, probe: found, digest: None })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let matches = |probe: &Probe, seen: &Seen| {
            seen.probe.as_ref().is_some_and(|found| found.token == probe.token)
                && shown.is_none_or(|shown| seen.file.size >= shown.size)
        };
        let settled = match (probe, &seen) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(probe), Some(seen)) => matches(probe, seen),
        };
        if settled || Instant::now() >= deadline {
            return Ok(seen);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Whether the file system in which a path lies, or would, is this host's own. Of all others it is not known.
fn sees_at_once(path: &Path) -> bool {
    // A link whose end is not to be seen may lead anywhere.
    if statfs(path).is_err() && path.is_symlink() {
        return false;
    }
    let existing = path.ancestors().find_map(|ancestor| statfs(ancestor).ok());
    let own = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC];
    existing.is_some_and(|file_system| own.contains(&file_system.filesystem_type()))
}

fn read(directory: &str, file_name: &str) -> io::Result<SeenProbe> {
    let path = Path::new(directory).join(file_name);
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let device = file.metadata()?.dev();
    let mut token = String::new();
    file.take(TOKEN_LIMIT).read_to_string(&mut token)?;
    Ok(SeenProbe { token, device })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_file_systems_of_the_host_itself_are_believed_at_once() {
        assert!(sees_at_once(Path::new("/dev/shm/not/there")), "tmpfs");
        let link = Path::new("/dev/shm").join(format!("vmferry-test-{}", std::process::id()));
        std::os::unix::fs::symlink("/not/to/be/seen", &link).expect("a link");
        assert!(!sees_at_once(&link), "it may lead anywhere");
        fs::remove_file(&link).expect("removed");
        for other in ["/proc/not/there", "/sys/not/there", "not/there"] {
            assert!(!sees_at_once(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn a_probe_is_seen_beside_the_real_file_until_it_is_removed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
        fs::create_dir(path("real")).expect("writable");
        fs::write(path("real/web.img"), "disk").expect("writable");
        symlink("real/web.img", path("link.img")).expect("writable");
        let shown = look_at(&path("link.img")).expect("there");
        assert!(shown.directory.ends_with("/real"), "{}", shown.directory);

        let file_name = format!("{}1-0", Probe::PREFIX);
        let probe = Probe { directory: shown.directory.clone(), file_name, token: "t".into(), device: 0 };
        assert_eq!(place(&probe).expect("placed"), shown.device);
        place(&probe).expect_err("it does not write to what it finds");
        let seen = see(&shown.path, Some(&shown), Some(&probe)).expect("readable").expect("there");
        assert_eq!(seen.file, shown);
        assert_eq!(seen.probe, Some(SeenProbe { token: "t".into(), device: shown.device }));

        remove(&probe).expect("removed");
        remove(&probe).expect("it is not there, as it should be");
        assert_eq!(see(&shown.path, Some(&shown), Some(&probe)).expect("readable").expect("there").probe, None);
        fs::remove_file(path("link.img")).expect("removed");
        assert_eq!(see(&shown.path, Some(&shown), None).expect("readable"), None);
    }
}
