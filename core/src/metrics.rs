//! The families of metrics that the node shows: kubelet's and cAdvisor's by their names, labels, types and help, made of the
//! node's numbers. Pure; counters that are kept as things happen are the shell's, who also writes the text.
//!
//! - [`family`]: how one is put together. - [`cadvisor`]: `/metrics/cadvisor`, a container at a time.
//! - [`records`]: counters that follow from the trace. - [`resource`]: `/metrics/resource`. - [`startup`]: how long pods took. - [`terminations`]: containers that have ended. - [`volumes`]: what `/metrics` says of volumes. - [`pods`]: what it says of pods.

pub mod cadvisor;
pub mod family;
pub mod pods;
pub mod records;
pub mod resource;
pub mod startup;
pub mod terminations;
pub mod volumes;
