//! The host's storage: thin edges to the programs that know it. What to do with it is decided in `vmferry_core`.

pub mod blocking;
pub mod by_host;
pub mod by_qemu;
pub mod copy;
pub mod digest;
pub mod image;
pub mod receivers;
pub mod secrets;
pub mod space;
pub mod tool;
