//! Hosts from etcd, where their agents register.

use vmferry_core::migration::Endpoint;
use vmferry_registry::{Changes, Error, Registry, Settings};

/// The hosts that are registered, and what is wrong with keys that name none.
///
/// # Errors
///
/// etcd does not answer, or refuses us.
pub(super) async fn hosts(settings: &Settings) -> Result<(Vec<Endpoint>, Vec<String>), String> {
    let asked = async { Registry::connect(settings).await?.hosts().await };
    let (hosts, skipped) = asked.await.map_err(|error: Error| error.to_string())?;
    let place = settings.place();
    let mut problems: Vec<_> = skipped
        .into_iter()
        .map(|skipped| format!("the key {} of {place} is skipped: it {}", skipped.key.escape_debug(), skipped.why))
        .collect();
    if hosts.is_empty() {
        problems.push(format!(
            "{place} has no hosts below {}; give agents an [etcd] with the same prefix, and see their logs",
            settings.prefix
        ));
    }
    Ok((hosts, problems))
}

/// What etcd says from now on about hosts that come and go.
///
/// # Errors
///
/// etcd does not answer, or refuses us.
pub(super) async fn changes(settings: &Settings) -> Result<Changes, Error> {
    Registry::connect(settings).await?.changes().await
}
