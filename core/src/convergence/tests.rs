use proptest::prelude::*;

use super::*;
use crate::migration::{Limits, Order, Progress, Record, Side, Statistics};

mod forecast;
mod outlook;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn after(base: Duration) -> When {
    When::After(Span { base, per_gib: Duration::ZERO })
}

fn at(elapsed: Duration, round: u32, remaining: ByteSize) -> Progress {
    Progress { elapsed, round, remaining, total: ByteSize::gib(1), ..Progress::default() }
}

fn policy(steps: Vec<Step>) -> Policy {
    Policy::new("test", ms(50), None, steps).expect("valid")
}

const END: Step =
    Step { when: When::After(Span { base: Duration::from_secs(60), per_gib: Duration::ZERO }), action: Action::Abort };

/// Nova's own numbers (nova/virt/libvirt/driver.py, nova/conf/libvirt.py): LM-092 to LM-096.
#[test]
fn novas_ladder_is_novas() {
    let policy = named("nova").expect("one of them");
    let mut ladder = Ladder::new(&policy, load(ByteSize::gib(8), []));
    let mut seen = vec![(0, ladder.downtime())];
    let mut last = None;
    for elapsed in 0..=6_500 {
        match ladder.see(&at(seconds(elapsed), 1, ByteSize::gib(8))) {
            Some(Action::Downtime(downtime)) => seen.push((elapsed, downtime)),
            Some(action) => last = Some((elapsed, action)),
            None => {}
        }
    }
    let steps = (0..=10).map(|step| (600 * step, ms(50 + 45 * step)));
    // A step applies once its time has passed, not at it.
    let expected: Vec<_> = steps.map(|(at, downtime)| (if at == 0 { 0 } else { at + 1 }, downtime)).collect();
    assert_eq!(seen, expected);
    assert_eq!(last, Some((6_401, Action::Abort)));
}

#[test]
fn small_parts_count_as_two_gib_and_large_ones_as_what_they_are() {
    assert_eq!(load(ByteSize::mib(256), []), ByteSize::gib(2));
    assert_eq!(load(ByteSize::gib(8), [ByteSize::gib(1), ByteSize::gib(20)]), ByteSize::gib(30));
    let span = Span { base: seconds(10), per_gib: seconds(4) };
    assert_eq!(span.of(ByteSize::mib(1_536)), seconds(16));
    assert_eq!(
        span.of(ByteSize::b(u64::MAX)).checked_sub(seconds(10)).expect("longer").as_secs(),
        4 * ((1 << 34) - 1) + 3
    );
}

#[test]
fn of_several_steps_that_are_due_at_once_one_is_taken() {
    let steps = [100, 200, 300].map(|millis| Step { when: after(ms(millis)), action: Action::Downtime(ms(millis)) });
    let mut ladder = Ladder::new(&policy([&steps[..], &[END]].concat()), ByteSize::gib(2));
    assert_eq!(ladder.see(&at(ms(250), 1, ByteSize::gib(1))), Some(Action::Downtime(ms(200))));
    assert_eq!(ladder.see(&at(ms(260), 1, ByteSize::gib(1))), None);
    assert_eq!(ladder.see(&at(ms(999), 1, ByteSize::gib(1))), Some(Action::Downtime(ms(300))));
    assert_eq!(ladder.downtime(), ms(300));
}

#[test]
fn the_last_end_counts_and_an_early_one_does_not_take_it_away() {
    let early = Step { when: When::Round(2), action: Action::Suspend };
    let ladder = || Ladder::new(&policy(vec![early, END]), ByteSize::gib(2));
    let mut together = ladder();
    assert_eq!(together.see(&at(seconds(61), 2, ByteSize::gib(1))), Some(Action::Abort));
    assert_eq!(together.see(&at(seconds(62), 2, ByteSize::gib(1))), None);
    let mut by_turns = ladder();
    assert_eq!(by_turns.see(&at(seconds(9), 2, ByteSize::gib(1))), Some(Action::Suspend));
    assert_eq!(by_turns.see(&at(seconds(61), 2, ByteSize::gib(1))), Some(Action::Abort));
}

