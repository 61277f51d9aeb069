//! Kubeconfig files, with everything inside: they may be copied to where the certificates' folder is not.

use std::path::Path;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::pki::{Identity, write_private};

/// How the user proves who it is.
#[derive(Clone, Debug)]
pub enum Proof<'a> {
    Certificate(&'a Identity),
    Token(&'a str),
}

pub fn write(path: &Path, server: &str, authority: &str, proof: &Proof<'_>) -> Result<()> {
    // JSON is YAML.
    write_private(path, &serde_json::to_string_pretty(&kubeconfig(server, authority, proof))?)
}

fn kubeconfig(server: &str, authority: &str, proof: &Proof<'_>) -> Value {
    let user = match proof {
        Proof::Certificate(identity) => json!({
            "client-certificate-data": STANDARD.encode(&identity.certificate),
            "client-key-data": STANDARD.encode(&identity.key),
        }),
        Proof::Token(token) => json!({ "token": token }),
    };
    let cluster = json!({ "server": server, "certificate-authority-data": STANDARD.encode(authority) });
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "oomlet", "cluster": cluster }],
        "users": [{ "name": "user", "user": user }],
        "contexts": [{ "name": "oomlet", "context": { "cluster": "oomlet", "user": "user" } }],
        "current-context": "oomlet",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_proved_in_one_way() {
        let identity = Identity { certificate: "cert".to_owned(), key: "key".to_owned() };
        let certificate = json!({ "client-certificate-data": "Y2VydA==", "client-key-data": "a2V5" });
        for (proof, expected) in
            [(Proof::Certificate(&identity), certificate), (Proof::Token("a.b"), json!({ "token": "a.b" }))]
        {
            let config = kubeconfig("https://127.0.0.1:1", "ca", &proof);
            assert_eq!(config["users"][0]["user"], expected);
            assert_eq!(config["clusters"][0]["cluster"]["certificate-authority-data"], "Y2E=");
        }
    }
}
