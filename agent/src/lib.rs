//! oomlet, a Kubernetes node agent.
//!
//! Functional core, imperative shell. The core ([`signal`], [`forecast`], [`eviction`], the decisions of
//! [`pod`], the state and plan of [`sync_loop`]) is synchronous, does no I/O and gets the time as an argument.
//! The shell does I/O and decides nothing. `ARCHITECTURE.md` is the map.

pub mod brake;
pub mod cgroup;
pub mod clock;
pub mod command;
pub mod config;
pub mod cri;
pub mod eviction;
pub mod forecast;
pub mod image;
pub mod kernel;
pub mod node_agent;
pub mod node_resources;
pub mod pleg;
pub mod pod;
pub mod pod_source;
pub mod pod_store;
pub mod quantity;
pub mod reason;
pub mod signal;
pub mod sync_loop;
pub mod trace;
pub mod volume;
