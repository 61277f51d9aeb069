//! Generates the gRPC code. Needs `protoc`; `cargo xtask setup` installs it.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure().compile_protos(&["oomlet/v1/trace.proto"], &["."]).map_err(|e| {
        format!("cannot compile proto/oomlet/v1/trace.proto: {e}; is protoc installed? `cargo xtask setup` installs it")
    })?;
    Ok(())
}