#[test]
fn of_downtimes_that_are_due_at_once_the_longest_counts() {
    let timed = Step { when: after(ms(100)), action: Action::Downtime(ms(300)) };
    let stalled = Step { when: When::Stalled(1), action: Action::Downtime(ms(100)) };
    let mut ladder = Ladder::new(&policy(vec![timed, stalled, END]), ByteSize::gib(2));
    assert_eq!(ladder.see(&at(ms(10), 1, ByteSize::gib(1))), None);
    assert_eq!(ladder.see(&at(ms(200), 2, ByteSize::gib(1))), Some(Action::Downtime(ms(300))));
}

#[test]
fn what_was_allowed_is_never_taken_back() {
    let steps = vec![
        Step { when: When::Round(2), action: Action::Downtime(ms(400)) },
        Step { when: When::Round(3), action: Action::Downtime(ms(300)) },
        END,
    ];
    let mut ladder = Ladder::new(&policy(steps), ByteSize::gib(2));
    assert_eq!(ladder.see(&at(seconds(1), 2, ByteSize::gib(1))), Some(Action::Downtime(ms(400))));
    assert_eq!(ladder.see(&at(seconds(2), 3, ByteSize::gib(1))), None);
    assert_eq!(ladder.downtime(), ms(400));
}

#[test]
fn a_guest_is_stalled_when_rounds_do_not_begin_with_less() {
    let rungs = [100, 200].map(|millis| Step { when: When::Stalled(2), action: Action::Downtime(ms(millis)) });
    let mut ladder = Ladder::new(&policy([&rungs[..], &[END]].concat()), ByteSize::gib(2));
    let mut see = |round: u32, mib| ladder.see(&at(seconds(round.into()), round, ByteSize::mib(mib)));
    assert_eq!(see(1, 1_000), None);
    assert_eq!(see(1, 10), None, "what is left within a round says nothing");
    assert_eq!(see(2, 500), None);
    assert_eq!(see(3, 400), None, "it gets on");
    assert_eq!(see(4, 400), None, "one in vain");
    assert_eq!(see(5, 450), Some(Action::Downtime(ms(100))), "two");
    assert_eq!(see(6, 390), None, "that helped");
    assert_eq!(see(7, 395), None);
    assert_eq!(see(8, 395), Some(Action::Downtime(ms(200))));
}

#[test]
fn a_local_minimum_does_not_hide_that_it_is_stalled() {
    let rung = Step { when: When::Stalled(3), action: Action::Suspend };
    let mut ladder = Ladder::new(&policy(vec![rung, END]), ByteSize::gib(2));
    let rounds = [1_000, 200, 900, 800, 700];
    let seen: Vec<_> =
        (1..).zip(rounds).map(|(round, mib)| ladder.see(&at(seconds(1), round, ByteSize::mib(mib)))).collect();
    assert_eq!(seen, [None, None, None, None, Some(Action::Suspend)]);
}

#[test]
fn what_is_said_by_hand_comes_before_the_policy() {
    let rung = Step { when: When::Round(2), action: Action::Downtime(ms(400)) };
    let mut ladder = Ladder::new(&policy(vec![rung, END]), ByteSize::gib(2));
    ladder.steer_downtime(ms(20));
    assert!(ladder.steer_deadline(seconds(5)));
    assert_eq!(ladder.deadline(), Some(seconds(5)));
    assert_eq!(ladder.see(&at(seconds(1), 2, ByteSize::gib(1))), None);
    assert_eq!(ladder.downtime(), ms(20));
    assert_eq!(ladder.see(&at(ms(5_001), 3, ByteSize::gib(1))), Some(Action::Abort));
    assert!(!ladder.steer_deadline(seconds(1)));
    assert_eq!((ladder.deadline(), ladder.see(&at(seconds(9), 4, ByteSize::gib(1)))), (None, None), "it is over");
}

