//! A guest that shall move, whoever asks for it: on the command line, or a program.
//!
//! ```text
//!   asked, trip: what it may cost ──▶ choose, search: where to ──▶ strategy: by which policy ──▶ core's flow
//!                                                │
//!                                                └──▶ survey: what each host says
//! ```

mod asked;
mod check;
mod choose;
mod limits;
mod measured;
mod policies;
mod search;
mod strategy;
mod survey;
mod trip;

use vmferry_core::{
    flow::Watch,
    migration::{Phase, Progress},
};

pub(crate) use self::{
    asked::{Asked, Target},
    check::survey,
    choose::{judge as judge_target, seen, wish},
    limits::{asked_for, judge as judge_limits},
    measured::{forecast, statistics},
    policies::Policies,
    search::{Next, Search},
    strategy::choose_policy,
    survey::{Row, Survey, Turned, Verdict, turned_away, turned_away_by},
    trip::Trip,
};

/// Sees what is asked before anything moves, and tells nobody.
#[derive(Debug)]
pub(crate) struct Unheard;

impl Watch for Unheard {
    fn phase(&self, _phase: Phase) {}

    fn progress(&self, _progress: Progress) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}
