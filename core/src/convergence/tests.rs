use proptest::prelude::*;

use super::*;
use crate::migration::{Limits, Order, Progress, Record, Side, Statistics};

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

/// A guest of so much memory, all of it written to, that writes and is sent that much per second, in MiB.
fn measured(memory: u64, dirty_rate: u64, path: u64) -> Measured {
    Measured {
        memory: ByteSize::mib(memory),
        resident: ByteSize::mib(memory),
        dirty_rate: ByteSize::mib(dirty_rate),
        path: ByteSize::mib(path),
        usual: None,
    }
}

fn job(disks: u64) -> Job {
    Job { disks: ByteSize::mib(disks), load: ByteSize::gib(2) }
}

fn course(measured: &Measured, policy: &Policy) -> Course {
    Course::of(measured, job(0), policy, None)
}

#[test]
fn a_quiet_guest_moves_with_the_shortest_downtime_of_each_policy() {
    for policy in Policy::all_named() {
        let Course { end, rounds, sent, total, downtime } = course(&measured(1_024, 2, 100), &policy);
        // 1,024 MiB in 10.2 s, then what was written meanwhile, and so on.
        assert_eq!((end, rounds), (None, 3), "{}", policy.name());
        assert!((1_040.0..1_046.0).contains(&(sent.as_u64() as f64 / MIB)), "{}: {sent}", policy.name());
        assert!((10.5..11.1).contains(&total.as_secs_f64()), "{}: {total:?}", policy.name());
        assert!((ms(60)..ms(111)).contains(&downtime), "{}: {downtime:?}", policy.name());
    }
}

#[test]
fn a_guest_that_writes_faster_than_can_be_sent_ends_as_its_policy_says() {
    for policy in Policy::all_named() {
        // So fast that no slowing down helps.
        let course = course(&measured(1_024, 900, 100), &policy);
        if policy.may_postcopy() {
            continue;
        }
        let expected = if policy.may_suspend() { End::Suspend } else { End::Abort };
        assert_eq!(course.end, Some(expected), "{}", policy.name());
        let deadline = Ladder::new(&policy, ByteSize::gib(2)).deadline().expect("not taken yet");
        let until_the_end = course.total.checked_sub(course.downtime).expect("longer");
        assert!((deadline..deadline + ms(500)).contains(&until_the_end), "{}: {course:?}", policy.name());
        assert_eq!(course.downtime.is_zero(), expected == End::Abort, "{}: {course:?}", policy.name());
    }
}

#[test]
fn a_bandwidth_that_drops_to_a_tenth_costs_downtime_and_no_more() {
    let guest = measured(1_024, 30, 0);
    let speed = |time: f64| if time < 5.0 { 200.0 * MIB } else { 20.0 * MIB };
    // It writes to the same 6 MiB over and over again.
    let dirty = |time: f64| (30.0 * MIB * time).min(6.0 * MIB);
    let course = Course::play(&guest, job(0), &Policy::default(), speed, dirty);
    assert_eq!(course.end, None, "{course:?}");
    assert!((ms(300)..ms(420)).contains(&course.downtime), "6 MiB at 20 MiB/s: {course:?}");
}

#[test]
fn disks_are_sent_before_memory_and_a_bandwidth_holds_for_both() {
    let guest = measured(100, 0, 1_000);
    let course = Course::of(&guest, job(900), &Policy::default(), Some(ByteSize::mib(100)));
    assert_eq!((course.end, course.sent), (None, ByteSize::mib(1_000)));
    assert!((10.2..10.5).contains(&course.total.as_secs_f64()), "{course:?}");
}

#[test]
fn what_was_sent_before_counts_more_than_what_the_way_would_carry() {
    let moved = |mib, took, limits| {
        let order = Order { limits, ..crate::flow::tests::order() };
        let statistics = Statistics { transferred: ByteSize::mib(mib), total_time: took, ..Statistics::default() };
        Record {
            order,
            side: Side::Source,
            requested_by: String::new(),
            driver: None,
            started: jiff::Timestamp::UNIX_EPOCH,
            ended: None,
            phases: vec![],
            outcome: None,
            cause: None,
            statistics: Some(statistics),
            pending: vec![],
            warnings: vec![],
            guest: None,
            story: Default::default(),
        }
    };
    let slowly = Limits { bandwidth: Some(ByteSize::mib(10)), ..Limits::default() };
    let records = [
        moved(1_000, ms(2_300), Limits::default()),
        moved(1_000, ms(100_300), slowly),
        moved(1, ms(2_000), Limits::default()),
        moved(200, ms(700), Limits::default()),
        Record { side: Side::Destination, ..moved(1_000, ms(9_000), Limits::default()) },
    ];
    let order = crate::flow::tests::order();
    assert_eq!(usual(&records, &order), Some(ByteSize::mib(500)), "1,000 MiB in 2 s, and 200 in 0.4");
    assert_eq!(usual(&records[1..3], &order), None);
    let mut elsewhere = order.clone();
    elsewhere.destination.host = "node-99".parse().expect("valid");
    assert_eq!(usual(&records, &elsewhere), None);
    let over_four = Limits { streams: 4.try_into().expect("some"), ..Limits::default() };
    assert_eq!(usual(&records, &Order { limits: over_four, ..order }), None, "another way, another speed");
    let guest = Measured { usual: Some(ByteSize::mib(100)), ..measured(1_000, 0, 5_000) };
    assert!((10.3..10.5).contains(&course(&guest, &Policy::default()).total.as_secs_f64()));
}

