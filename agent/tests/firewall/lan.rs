//! A host and its guests, each a network namespace, and a bridge that joins them. What stands for a tap is one end of a pair of
//! links: the firewall goes by its name.

use std::{
    cell::Cell,
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use macaddr::MacAddr6;
use nix::{
    ifaddrs::getifaddrs,
    sched::{CloneFlags, setns, unshare},
    sys::{
        socket::{
            AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt,
            socket, sockopt::ReceiveTimeout,
        },
        time::TimeVal,
    },
};
use tokio::runtime::{Builder, Runtime};
use vmferry_agent::{firewall::Firewall, storage::tool::Tool};
use vmferry_core::{
    network::LinkName,
    policy::{Guarded, Members, Policy, Rule},
};

use crate::frames;

/// How long a frame may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A host with its guests.
pub(crate) struct Lan {
    runtime: Runtime,
    pub(crate) firewall: Firewall,
    pub(crate) guests: Vec<Guest>,
    count: Cell<u32>,
}

/// A guest with one vif.
pub(crate) struct Guest {
    pub(crate) tap: LinkName,
    pub(crate) number: u8,
    pub(crate) mac: MacAddr6,
    namespace: File,
    socket: OwnedFd,
    link: LinkAddr,
}

/// Runs a test on a host with as many guests, in namespaces that are gone with it.
pub(crate) fn lan(guests: u8, test: impl FnOnce(&Lan) + Send + 'static) {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace can be made by root");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        ip(&runtime, "link set lo up");
        ip(&runtime, "link add br0 type bridge forward_delay 0 mcast_snooping 0");
        ip(&runtime, "link set br0 up");
        let guests = (1..=guests).map(|number| Guest::new(&runtime, number)).collect();
        let lan = Lan { runtime, firewall: Firewall::new(), guests, count: Cell::new(0) };
        test(&lan);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Lan {
    /// Waits for something that the agent does.
    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Runs nft with a command, as an administrator would.
    pub(crate) fn nft(&self, command: &str) -> String {
        self.wait(Tool::new("nft").args(command.split(' ')).run()).expect("nft runs")
    }

    /// The names of the chains that have rules of guests.
    pub(crate) fn chains_of_rules(&self) -> Vec<String> {
        let table = self.nft("list table bridge vmferry");
        let names = table.lines().filter_map(|line| line.trim().strip_prefix("chain rules-")?.strip_suffix(" {"));
        names.map(|mark| format!("rules-{mark}")).collect()
    }

    /// Filters a guest that has its own addresses with these rules.
    pub(crate) fn guard(&self, guest: usize, rules: impl IntoIterator<Item = Rule>, members: &Members) {
        self.wait(self.firewall.guard(&[self.guests[guest].guarded(rules)], members)).expect("it is filtered");
    }

    /// Whether a frame of one guest gets to another, exactly as it is.
    pub(crate) fn passes(&self, from: usize, to: usize, frame: &[u8]) -> bool {
        self.passes_as(from, to, frame, frame)
    }

    /// Whether a frame of one guest gets to another, and looks like this there. What was sent after it is waited for: no frame
    /// overtakes another.
    pub(crate) fn passes_as(&self, from: usize, to: usize, frame: &[u8], there: &[u8]) -> bool {
        let (from, to) = (&self.guests[from], &self.guests[to]);
        self.count.set(self.count.get() + 1);
        let last = frames::arp(from.mac, from.mac, from.ipv4(), self.count.get().to_be_bytes());
        from.send(frame);
        from.send(&last);
        let (mut passed, start) = (false, Instant::now());
        loop {
            let received = to.receive().expect("what was sent last arrives");
            if received == last {
                return passed;
            }
            passed |= received == there;
            assert!(start.elapsed() < PATIENCE, "what was sent last arrives");
        }
    }
}

impl Guest {
    fn new(runtime: &Runtime, number: u8) -> Self {
        let namespace = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace can be made by root");
            File::open("/proc/thread-self/ns/net").expect("it can be opened")
        });
        let namespace = namespace.join().expect("a namespace");
        let tap: LinkName = format!("vmft{number}").parse().expect("valid");
        let mac = MacAddr6::new(0x52, 0x54, 0, 0, 0, number);
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        ip(runtime, &format!("link add {tap} type veth peer name eth0 address {mac} netns {path}"));
        ip(runtime, &format!("link set {tap} master br0 up"));
        let (socket, link) = enter(&namespace, || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0").expect("a setting of IPv6");
            std::fs::write("/proc/sys/net/ipv6/conf/eth0/router_solicitations", "0").expect("a setting of IPv6");
            ip(&runtime, &format!("address add 10.0.0.{number}/24 dev eth0"));
            ip(&runtime, &format!("address add fd00::{number:x}/64 dev eth0 nodad"));
            ip(&runtime, "link set lo up");
            ip(&runtime, "link set eth0 up");
            open("eth0")
        });
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(5, 0)).expect("a timeout");
        Self { tap, number, mac, namespace, socket, link }
    }

    /// Its address.
    pub(crate) fn ipv4(&self) -> [u8; 4] {
        [10, 0, 0, self.number]
    }

    /// Its other address.
    pub(crate) fn ipv6(&self) -> [u8; 16] {
        let mut address = [0; 16];
        (address[0], address[15]) = (0xfd, self.number);
        address
    }

    /// As it is filtered with its own addresses and these rules.
    pub(crate) fn guarded(&self, rules: impl IntoIterator<Item = Rule>) -> Guarded {
        let policy = Policy {
            addresses: [self.ipv4().into(), self.ipv6().into()].into(),
            rules: rules.into_iter().collect(),
            ..Policy::default()
        };
        Guarded { tap: self.tap.clone(), mac: self.mac, policy }
    }

    /// Does something inside.
    pub(crate) fn inside<T: Send>(&self, does: impl FnOnce() -> T + Send) -> T {
        enter(&self.namespace, does)
    }

    fn send(&self, frame: &[u8]) {
        sendto(self.socket.as_raw_fd(), frame, &self.link, MsgFlags::empty()).expect("a frame is sent");
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut frame = vec![0; 2048];
        let length = recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty())?;
        frame.truncate(length);
        Ok(frame)
    }
}

/// All frames of a link, and whom to send them to.
fn open(link: &str) -> (OwnedFd, LinkAddr) {
    let address = getifaddrs()
        .expect("links")
        .find_map(|found| (found.interface_name == link).then_some(found.address?.as_link_addr().copied()).flatten());
    let address = address.expect("the link has an address");
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .expect("a socket for frames");
    bind(socket.as_raw_fd(), &address).expect("it is bound");
    (socket, address)
}

fn enter<T: Send>(namespace: &File, does: impl FnOnce() -> T + Send) -> T {
    let inside = thread::scope(|scope| {
        let inside = || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("a namespace can be entered");
            does()
        };
        scope.spawn(inside).join()
    });
    inside.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn ip(runtime: &Runtime, command: &str) {
    runtime.block_on(Tool::new("ip").args(command.split(' ')).run()).expect("ip does it");
}
