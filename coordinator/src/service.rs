//! The coordinator as a service: one port (mTLS) with calls for programs (`vmferry.coordinator.v1`), and with the calls of all
//! agents (`vmferry.agent.v1`), which are passed on.
//!
//! ```text
//!   port ──▶ authorize ──┬─▶ calls ──┬─▶ wish ──▶ drives ──▶ attempts ──▶ flow ──▶ both hosts' agents
//!                        │           └─▶ emptying ──▶ convoy ───────────▶ flow
//!                        └─▶ relay ───────────────────────────────────────────────▶ one host's agent
//! ```
//!
//! Nothing is kept but which migrations this process drives right now: the hosts know all else, so that any number of them may
//! stand side by side, and each may end at any time.

mod attempts;
mod calls;
mod drive;
mod drives;
mod emptying;
mod onlookers;
mod planning;
mod port;
mod relay;
mod survey;
mod told;
mod wire;
mod wish;

pub(crate) use drives::Drives;
pub(crate) use port::Port;
