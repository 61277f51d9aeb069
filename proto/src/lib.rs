//! oomlet's own gRPC API, generated from `proto/oomlet`.

/// The trace stream.
#[allow(clippy::all, clippy::unwrap_used, missing_debug_implementations, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("oomlet.v1");
}
