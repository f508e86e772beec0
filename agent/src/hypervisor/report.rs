//! The part of the edge that is shown to people and coordinators.

use std::future::Future;

use jiff::Timestamp;
use vmferry_core::{
    host::{Claims, Cordon, Host, HostPolicy},
    instance::Instance,
};

use super::Fault;

/// What a host says of itself and of its guests. Changes nothing.
pub trait Reporting: Send + Sync + 'static {
    /// How live migrations from here may come to their end, the default first.
    fn policies(&self) -> Vec<HostPolicy>;

    /// What the host is, and has for guests now that so much is promised. `cordon` is why none shall come.
    fn facts(
        &self,
        zone: &str,
        claims: &Claims,
        cordon: Option<Cordon>,
        migrations_active: u32,
        certificate_expires: Timestamp,
    ) -> impl Future<Output = Result<Host, Fault>> + Send;

    /// All domains, running or not.
    fn instances(&self) -> impl Future<Output = Result<Vec<Instance>, Fault>> + Send;

    /// The domain with this name or UUID.
    fn instance(&self, name_or_id: &str) -> impl Future<Output = Result<Option<Instance>, Fault>> + Send;
}
