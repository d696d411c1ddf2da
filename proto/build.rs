//! Compiles the protos with protox: no `protoc` binary is needed.

use std::path::Path;

use prost::Message as _;

const PROTOS: [&str; 7] = [
    "latchkey/audit/v1/command.proto",
    "latchkey/audit/v1/permit.proto",
    "latchkey/audit/v1/entry.proto",
    "latchkey/audit/v1/audit.proto",
    "latchkey/custody/v1/custody.proto",
    "latchkey/association/v1/association.proto",
    "latchkey/reset/v1/reset.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for proto in PROTOS {
        println!("cargo::rerun-if-changed={proto}");
    }
    let descriptors = protox::compile(PROTOS, ["."])?;
    let out = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    std::fs::write(
        Path::new(&out).join("latchkey.bin"),
        descriptors.encode_to_vec(),
    )?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
