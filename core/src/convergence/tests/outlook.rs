use super::*;
use crate::migration::Mode;

fn known(policy: &Policy) -> Known {
    Known { ladder: Some(Ladder::new(policy, ByteSize::gib(2))), ..Known::default() }
}

/// A sample with so much left, sent and written per second, in MiB.
fn sample(elapsed: Duration, round: u32, left: u64, rate: u64, dirty_rate: u64) -> Progress {
    let [remaining, rate, dirty_rate] = [left, rate, dirty_rate].map(ByteSize::mib);
    Progress { rate, dirty_rate, ..at(elapsed, round, remaining) }
}

#[test]
fn what_is_left_is_played_through() {
    let known = known(&Policy::default());
    // 100 MiB in 1 s, of which 10 % are written again: 10 MiB in 0.1 s, 1 MiB in the downtime.
    let outlook = Outlook::of(&sample(seconds(9), 2, 100, 100, 10), &known).expect("all is known");
    assert_eq!(outlook.end, None);
    assert!((ms(1_150)..ms(1_180)).contains(&outlook.rest), "{outlook:?}");
    assert!((ms(65)..ms(75)).contains(&outlook.downtime), "{outlook:?}");
    // What was written since the round began comes on top.
    let longer = Known { round: (2, seconds(4)), ..known };
    let later = Outlook::of(&sample(seconds(9), 2, 100, 100, 10), &longer).expect("all is known");
    assert!((outlook.rest + ms(500)..outlook.rest + ms(600)).contains(&later.rest), "{later:?}");
}

#[test]
fn a_guest_that_writes_too_fast_has_the_end_that_its_policy_gives_it() {
    for policy in Policy::all_named() {
        let known = known(&policy);
        let deadline = known.ladder.as_ref().and_then(Ladder::deadline).expect("not taken yet");
        let outlook = Outlook::of(&sample(seconds(30), 5, 500, 100, 300), &known).expect("all is known");
        if policy.may_postcopy() {
            assert_eq!(outlook.end, Some(End::Postcopy), "{}", policy.name());
            continue;
        }
        let expected = if policy.may_suspend() { End::Suspend } else { End::Abort };
        assert_eq!(outlook.end, Some(expected), "{}", policy.name());
        let until = outlook.rest.saturating_sub(outlook.downtime) + seconds(30);
        assert!((deadline..deadline + deadline / 16).contains(&until), "{}: {outlook:?}", policy.name());
    }
}

#[test]
fn what_follows_a_guest_is_only_sent() {
    let known = known(&named("postcopy").expect("it is there"));
    let writing = sample(seconds(30), 3, 500, 100, 300);
    let follows = Outlook::of(&Progress { mode: Mode::Postcopy, ..writing }, &known).expect("all is known");
    assert_eq!((follows.end, follows.rest), (Some(End::Postcopy), seconds(5)));
    assert_eq!(Outlook::of(&Progress { mode: Mode::Broken, ..writing }, &known), None, "nobody knows for how long");
}

#[test]
fn a_longer_downtime_by_hand_changes_the_outlook() {
    let mut known = known(&Policy::default());
    let stuck = sample(seconds(30), 5, 500, 100, 90);
    let before = Outlook::of(&stuck, &known).expect("all is known");
    known.ladder.as_mut().expect("there").steer_downtime(seconds(10));
    let after = Outlook::of(&stuck, &known).expect("all is known");
    assert_eq!(after.end, None);
    assert!(after.rest < before.rest && after.downtime > before.downtime, "{before:?} {after:?}");
}

#[test]
fn nothing_is_foretold_of_what_is_not_known() {
    let policy = Policy::default();
    assert_eq!(Outlook::of(&sample(seconds(1), 2, 100, 0, 10), &known(&policy)), None, "nothing is sent");
    assert_eq!(Outlook::of(&sample(seconds(1), 0, 100, 100, 0), &known(&policy)), None, "disks only");
    assert_eq!(
        Outlook::of(&sample(seconds(1), 1, 100, 100, 0), &known(&policy)),
        None,
        "the first round tells no rate"
    );
    assert_eq!(Outlook::of(&sample(seconds(1), 2, 100, 100, 0), &Known::default()), None, "no policy yet");
    let measured = Known { dirty_rate: Some(ByteSize::mib(10)), ..known(&policy) };
    assert!(Outlook::of(&sample(seconds(1), 1, 100, 100, 0), &measured).is_some(), "it was measured beside the job");
}

