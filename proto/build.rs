//! Generates the gRPC code from `vmferry/*/v1/*.proto` with protox: no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let protos = ["convergence", "disk", "group", "host", "instance", "migration", "network", "story", "tunnel"]
        .map(|name| format!("vmferry/agent/v1/{name}.proto"));
    let protos = protos.into_iter().chain(["vmferry/coordinator/v1/fleet.proto".to_owned()]);
    println!("cargo::rerun-if-changed=vmferry");
    let descriptors = protox::compile(protos, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
