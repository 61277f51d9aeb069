//! What is where in a control plane's folder, and the command lines of its programs.
//!
//! Everything listens on loopback. etcd, which asks nobody who they are, listens on a unix socket that the folder's
//! mode protects; controller-manager and scheduler serve nothing.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::{collections::hash_map::RandomState, hash::BuildHasher};

use anyhow::{Result, bail};

use super::programs::Program;

/// The first address is the Service `kubernetes`.
const SERVICES: &str = "10.96.0.0/16";
pub const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Cut into a /24 for each node, its `podCIDR`.
const PODS: &str = "10.244.0.0/16";
/// Below the ports that the kernel gives to clients (ip_local_port_range, 32768 on): one of those might be in use just
/// when the API server is to come back to its port, and a client that retries may even connect to itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

#[derive(Clone, Debug)]
pub struct Layout {
    pub dir: PathBuf,
    /// Of the API server.
    pub port: u16,
}

impl Layout {
    #[must_use]
    pub fn pki(&self) -> PathBuf {
        self.dir.join("pki")
    }

    #[must_use]
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.dir.join(format!("{user}.kubeconfig"))
    }

    #[must_use]
    pub fn log(&self, program: Program) -> PathBuf {
        self.dir.join(format!("{}.log", program.name()))
    }

    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("audit.jsonl")
    }

    #[must_use]
    pub fn audit_policy(&self) -> PathBuf {
        self.dir.join("audit-policy.yaml")
    }

    #[must_use]
    pub fn server(&self) -> String {
        format!("https://{}", self.address())
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    fn at(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    #[must_use]
    pub fn etcd(&self) -> Vec<String> {
        // Nobody joins it, so nobody connects to what it says of itself; and up to etcd 3.6 that may not be a socket.
        let nobody = "http://127.0.0.1:2380";
        vec![
            format!("--data-dir={}", self.at("etcd")),
            "--name=default".to_owned(),
            format!("--listen-client-urls=unix://{}", self.at("etcd.sock")),
            format!("--listen-peer-urls=unix://{}", self.at("etcd-peer.sock")),
            format!("--advertise-client-urls={nobody}"),
            format!("--initial-advertise-peer-urls={nobody}"),
            format!("--initial-cluster=default={nobody}"),
            "--log-level=warn".to_owned(),
            // Its data ends with the control plane.
            "--unsafe-no-fsync".to_owned(),
        ]
    }

    /// `more` comes last, so that it overrides.
    #[must_use]
    pub fn api_server(&self, audit: bool, more: &[String]) -> Vec<String> {
        let pki = |name: &str| self.pki().join(name).display().to_string();
        let mut args = vec![
            format!("--etcd-servers=unix://{}", self.at("etcd.sock")),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            // There is no pod that could reach this address, and none may be published.
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--service-cluster-ip-range={SERVICES}"),
            format!("--tls-cert-file={}", pki("apiserver.crt")),
            format!("--tls-private-key-file={}", pki("apiserver.key")),
            format!("--client-ca-file={}", pki("ca.crt")),
            format!("--kubelet-client-certificate={}", pki("apiserver-kubelet-client.crt")),
            format!("--kubelet-client-key={}", pki("apiserver-kubelet-client.key")),
            "--kubelet-preferred-address-types=InternalIP,Hostname".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--enable-bootstrap-token-auth=true".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-key-file={}", pki("sa.pub")),
            format!("--service-account-signing-key-file={}", pki("sa.key")),
            "--profiling=false".to_owned(),
        ];
        if audit {
            args.push(format!("--audit-policy-file={}", self.audit_policy().display()));
            args.push(format!("--audit-log-path={}", self.audit_log().display()));
            // An entry is in the file before the request is answered.
            args.push("--audit-log-mode=blocking".to_owned());
        }
        args.extend_from_slice(more);
        args
    }

    #[must_use]
    pub fn controller_manager(&self, more: &[String]) -> Vec<String> {
        let pki = |name: &str| self.pki().join(name).display().to_string();
        let mut args = vec![
            format!("--kubeconfig={}", self.kubeconfig("controller-manager").display()),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            "--use-service-account-credentials=true".to_owned(),
            "--controllers=*,bootstrap-signer-controller,token-cleaner-controller".to_owned(),
            format!("--root-ca-file={}", pki("ca.crt")),
            format!("--service-account-private-key-file={}", pki("sa.key")),
            format!("--cluster-signing-cert-file={}", pki("ca.crt")),
            format!("--cluster-signing-key-file={}", pki("ca.key")),
            "--allocate-node-cidrs=true".to_owned(),
            format!("--cluster-cidr={PODS}"),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--profiling=false".to_owned(),
        ];
        args.extend_from_slice(more);
        args
    }

    #[must_use]
    pub fn scheduler(&self) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.kubeconfig("scheduler").display()),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            "--profiling=false".to_owned(),
        ]
    }
}

/// A port that nobody listens on, another one each time.
pub fn free_port() -> Result<u16> {
    let count = PORTS.end - PORTS.start;
    for _ in 0..100 {
        // The standard library's source of randomness.
        let random = RandomState::new().hash_one(());
        let port = PORTS.start + (random % u64::from(count)) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {} and {} on 127.0.0.1", PORTS.start, PORTS.end)
}

/// Whether `dir` is short enough for the sockets in it: sun_path of unix(7) holds 107 bytes and a NUL.
#[must_use]
pub fn has_room_for_sockets(dir: &Path) -> bool {
    dir.join("etcd-peer.sock").as_os_str().len() <= 107
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_line_names_the_folder() {
        // By which it is found when its owner is gone.
        let layout = Layout { dir: "/var/tmp/x".into(), port: 20_001 };
        let lines =
            [layout.etcd(), layout.api_server(true, &[]), layout.controller_manager(&[]), layout.scheduler()];
        for line in lines {
            assert!(line.iter().any(|arg| arg.contains("=/var/tmp/x/")), "{line:?}");
            assert!(
                line.iter()
                    .all(|arg| arg.starts_with("--") && arg.contains('=') || arg == "--unsafe-no-fsync")
            );
        }
    }

    #[test]
    fn an_audit_log_is_written_on_request_and_more_flags_come_last() {
        let layout = Layout { dir: "/var/tmp/x".into(), port: 20_001 };
        for audit in [false, true] {
            let line = layout.api_server(audit, &["--v=4".to_owned()]);
            assert_eq!(line.iter().any(|arg| arg.starts_with("--audit-log-path=")), audit);
            assert_eq!(line.last().map(String::as_str), Some("--v=4"));
        }
    }

    #[test]
    fn ports_are_not_those_of_clients() {
        let port = free_port().unwrap();
        assert!(PORTS.contains(&port), "{port}");
    }

    #[test]
    fn sockets_fit_into_short_folders() {
        assert!(has_room_for_sockets(Path::new("/var/tmp/oomlet-cluster-a1b2c3/control-plane")));
        assert!(!has_room_for_sockets(Path::new(&format!("/{}", "a".repeat(100)))));
    }
}
