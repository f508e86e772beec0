//! Saying in etcd that this host is there. Nothing else of the agent waits for it, or knows of it.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use vmferry_core::migration::Endpoint;
use vmferry_registry::{Error, LEASE, Registry, Settings};

use crate::config::Etcd;

/// Registers the host until `stop`, and again whenever etcd was away or has forgotten it.
///
/// It is not taken off then: an agent that is stopped is mostly back soon, and until its lease is over coordinators that cannot reach it
/// still know whose guests and migrations it has.
pub async fn keep(etcd: Etcd, stop: CancellationToken) {
    let Etcd { settings, host } = etcd;
    let mut standing = Standing::default();
    let mut pauses = pauses();
    loop {
        let error = match stop.run_until_cancelled(Box::pin(register(&settings, &host))).await {
            None => return,
            Some(Err(error)) => error,
            Some(Ok(mut registration)) => {
                pauses = self::pauses();
                standing.is(None, || {
                    info!("{} is registered in {} as {}", host.address, settings.place(), registration.key())
                });
                let Some(error) = stop.run_until_cancelled(registration.keep()).await else {
                    info!("{} remembers this host for {LEASE:?}", settings.place());
                    return;
                };
                error
            }
        };
        let error = error.to_string();
        debug!("{} {error}", settings.place());
        standing.is(Some(&error), || {
            warn!(
                "{} {error}: coordinators that ask there do not find this host, or will not after {LEASE:?}; trying again and again",
                settings.place()
            );
        });
        let pause = pauses.next().unwrap_or(LEASE);
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            return;
        }
    }
}

async fn register(settings: &Settings, host: &Endpoint) -> Result<vmferry_registry::Registration, Error> {
    Registry::connect(settings).await?.register(host).await
}

/// All agents are back when etcd is: they must not come at once.
fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(5))
        .without_max_times()
        .with_jitter()
        .build()
}

/// What was said last, so that the same is not said again and again.
#[derive(Debug, Default)]
struct Standing(Option<Option<String>>);

impl Standing {
    fn is(&mut self, wrong: Option<&str>, say: impl FnOnce()) {
        let wrong = wrong.map(str::to_owned);
        if self.0.as_ref() != Some(&wrong) {
            say();
            self.0 = Some(wrong);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_told() {
        let mut told = Vec::new();
        let mut standing = Standing::default();
        for wrong in [Some("away"), Some("away"), None, None, Some("away"), Some("refuses")] {
            standing.is(wrong, || told.push(wrong));
        }
        assert_eq!(told, [Some("away"), None, Some("away"), Some("refuses")]);
    }
}
