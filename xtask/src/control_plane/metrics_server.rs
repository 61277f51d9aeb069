//! metrics-server beside a control plane: it asks every node for `/metrics/resource`, and answers `kubectl top` and
//! autoscalers through the API server's aggregation layer.
//!
//! It is who it is in a cluster: its service account, by a token, with the roles of its own manifests. Only where it listens
//! differs, as no pod network leads to it: its Service names this host.

pub mod program;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::component::Component;
use super::kubeconfig::Proof;
use super::{ControlPlane, READY, command_in, layout};
use crate::process;

const NAME: &str = "metrics-server";
const NAMESPACE: &str = "kube-system";
/// The least that it takes, and what a node may take to answer, which must be less.
const RESOLUTION: &str = "10s";
const TIMEOUT: &str = "9s";

/// Runs until dropped; before its control plane.
#[derive(Debug)]
pub struct MetricsServer {
    component: Component,
    log: PathBuf,
}

impl MetricsServer {
    /// Returns when the API server has found it. `node_authority`: signs the serving certificates of the nodes. Its program
    /// must be there, see [`program::find`].
    pub fn start(plane: &ControlPlane, node_authority: &std::path::Path) -> Result<MetricsServer> {
        let program = program::find()?;
        let port = layout::free_port()?;
        let dir = plane.dir();
        let host = format!("{NAME}.{NAMESPACE}.svc");
        let (certificate, key) = plane.pki.write_server(NAME, &host)?;
        plane.apply(&objects(&plane.pki.authority(), port))?;
        let token = plane.kubectl(&["create", "token", NAME, "--namespace", NAMESPACE, "--duration=24h"])?;
        let kubeconfig = plane.kubeconfig(NAME, &Proof::Token(token.trim()))?;
        let mut command: Command = command_in(plane.netns.as_deref(), &program);
        for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
            command.arg(format!("--{flag}={}", kubeconfig.display()));
        }
        command
            .arg(format!("--secure-port={port}"))
            .arg(format!("--tls-cert-file={}", certificate.display()))
            .arg(format!("--tls-private-key-file={}", key.display()))
            .arg(format!("--kubelet-certificate-authority={}", node_authority.display()))
            .arg(format!("--metric-resolution={RESOLUTION}"))
            .arg(format!("--kubelet-request-timeout={TIMEOUT}"))
            .args(["--bind-address=127.0.0.1", "--kubelet-preferred-address-types=InternalIP"])
            .arg("--kubelet-use-node-status-port");
        let log = dir.join(format!("{NAME}.log"));
        let mut component = Component::new(NAME, command, log.clone());
        component.start()?;
        let mut server = MetricsServer { component, log };
        server.wait_until_available(plane)?;
        Ok(server)
    }

    fn wait_until_available(&mut self, plane: &ControlPlane) -> Result<()> {
        let mut ended = None;
        let available = process::holds_within(READY, || {
            ended = self.component.ended();
            ended.is_some() || plane.kubectl(&["get", "--raw=/apis/metrics.k8s.io/v1beta1"]).is_ok()
        });
        if let Some(status) = ended {
            bail!("metrics-server ended with {status}; {}", self.diagnosis());
        }
        ensure!(available, "metrics.k8s.io is not served within {} s; {}", READY.as_secs(), self.diagnosis());
        Ok(())
    }

    /// The end of its log.
    #[must_use]
    pub fn diagnosis(&self) -> String {
        process::file_tail(&self.log, 30)
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        if let Err(error) = self.component.kill() {
            eprintln!("{error:#}");
        }
    }
}

/// Those of its manifests/base, but for the Deployment, and with a Service that leads to this host.
fn objects(authority: &str, port: u16) -> Value {
    let rbac = "rbac.authorization.k8s.io";
    let account = json!([{ "kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE }]);
    let bound = |kind: &str, name: &str, role: &str, role_kind: &str| {
        let mut binding = json!({
            "apiVersion": format!("{rbac}/v1"),
            "kind": kind,
            "metadata": { "name": name },
            "roleRef": { "apiGroup": rbac, "kind": role_kind, "name": role },
            "subjects": account,
        });
        if kind == "RoleBinding" {
            binding["metadata"]["namespace"] = json!(NAMESPACE);
        }
        binding
    };
    let reads_authentication = "extension-apiserver-authentication-reader";
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": NAME, "namespace": NAMESPACE },
        },
        {
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole",
            "metadata": { "name": "system:metrics-server" },
            "rules": [
                { "apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"] },
                { "apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"] },
            ],
        },
        bound("ClusterRoleBinding", "system:metrics-server", "system:metrics-server", "ClusterRole"),
        bound("ClusterRoleBinding", "metrics-server:system:auth-delegator", "system:auth-delegator", "ClusterRole"),
        bound("RoleBinding", "metrics-server-auth-reader", reads_authentication, "Role"),
        {
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": NAME, "namespace": NAMESPACE },
            // Its addresses may not be loopback's, its name may.
            "spec": { "type": "ExternalName", "externalName": "localhost", "ports": [{ "port": port }] },
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": { "name": "v1beta1.metrics.k8s.io" },
            "spec": {
                "service": { "name": NAME, "namespace": NAMESPACE, "port": port },
                "group": "metrics.k8s.io",
                "version": "v1beta1",
                "caBundle": STANDARD.encode(authority),
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
            },
        },
    ]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_object_has_its_place() {
        let objects = objects("ca", 20_001);
        for item in objects["items"].as_array().unwrap() {
            let is_namespaced = !item["metadata"]["namespace"].is_null();
            let kind = item["kind"].as_str().unwrap();
            assert_eq!(is_namespaced, ["ServiceAccount", "RoleBinding", "Service"].contains(&kind), "{kind}");
        }
    }
}
