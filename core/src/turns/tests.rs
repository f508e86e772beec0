use proptest::prelude::*;

use super::*;
use crate::flow;

const SECOND: Duration = Duration::from_secs(1);

fn id(number: u8) -> MigrationId {
    format!("0197a000-0000-7000-8000-0000000000{number:02x}").parse().expect("valid")
}

fn order(number: u8, priority: Priority) -> Order {
    Order { id: id(number), instance_name: format!("web-{number}"), priority, ..flow::tests::order() }
}

fn open(numbers: &[u8]) -> Vec<Open> {
    numbers.iter().map(|number| Open { id: id(*number), instance_name: format!("web-{number}") }).collect()
}

/// A host that sends as many as `limit`, and a clock.
struct Host {
    turns: Turns,
    open: Vec<Open>,
    now: Duration,
}

impl Host {
    fn new(limit: u32, numbers: &[u8]) -> Self {
        let turns = Turns::new("node-28".parse().expect("valid"), Side::Source, limit);
        Self { turns, open: open(numbers), now: Duration::ZERO }
    }

    fn ask(&mut self, number: u8, priority: Priority) -> Answer {
        self.turns.ask(&order(number, priority), "vmferry://c/coordinator/ops", &self.open, self.now)
    }

    fn has_turn(&mut self, number: u8) -> bool {
        self.ask(number, Priority::Normal) == Answer::Turn
    }

