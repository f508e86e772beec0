//! A few runs of the campaign of faults (`make test-faults` has hundreds): its judges find nothing wrong, and do find what is.

use std::time::Duration;

use anyhow::{Result, ensure};
use vmferry_tests::campaign::{Between, Bound, Bounds, Campaign, Fault, Harm, Kind, Moment, Plan, Role, Run, Side};

/// Far longer than anything takes.
const BOUNDS: Bounds =
    Bounds { settle: Duration::from_secs(120), patience: Duration::from_secs(120), give_up: Duration::from_secs(120) };

/// Makes a run of each, on the same hosts.
fn make(bounds: Bounds, plans: impl IntoIterator<Item = Plan>) -> Result<Vec<Run>> {
    let kept = tempfile::tempdir()?;
    let mut campaign = Campaign::new(bounds, kept.path());
    let runs = plans
        .into_iter()
        .map(|plan| {
            let run = campaign.run(plan)?;
            println!("{run}");
            Ok(run)
        })
        .collect::<Result<_>>()?;
    campaign.down()?;
    Ok(runs)
}

fn plan(kind: Kind, fault: Fault, moment: Moment) -> Plan {
    Plan { number: 0, kind, fault, moment, bandwidth: None, is_fast: false }
}

/// Fails unless all bounds held, and each fault came about.
fn assert_whole(runs: &[Run]) -> Result<()> {
    for run in runs {
        ensure!(run.broken.is_empty() && run.fired && run.frames > 0, "{run:#?}");
    }
    Ok(())
}

#[test]
fn a_guest_goes_back_and_forth_while_things_break_and_is_neither_lost_nor_doubled() -> Result<()> {
    let early = |side| Moment::Entry { side, count: 3 };
    let runs = make(
        BOUNDS,
        [
            plan(Kind::Plain, Fault::Kill { role: Role::Agent(Side::Source) }, early(Side::Source)),
            plan(
                Kind::Plain,
                Fault::Stop { role: Role::Agent(Side::Destination), millis: 1000 },
                early(Side::Destination),
            ),
            plan(
                Kind::Plain,
                Fault::Link { harm: Harm::Cut, between: Between::Hosts, millis: 1000 },
                Moment::Entry { side: Side::Source, count: 5 },
            ),
            plan(Kind::Plain, Fault::LostFinish, Moment::After { millis: 0 }),
            plan(Kind::Plain, Fault::Kill { role: Role::Coordinator }, early(Side::Destination)),
            plan(
                Kind::Plain,
                Fault::Kill { role: Role::Carrier(Side::Destination) },
                Moment::Entry { side: Side::Source, count: 5 },
            ),
        ],
    )?;
    assert_whole(&runs)
}

#[test]
fn a_guest_whose_disk_is_copied_survives_the_destinations_libvirt_and_its_power() -> Result<()> {
    let early = Moment::Entry { side: Side::Destination, count: 3 };
    let runs = make(
        BOUNDS,
        [
            plan(Kind::Block, Fault::Kill { role: Role::Libvirtd(Side::Destination) }, early),
            plan(Kind::Block, Fault::PowerOff { side: Side::Destination, millis: 0 }, early),
        ],
    )?;
    assert_whole(&runs)
}

#[test]
fn a_guest_whose_source_loses_it_is_told_to_be_off_there() -> Result<()> {
    // A guest that was killed is made anew, for the next.
    let killed = |role, side, count| plan(Kind::Plain, Fault::Kill { role }, Moment::Entry { side, count });
    let runs = make(
        BOUNDS,
        [
            killed(Role::Qemu(Side::Source), Side::Destination, 3),
            plan(
                Kind::Plain,
                Fault::PowerOff { side: Side::Source, millis: 0 },
                Moment::Entry { side: Side::Source, count: 5 },
            ),
        ],
    )?;
    assert_whole(&runs)?;
    for run in &runs {
        ensure!(run.stands == "off, on source" && run.outcome == "failed_rolled_back", "{run:#?}");
    }
    Ok(())
}

#[test]
fn the_campaigns_judges_see_a_guest_that_runs_twice() -> Result<()> {
    // Of a file that both hosts see QEMU keeps a lock, which the source would not get back.
    let lost = plan(Kind::Block, Fault::LostFinish, Moment::After { millis: 0 });
    // It never settles: both go on.
    let bounds = Bounds { give_up: Duration::from_secs(10), patience: Duration::from_secs(60), ..BOUNDS };
    let runs = make(bounds, [Plan { is_fast: true, ..lost }])?;
    let broken: Vec<_> = runs.iter().flat_map(|run| &run.broken).map(|broken| broken.bound).collect();
    ensure!(broken.contains(&Bound::Double), "{runs:#?}");
    Ok(())
}
