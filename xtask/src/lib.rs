//! Developer commands, and the fixtures that `tests/` shares with them.
//!
//! This crate needs nothing but a Rust toolchain and a linker: it is what installs the rest, so it never depends
//! on the agent.
//!
//! - [`setup`]: what the machine needs, what is there, and how to get the rest; [`progress`]: what takes so long.
//! - [`build`]: the agent and the static workload.
//! - [`test_run`]: every check and test of the workspace.
//! - [`lab`]: virtual machines with the kernels that the agent supports.
//! - [`demo`], [`bench`]: the agent at work, and its figures.
//! - [`compare`]: the agent held against kubelet.
//! - [`conformance`]: Kubernetes' own tests of a node.
//! - [`control_plane`]: a real Kubernetes control plane, for tests and to join by hand.
//! - [`prometheus`]: scrapes a node of it.
//! - [`private_containerd`], [`images`], [`netns`], [`scratch`], [`node`]: a containerd and a node of their own for
//!   a test, which are gone afterwards.

pub mod bench;
pub mod build;
pub mod cgroup_driver;
pub mod compare;
pub mod conformance;
pub mod control_plane;
pub mod demo;
pub mod elf;
pub mod images;
pub mod lab;
pub mod netns;
pub mod node;
pub mod paths;
pub mod private_containerd;
pub mod process;
pub mod progress;
pub mod prometheus;
pub mod relay;
pub mod root;
pub mod scratch;
pub mod setup;
pub mod test_run;
