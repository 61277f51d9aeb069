//! Why the agent does not start.

use super::RootLockError;
use crate::cgroup::CgroupError;
use crate::cri::CriError;
use crate::node_api::ListenError;
use crate::pod_source::http::HttpSourceError;
use crate::pod_store::PodStoreError;
use crate::probe::HttpError;
use crate::spans::SpansError;
use crate::trace::journal::OpenTraceFile;
use crate::trace::wire::WireError;
use crate::volume::VolumeError;

#[derive(Debug, thiserror::Error)]
pub enum NodeAgentError {
    #[error(
        "oomlet must run as root to manage cgroups, mounts and eBPF programs; start it with sudo or as a system service"
    )]
    NotRoot,
    #[error(transparent)]
    RootLock(#[from] RootLockError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Runtime(#[from] CriError),
    #[error(transparent)]
    Store(#[from] PodStoreError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    TraceFile(#[from] OpenTraceFile),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    HttpSource(#[from] HttpSourceError),
    #[error(transparent)]
    Probes(#[from] HttpError),
    #[error(transparent)]
    Spans(#[from] SpansError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot read {path}: {source}")]
    Read { path: &'static str, source: std::io::Error },
    #[error("{path} has no usable {what}; is /proc mounted?")]
    Proc { path: &'static str, what: &'static str },
    #[error(
        "the reserved memory ({reserved} bytes of systemReserved and kubeReserved) is all that the node has ({capacity} bytes); lower them"
    )]
    NothingAllocatable { reserved: u64, capacity: u64 },
    #[error(
        "`singleProcessOOMKill: false` asks for containers to be OOM-killed as a whole, which only cgroup v2 can; this node's memory controller is on v1. Remedy: take the key out, or set it to true"
    )]
    OomKillGroupOnV1,
    #[error(
        "`oomlet.eviction.psi` is set and the kernel keeps no pressure stall information: {0}. Remedy: a kernel with CONFIG_PSI, booted with psi=1 where that is not the default; or take the key out"
    )]
    NoPsi(CgroupError),
    #[error(
        "`failSwapOn: true` keeps the agent from a node with swap, and {0} is in use. Remedy: swapoff -a, or take the key or --fail-swap-on out: oomlet runs with swap"
    )]
    Swap(String),
    #[error(
        "`failCgroupV1: true` keeps the agent from a node with cgroup v1, and its memory controller is there. Remedy: boot with cgroup v2, or take the key or --fail-cgroupv1 out: oomlet runs on v1"
    )]
    CgroupV1,
    #[error("cannot start a thread or the tokio runtime: {0}; check the limits of processes and open files")]
    Start(#[from] std::io::Error),
}