#[test]
fn a_guest_is_not_stopped_while_its_disks_are_copied() {
    let policy = named("must-finish").expect("one of them");
    let deadline = Ladder::new(&policy, ByteSize::gib(2)).deadline().expect("not taken yet");
    // Disks for as long as half of the deadline more, and for ever.
    let disks = |share: f64| job((deadline.as_secs_f64() * share * 100.0) as u64);
    let guest = measured(1_024, 300, 100);
    let late = Course::of(&guest, disks(1.5), &policy, None);
    assert_eq!((late.end, late.rounds), (Some(End::Suspend), 1), "{late:?}");
    assert!((10.2..10.4).contains(&late.downtime.as_secs_f64()), "its memory and no disk: {late:?}");
    let never = Course::of(&guest, disks(9.0), &policy, None);
    assert_eq!(never.end, Some(End::Abort));
    assert!((deadline * 2..deadline * 2 + seconds(2)).contains(&never.total), "{never:?}");
}

#[test]
fn memory_that_was_never_written_to_is_not_sent() {
    let guest = Measured { resident: ByteSize::mib(100), ..measured(4_096, 0, 100) };
    let course = course(&guest, &Policy::default());
    assert_eq!(course.sent, ByteSize::mib(100));
    assert!(course.total < seconds(2), "{course:?}");
}

#[test]
fn a_forecast_says_what_it_takes() {
    let forecast = Forecast::of(&measured(1_024, 300, 100), job(0), &Policy::default(), None);
    assert_eq!(forecast.likely.end, Some(End::Abort));
    let needed = forecast.needed.expect("it does not converge");
    let bandwidth = needed.bandwidth.expect("more would do");
    assert!((ByteSize::mib(300)..=ByteSize::mib(320)).contains(&bandwidth), "{bandwidth}");
    let downtime = needed.downtime.expect("longer would do");
    assert!((ms(10_240)..=ms(10_400)).contains(&downtime), "1,024 MiB at 100 MiB/s: {downtime:?}");
    let nearly = Forecast::of(&measured(1_024, 101, 100), job(0), &Policy::default(), None);
    let bandwidth = nearly.needed.and_then(|needed| needed.bandwidth).expect("a little more would do");
    assert!((ByteSize::mib(101)..=ByteSize::mib(105)).contains(&bandwidth), "{bandwidth}");

    let quiet = Forecast::of(&measured(1_024, 2, 100), job(0), &Policy::default(), None);
    assert_eq!(quiet.needed, None);
    assert!(quiet.best.total < quiet.likely.total && quiet.likely.total < quiet.worst.total, "{quiet:?}");
}

proptest! {
    /// Whatever a guest does: it ends, at the latest at the last step, and stands still no longer than it may, unless it is stopped.
    #[test]
    fn every_ladder_ends(
        memory in 64_u64..4_096, dirty in 0_u32..2_000, sent in 5_u32..2_000, working_set in 1_u32..4_096,
        drop_at in 0.0..100.0_f64, drop_to in 0.02..1.0_f64, which in 0_usize..6,
    ) {
        let policy = Policy::all_named().swap_remove(which);
        let guest = measured(memory, 0, 0);
        let speed = |time: f64| f64::from(sent) * MIB * if time < drop_at { 1.0 } else { drop_to };
        let wave = |time: f64| f64::from(dirty) * MIB * time * (1.0 + (time / 7.0).sin()) / 2.0;
        let written = |time: f64| wave(time).min(f64::from(working_set) * MIB);
        let load = load(guest.memory, []);
        let course = Course::play(&guest, Job { disks: ByteSize::b(0), load }, &policy, speed, written);
        let deadline = Ladder::new(&policy, load).deadline().expect("not taken yet");
        if course.end == Some(End::Postcopy) {
            prop_assert!(course.downtime < ms(61), "{course:?}");
            return Ok(());
        }
        let moving = course.total.saturating_sub(course.downtime);
        prop_assert!(moving <= deadline + ms(500), "{course:?}, {deadline:?}");
        prop_assert_eq!(course.end.is_some(), moving > deadline);
        if course.end.is_none() {
            prop_assert!(course.downtime <= policy.longest_downtime() + ms(61), "{course:?}");
        }
    }
}

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
fn a_guest_that_is_switched_to_postcopy_stands_still_for_the_hand_over_only() {
    let course = course(&measured(1_024, 300, 100), &named("postcopy").expect("it is there"));
    assert_eq!((course.end, course.rounds), (Some(End::Postcopy), 3), "{course:?}");
    assert!(course.downtime < ms(100), "{course:?}");
    // Two whole rounds, and all that the guest wrote to meanwhile.
    assert!((30.0..32.0).contains(&course.total.as_secs_f64()), "{course:?}");
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

#[test]
fn the_gentlest_policy_with_which_a_guest_arrives_is_chosen() {
    let policies = || candidates().map(|name| named(name).expect("it is always there"));
    let chosen = |writes: u64, sent: u64| {
        choose(&measured(1_024, writes, sent), job(0), policies(), None)
            .map(|strategy| strategy.policy.name().to_owned())
    };
    assert_eq!(chosen(2, 100), Ok("default".to_owned()));
    assert_eq!(chosen(120, 100), Ok("never-pause".to_owned()));
    assert_eq!(chosen(900, 100), Ok("postcopy".to_owned()));
    let without_postcopy = policies().filter(|policy| !policy.may_postcopy());
    let none = choose(&measured(1_024, 900, 100), job(0), without_postcopy, None).expect_err("it does not arrive");
    let needed = none.and_then(|forecast| forecast.needed).expect("what it would take");
    assert!(needed.bandwidth.is_some_and(|bandwidth| bandwidth > ByteSize::mib(900)), "{needed:?}");
    assert_eq!(Policy::new("auto", ms(50), None, vec![END]), Err(InvalidPolicy::Name("auto".to_owned())));
}
