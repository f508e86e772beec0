//! Tells systemd that the agent is alive, as often as it wants to hear it (`WatchdogSec=`): from among the tasks that serve, so that
//! it is told only while these get their turns. libvirt is not asked: that it hangs is no reason to start the agent again.

use sd_notify::NotifyState;
use tracing::{info, warn};

/// How many times within its limit, so that one that is late does no harm.
const TIMES: u32 = 4;

/// Tells it for ever; ends at once if nobody wants to hear it.
pub async fn feed() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let interval = limit / TIMES;
    info!("systemd hears from the agent every {interval:?}");
    loop {
        if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
            warn!("systemd cannot be told that the agent is alive, and will start it again: {error}");
        }
        tokio::time::sleep(interval).await;
    }
}
