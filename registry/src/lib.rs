//! Where hosts say in etcd that they are there: agents register, coordinators look.
//!
//! A host's key is the prefix and its name, its value `{"address": "192.0.2.10:7443"}`. The key hangs on a lease of [`LEASE`], so
//! that a host whose agent has died is gone after that. Nothing else of VMFerry is in etcd.

mod connection;
mod entry;
mod error;
mod registration;
mod settings;

pub use connection::{Changes, Registry};
pub use entry::Skipped;
pub use error::Error;
pub use registration::{LEASE, Registration};
pub use settings::{Complaint, DEFAULT_PREFIX, Settings, SettingsText, TlsFiles, TlsText, User};
