use std::future::Future;

use vmferry_core::host::{Claims, Space};

use super::Fault;

/// Destination: whether there is room for one guest more. Changes nothing.
pub trait Housing {
    /// What the host has left, now that so much is promised.
    fn space(&self, claims: &Claims) -> impl Future<Output = Result<Space, Fault>> + Send;
}
