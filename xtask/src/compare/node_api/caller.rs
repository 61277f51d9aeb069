//! Who asks.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use serde_json::{Value, json};

use crate::control_plane::ControlPlane;

/// The one who may do everything.
pub(super) const ADMINISTRATOR: &str = "administrator";
/// The secured port.
const PORT: u16 = 10250;

#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub name: &'static str,
    proof: Proof,
    /// Whoever is asked does not know them.
    pub shows_nobody_known: bool,
    port: u16,
}

#[derive(Clone, Debug)]
enum Proof {
    Nothing,
    Certificate { certificate: PathBuf, key: PathBuf },
    Token(String),
}

impl Caller {
    /// `dir`: for files. The namespace has a service account `default`.
    pub fn all(plane: &ControlPlane, dir: &Path, namespace: &str) -> Result<Vec<Caller>> {
        let known = |name, user: &str, groups: &[&str]| -> Result<Caller> {
            let (certificate, key) = plane.client_files(user, groups)?;
            Ok(Caller {
                shows_nobody_known: false,
                ..Caller::new(name, Proof::Certificate { certificate, key })
            })
        };
        let (certificate, key) = of_another_authority(dir)?;
        let account = plane.kubectl(&["create", "token", "default", "--namespace", namespace])?;
        Ok(vec![
            Caller::nobody(),
            Caller::new("certificate of another authority", Proof::Certificate { certificate, key }),
            Caller::new("unknown token", Proof::Token("unknown".to_owned())),
            Caller {
                shows_nobody_known: false,
                ..Caller::new("service account without a right", Proof::Token(account.trim().to_owned()))
            },
            known("user without a right", "compare-stranger", &[])?,
            known("user who may read all but nodes/proxy", "compare-reader", &[])?,
            known("user of nodes/proxy", "compare-proxy", &[])?,
            known(ADMINISTRATOR, "compare-administrator", &["system:masters"])?,
        ])
    }

    pub fn nobody() -> Caller {
        Caller::new("nobody", Proof::Nothing)
    }

    pub fn of<'a>(all: &'a [Caller], name: &str) -> Result<&'a Caller> {
        all.iter().find(|one| one.name == name).with_context(|| format!("no caller is called {name}"))
    }

    fn new(name: &'static str, proof: Proof) -> Caller {
        Caller { name, proof, shows_nobody_known: true, port: PORT }
    }

    /// At another port, where plain HTTP is spoken.
    pub fn at(&self, port: u16) -> Caller {
        Caller { port, ..self.clone() }
    }

    /// Adds to a `curl` who they are and the URL.
    pub fn asks(&self, command: &mut Command, path: &str) {
        match &self.proof {
            Proof::Nothing => {}
            Proof::Certificate { certificate, key } => {
                command.arg("--cert").arg(certificate).arg("--key").arg(key);
            }
            Proof::Token(token) => {
                command.args(["--header", &format!("Authorization: Bearer {token}")]);
            }
        }
        let scheme = if self.port == PORT { "https" } else { "http" };
        command.arg(format!("{scheme}://127.0.0.1:{}{path}", self.port));
    }
}

/// What callers may: the fine-grained subresources, `nodes/proxy`; and nobody in particular to see health.
pub(super) fn roles() -> Value {
    let rbac = "rbac.authorization.k8s.io";
    let fine = ["metrics", "stats", "pods", "healthz", "configz", "log", "checkpoint"];
    let role = |name: &str, kind: &str, subject: &str, subresources: &[&str]| {
        let resources: Vec<String> = subresources.iter().map(|sub| format!("nodes/{sub}")).collect();
        [
            json!({
                "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole", "metadata": { "name": name },
                "rules": [{ "apiGroups": [""], "resources": resources, "verbs": ["*"] }],
            }),
            json!({
                "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding", "metadata": { "name": name },
                "roleRef": { "apiGroup": rbac, "kind": "ClusterRole", "name": name },
                "subjects": [{ "apiGroup": rbac, "kind": kind, "name": subject }],
            }),
        ]
    };
    let items = [
        role("compare-reader", "User", "compare-reader", &fine),
        role("compare-proxy", "User", "compare-proxy", &["proxy"]),
        role("compare-anonymous", "User", "system:anonymous", &["healthz"]),
    ]
    .concat();
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

/// With the name and the group of somebody who may do everything.
fn of_another_authority(dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "compare-administrator");
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    let mut authority = params.clone();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    let paths = (dir.join("another-authority.crt"), dir.join("another-authority.key"));
    for (path, pem) in [(&paths.0, certificate.pem()), (&paths.1, key.serialize_pem())] {
        std::fs::write(path, pem).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(paths)
}
