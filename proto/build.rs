//! Generates the gRPC code from `vmferry/*/v1/*.proto` with protox: no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let protos =
        ["convergence", "disk", "facts", "group", "host", "instance", "migration", "network", "story", "tunnel"]
            .map(|name| format!("vmferry/agent/v1/{name}.proto"));
    let others = ["vmferry/carrier/v1/carrier.proto", "vmferry/coordinator/v1/fleet.proto"].map(str::to_owned);
    let protos = protos.into_iter().chain(others);
    println!("cargo::rerun-if-changed=vmferry");
    let descriptors = protox::compile(protos, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // What is offered on ports. What an agent says to processes of its own is nobody else's matter.
    let mut offered = descriptors.clone();
    offered.file.retain(|file| file.package() != "vmferry.carrier.v1");
    fs::write(out.join("descriptors.bin"), offered.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
