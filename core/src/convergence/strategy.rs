//! Which policy a migration takes whose user leaves that open.

use bytesize::ByteSize;

use super::{End, Forecast, Job, Measured, Policy};

/// The name under which that is asked for. No policy can be called so.
pub const AUTO: &str = "auto";
/// In their order: what costs the guest least comes first, what it could be lost by last.
const CANDIDATES: [&str; 3] = [super::DEFAULT, "never-pause", "postcopy"];

/// What was chosen, and how it will go.
#[derive(Debug, Clone, PartialEq)]
pub struct Strategy {
    /// The policy.
    pub policy: Policy,
    /// How the migration will go with it.
    pub forecast: Forecast,
}

/// The names of the policies of which [`choose`] chooses.
pub fn candidates() -> impl Iterator<Item = &'static str> {
    CANDIDATES.into_iter()
}

/// The first of `policies` with which the guest likely arrives without being stopped; none of them: how it would go with the first, so
/// that it can be said what it would take. `bandwidth` is per second.
pub fn choose(
    measured: &Measured,
    job: Job,
    policies: impl IntoIterator<Item = Policy>,
    bandwidth: Option<ByteSize>,
) -> Result<Strategy, Option<Forecast>> {
    let mut first = None;
    for policy in policies {
        let forecast = Forecast::of(measured, job, &policy, bandwidth);
        if matches!(forecast.likely.end, None | Some(End::Postcopy)) {
            return Ok(Strategy { policy, forecast });
        }
        first.get_or_insert(forecast);
    }
    Err(first)
}
