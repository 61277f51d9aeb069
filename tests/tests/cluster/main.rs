//! Against a real control plane: one module a subject. They are one program, so that they share a control plane
//! (`oomlet_tests::cluster::shared`). Run by `cargo xtask test`, which builds that first.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod certificates;
mod compare;
mod content;
mod control_plane;
mod demo;
mod e2e;
mod eviction;
mod faults;
mod metrics_server;
mod node;
mod node_api;
mod node_api_access;
mod node_api_options;
mod numbers;
mod pod_certificates;
mod pods;
mod prometheus;
mod stability;
mod takeover;
mod updates;
mod volumes;
