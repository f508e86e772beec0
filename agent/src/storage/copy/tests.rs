//! Both ends with QEMU's own tools, and between them what the tunnel does: splice one socket to another.

use std::{
    cell::RefCell,
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use bytesize::ByteSize;
use tokio::{
    io::{AsyncReadExt as _, copy, copy_bidirectional},
    net::{UnixListener, UnixStream},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::storage::{
    image::{Layout, NewImage, Ownership, create},
    tool::Tool,
};

const MIB: u64 = 1 << 20;

/// Two hosts: a directory each, in one.
struct Hosts {
    directory: tempfile::TempDir,
}

impl Hosts {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        for host in ["source", "destination"] {
            fs::create_dir(directory.path().join(host)).expect("writable");
        }
        Self { directory }
    }

    fn source(&self, name: &str) -> PathBuf {
        self.directory.path().join("source").join(name)
    }

    fn destination(&self, name: &str) -> PathBuf {
        self.directory.path().join("destination").join(name)
    }

    async fn receiver(&self, name: &str) -> Receiver {
        let length = ByteSize(fs::metadata(self.source(name)).expect("there").len());
        let metadata = fs::metadata(self.directory.path()).expect("there");
        let ownership = Ownership { user: metadata.uid(), group: metadata.gid(), mode: 0o600 };
        let empty = NewImage { layout: Layout::Raw, virtual_size: length, ownership };
        create(&self.destination(name), &empty).await.expect("created");
        Receiver::start(&self.destination("disk.sock"), &self.destination(name)).await.expect("started")
    }

    /// Leads from the source to the destination. The first stream is cut when it has carried so much.
    fn tunnel(&self, cut: Option<u64>) -> PathBuf {
        let (near, far) = (self.source("tunnel.sock"), self.destination("disk.sock"));
        _ = fs::remove_file(&near);
        let listener = UnixListener::bind(&near).expect("bound");
        tokio::spawn(async move {
            let mut cut = cut;
            loop {
                let (mut near, _) = listener.accept().await.expect("accepted");
                let mut far = UnixStream::connect(&far).await.expect("the receiver listens");
                match cut.take() {
                    None => _ = copy_bidirectional(&mut near, &mut far).await,
                    Some(limit) => {
                        let ((near_in, mut near_out), (mut far_in, mut far_out)) = (near.split(), far.split());
                        let mut near_in = near_in.take(limit);
                        tokio::select! {
                            _ = copy(&mut near_in, &mut far_out) => {}
                            _ = copy(&mut far_in, &mut near_out) => {}
                        }
                    }
                }
            }
        });
        near
    }

    async fn carry(&self, name: &str) {
        let receiver = self.receiver(name).await;
        let cancel = CancellationToken::new();
        send(&self.source(name), &self.tunnel(None), |_| (), &cancel).await.expect("sent");
        receiver.stop(None).await.expect("received");
    }

    fn assert_same(&self, name: &str) {
        let [here, there] = [self.source(name), self.destination(name)].map(|path| fs::read(path).expect("readable"));
        assert!(here == there, "{name} differs: {} and {} bytes", here.len(), there.len());
    }
}

/// Data at the given places, in MiB, a MiB each; holes between.
fn write(path: &Path, length: u64, data: &[u64]) {
    let file = File::create(path).expect("writable");
    file.set_len(length).expect("writable");
    for &place in data {
        file.write_all_at(&vec![place as u8 + 1; MIB as usize], place * MIB).expect("writable");
    }
    file.sync_all().expect("writable");
}

fn blocks(path: &Path) -> u64 {
    fs::metadata(path).expect("there").blocks()
}

async fn qemu(program: &str, arguments: &[&str]) -> String {
    Tool::new(program).args(arguments.iter().copied()).run().await.expect("it does its work")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[tokio::test]
async fn an_image_arrives_as_it_is_and_its_holes_stay_holes() {
    let hosts = Hosts::new();
    // Not a whole number of sectors, which is how QEMU counts.
    write(&hosts.source("disk"), 64 * MIB + 100, &[0, 7, 8, 40]);
    let receiver = hosts.receiver("disk").await;
    let seen = RefCell::new(Vec::new());
    let progress = |done| seen.borrow_mut().push(done);
    send(&hosts.source("disk"), &hosts.tunnel(None), progress, &CancellationToken::new()).await.expect("sent");
    receiver.stop(None).await.expect("received");

    hosts.assert_same("disk");
    let (here, there) = (blocks(&hosts.source("disk")), blocks(&hosts.destination("disk")));
    assert!(there <= here + 16, "{here} blocks became {there}");
    let seen = seen.into_inner();
    assert!(seen.is_sorted() && seen.len() > 2, "{seen:?}");
    assert_eq!(seen.last(), Some(&ByteSize(here * 512)));
}

#[tokio::test]
async fn files_of_every_length_arrive() {
    let hosts = Hosts::new();
    for (name, content) in
        [("empty", vec![]), ("a byte", vec![1]), ("zeros, a byte", [vec![0; 5000], vec![1]].concat())]
    {
        fs::write(hosts.source(name), content).expect("writable");
        hosts.carry(name).await;
        hosts.assert_same(name);
    }
}

#[tokio::test]
async fn a_layer_arrives_without_what_it_lies_on_which_shows_through_again() {
    let hosts = Hosts::new();
    let (base, layer) = (hosts.source("base"), hosts.source("layer"));
    write(&base, 32 * MIB, &[1, 20]);
    qemu("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", text(&layer)]).await;
    qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 7 1M 64k", "-c", "write -P 8 30M 64k", text(&layer)]).await;
    for name in ["base", "layer"] {
        hosts.carry(name).await;
        hosts.assert_same(name);
    }
    assert!(blocks(&hosts.destination("layer")) * 512 < MIB, "it has nothing of its backing image's");
    let there = hosts.destination("layer");
    qemu("qemu-img", &["compare", "-f", "qcow2", "-F", "qcow2", text(&layer), text(&there)]).await;
    let shows_through = ["read -P 7 1M 64k", "read -P 2 1088k 64k", "read -P 21 20M 1M"];
    for read in shows_through {
        qemu("qemu-io", &["-r", "-f", "qcow2", "-c", read, text(&there)]).await;
    }
}

#[tokio::test]
async fn a_stream_that_breaks_is_taken_up_again() {
    let hosts = Hosts::new();
    write(&hosts.source("disk"), 32 * MIB, &[0, 1, 2, 3, 10, 20, 31]);
    let receiver = hosts.receiver("disk").await;
    let tunnel = hosts.tunnel(Some(3 * MIB));
    send(&hosts.source("disk"), &tunnel, |_| (), &CancellationToken::new()).await.expect("sent");
    receiver.stop(None).await.expect("received");
    hosts.assert_same("disk");
}

#[tokio::test]
async fn what_a_guest_writes_to_is_not_sent_but_what_it_lies_on_is() {
    let hosts = Hosts::new();
    let (base, layer) = (hosts.source("base"), hosts.source("layer"));
    write(&base, 8 * MIB, &[1]);
    qemu("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", text(&layer)]).await;
    let socket = hosts.source("guest.sock");
    let mut guest = Tool::new("qemu-nbd")
        .args(["--persistent", "--format=qcow2", "--socket", text(&socket), text(&layer)])
        .command()
        .spawn()
        .expect("it starts");
    while UnixStream::connect(&socket).await.is_err() {
        tokio::task::yield_now().await;
    }

    hosts.carry("base").await;
    hosts.assert_same("base");
    let receiver = hosts.receiver("layer").await;
    let sent = send(&layer, &hosts.tunnel(None), |_| (), &CancellationToken::new()).await;
    let Err(Error::Tool { source, .. }) = sent else { panic!("{sent:?}") };
    assert!(source.how.contains("Is another process using the image"), "{source}");
    receiver.stop(None).await.expect("nothing came");
    guest.kill().await.expect("it runs");
}

