//! One at a time per iSCSI target or RBD image: whether a session may end depends on who else is about to use it.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use tokio::sync::OwnedMutexGuard;
use vmferry_core::volume::Connection;

/// The kernel's devices are one per host, and so is this.
static TURNS: LazyLock<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>> = LazyLock::new(Mutex::default);

/// Waits until nobody else of this process works on the same target or image.
pub(super) async fn take(connection: &Connection) -> OwnedMutexGuard<()> {
    match connection {
        Connection::Iscsi(iscsi) => take_named(&iscsi.target).await,
        Connection::Rbd(rbd) => take_named(&rbd.image).await,
    }
}

/// The same, by the name of the target or image.
pub(super) async fn take_named(name: &str) -> OwnedMutexGuard<()> {
    let turn = {
        let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(name.to_owned()).or_default().clone()
    };
    turn.lock_owned().await
}
