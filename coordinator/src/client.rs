//! One host's agent by gRPC.

pub(crate) use vmferry_remote::{Coordinator, PREPARED, Place, Relay, RemoteAgent, Seen, Which, from_status};
