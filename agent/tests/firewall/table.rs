//! What becomes of the table.

use std::time::Duration;

use vmferry_agent::{firewall::Firewall, storage::tool::Tool};
use vmferry_core::{
    network::LinkName,
    policy::{Direction, Ends, Flow, Flows, Guarded, Members, Peer, Protocol, Rule, Subject},
    reason::Reason,
};

use crate::{
    frames,
    lan::{Lan, lan},
};

fn rule(direction: Direction) -> Rule {
    Rule { direction, protocol: Protocol::Any, ports: None, peer: Peer::Anyone }
}

#[test]
fn what_is_done_is_seen_and_can_be_done_again() {
    lan(2, |lan| {
        let taps: Vec<_> = lan.guests.iter().map(|guest| guest.tap.clone()).collect();
        assert_eq!(lan.wait(lan.firewall.look()), Ok(None));
        for _ in 0..2 {
            lan.guard(0, [], &Members::new());
            lan.guard(1, [rule(Direction::Ingress)], &Members::new());
        }
        let held = lan.wait(lan.firewall.look()).expect("it can be read").expect("it is there");
        assert!(held.guarded[&taps[0]].is(&lan.guests[0].guarded([])));
        assert!(held.guarded[&taps[1]].is(&lan.guests[1].guarded([rule(Direction::Ingress)])));
        let wanted = [lan.guests[0].guarded([]), lan.guests[1].guarded([rule(Direction::Ingress)])];
        let none = Members::new();
        let same = lan.firewall.reconcile(&wanted, &none, false);
        assert_eq!(lan.wait(same), Ok(Vec::new()));
        for _ in 0..2 {
            lan.wait(lan.firewall.release(&taps)).expect("released");
        }
        // Nobody is filtered any more: nothing of it is left.
        assert_eq!(lan.wait(lan.firewall.look()), Ok(None));
        assert_eq!(lan.wait(lan.firewall.reconcile(&[], &Members::new(), true)), Ok(Vec::new()));
    });
}

/// Two guests as they are filtered in these tests.
fn two(lan: &Lan) -> [Guarded; 2] {
    [lan.guests[0].guarded([]), lan.guests[1].guarded([rule(Direction::Ingress)])]
}

fn conversation() -> Flows {
    let ends = Ends::V4 { from: [192, 0, 2, 1].into(), to: [192, 0, 2, 2].into() };
    Flows(vec![Flow { ends, subject: Subject::Echo { id: 7 }, left: 30 }])
}

#[test]
fn a_table_that_somebody_else_took_away_is_missed_and_put_back() {
    lan(2, |lan| {
        let (wanted, none) = (two(lan), Members::new());
        lan.wait(async {
            let changed = || lan.firewall.changed();
            lan.firewall.reconcile(&wanted, &none, true).await.expect("made");
            // Its own doing is not somebody else's.
            let quiet = async {
                lan.firewall.release(&[wanted[0].tap.clone()]).await.expect("released");
                lan.firewall.guard(&wanted[..1], &none).await.expect("made again");
                for _ in 0..2 {
                    lan.firewall.restore_flows(&wanted[1].tap, &conversation()).await.expect("restored");
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            };
            tokio::select! {
                biased;
                heard = changed() => panic!("{heard:?}"),
                () = quiet => {}
            }
            let flush = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Tool::new("nft").args(["flush", "ruleset"]).run().await.expect("flushed");
            };
            let limit = Duration::from_secs(5);
            let (heard, ()) = tokio::join!(tokio::time::timeout(limit, changed()), flush);
            assert_eq!(heard.expect("in time"), Ok(()));
            assert_eq!(lan.firewall.look().await, Ok(None));
            let differs = lan.firewall.reconcile(&wanted, &none, true).await.expect("repaired");
            assert_eq!(differs.len(), 4, "{differs:?}");
            assert_eq!(lan.firewall.reconcile(&wanted, &none, false).await, Ok(Vec::new()));
        });
    });
}

#[test]
fn a_change_after_somebody_took_the_table_away_puts_all_of_it_back() {
    lan(2, |lan| {
        let [one, other] = two(lan);
        let none = Members::new();
        lan.wait(async {
            lan.firewall.guard(std::slice::from_ref(&one), &none).await.expect("made");
            Tool::new("nft").args(["flush", "ruleset"]).run().await.expect("flushed");
            lan.firewall.guard(std::slice::from_ref(&other), &none).await.expect("made");
            assert_eq!(lan.firewall.reconcile(&[one, other], &none, false).await, Ok(Vec::new()));
        });
    });
}