#[test]
fn policies_that_are_always_there_end_and_keep_their_words() {
    let all = Policy::all_named();
    let names: Vec<_> = all.iter().map(Policy::name).collect();
    assert_eq!(names, [DEFAULT, "gentle", "never-pause", "must-finish", "postcopy", "nova"]);
    assert_eq!(Policy::default(), all[0]);
    for policy in &all {
        assert_eq!(policy.may_suspend(), policy.name() == "must-finish", "{}", policy.name());
        assert!(policy.longest_downtime() <= seconds(1), "{}", policy.name());
    }
    assert_eq!(named("nonesuch"), None);
}

#[test]
fn limits_of_one_migration_change_its_policy() {
    let policy = Policy::default();
    let short = policy.with_longest_downtime(ms(120)).expect("valid");
    assert_eq!((short.downtime(), short.longest_downtime()), (ms(50), ms(120)));
    let long = policy.with_longest_downtime(seconds(2)).expect("valid");
    assert_eq!((long.longest_downtime(), long.steps().len()), (seconds(2), policy.steps().len()));
    assert!(matches!(policy.with_longest_downtime(Duration::ZERO), Err(InvalidPolicy::Downtime { .. })));
    let soon = policy.with_deadline(seconds(9)).expect("valid");
    assert_eq!(soon.steps().last().expect("one").when, after(seconds(9)));
    assert!(matches!(policy.with_deadline(Duration::ZERO), Err(InvalidPolicy::Step { .. })));
}

#[test]
fn what_cannot_be_a_policy_is_refused() {
    let new = |name: &str, downtime, throttle, steps: &[Step]| Policy::new(name, downtime, throttle, steps.to_vec());
    let downtime = |when, millis| Step { when, action: Action::Downtime(ms(millis)) };
    assert!(new("x", ms(50), None, &[END]).is_ok());
    for name in ["", "Big", "a b", "ä", "a\nb", &"x".repeat(65)] {
        assert!(matches!(new(name, ms(50), None, &[END]), Err(InvalidPolicy::Name(_))), "{name}");
    }
    for millis in [0, 2_000_001] {
        assert!(matches!(new("x", ms(millis), None, &[END]), Err(InvalidPolicy::Downtime { .. })));
        let rung = downtime(When::Round(2), millis);
        assert!(matches!(new("x", ms(50), None, &[rung, END]), Err(InvalidPolicy::Downtime { .. })));
    }
    for (initial, increment) in [(0, 10), (100, 10), (20, 0), (20, 200)] {
        let throttle = Some(Throttle { initial, increment });
        assert!(matches!(new("x", ms(50), throttle, &[END]), Err(InvalidPolicy::Throttle(_))));
    }
    for when in [When::Round(0), When::Round(1), When::Stalled(0), after(LONGEST + ms(1))] {
        assert!(matches!(
            new("x", ms(50), None, &[downtime(when, 100), END]),
            Err(InvalidPolicy::Step { step: 1, .. })
        ));
    }
    let endless: [&[Step]; 4] = [
        &[],
        &[downtime(after(seconds(1)), 100)],
        &[Step { when: When::Stalled(2), action: Action::Abort }],
        &[END, downtime(When::Round(2), 100)],
    ];
    for steps in endless {
        assert_eq!(new("x", ms(50), None, steps), Err(InvalidPolicy::Endless));
    }
    assert_eq!(new("x", ms(50), None, &vec![END; MOST_STEPS + 1]), Err(InvalidPolicy::Steps));
}

