//! What a cluster has from its installer: the bindings that let nodes join by a bootstrap token (those that kubeadm
//! makes), such tokens, and the policy of the audit log.

use std::io::Read;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Of nodes that have nothing but a bootstrap token.
const BOOTSTRAPPERS: &str = "system:bootstrappers";
const NODES: &str = "system:nodes";

/// As the API server takes them by `--audit-policy-file`: every request once, when it is answered, without bodies.
#[must_use]
pub fn audit_policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{ "level": "Metadata" }],
    })
}

#[must_use]
pub fn bindings() -> Value {
    let csr = "system:certificates.k8s.io:certificatesigningrequests";
    let bindings = [
        ("oomlet:kubelet-bootstrap", "system:node-bootstrapper".to_owned(), BOOTSTRAPPERS),
        ("oomlet:node-autoapprove-bootstrap", format!("{csr}:nodeclient"), BOOTSTRAPPERS),
        ("oomlet:node-autoapprove-certificate-rotation", format!("{csr}:selfnodeclient"), NODES),
        // For `kubectl logs` and `exec`: the API server's own identity towards nodes.
        ("kubeadm:cluster-admins", "cluster-admin".to_owned(), "kubeadm:cluster-admins"),
    ];
    let items = bindings.map(|(name, role, group)| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group }],
        })
    });
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

/// A bootstrap token in its two parts: six and sixteen of [a-z0-9].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapToken {
    id: String,
    secret: String,
}

impl BootstrapToken {
    pub fn random() -> Result<BootstrapToken> {
        let mut bytes = [0; 11];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut bytes))
            .context("reading /dev/urandom")?;
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let (id, secret) = text.split_at(6);
        Ok(BootstrapToken { id: id.to_owned(), secret: secret.to_owned() })
    }

    /// The part that is no secret: it names the token.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    #[must_use]
    pub fn text(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// It has no expiry: it goes with the cluster.
    #[must_use]
    pub fn object(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": format!("bootstrap-token-{}", self.id), "namespace": "kube-system" },
            "type": "bootstrap.kubernetes.io/token",
            "stringData": {
                "token-id": self.id,
                "token-secret": self.secret,
                "usage-bootstrap-authentication": "true",
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_kubernetes_form() {
        let token = BootstrapToken::random().unwrap();
        assert_ne!(token, BootstrapToken::random().unwrap());
        let text = token.text();
        let (id, secret) = text.split_once('.').unwrap();
        assert_eq!((id.len(), secret.len()), (6, 16));
        assert!(text.chars().all(|c| c == '.' || c.is_ascii_digit() || c.is_ascii_lowercase()), "{text}");
        assert_eq!(token.object()["metadata"]["name"], format!("bootstrap-token-{id}"));
    }

    #[test]
    fn each_binding_is_of_one_group() {
        let bindings = bindings();
        let items = bindings["items"].as_array().unwrap();
        assert_eq!(items.len(), 4);
        for (role, group) in [
            ("system:node-bootstrapper", "system:bootstrappers"),
            ("system:certificates.k8s.io:certificatesigningrequests:nodeclient", "system:bootstrappers"),
            ("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:nodes"),
        ] {
            assert!(
                items.iter().any(|b| b["roleRef"]["name"] == role && b["subjects"][0]["name"] == group),
                "{role}"
            );
        }
    }
}
