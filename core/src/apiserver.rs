//! What the API server is told, and whether it has to be: pure functions from what it has and what the node knows to what
//! is to be written.
//!
//! - [`pod_status`]: a pod's status, with the conditions that others own.
//! - [`mirror`]: the pod that stands for a static one.
//! - [`node`]: the Node object and its status. [`event`]: Events, counted and combined.
//! - [`patch`]: what differs, as a strategic merge patch. [`step`]: what to write next about a pod.

pub mod event;
pub mod mirror;
pub mod node;
pub mod patch;
pub mod pod_status;
pub mod step;