#[tokio::test]
async fn a_full_disk_on_the_destination_is_told_on_the_source() {
    let hosts = Hosts::new();
    write(&hosts.source("disk"), 8 * MIB, &[1, 2]);
    write(&hosts.destination("disk"), 8 * MIB, &[]);
    let (socket, disk) = (hosts.destination("disk.sock"), hosts.destination("disk"));
    let full = format!(
        "driver=blkdebug,inject-error.0.event=none,inject-error.0.iotype=write,inject-error.0.errno={},\
         image.driver=file,image.filename={}",
        libc::ENOSPC,
        disk.display()
    );
    let mut server = Tool::new("qemu-nbd")
        .args(["--persistent", "--image-opts", "--socket", text(&socket), &full])
        .command()
        .spawn()
        .expect("it starts");
    while UnixStream::connect(&socket).await.is_err() {
        tokio::task::yield_now().await;
    }
    let sent = send(&hosts.source("disk"), &hosts.tunnel(None), |_| (), &CancellationToken::new()).await;
    let Err(Error::Tool { source, .. }) = sent else { panic!("{sent:?}") };
    assert!(source.how.ends_with("No space left on device"), "{source}");
    server.kill().await.expect("it runs");
}

#[tokio::test]
async fn it_can_be_called_off_while_the_destination_is_silent() {
    let hosts = Hosts::new();
    write(&hosts.source("disk"), 8 * MIB, &[1]);
    let silent = hosts.source("tunnel.sock");
    let listener = UnixListener::bind(&silent).expect("bound");
    let cancel = CancellationToken::new();
    let disk = hosts.source("disk");
    let (sent, mut stream) = tokio::join!(send(&disk, &silent, |_| (), &cancel), async {
        let (stream, _) = listener.accept().await.expect("accepted");
        cancel.cancel();
        stream
    });
    assert!(matches!(sent, Err(Error::Cancelled(_))), "{sent:?}");
    assert_eq!(stream.read(&mut [0]).await.expect("readable"), 0, "the program is gone");
}
