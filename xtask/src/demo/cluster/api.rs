//! The cluster as its administrator has it: a kubeconfig and kubectl. What the demo makes in it bears one name.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::control_plane::objects::BootstrapToken;
use crate::process;

/// Of the bootstrap token: longer than the demo, so that one which is killed leaves nothing that is of use for long.
const TOKEN_HOLDS: &str = "1 hour";
/// Whom kubeadm lets join, besides everybody with a token (`system:bootstrappers`).
const KUBEADM_JOINERS: &str = "system:bootstrappers:kubeadm:default-node-token";

/// Twice the controller's `--node-monitor-period`.
const NODE_IS_MISSED: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Cluster {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    cache: PathBuf,
    /// Of the node and of the namespace.
    name: String,
    /// The kubeconfig's `cluster`, with everything inside.
    access: Value,
    endpoint: Endpoint,
    token: BootstrapToken,
}

/// Where the API server is.
#[derive(Debug, PartialEq)]
struct Endpoint {
    /// As in `host:port`.
    authority: String,
    host: String,
    path: String,
}

impl Endpoint {
    fn parse(server: &str) -> Option<Endpoint> {
        let rest = server.strip_prefix("https://")?;
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let bracketed = authority.strip_prefix('[').and_then(|inner| inner.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => authority.rsplit_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let authority = if port.is_some() { authority.to_owned() } else { format!("{authority}:443") };
        Some(Endpoint { authority, host: host.to_owned(), path: path.to_owned() })
    }

    fn address(&self) -> Result<SocketAddr> {
        let found = self.authority.to_socket_addrs();
        let mut found = found.with_context(|| format!("looking up the API server {}", self.authority))?;
        found.next().with_context(|| format!("the API server {} has no address", self.authority))
    }
}

impl Cluster {
    pub fn new(kubectl: PathBuf, kubeconfig: &Path, dir: &Path) -> Result<Cluster> {
        let token = BootstrapToken::random()?;
        let name = format!("oomlet-demo-{}", token.id());
        let mut cluster = Cluster {
            kubectl,
            kubeconfig: kubeconfig.to_owned(),
            cache: dir.join("kubectl-cache"),
            name,
            access: Value::Null,
            endpoint: Endpoint { authority: String::new(), host: String::new(), path: String::new() },
            token,
        };
        let config = process::output(cluster.command().args([
            "config",
            "view",
            "--raw",
            "--minify",
            "--flatten",
            "--output=json",
        ]))?;
        let mut config: Value = serde_json::from_str(&config)
            .with_context(|| format!("the content of {}", kubeconfig.display()))?;
        cluster.access = config["clusters"][0]["cluster"].take();
        let server = cluster.server();
        let endpoint = Endpoint::parse(&server);
        cluster.endpoint = endpoint.with_context(|| {
            format!("{} names the server {server:?}; an https:// address is needed", kubeconfig.display())
        })?;
        Ok(cluster)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn server(&self) -> String {
        self.access["server"].as_str().unwrap_or_default().to_owned()
    }

    /// Of the API server, as this machine reaches it.
    pub fn address(&self) -> Result<SocketAddr> {
        self.endpoint.address()
    }

    /// In the demo's namespace.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        process::output(self.command().args(["--namespace", &self.name]).args(args))
    }

    pub fn get(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get"], args, &["--output=json"]].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("`kubectl get {}` printed no JSON", args.join(" ")))
    }

    /// `None`: it is not there (yet).
    pub fn find(&self, args: &[&str]) -> Result<Option<Value>> {
        let text = self.kubectl(&[&["get"], args, &["--output=json", "--ignore-not-found"]].concat())?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        let found = serde_json::from_str(&text);
        found.map(Some).with_context(|| format!("`kubectl get {}` printed no JSON", args.join(" ")))
    }

    /// Server-side apply of an object or a `List`.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let mut command = self.command();
        command.args(["apply", "--server-side", "--field-manager=oomlet-demo", "--filename=-"]);
        process::output_of(&mut command, &serde_json::to_vec(object)?).map(drop)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg("--cache-dir").arg(&self.cache);
        command
    }

    pub fn make_token(&self) -> Result<()> {
        let mut token = self.token.object();
        let date = ["--utc", &format!("--date={TOKEN_HOLDS}"), "+%Y-%m-%dT%H:%M:%SZ"];
        let expiration = process::output(Command::new("date").args(date))?;
        token["stringData"]["expiration"] = json!(expiration.trim());
        token["stringData"]["auth-extra-groups"] = json!(KUBEADM_JOINERS);
        self.apply(&token).context("making a bootstrap token")
    }

