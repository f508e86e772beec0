//! The gRPC interface of VMFerry's agents and coordinators, generated from `vmferry/*/v1/*.proto`, and its conversion from and
//! to `vmferry-core`. Wire types end in [`convert`] and [`status`]; who may make which call is in [`authorize`].

pub mod authorize;
pub mod convert;
pub mod status;

pub use generated::{agent::v1, carrier::v1 as carrier, coordinator::v1 as fleet};

/// As generated; the modules are nested as the packages are.
#[expect(missing_docs, clippy::all, clippy::pedantic, reason = "generated; documented in the .proto files")]
mod generated {
    /// What hosts' agents offer.
    pub(crate) mod agent {
        /// `vmferry.agent.v1`
        pub mod v1 {
            tonic::include_proto!("vmferry.agent.v1");
        }
    }

    /// What an agent asks of the process beside it that carries its tunnels.
    pub(crate) mod carrier {
        /// `vmferry.carrier.v1`
        pub mod v1 {
            tonic::include_proto!("vmferry.carrier.v1");
        }
    }

    /// What coordinators offer.
    pub(crate) mod coordinator {
        /// `vmferry.coordinator.v1`
        pub mod v1 {
            tonic::include_proto!("vmferry.coordinator.v1");
        }
    }
}

/// The compiled descriptors of what agents and coordinators offer, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
