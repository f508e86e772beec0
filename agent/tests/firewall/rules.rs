//! What security groups let through, by real sockets.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use tokio::runtime::Builder;
use vmferry_agent::storage::tool::Tool;
use vmferry_core::policy::{Direction, Flow, Flows, GroupName, Members, Peer, Ports, Protocol, Rule};

use crate::lan::{Guest, Lan, lan};

/// How long what is dropped is waited for.
const SILENCE: Duration = Duration::from_millis(400);

fn rule(direction: Direction, protocol: Protocol, port: u16, peer: Peer) -> Rule {
    Rule { direction, protocol, ports: (port != 0).then_some(Ports { first: port, last: port }), peer }
}

fn ingress(protocol: Protocol, port: u16) -> Rule {
    rule(Direction::Ingress, protocol, port, Peer::Anyone)
}

fn egress(protocol: Protocol, port: u16) -> Rule {
    rule(Direction::Egress, protocol, port, Peer::Anyone)
}

fn addresses(guest: &Guest) -> [IpAddr; 2] {
    [guest.ipv4().into(), guest.ipv6().into()]
}

/// A word and its answer.
fn talks(mut near: &TcpStream, mut far: &TcpStream) -> bool {
    let mut word = [0; 4];
    for stream in [near, far] {
        stream.set_read_timeout(Some(SILENCE)).expect("a timeout");
    }
    let there = near.write_all(b"word").is_ok() && far.read_exact(&mut word).is_ok();
    there && far.write_all(b"echo").is_ok() && near.read_exact(&mut word).is_ok()
}

/// A connection, if one comes about.
fn connection(from: &Guest, to: &Guest, address: IpAddr, port: u16) -> Option<(TcpStream, TcpStream)> {
    let address = SocketAddr::new(address, port);
    let listener = to.inside(|| TcpListener::bind(address).expect("a listener"));
    let near = from.inside(|| TcpStream::connect_timeout(&address, SILENCE)).ok()?;
    let (far, _) = listener.accept().expect("a connection");
    Some((near, far))
}

/// Whether TCP gets through, by both families alike.
fn tcp(lan: &Lan, from: usize, to: usize, port: u16) -> bool {
    let (from, to) = (&lan.guests[from], &lan.guests[to]);
    let [by4, by6] =
        addresses(to).map(|address| connection(from, to, address, port).is_some_and(|(near, far)| talks(&near, &far)));
    assert_eq!(by4, by6, "IPv4 {by4}, IPv6 {by6}");
    by4
}

/// Whether a datagram gets through, by both families alike.
fn udp(lan: &Lan, from: usize, to: usize, port: u16, size: usize) -> bool {
    let (from, to) = (&lan.guests[from], &lan.guests[to]);
    let [by4, by6] = addresses(to).map(|address| {
        let far = socket(to, SocketAddr::new(address, port));
        let near = socket(from, any(address));
        near.send_to(&vec![7; size], (address, port)).expect("it is sent");
        let mut word = vec![0; 9000];
        let Ok((length, back)) = far.recv_from(&mut word) else { return false };
        far.send_to(&word[..length], back).expect("it is sent");
        near.recv_from(&mut word).is_ok_and(|(length, _)| length == size)
    });
    assert_eq!(by4, by6, "IPv4 {by4}, IPv6 {by6}");
    by4
}

fn any(like: IpAddr) -> SocketAddr {
    let address = if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(address, 0)
}

fn socket(guest: &Guest, address: SocketAddr) -> UdpSocket {
    let socket = guest.inside(|| UdpSocket::bind(address).expect("a socket"));
    socket.set_read_timeout(Some(SILENCE)).expect("a timeout");
    socket
}

/// Whether a ping is answered, by both families alike.
fn ping(lan: &Lan, from: usize, to: usize) -> bool {
    let [by4, by6] = addresses(&lan.guests[to]).map(|address| {
        lan.guests[from].inside(|| {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            let ping = Tool::new("ping").args(["-c1", "-W1", &address.to_string()]);
            runtime.block_on(ping.run()).is_ok()
        })
    });
    assert_eq!(by4, by6, "IPv4 {by4}, IPv6 {by6}");
    by4
}

