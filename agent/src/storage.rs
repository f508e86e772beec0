//! The host's storage: thin edges to the programs that know it. What to do with it is decided in `vmferry_core`.

pub mod by_host;
pub mod tool;
