//! What breaks in a run, and when: drawn from a seed, so that a run can be had again.

use std::{fmt, time::Duration};

use clap::ValueEnum;
use fastrand::Rng;
use serde::Serialize;

/// What kind of guest moves, by where its writes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A file that both hosts see.
    Plain,
    /// An RBD image that QEMU opens.
    Rbd,
    /// An iSCSI LUN that QEMU opens.
    Iscsi,
    /// A file of its host's own, which is copied while the guest runs.
    Block,
}

/// All of them.
pub const KINDS: [Kind; 4] = [Kind::Plain, Kind::Rbd, Kind::Iscsi, Kind::Block];

/// One of a move's two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Where the guest comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// A process that has a part in a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// `vmferry migrate`.
    Coordinator,
    /// The agent of a host.
    Agent(Side),
    /// What carries the tunnels of a host's agent, in a process of its own.
    Carrier(Side),
    /// The libvirtd of a host.
    Libvirtd(Side),
    /// The guest's QEMU on a host.
    Qemu(Side),
}

const ROLES: [Role; 9] = [
    Role::Coordinator,
    Role::Agent(Side::Source),
    Role::Agent(Side::Destination),
    Role::Carrier(Side::Source),
    Role::Carrier(Side::Destination),
    Role::Libvirtd(Side::Source),
    Role::Libvirtd(Side::Destination),
    Role::Qemu(Side::Source),
    Role::Qemu(Side::Destination),
];

/// Who cannot reach whom. What a host has to say to its storage is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Between {
    /// The two hosts.
    Hosts,
    /// The coordinator and the source.
    CoordinatorAndSource,
    /// The coordinator and the destination.
    CoordinatorAndDestination,
}

const PAIRS: [Between; 3] = [Between::Hosts, Between::CoordinatorAndSource, Between::CoordinatorAndDestination];

/// What is done to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Harm {
    /// Nothing arrives, and nobody is told.
    Cut,
    /// Three of ten packets are lost.
    Lossy,
    /// Packets wait in a queue that is let out slowly.
    Slow,
}

/// What breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Fault {
    /// SIGKILL.
    Kill {
        /// To whom.
        role: Role,
    },
    /// SIGSTOP, and SIGCONT.
    Stop {
        /// To whom.
        role: Role,
        /// Between the two.
        millis: u64,
    },
    /// A link is harmed.
    Link {
        /// How.
        harm: Harm,
        /// Which.
        between: Between,
        /// For so long.
        millis: u64,
    },
    /// The disk with an agent's journals is full.
    FullDisk {
        /// Whose.
        side: Side,
        /// For so long.
        millis: u64,
    },
    /// A host loses its power, and boots again.
    PowerOff {
        /// Which.
        side: Side,
        /// It is dark for so long.
        millis: u64,
    },
    /// The answer of the destination's libvirt that the guest has arrived is lost, with its connection.
    LostFinish,
}

impl Fault {
    /// Its kind, for tables.
    pub fn label(&self) -> String {
        let role = |role: &Role| match role {
            Role::Coordinator => "coordinator".to_owned(),
            Role::Agent(side) => format!("{side} agent"),
            Role::Carrier(side) => format!("{side} carrier"),
            Role::Libvirtd(side) => format!("{side} libvirtd"),
            Role::Qemu(side) => format!("{side} QEMU"),
        };
        match self {
            Self::Kill { role: to } => format!("kill {}", role(to)),
            Self::Stop { role: to, .. } => format!("stop {}", role(to)),
            Self::Link { harm, between, .. } => {
                let harm = match harm {
                    Harm::Cut => "cut",
                    Harm::Lossy => "lose packets",
                    Harm::Slow => "delay",
                };
                let between = match between {
                    Between::Hosts => "between the hosts",
                    Between::CoordinatorAndSource => "coordinator to source",
                    Between::CoordinatorAndDestination => "coordinator to destination",
                };
                format!("{harm} {between}")
            }
            Self::FullDisk { side, .. } => format!("fill {side} journal"),
            Self::PowerOff { side, .. } => format!("power off {side}"),
            Self::LostFinish => "lose Finish's answer".to_owned(),
        }
    }

    /// How long it lasts.
    pub fn lasts(&self) -> Duration {
        match self {
            Self::Kill { .. } | Self::LostFinish => Duration::ZERO,
            Self::Stop { millis, .. }
            | Self::Link { millis, .. }
            | Self::FullDisk { millis, .. }
            | Self::PowerOff { millis, .. } => Duration::from_millis(*millis),
        }
    }

