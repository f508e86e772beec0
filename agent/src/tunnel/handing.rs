//! Handing an open connection to another process of this host.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
};

/// A message has to have something in it.
const SOMETHING: &[u8] = b"t";

/// Hands it over. What has not been read of it goes with it.
pub(super) async fn hand(to: &UnixStream, tcp: &TcpStream) -> io::Result<()> {
    let handed = to.async_io(Interest::WRITABLE, || {
        let sockets = [tcp.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(io::Error::other("a message has no room for a socket"));
        }
        Ok(sendmsg(to, &[IoSlice::new(SOMETHING)], &mut ancillary, SendFlags::NOSIGNAL)?)
    });
    handed.await.map(drop)
}

/// Takes what is handed.
pub(super) async fn take(from: &UnixStream) -> io::Result<TcpStream> {
    let taken = from.async_io(Interest::READABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut something = [0; SOMETHING.len()];
        recvmsg(from, &mut [IoSliceMut::new(&mut something)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        let handed = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        });
        handed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a message without a socket"))
    });
    let socket: OwnedFd = taken.await?;
    let tcp = std::net::TcpStream::from(socket);
    tcp.set_nonblocking(true)?;
    TcpStream::from_std(tcp)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn a_connection_is_handed_over_with_what_was_not_read_of_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let (accepted, _) = listener.accept().await.expect("accepted");
        client.write_all(b"hel").await.expect("written");
        accepted.readable().await.expect("readable");

        let (here, there) = UnixStream::pair().expect("a pair");
        hand(&here, &accepted).await.expect("handed");
        drop((accepted, here));
        let mut taken = take(&there).await.expect("taken");

        client.write_all(b"lo").await.expect("written");
        let mut heard = [0; 5];
        taken.read_exact(&mut heard).await.expect("read");
        assert_eq!(&heard, b"hello");
        taken.write_all(b"yes").await.expect("written");
        drop(taken);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("read");
        assert_eq!(answer, b"yes");
    }

    #[tokio::test]
    async fn what_ends_without_a_connection_has_none() {
        let (here, there) = UnixStream::pair().expect("a pair");
        drop(here);
        assert_eq!(take(&there).await.expect_err("nothing was handed").kind(), io::ErrorKind::InvalidData);
    }
}
