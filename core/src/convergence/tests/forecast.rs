//! What a policy will do, told before.

use super::*;

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
fn a_guest_that_is_switched_to_postcopy_stands_still_for_the_hand_over_only() {
    let course = course(&measured(1_024, 300, 100), &named("postcopy").expect("it is there"));
    assert_eq!((course.end, course.rounds), (Some(End::Postcopy), 3), "{course:?}");
    assert!(course.downtime < ms(100), "{course:?}");
    // Two whole rounds, and all that the guest wrote to meanwhile.
    assert!((30.0..32.0).contains(&course.total.as_secs_f64()), "{course:?}");
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