#[test]
fn what_somebody_else_altered_is_told_and_repaired() {
    lan(2, |lan| {
        let (wanted, none) = (two(lan), Members::new());
        lan.wait(lan.firewall.guard(&wanted, &none)).expect("made");
        let rules = lan.chains_of_rules().pop().expect("one");
        let commands = [
            "add element bridge vmferry macs { \"vmft1\" . 02:00:00:00:00:01 }",
            "delete element bridge vmferry addresses4 { \"vmft1\" . 10.0.0.1 }",
            "flush chain bridge vmferry spoofing",
            "insert rule bridge vmferry prerouting accept",
            &format!("insert rule bridge vmferry {rules} accept"),
            &format!("delete element bridge vmferry ingress {{ \"vmft2\" : jump {rules} }}"),
            "add chain bridge vmferry rules-0",
            "add chain bridge vmferry strange",
            "add set bridge vmferry strange { type ipv4_addr; }",
            "add counter bridge vmferry strange",
            "add chain bridge vmferry prerouting { policy drop; }",
            "delete table bridge vmferry",
        ];
        for command in commands {
            lan.nft(command);
            let reconcile = |repair| lan.wait(lan.firewall.reconcile(&wanted, &none, repair)).expect("it can");
            let told = reconcile(false);
            assert!(!told.is_empty(), "{command}");
            assert_eq!(reconcile(true), told, "{command}");
            assert_eq!(reconcile(true), Vec::<String>::new(), "{command}");
        }
    });
}

#[test]
fn the_same_rules_are_there_once_for_as_long_as_a_vif_has_them() {
    lan(3, |lan| {
        let web = Rule { peer: Peer::Group("web".parse().expect("valid")), ..rule(Direction::Ingress) };
        let none = Members::new();
        lan.guard(0, [web.clone()], &none);
        lan.guard(1, [web.clone()], &none);
        assert_eq!(lan.chains_of_rules().len(), 1);
        lan.guard(2, [rule(Direction::Ingress)], &none);
        assert_eq!(lan.chains_of_rules().len(), 2);

        lan.wait(lan.firewall.release(&[lan.guests[0].tap.clone()])).expect("released");
        assert_eq!(lan.chains_of_rules().len(), 2);
        assert!(!lan.passes(0, 1, &frames::udp4(lan.guests[0].mac, lan.guests[0].ipv4(), [255; 4], [1, 2])));
        // Other rules in their place: the group goes with the last rule that names it.
        lan.guard(1, [rule(Direction::Ingress)], &none);
        assert_eq!(lan.chains_of_rules().len(), 1);
        assert!(!lan.nft("list table bridge vmferry").contains("web"));
        let wanted = [1, 2].map(|guest| lan.guests[guest].guarded([rule(Direction::Ingress)]));
        assert_eq!(lan.wait(lan.firewall.reconcile(&wanted, &none, false)), Ok(Vec::new()));
    });
}

#[test]
fn an_agent_that_starts_again_takes_over_what_is_there() {
    lan(2, |lan| {
        let (wanted, none) = (two(lan), Members::new());
        lan.wait(lan.firewall.guard(&wanted, &none)).expect("made");
        lan.nft("add element bridge vmferry tcp4-6 { \"vmft2\" . 10.0.0.2 . 1000 . 10.0.0.1 . 22 timeout 1h }");
        let again = Firewall::new();
        lan.wait(again.release(&[wanted[0].tap.clone()])).expect("released");
        assert_eq!(lan.wait(again.reconcile(&wanted, &none, false)).expect("told"), ["`vmft1` is not filtered"]);
        assert_eq!(lan.wait(again.reconcile(&wanted, &none, true)).expect("repaired").len(), 1);
        lan.nft("add counter bridge vmferry strange");
        assert_eq!(lan.wait(again.reconcile(&wanted, &none, true)).expect("repaired").len(), 1);
        assert_eq!(lan.wait(again.flows(&wanted[1].tap)).expect("flows").0.len(), 1);
    });
}

#[test]
fn two_changes_at_once_are_both_there() {
    lan(2, |lan| {
        let ([one, other], none) = (two(lan), Members::new());
        lan.wait(async {
            let (first, second) = tokio::join!(
                lan.firewall.guard(std::slice::from_ref(&one), &none),
                lan.firewall.guard(std::slice::from_ref(&other), &none)
            );
            assert_eq!((first, second), (Ok(()), Ok(())));
            assert_eq!(lan.firewall.reconcile(&[one, other], &none, false).await, Ok(Vec::new()));
        });
    });
}

#[test]
fn a_name_that_nft_would_not_take_as_one_is_refused() {
    lan(1, |lan| {
        let tap: LinkName = "tap*".parse().expect("a name for the kernel");
        let refused = lan
            .wait(lan.firewall.guard(&[Guarded { tap, ..lan.guests[0].guarded([]) }], &Members::new()))
            .expect_err("refused");
        assert_eq!(refused.reason, Reason::FirewallFailed);
    });
}

#[test]
fn a_host_without_nft_says_so() {
    // A program of its own: what is found in its path is everybody's.
    let tests = std::env::current_exe().expect("these tests").display().to_string();
    let without =
        Tool::new(&tests).args(["--ignored", "--exact", "table::without_nft"]).secret_env("PATH", "/none".into());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let said = runtime.block_on(without.run()).expect("it passes");
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "run by the test above, where there is no nft"]
fn without_nft() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let missing = runtime.block_on(Firewall::new().look()).expect_err("there is no nft");
    assert_eq!(missing.reason, Reason::FirewallMissing, "{missing}");
    assert!(missing.message.contains("install `nftables`"), "{missing}");
}