    fn sentence(&mut self, number: u8, priority: Priority) -> String {
        match self.ask(number, priority) {
            Answer::Waits(waiting) => waiting.to_string(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_free_is_given_and_the_others_wait_in_the_order_in_which_they_came() {
    let mut host = Host::new(2, &[]);
    assert!(host.has_turn(1) && host.has_turn(2) && host.has_turn(1), "a repeat has what it has");
    for number in [3, 4, 5] {
        host.now += SECOND;
        assert!(!host.has_turn(number));
    }
    host.turns.withdraw(id(1));
    // The last one asks first.
    assert_eq!([5, 4, 3, 5, 4].map(|number| host.has_turn(number)), [false, false, true, false, false]);
}

#[test]
fn the_reason_names_who_has_the_places_and_who_comes_before() {
    let mut host = Host::new(1, &[1]);
    let mut said = vec![host.sentence(2, Priority::Normal)];
    host.now += SECOND;
    said.push(host.sentence(3, Priority::Normal));
    said.push(host.sentence(4, Priority::Normal));
    host.open = open(&[1, 6, 7, 8, 9]);
    said.push(host.sentence(4, Priority::Normal));
    host.open.clear();
    said.push(host.sentence(3, Priority::Normal));
    assert_eq!(
        said,
        [
            "node-28 sends at most 1 migration at a time, now web-1; it is the next",
            "node-28 sends at most 1 migration at a time, now web-1; web-2 is before it",
            "node-28 sends at most 1 migration at a time, now web-1; 2 are before it: web-2, web-3",
            "node-28 sends at most 1 migration at a time, now 5: web-1, web-6, web-7, web-8, …; 2 are before it: web-2, web-3",
            "node-28 sends at most 1 migration at a time; web-2 is before it",
        ]
    );
}

#[test]
fn the_more_urgent_comes_first_and_takes_no_turn_away() {
    let mut host = Host::new(1, &[]);
    assert!(host.has_turn(1));
    for (number, priority) in [(2, Priority::Low), (3, Priority::Normal), (4, Priority::High)] {
        host.now += SECOND;
        assert!(matches!(host.ask(number, priority), Answer::Waits(_)));
    }
    assert!(host.has_turn(1), "it keeps its turn");
    let names = |host: &mut Host| -> Vec<_> {
        host.turns.waiters(&host.open, host.now).into_iter().map(|waiter| waiter.order.instance_name).collect()
    };
    assert_eq!(names(&mut host), ["web-4", "web-3", "web-2"]);
    let queued = host.turns.queued(&host.open, host.now);
    let queued: Vec<_> = queued.iter().map(|one| (one.order.instance_name.as_str(), one.has_turn)).collect();
    assert_eq!(
        queued,
        [("web-1", true), ("web-4", false), ("web-3", false), ("web-2", false)],
        "who has it can be seen"
    );
    host.turns.withdraw(id(1));
    assert!(!host.has_turn(3) && host.ask(4, Priority::High) == Answer::Turn);
    assert_eq!(names(&mut host), ["web-3", "web-2"]);
}

#[test]
fn whoever_is_gone_blocks_nobody() {
    let mut host = Host::new(1, &[1]);
    assert!(!host.has_turn(2));
    host.now += SECOND;
    assert!(!host.has_turn(3));
    host.open.clear();
    // The first one's coordinator is dead.
    host.now += WAITS - 2 * SECOND;
    assert!(!host.has_turn(3));
    host.now += SECOND;
    assert!(host.has_turn(3));
    // And so is this one's.
    assert!(!host.has_turn(4));
    host.now += KEPT - SECOND;
    assert!(!host.has_turn(4));
    host.now += SECOND;
    assert!(host.has_turn(4));
}

#[test]
fn what_is_open_has_its_place_whoever_asks_and_however_it_came_to_it() {
    let mut host = Host::new(2, &[]);
    assert!(host.has_turn(1));
    host.open = open(&[1]);
    assert!(host.has_turn(1) && host.has_turn(2), "the one that was opened counts once");
    // Found after a restart, with a limit that is lower by now.
    let mut host = Host::new(1, &[1, 2]);
    assert!(host.has_turn(1) && host.has_turn(2) && !host.has_turn(3));
    host.open = open(&[2]);
    assert!(!host.has_turn(3));
}

#[test]
fn an_unasked_beginning_takes_what_is_free_and_no_place_of_those_that_wait() {
    let mut host = Host::new(1, &[]);
    let take = |host: &mut Host, number| host.turns.take(&order(number, Priority::Normal), &host.open, host.now);
    assert_eq!(take(&mut host, 1), Answer::Turn);
    host.open = open(&[1]);
    assert!(!host.has_turn(2));
    host.now += SECOND;
    assert!(matches!(take(&mut host, 3), Answer::Waits(_)));
    host.open.clear();
    assert!(matches!(take(&mut host, 3), Answer::Waits(_)), "another waits for it");
    assert_eq!(host.turns.waiters(&host.open, host.now).len(), 1, "it does not wait itself");
    assert!(host.has_turn(2));
    assert_eq!(take(&mut host, 2), Answer::Turn);
}

#[test]
fn one_that_waits_can_be_aborted_and_its_coordinator_hears_of_it() {
    let mut host = Host::new(1, &[1]);
    assert!(!host.has_turn(2) && !host.has_turn(3));
    assert!(host.turns.abort(id(2), host.now) && host.turns.abort(id(2), host.now), "twice is once");
    assert!(!host.turns.abort(id(9), host.now), "nobody knows it");
    assert!(!host.turns.abort(id(1), host.now), "what is open is not this one's to abort");
    host.open.clear();
    assert!(host.has_turn(3), "it does not block those behind it");
    assert_eq!(host.ask(2, Priority::Normal), Answer::Aborted);
    assert_eq!(host.turns.take(&order(2, Priority::Normal), &host.open, host.now), Answer::Aborted);
    host.turns.withdraw(id(3));
    host.now += REMEMBERED;
    assert!(host.has_turn(2), "and may be asked for again later");
}

#[derive(Debug, Clone)]
enum Step {
    Ask(u8, Priority),
    Begin(u8, Priority),
    End(u8),
    Withdraw(u8),
    Abort(u8),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0..12_u8;
    let priority = prop_oneof![Just(Priority::Low), Just(Priority::Normal), Just(Priority::High)];
    prop_oneof![
        6 => (number.clone(), priority.clone()).prop_map(|(number, priority)| Step::Ask(number, priority)),
        2 => (number.clone(), priority).prop_map(|(number, priority)| Step::Begin(number, priority)),
        3 => number.clone().prop_map(Step::End),
        1 => number.clone().prop_map(Step::Withdraw),
        1 => number.prop_map(Step::Abort),
        3 => (0..20_u64).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whatever happens: never more than the limit; and once all is quiet, everybody who goes on asking gets a turn, the more urgent
    /// first, and of the same urgency the one that came first.
    #[test]
    fn never_more_than_the_limit_and_nobody_waits_forever(
        limit in 1..4_u32,
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut host = Host::new(limit, &[]);
        for step in steps {
            match step {
                Step::Ask(number, priority) => _ = host.ask(number, priority),
                Step::Begin(number, priority) => {
                    let answer = host.turns.take(&order(number, priority), &host.open, host.now);
                    if answer == Answer::Turn && host.open.iter().all(|open| open.id != id(number)) {
                        host.open.extend(open(&[number]));
                        host.turns.withdraw(id(number));
                    }
                }
                Step::End(number) => host.open.retain(|open| open.id != id(number)),
                Step::Withdraw(number) => host.turns.withdraw(id(number)),
                Step::Abort(number) => _ = host.turns.abort(id(number), host.now),
                Step::Pass(seconds) => host.now += Duration::from_secs(seconds),
            }
            let taken = host.turns.entries.values().filter(|entry| entry.has_turn).count() + host.open.len();
            prop_assert!(taken <= limit as usize, "{taken} of {limit}");
        }

        // Those that are there go on asking, and each that gets its turn is over at once.
        let mut left: Vec<_> = host.turns.waiters(&host.open, host.now).into_iter().map(|waiter| waiter.order).collect();
        let expected: Vec<_> = left.iter().map(|order| order.id).collect();
        host.open.clear();
        host.turns.entries.retain(|_, entry| !entry.has_turn);
        let mut went = Vec::new();
        while !left.is_empty() {
            let before = left.len();
            for waiting in left.iter().rev() {
                host.turns.ask(waiting, "", &host.open, host.now);
            }
            let turns: Vec<_> =
                left.iter().map(|order| order.id).filter(|id| host.turns.entries[id].has_turn).collect();
            for id in &turns {
                host.turns.withdraw(*id);
            }
            left.retain(|order| !turns.contains(&order.id));
            went.extend(turns);
            prop_assert!(left.len() < before, "somebody goes on each round");
        }
        prop_assert_eq!(went, expected);
    }
}
