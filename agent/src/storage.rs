//! The host's storage: thin edges to the programs that know it. What to do with it is decided in `vmferry_core`.

pub mod blocking;
pub mod by_host;
pub mod by_qemu;
pub mod copy;
pub mod digest;
pub mod image;
pub mod iscsi;
mod key_file;
pub mod look;
pub mod rbd;
pub mod receivers;
pub mod secrets;
pub mod space;
pub mod tool;

/// An error and what led to it, in one sentence.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |sentence, cause| format!("{sentence}: {cause}"))
}