    /// The host on which it ends the guest's QEMU, if it does.
    pub fn kills_guest_on(&self) -> Option<Side> {
        match self {
            Self::Kill { role: Role::Qemu(side) } | Self::PowerOff { side, .. } => Some(*side),
            _ => None,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

/// When it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "when")]
pub enum Moment {
    /// So long after the coordinator was started.
    After {
        /// The time.
        millis: u64,
    },
    /// As soon as an agent's journal of the move has so many entries.
    Entry {
        /// Whose.
        side: Side,
        /// How many.
        count: usize,
    },
}

/// A run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Its number, from 0.
    pub number: u64,
    /// What moves.
    pub kind: Kind,
    /// What breaks.
    pub fault: Fault,
    /// When. The lost answer has a moment of its own.
    pub moment: Moment,
    /// The move's own limit of bandwidth, in MiB/s.
    pub bandwidth: Option<u64>,
    /// Whether libvirt hands the guest over by itself, which has a hole. Never drawn.
    pub is_fast: bool,
}

/// A half's journal has about so many entries when it ends.
const ENTRIES: usize = 18;
/// Around the hand-over, which takes the shortest time of all.
const HANDOVER: std::ops::RangeInclusive<usize> = 9..=14;

impl Plan {
    /// The run of this number: the same for the same seed.
    pub fn draw(seed: u64, number: u64) -> Self {
        // Each number has a sequence of its own: a run can be had again without those before it.
        let mut rng = Rng::with_seed(seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        // The first few of neighbouring seeds are alike.
        for _ in 0..8 {
            rng.u64(..);
        }
        let kind = KINDS[usize::try_from(number % 4).unwrap_or_default()];
        let fault = fault(&mut rng);
        let moment = if rng.u8(..10) < 6 {
            let entries = if rng.bool() { 1..=ENTRIES } else { HANDOVER };
            Moment::Entry { side: side(&mut rng), count: rng.usize(entries) }
        } else {
            Moment::After { millis: rng.u64(0..2000) }
        };
        // Slower, so that more of the time is the memory's.
        let bandwidth = (rng.u8(..4) == 0).then_some(60);
        Self { number, kind, fault, moment, bandwidth, is_fast: false }
    }
}

fn fault(rng: &mut Rng) -> Fault {
    match rng.u8(..100) {
        0..30 => Fault::Kill { role: role(rng) },
        30..50 => Fault::Stop { role: role(rng), millis: short(rng) },
        50..80 => {
            let harm = [Harm::Cut, Harm::Lossy, Harm::Slow][rng.usize(..3)];
            Fault::Link { harm, between: PAIRS[rng.usize(..3)], millis: short(rng) }
        }
        80..87 => Fault::FullDisk { side: side(rng), millis: short(rng) },
        87..93 => Fault::PowerOff { side: side(rng), millis: rng.u64(0..2000) },
        _ => Fault::LostFinish,
    }
}

fn role(rng: &mut Rng) -> Role {
    ROLES[rng.usize(..ROLES.len())]
}

fn side(rng: &mut Rng) -> Side {
    if rng.bool() { Side::Source } else { Side::Destination }
}

/// Mostly a moment; now and then longer than libvirt (30 s) waits for a silent peer.
fn short(rng: &mut Rng) -> u64 {
    match rng.u8(..40) {
        0 => 35_000,
        1..10 => rng.u64(3000..8000),
        _ => rng.u64(200..3000),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn a_run_is_the_same_for_the_same_seed_and_number_and_another_for_others() {
        let drawn: Vec<_> = (0..100).map(|number| Plan::draw(7, number)).collect();
        assert!(drawn.iter().zip(0..).all(|(plan, number)| *plan == Plan::draw(7, number)));
        assert!(drawn.iter().zip(0..).filter(|(plan, number)| **plan == Plan::draw(8, *number)).count() < 5);
    }

    #[test]
    fn three_hundred_runs_have_every_kind_of_fault_on_every_kind_of_guest() {
        for seed in 0..10 {
            let plans: Vec<_> = (0..300).map(|number| Plan::draw(seed, number)).collect();
            let mut faults = BTreeMap::<_, BTreeSet<_>>::new();
            for plan in &plans {
                let what = plan.fault.label().split(' ').next().unwrap_or_default().to_owned();
                faults.entry(what).or_default().insert(plan.kind);
            }
            let words: Vec<_> = faults.keys().map(String::as_str).collect();
            assert_eq!(words, ["cut", "delay", "fill", "kill", "lose", "power", "stop"], "seed {seed}");
            assert!(faults.values().all(|kinds| kinds.len() == KINDS.len()), "seed {seed}: {faults:?}");
            let labels: BTreeSet<_> = plans.iter().map(|plan| plan.fault.label()).collect();
            assert!(labels.len() >= 29, "seed {seed}: {labels:?}");
        }
    }
}
