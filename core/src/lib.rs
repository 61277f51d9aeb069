//! Every decision of oomlet, a Kubernetes node agent.
//!
//! Plain synchronous Rust: no file, no socket, no clock. The time arrives as an argument ([`clock::Mono`]), facts of the
//! node arrive as values, and what is to be done leaves as values, each with its [`reason::Reason`]. The crate `oomlet`
//! does the I/O and decides nothing. `Cargo.toml` keeps that rule: what it does not list cannot be called.
//!
//! Folders, each of which uses only those above it:
//!
//! - [`clock`], [`duration`], [`quantity`], [`mountinfo`], [`reason`]: values and their text forms.
//! - [`object`]: ConfigMaps and Secrets.
//! - [`pod`]: one pod: identity, QoS, admission, lifecycle, environment, status. [`image`]: pull policy and garbage
//!   collection. [`cgroup`]: what a pod's cgroup is called. [`manifest`]: from a file's bytes to a pod.
//! - [`token`]: tokens of ServiceAccounts, and when they are due. [`trust_bundle`], [`pod_certificate`]: what is to be
//!   trusted, and pods' own certificates. [`volume`]: the files of volumes that are made of those.
//! - [`signal`]: memory domains, readings and kernel events. [`forecast`]: headroom and time to OOM.
//! - [`brake`]: who is frozen or throttled, and how far. [`eviction`]: thresholds, ranking, one decision.
//! - [`container_log`]: the files of containers' logs. [`config`]: KubeletConfiguration. [`trace`]: the record of what was seen and done.
//! - [`oom`]: the ledger of OOM kills, and which limit each was about.
//! - [`node`]: the SyncLoop's core: events, state, plan. [`apiserver`]: what the API server is to be told. [`node_api`]: what
//!   the node's own API decides.

pub mod apiserver;
pub mod brake;
pub mod certificate;
pub mod cgroup;
pub mod clock;
pub mod config;
pub mod container_log;
pub mod duration;
pub mod eviction;
pub mod forecast;
pub mod image;
pub mod label;
pub mod manifest;
pub mod metrics;
pub mod mountinfo;
pub mod node;
pub mod node_api;
pub mod object;
pub mod oom;
pub mod pod;
pub mod pod_certificate;
pub mod quantity;
pub mod reason;
pub mod signal;
pub mod stats;
pub mod token;
pub mod trace;
pub mod trust_bundle;
pub mod version;
pub mod volume;