#[test]
fn only_what_a_rule_lets_in_comes_in_and_answers_do() {
    lan(2, |lan| {
        lan.guard(0, [], &Members::new());
        lan.guard(1, [ingress(Protocol::Tcp, 80), ingress(Protocol::Udp, 53)], &Members::new());
        assert!(tcp(lan, 0, 1, 80) && udp(lan, 0, 1, 53, 4));
        assert!(!tcp(lan, 0, 1, 81) && !udp(lan, 0, 1, 54, 4) && !ping(lan, 0, 1));
        // The guest's own questions are answered.
        assert!(tcp(lan, 1, 0, 81) && udp(lan, 1, 0, 54, 4) && ping(lan, 1, 0));
        // That does not open anything else.
        assert!(!tcp(lan, 0, 1, 81) && !udp(lan, 0, 1, 54, 4) && !ping(lan, 0, 1));
    });
}

#[test]
fn only_what_a_rule_lets_out_goes_out_and_answers_do() {
    lan(2, |lan| {
        let ping_rules = [egress(Protocol::Icmp, 0), egress(Protocol::Icmpv6, 0)];
        lan.guard(1, [egress(Protocol::Udp, 53)].into_iter().chain(ping_rules), &Members::new());
        assert!(udp(lan, 1, 0, 53, 4) && ping(lan, 1, 0));
        assert!(!udp(lan, 1, 0, 54, 4) && !tcp(lan, 1, 0, 53));
        assert!(tcp(lan, 0, 1, 80) && udp(lan, 0, 1, 54, 4) && ping(lan, 0, 1));
        assert!(!tcp(lan, 1, 0, 80));
    });
}

#[test]
fn with_both_directions_restricted_each_lets_answer() {
    lan(2, |lan| {
        lan.guard(1, [ingress(Protocol::Tcp, 80), egress(Protocol::Tcp, 90)], &Members::new());
        assert!(tcp(lan, 0, 1, 80) && tcp(lan, 1, 0, 90));
        assert!(!tcp(lan, 0, 1, 90) && !tcp(lan, 1, 0, 80) && !udp(lan, 1, 0, 90, 4) && !ping(lan, 1, 0));
    });
}

#[test]
fn what_comes_in_fragments_passes_as_a_whole_or_not_at_all() {
    lan(2, |lan| {
        lan.guard(1, [ingress(Protocol::Udp, 53)], &Members::new());
        assert!(udp(lan, 0, 1, 53, 4000) && udp(lan, 1, 0, 54, 4000));
        assert!(!udp(lan, 0, 1, 54, 4000));
    });
}

#[test]
fn members_of_a_group_are_let_in() {
    lan(3, |lan| {
        let group: GroupName = "web-1.tier_A".parse().expect("valid");
        let from_group = rule(Direction::Ingress, Protocol::Tcp, 80, Peer::Group(group.clone()));
        let members = |guest: usize| Members::from([(group.clone(), addresses(&lan.guests[guest]).into())]);
        lan.guard(1, [from_group.clone()], &members(0));
        assert!(tcp(lan, 0, 1, 80) && !tcp(lan, 2, 1, 80) && !tcp(lan, 0, 1, 81));
        lan.wait(lan.firewall.guard(&[], &members(2))).expect("members change");
        assert!(!tcp(lan, 0, 1, 80) && tcp(lan, 2, 1, 80));
        // Others' vifs with the same rule leave the group as it is.
        lan.guard(0, [from_group], &Members::new());
        lan.wait(lan.firewall.release(&[lan.guests[0].tap.clone()])).expect("released");
        assert!(!tcp(lan, 0, 1, 80) && tcp(lan, 2, 1, 80));
    });
}

