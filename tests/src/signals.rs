//! SIGINT and SIGTERM take this process's testbeds down before it ends: a test runner's timeout leaves nothing behind.

use std::{
    process::exit,
    sync::{Mutex, Once, PoisonError},
    thread,
    time::Duration,
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{layout::Layout, teardown::tear_down};

static OURS: Mutex<Vec<Layout>> = Mutex::new(Vec::new());
static LISTEN: Once = Once::new();

/// From now on the testbed goes when this process is told to.
pub(crate) fn guard(layout: &Layout) {
    LISTEN.call_once(listen);
    OURS.lock().unwrap_or_else(PoisonError::into_inner).push(layout.clone());
}

/// The testbed outlives this process, or is gone.
pub(crate) fn release(layout: &Layout) {
    OURS.lock().unwrap_or_else(PoisonError::into_inner).retain(|ours| ours.name() != layout.name());
}

fn listen() {
    let mut signals = match Signals::new([SIGINT, SIGTERM, SIGHUP]) {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("testbed: an interrupt will leave testbeds behind: {error}");
            return;
        }
    };
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // Taken out one by one, not under the lock: another thread may be about to drop its testbed.
            loop {
                let Some(layout) = OURS.lock().unwrap_or_else(PoisonError::into_inner).pop() else { break };
                eprintln!("testbed: interrupted, taking {} down", layout.name());
                // Twice: the main thread may be in the middle of `up`. What it began meanwhile finds its directory gone.
                let _ = tear_down(&layout);
                thread::sleep(Duration::from_millis(100));
                if let Err(error) = tear_down(&layout) {
                    eprintln!("testbed: {error:#}");
                }
            }
            exit(128 + signal);
        }
    });
}
