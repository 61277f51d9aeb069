//! cgroups as names: what the cgroup of a QoS class, a pod or a container is called.

pub mod names;
