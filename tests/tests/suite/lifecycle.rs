//! A pod's life, on the oldest and the newest containerd.
//!
//! - [`running`]: pods of every QoS class, their cgroups, processes, logs and addresses.
//! - [`containers`]: what a container gets of its manifest.
//! - [`ending`]: changed and deleted manifests, SIGTERM and SIGKILL.
//! - [`restarts`]: restart policies, CrashLoopBackOff, images that are not there.

mod containers;
mod ending;
mod restarts;
mod running;
