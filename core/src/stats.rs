//! The node's numbers as kubelet tells them: what was read of cgroups, file systems and interfaces, and the Summary that
//! `/stats/summary` shows of it.
//!
//! A number that was not read is `None`, and is then in no answer: nobody can tell a zero from a number that is not there.
//!
//! - [`numbers`]: what is read. - [`account`]: what `memory.stat` and `/proc/meminfo` say beyond what decisions need.
//! - [`rate`]: CPU use at the moment, from two readings. - [`assemble`]: the node of what was read and what is known of pods.
//! - [`summary`]: kubelet's `stats/v1alpha1`.

pub mod account;
pub mod assemble;
pub mod numbers;
pub mod rate;
pub mod summary;
