//! Whole fleets, and whole migrations, judged by what the crate offers to everybody.

mod decide;
mod drain;
mod fleet;
mod schedule;
mod simulation;
mod world;