#[test]
fn policies_are_written_in_toml() {
    let read = |text: &str| toml::from_str::<PolicyText>(text).map_err(|error| error.message().to_owned());
    let text = r#"
        downtime = "50ms"
        throttle = { initial = 30, increment = 5 }
        steps = [
          { stalled = 2, downtime = "300ms" },
          { round = 10, downtime = "1s" },
          { after_per_gib = "60s", downtime = "2s" },
          { after = "5m", after_per_gib = "60s", do = "suspend" },
        ]"#;
    let policy = read(text).expect("read").policy("patient").expect("valid");
    assert_eq!(policy.throttle(), Some(Throttle { initial: 30, increment: 5 }));
    let steps: Vec<_> = policy.steps().iter().map(Step::to_string).collect();
    assert_eq!(
        steps,
        [
            "after 2 rounds without progress: may stand still for 300ms",
            "as round 10 begins: may stand still for 1s",
            "after 1m per GiB: may stand still for 2s",
            "after 5m and 1m per GiB: suspend",
        ]
    );
    for wrong in [
        "steps = []",
        "downtime = 50\nsteps = []",
        "downtime = '50'\nsteps = []",
        "downtime = '-50ms'\nsteps = []",
        "downtime = '50ms'\nsteps = []\nspeed = 1",
        "downtime = '50ms'\nsteps = [{ stalled = -1, do = 'abort' }]",
        "downtime = '50ms'\nsteps = [{ after = '1h', do = 'explode' }]",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
    for wrong in [
        "{ after = '1h' }",
        "{ do = 'abort' }",
        "{ after = '1h', round = 2, do = 'abort' }",
        "{ after = '1h', do = 'abort', downtime = '1s' }",
    ] {
        let text = format!("downtime = '50ms'\nsteps = [{wrong}]");
        assert!(matches!(read(&text).expect("read").policy("x"), Err(InvalidPolicy::Step { step: 1, .. })), "{wrong}");
    }
}

const MIB: f64 = 1_048_576.0;

#[test]
fn postcopy_is_tried_and_is_no_end() {
    let policy = named("postcopy").expect("it is there");
    assert!(policy.may_postcopy() && !named(DEFAULT).expect("it is there").may_postcopy());
    let mut ladder = Ladder::new(&policy, ByteSize::gib(2));
    assert_eq!(ladder.see(&at(seconds(1), 2, ByteSize::gib(1))), None);
    assert_eq!(ladder.see(&at(seconds(2), 3, ByteSize::gib(1))), Some(Action::Postcopy));
    assert_eq!(ladder.see(&at(seconds(3), 4, ByteSize::gib(1))), None, "a step is taken once");
    assert_eq!(ladder.see(&at(seconds(1_000), 9, ByteSize::gib(1))), Some(Action::Abort), "where it could not be done");

    let last = vec![Step { when: When::After(Span { base: seconds(9), ..Span::default() }), action: Action::Postcopy }];
    assert_eq!(Policy::new("p", ms(50), None, last), Err(InvalidPolicy::Endless));
    let by_hand = named(DEFAULT).expect("it is there").with_postcopy();
    let changed = by_hand.with_longest_downtime(ms(900)).and_then(|policy| policy.with_deadline(seconds(60)));
    assert!(changed.expect("valid").may_postcopy(), "what is changed of a policy is not what it may do");
}

#[test]
fn with_postcopy_a_downtime_that_is_due_counts_as_well() {
    let due = |action| Step { when: When::Round(2), action };
    let end = Step { when: When::After(Span { base: seconds(60), ..Span::default() }), action: Action::Abort };
    let steps = vec![due(Action::Downtime(ms(200))), due(Action::Postcopy), end];
    let mut ladder = Ladder::new(&Policy::new("p", ms(50), None, steps).expect("valid"), ByteSize::gib(2));
    assert_eq!(ladder.see(&at(seconds(2), 2, ByteSize::gib(1))), Some(Action::Postcopy));
    assert_eq!(ladder.downtime(), ms(200));
}

#[test]
fn of_policies_of_one_name_the_last_places_counts() {
    let own = |name: &str, millis| Policy::new(name, ms(millis), None, vec![END]).expect("valid");
    let all = overlaid([
        ("built in", Policy::all_named()),
        ("host", vec![own("default", 7), own("night", 8)]),
        ("inventory", vec![own("night", 9), own("own", 10)]),
    ]);
    let found = |name: &str| all.iter().find(|(_, policy)| policy.name() == name).expect("there");
    assert_eq!((found("default").0, found("default").1.downtime()), ("host", ms(7)));
    assert_eq!((found("night").0, found("night").1.downtime()), ("inventory", ms(9)));
    assert_eq!((found("own").0, found("gentle").0), ("inventory", "built in"));
    assert_eq!((all[0].1.name(), all.len()), (DEFAULT, Policy::all_named().len() + 2), "each once, the default first");
}
