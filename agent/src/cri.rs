//! The container runtime, spoken to over the CRI (`runtime.v1`, gRPC on a unix socket). Shell, but for the
//! conversions, which are pure.
//!
//! - [`connection`]: the socket, the channel, is it CRI v1 at all.
//! - [`runtime`], [`image`]: typed clients of the two CRI services.
//! - [`convert`], [`status`]: the runtime's answers → our own types.
//! - [`sandbox_config`], [`container_config`], [`security_context`], [`dns`]: a pod → what the runtime is told.
//! - [`names`]: labels, annotations and log paths, as kubelet writes them.
//! - [`error`]: what can go wrong, with the remedy.

pub mod connection;
pub mod container_config;
pub mod convert;
pub mod dns;
pub mod error;
pub mod image;
pub mod names;
pub mod runtime;
pub mod sandbox_config;
pub mod security_context;
pub mod status;

#[cfg(test)]
pub(crate) mod fake;

pub use connection::Connection;
pub use error::CriError;
pub use image::ImageClient;
pub use runtime::RuntimeClient;