    /// The administrator's kubeconfig with the token in the place of the administrator. The node looks up no names where
    /// it is, so the server is named by its address.
    pub fn write_bootstrap_kubeconfig(&self, path: &Path) -> Result<()> {
        let mut cluster = self.access.clone();
        cluster["server"] = json!(format!("https://{}{}", self.address()?, self.endpoint.path));
        if cluster["tls-server-name"].is_null() && self.endpoint.host.parse::<IpAddr>().is_err() {
            cluster["tls-server-name"] = json!(self.endpoint.host);
        }
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "cluster", "cluster": cluster }],
            "users": [{ "name": "bootstrap", "user": { "token": self.token.text() } }],
            "contexts": [{ "name": "bootstrap", "context": { "cluster": "cluster", "user": "bootstrap" } }],
            "current-context": "bootstrap",
        });
        std::fs::write(path, serde_json::to_vec_pretty(&config)?)
            .with_context(|| format!("writing {}", path.display()))
    }

    pub fn delete_namespace(&self) -> Result<()> {
        process::output(self.command().args(["delete", "namespace", &self.name]).args(QUIETLY)).map(drop)
    }

    /// The Node and what tells of it, its Lease, its certificate requests, and the token.
    pub fn delete_node_and_token(&self) -> Result<()> {
        let secret = format!("bootstrap-token-{}", self.token.id());
        let of_node = format!("--field-selector=involvedObject.kind=Node,involvedObject.name={}", self.name);
        let mut failures = Vec::new();
        for args in [
            &["secret", &secret, "--namespace=kube-system"][..],
            &["node", &self.name],
            &["lease", &self.name, "--namespace=kube-node-lease"],
            &["events", &of_node, "--namespace=default"],
        ] {
            if args[0] == "events" {
                // The last one is the node lifecycle controller's. Without it the rest is all there is.
                process::holds_within(NODE_IS_MISSED, || self.tells_of_removal(&of_node));
            }
            if let Err(error) = process::output(self.command().arg("delete").args(args).args(QUIETLY)) {
                failures.push(format!("{error:#}"));
            }
        }
        if let Err(error) = self.delete_requests() {
            failures.push(format!("{error:#}"));
        }
        if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n")) }
    }

    fn tells_of_removal(&self, of_node: &str) -> bool {
        let listed = self.get(&["events", of_node, "--namespace=default"]).unwrap_or_default();
        listed["items"].as_array().into_iter().flatten().any(|event| event["reason"] == "RemovingNode")
    }

    fn delete_requests(&self) -> Result<()> {
        let requestors =
            [format!("system:bootstrap:{}", self.token.id()), format!("system:node:{}", self.name)];
        let requests = self.get(&["certificatesigningrequests"])?;
        for request in requests["items"].as_array().into_iter().flatten() {
            let by = request["spec"]["username"].as_str().unwrap_or_default();
            if let (true, Some(name)) =
                (requestors.iter().any(|r| r == by), request["metadata"]["name"].as_str())
            {
                let delete = ["delete", "certificatesigningrequest", name];
                process::output(self.command().args(delete).args(QUIETLY))?;
            }
        }
        Ok(())
    }
}

/// What is not there need not be deleted; what does not go within this time is an error.
const QUIETLY: [&str; 2] = ["--ignore-not-found", "--timeout=90s"];

#[cfg(test)]
mod tests {
    use super::Endpoint;

    #[test]
    fn servers_are_taken_apart() {
        for (server, expected) in [
            ("https://127.0.0.1:6443", Some(("127.0.0.1:6443", "127.0.0.1", ""))),
            ("https://[::1]:6443", Some(("[::1]:6443", "::1", ""))),
            ("https://[::1]", Some(("[::1]:443", "::1", ""))),
            ("https://api.example", Some(("api.example:443", "api.example", ""))),
            ("https://api.example:8443/k8s/c1", Some(("api.example:8443", "api.example", "/k8s/c1"))),
            ("http://127.0.0.1:8080", None),
            ("", None),
        ] {
            let parsed = Endpoint::parse(server);
            let parts = parsed.as_ref().map(|e| (e.authority.as_str(), e.host.as_str(), e.path.as_str()));
            assert_eq!(parts, expected, "{server}");
        }
    }
}