#[test]
fn a_guest_that_is_stopped_has_only_the_rest_before_it() {
    let foresight = Foresight::default();
    let policy = named("must-finish").expect("one of them");
    foresight.show(&Ladder::new(&policy, ByteSize::gib(2)));
    let see = |sample| foresight.see(sample).forecast.expect("all is known");
    assert_eq!(see(sample(seconds(30), 5, 500, 100, 300)).end, Some(End::Suspend));
    let stopped = |elapsed, left| Progress { stopped: true, ..sample(elapsed, 5, left, 100, 300) };
    let first = see(stopped(seconds(60), 400));
    assert_eq!((first.end, first.rest, first.downtime), (None, ms(4_060), ms(4_060)));
    let second = see(stopped(seconds(62), 200));
    assert_eq!((second.rest, second.downtime), (ms(2_060), ms(4_060)), "two of them are over");
}

#[test]
fn a_forecast_is_made_once_enough_is_known() {
    let limits = Limits { bandwidth: Some(ByteSize::mib(50)), ..Limits::default() };
    let mut foreseer = Foreseer::new(limits, (ByteSize::mib(100), vec![ByteSize::gib(9)]), None);
    assert_eq!(foreseer.foresee(ms(1)), None);
    foreseer.see_memory(ByteSize::mib(1_024), ByteSize::mib(4_000));
    assert_eq!(foreseer.foresee(ms(2)), None, "what is sent is not known");
    foreseer.see_sample(&sample(ms(100), 1, 1_000, 40, 0));
    assert!(!foreseer.is_complete());
    let first = foreseer.foresee(ms(100)).expect("as far as it is known");
    assert_eq!((first.dirty_rate, first.rate, first.rate_from), (None, ByteSize::mib(40), RateFrom::ThisMove));
    assert_eq!(first.resident, ByteSize::mib(1_024), "no more than it has");
    foreseer.see_sample(&sample(ms(300), 2, 1_000, 90, 0));
    assert!(!foreseer.is_complete(), "libvirt says 0 before it knows");
    foreseer.see_dirty_rate(ByteSize::mib(7));
    foreseer.see_sample(&sample(ms(500), 2, 1_000, 90, 30));
    assert!(foreseer.is_complete());
    let Foreseen { after, dirty_rate, rate, forecast, .. } = foreseer.foresee(ms(1_200)).expect("complete");
    assert_eq!((after, dirty_rate, rate), (ms(1_200), Some(ByteSize::mib(7)), ByteSize::mib(40)), "the first counts");
    assert!(forecast.likely.total > first.forecast.likely.total);
    assert!(forecast.likely.total > seconds(28), "1,124 MiB at 40 MiB/s: {forecast:?}");
    let mut usual = Foreseer::new(Limits::default(), Default::default(), Some(ByteSize::mib(500)));
    usual.see_memory(ByteSize::mib(500), ByteSize::mib(500));
    usual.see_sample(&sample(ms(100), 1, 1_000, 40, 0));
    let foreseen = usual.foresee(ms(100)).expect("known");
    assert_eq!((foreseen.rate, foreseen.rate_from), (ByteSize::mib(500), RateFrom::FormerMoves));
    let written = serde_json::to_string(&foreseen).expect("serializable");
    assert_eq!(serde_json::from_str::<Foreseen>(&written).expect("readable"), foreseen);
}

proptest! {
    /// Whatever a sample says, what is foretold of it comes at once and makes sense.
    #[test]
    fn every_outlook_ends(
        elapsed in 0_u64..100_000_000, round in 0_u32..100_000, left: u64, rate: u64, dirty: u64, total: u64,
        stopped: bool, which in 0_usize..5,
    ) {
        let policy = Policy::all_named().swap_remove(which);
        let sample = Progress {
            elapsed: ms(elapsed), round, stopped, remaining: ByteSize::b(left), rate: ByteSize::b(rate),
            dirty_rate: ByteSize::b(dirty), total: ByteSize::b(total), ..Progress::default()
        };
        let foresight = Foresight::default();
        foresight.show(&Ladder::new(&policy, ByteSize::gib(2)));
        let outlook = foresight.see(sample).forecast;
        prop_assert_eq!(outlook.is_some(), round > 0 && rate > 0 && (stopped || round > 1 || dirty > 0));
        if let Some(Outlook { end, rest, downtime }) = outlook {
            prop_assert!(stopped || downtime <= rest, "{rest:?} {downtime:?}");
            prop_assert!(end != Some(End::Abort) || downtime.is_zero());
        }
    }
}
