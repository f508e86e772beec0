//! The gRPC interface of VMFerry's agents, generated from `vmferry/agent/v1/*.proto`, and its conversion from and to
//! `vmferry-core`. Wire types end in [`convert`] and [`status`].

pub mod convert;
pub mod status;

/// `vmferry.agent.v1`, as generated.
#[expect(missing_docs, clippy::all, reason = "generated; documented in the .proto files")]
pub mod v1 {
    tonic::include_proto!("vmferry.agent.v1");
}

/// The compiled descriptors of all our protos, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