#[test]
fn a_net_and_a_range_of_ports_are_what_they_say() {
    lan(3, |lan| {
        let nets = ["10.0.0.1/32", "fd00::1/128"].map(|net| Peer::Net(net.parse().expect("valid")));
        let ports = Some(Ports { first: 80, last: 81 });
        let rules = nets.map(|peer| Rule { direction: Direction::Ingress, protocol: Protocol::Tcp, ports, peer });
        lan.guard(1, rules, &Members::new());
        assert!(tcp(lan, 0, 1, 80) && tcp(lan, 0, 1, 81));
        assert!(!tcp(lan, 0, 1, 79) && !tcp(lan, 0, 1, 82) && !tcp(lan, 2, 1, 80));
    });
}

#[test]
fn a_connection_outlives_a_policy_that_still_allows_it() {
    lan(2, |lan| {
        lan.guard(1, [ingress(Protocol::Tcp, 80)], &Members::new());
        let [address, _] = addresses(&lan.guests[1]);
        let (near, far) = connection(&lan.guests[0], &lan.guests[1], address, 80).expect("a connection");
        assert!(talks(&near, &far));
        lan.guard(1, [ingress(Protocol::Tcp, 80), ingress(Protocol::Tcp, 22)], &Members::new());
        assert!(talks(&near, &far));
        lan.guard(1, [ingress(Protocol::Tcp, 22)], &Members::new());
        assert!(!talks(&near, &far));
    });
}

#[test]
fn what_a_guest_asked_is_answered_after_its_flows_have_moved() {
    lan(2, |lan| {
        let (asks, answers) = (&lan.guests[1], &lan.guests[0]);
        let rules = || [ingress(Protocol::Tcp, 22)];
        lan.guard(1, rules(), &Members::new());
        let pairs = addresses(answers).map(|address| {
            let (near, far) = (socket(asks, any(address)), socket(answers, SocketAddr::new(address, 53)));
            near.send_to(b"word", (address, 53)).expect("it is sent");
            let (_, back) = far.recv_from(&mut [0; 4]).expect("it arrives");
            let tcp = connection(asks, answers, address, 80).expect("a connection");
            assert!(talks(&tcp.0, &tcp.1));
            (near, far, back, tcp)
        });
        assert!(ping(lan, 1, 0));
        let flows = lan.wait(lan.firewall.flows(&asks.tap)).expect("flows");
        assert_eq!(flows.0.len(), 6, "{flows:?}");
        // As on a host that has never seen it.
        lan.nft("flush ruleset");
        lan.guard(1, rules(), &Members::new());
        let answer = |of: &(UdpSocket, UdpSocket, SocketAddr, (TcpStream, TcpStream))| {
            let (near, far, back, (mut asked, mut answering)) = (&of.0, &of.1, of.2, (&of.3.0, &of.3.1));
            far.send_to(b"late", back).expect("it is sent");
            let by_udp = near.recv_from(&mut [0; 4]).is_ok();
            answering.write_all(b"late").expect("it is sent");
            asked.set_read_timeout(Some(SILENCE)).expect("a timeout");
            (by_udp, asked.read_exact(&mut [0; 4]).is_ok())
        };
        assert_eq!(pairs.each_ref().map(answer), [(false, false); 2]);
        // Told again, what is there already is remembered as long as the other host would have.
        for left in [7, 90] {
            let told = Flows(flows.0.iter().map(|flow| Flow { left, ..flow.clone() }).collect());
            lan.wait(lan.firewall.restore_flows(&asks.tap, &told)).expect("restored");
            let there = lan.wait(lan.firewall.flows(&asks.tap)).expect("flows");
            assert!(there.0.len() == 6 && there.0.iter().all(|flow| flow.left.abs_diff(left) < 3), "{there:?}");
        }
        // TCP sends again what was lost.
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(pairs.each_ref().map(answer), [(true, true); 2]);
        let again = lan.wait(lan.firewall.flows(&asks.tap)).expect("flows");
        assert!(flows.0.iter().all(|flow| again.0.iter().any(|same| same.subject == flow.subject)), "{again:?}");
        // A guest that comes back has the same tap, and perhaps another policy.
        lan.wait(lan.firewall.release(std::slice::from_ref(&asks.tap))).expect("released");
        assert_eq!(lan.wait(lan.firewall.flows(&asks.tap)).expect("flows"), Flows::default());
    });
}
