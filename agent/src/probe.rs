//! Asks a container how it is: one run of a probe, from the node, within the probe's timeout. Shell; what an answer means is
//! the core's.
//!
//! Reads a [`ProbeRun`]; answers with a [`ProbeOutcome`]. Nothing of a run is left when it has ended: no connection, and
//! no process in the container.
//!
//! - `http`, `tcp`, `grpc`: over the network, to the pod's own address. - `exec`: in the container, by the runtime.
//! - [`hook`]: what a container's manifest wants done after its start and before its end goes the same ways.

mod exec;
mod grpc;
pub mod hook;
mod http;
mod tcp;

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::cgroup::driver::CgroupDriver;
use crate::cri::RuntimeClient;
pub use exec::ContainerProcesses;
pub use http::HttpError;
use oomlet_core::node::prober::ProbeRun;
use oomlet_core::pod::probe::{Check, ProbeOutcome};
use oomlet_core::pod::{ContainerInstance, PodUid};

/// As kubelet of the release that we follow calls itself.
const USER_AGENT: &str = "kube-probe/1.37";

/// A run that could not be carried out is tried so often at once, before its turn is over (pkg/kubelet/prober:
/// `maxProbeRetries`). What a container answers, or fails to within the timeout, is an answer.
const TRIES: usize = 3;

/// Of an answer no more than this is looked at (pkg/probe: `maxReadLength`, `maxRespBodyLength`).
const MAX_ANSWER_BYTES: usize = 10 << 10;

/// Whoever carries out runs.
pub trait Checks: Debug + Send + Sync + 'static {
    fn run(&self, run: ProbeRun) -> Pin<Box<dyn Future<Output = ProbeOutcome> + Send + '_>>;
}

/// On this node.
#[derive(Debug)]
pub struct NodeChecks {
    runtime: RuntimeClient,
    processes: Arc<dyn ContainerProcesses>,
    http: http::HttpClient,
}

impl NodeChecks {
    /// # Errors
    /// When the TLS library cannot be set up.
    pub fn new(
        runtime: RuntimeClient,
        processes: Arc<dyn ContainerProcesses>,
    ) -> Result<NodeChecks, HttpError> {
        Ok(NodeChecks { runtime, processes, http: http::HttpClient::new(USER_AGENT)? })
    }

    async fn ask(&self, run: ProbeRun) -> ProbeOutcome {
        let run = &run;
        let timeout = run.spec.timeout;
        let address = |host: &Option<String>| host.clone().or_else(|| run.address.clone());
        match &run.spec.check {
            Check::Exec { command } => exec::ask(&self.runtime, &self.processes, run, command).await,
            Check::HttpGet { scheme, host, port, path, headers } => match address(host) {
                Some(host) => self.http.ask(scheme, (&host, *port), path, headers, timeout).await,
                None => no_address(),
            },
            Check::TcpSocket { host, port } => match address(host) {
                Some(host) => tcp::ask(&host, *port, timeout).await,
                None => no_address(),
            },
            Check::Grpc { port, service } => match address(&None) {
                Some(host) => grpc::ask(&host, *port, service, timeout).await,
                None => no_address(),
            },
            Check::Impossible(why) => ProbeOutcome::Error(why.clone()),
        }
    }
}

impl Checks for NodeChecks {
    fn run(&self, run: ProbeRun) -> Pin<Box<dyn Future<Output = ProbeOutcome> + Send + '_>> {
        Box::pin(tried(move || self.ask(run.clone())))
    }
}

/// The first answer, or the last error.
async fn tried<F: Future<Output = ProbeOutcome>>(ask: impl Fn() -> F) -> ProbeOutcome {
    for _ in 1..TRIES {
        let outcome = ask().await;
        if !matches!(outcome, ProbeOutcome::Error(_)) {
            return outcome;
        }
    }
    ask().await
}

impl ContainerProcesses for CgroupDriver {
    fn of(&self, pod: &PodUid, container: &ContainerInstance) -> std::collections::BTreeSet<i32> {
        // Without its cgroup it has none.
        self.container_processes(pod, &container.id).unwrap_or_default()
    }
}

fn no_address() -> ProbeOutcome {
    ProbeOutcome::Error(no_address_yet())
}

fn no_address_yet() -> String {
    "the pod has no address yet".to_owned()
}

/// `10.0.0.1:80`, `[fd00::1]:80`.
fn authority(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The innermost error, in the words of Go's errors: `connection refused`.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(inner) = error.source() {
        error = inner;
    }
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((said, _)) => said.to_lowercase(),
        None => text,
    }
}

/// `1s`, as Go writes whole seconds below a minute.
fn seconds(timeout: Duration) -> String {
    format!("{}s", timeout.as_secs())
}

#[cfg(test)]
mod tests;
