//! Whole fleets, judged by what the crate offers to everybody.

mod drain;
mod fleet;
mod schedule;
mod simulation;
mod world;
