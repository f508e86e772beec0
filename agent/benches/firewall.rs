//! What the filter of one more vif costs beside few and beside many others, and what it costs to put all in place. Runs in a network
//! namespace of its own, as root.

use std::{
    thread,
    time::{Duration, Instant},
};

use macaddr::MacAddr6;
use nix::sched::{CloneFlags, unshare};
use tokio::runtime::Builder;
use vmferry_agent::firewall::Firewall;
use vmferry_core::policy::{Direction, Guarded, Members, Peer, Policy, Ports, Protocol, Rule};

/// How often what is measured is done.
const TIMES: u16 = 15;

fn main() {
    let bench = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace can be made by root");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            for (name, rules) in [
                ("addresses", Rules::None),
                ("addresses and rules, all the same", Rules::Same),
                ("addresses and rules, no two the same", Rules::Own),
            ] {
                measure(name, rules).await;
            }
        });
    });
    bench.join().expect("measured");
}

/// What rules the vifs have.
#[derive(Debug, Clone, Copy)]
enum Rules {
    None,
    Same,
    Own,
}

async fn measure(name: &str, rules: Rules) {
    let (firewall, members) = (Firewall::new(), Members::new());
    firewall.reconcile(&[], &members, true).await.expect("an empty table");
    let vifs: Vec<Guarded> = (0..1000).map(|number| vif(number, rules)).collect();
    firewall.guard(&vifs[..9], &members).await.expect("nine");
    let tenth = one_more(&firewall, rules).await;
    let start = Instant::now();
    firewall.reconcile(&vifs, &members, true).await.expect("a thousand");
    let all = start.elapsed();
    let start = Instant::now();
    let differences = firewall.reconcile(&vifs, &members, true).await.expect("a thousand");
    let (again, none) = (start.elapsed(), differences.len());
    let last = one_more(&firewall, rules).await;
    println!("{name}: the 10th vif {tenth:.1?}, the 1001st {last:.1?} (added, removed)");
    println!("{name}: 1000 vifs put in place {all:.2?}, looked through {again:.2?} ({none} differences)");
}

/// The middle of the times of adding and of removing a vif.
async fn one_more(firewall: &Firewall, rules: Rules) -> [Duration; 2] {
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        let more = [vif(5000, rules)];
        let start = Instant::now();
        firewall.guard(&more, &Members::new()).await.expect("one more");
        added.push(start.elapsed());
        let start = Instant::now();
        firewall.release(&[more[0].tap.clone()]).await.expect("one less");
        removed.push(start.elapsed());
    }
    [added, removed].map(|mut times| {
        times.sort();
        times[times.len() / 2]
    })
}

fn vif(number: u16, rules: Rules) -> Guarded {
    let [high, low] = number.to_be_bytes();
    let rule = |port| Rule {
        direction: Direction::Ingress,
        protocol: Protocol::Tcp,
        ports: Some(Ports { first: port, last: port }),
        peer: Peer::Anyone,
    };
    let policy = Policy {
        addresses: [[10, 0, high, low].into()].into(),
        rules: match rules {
            Rules::None => [].into(),
            Rules::Same => [22, 80, 443].map(rule).into(),
            Rules::Own => [22, 80, 1000 + number].map(rule).into(),
        },
        ..Policy::default()
    };
    let tap = format!("vmft{number:010x}").parse().expect("valid");
    Guarded { tap, mac: MacAddr6::new(0x52, 0x54, 0, 0, high, low), policy }
}
