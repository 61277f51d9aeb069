//! oomlet, a Kubernetes node agent: the shell around [`oomlet_core`], which holds every decision.
//!
//! The modules here do I/O and decide nothing. `ARCHITECTURE.md` is the map.

pub mod actuator;
pub mod apiserver;
pub mod certificate;
pub mod cgroup;
pub mod clock;
pub mod command;
pub mod config_file;
pub mod container_log;
pub mod content_store;
pub mod cri;
pub mod image;
pub mod instruments;
pub mod kernel;
mod manifest_dir;
pub mod node_agent;
pub mod node_api;
pub mod node_resources;
pub mod object;
pub mod pleg;
pub mod pod_certificate;
pub mod pod_source;
pub mod pod_store;
pub mod pod_worker;
pub mod probe;
pub mod prober;
pub mod runtime_class;
pub mod spans;
pub mod stats;
pub mod sync_loop;
pub mod token;
pub mod trace;
pub mod trust_bundle;
pub mod volume;
mod watched_dir;
