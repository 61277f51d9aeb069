use serde_json::{Value, json};

use super::*;
use crate::certificate::request::tests::issued;

const DAY: i64 = 24 * 3600;

fn file(user: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": "https://127.0.0.1:6443"}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "users": [{"name": "u", "user": user}],
    })
}

fn load_text(text: &str) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubelet.conf");
    std::fs::write(&path, text).unwrap();
    load(&path).map_err(|error| {
        let text = error.to_string();
        assert!(text.contains("kubelet.conf") && text.contains("Remedy"), "{text}");
        text
    })
}

fn token(expiry_s: i64) -> String {
    use base64::Engine as _;
    let part = |value: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2ln", part(json!({"alg": "RS256"})), part(json!({"exp": expiry_s})))
}

#[test]
fn each_way_to_be_of_no_use_is_told() {
    let whole = file(json!({"token": "t"}));
    let without = |pointer: &str, key: &str| {
        let mut file = whole.clone();
        file.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(key);
        file.to_string()
    };
    let mut other_user = whole.clone();
    other_user["contexts"][0]["context"]["user"] = "nobody".into();
    let mut other_cluster = whole.clone();
    other_cluster["contexts"][0]["context"]["cluster"] = "nowhere".into();
    let (good, good_key) = issued(-DAY, DAY);
    let (old, old_key) = issued(-3 * DAY, -2 * DAY);
    let with = |certificate: &str, key: &str| {
        file(json!({"client-certificate-data": encoded(certificate.as_bytes()), "client-key-data": encoded(key.as_bytes())}))
            .to_string()
    };
    for (text, expected) in [
        ("not: [yaml".to_owned(), "is not valid"),
        (without("", "current-context"), "has no current-context"),
        (without("/clusters/0/cluster", "server"), "has no server"),
        (other_user.to_string(), "has no user \"nobody\""),
        (other_cluster.to_string(), "has no cluster \"nowhere\""),
        (file(json!({"token": token(1000)})).to_string(), "the token expired at 1970"),
        (with(&old, &old_key), "expired"),
        (with(&good, &old_key), "the key cannot be used with the certificate"),
        (with(&good[..80], &good_key), "is no certificate with its key"),
        (
            file(json!({"client-certificate": "/nowhere/x.pem", "client-key": "/nowhere/x.pem"})).to_string(),
            "/nowhere/x.pem is not there",
        ),
        (file(json!({"client-certificate-data": encoded(good.as_bytes())})).to_string(), "no client-key"),
    ] {
        let error = load_text(&text).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    assert!(load_text(&with(&good, &good_key)).is_ok());
    assert!(load_text(&whole.to_string()).is_ok());
    assert!(load_text(&file(json!({"token": token(credentials::now_s() + 60)})).to_string()).is_ok());
    let error = load(Path::new("/nowhere/kubelet.conf")).unwrap_err();
    assert!(error.wants_bootstrap() && error.to_string().contains("--bootstrap-kubeconfig"), "{error}");
}

#[test]
fn what_is_written_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = issued(-DAY, DAY);
    let pem = dir.path().join("kubelet-client-current.pem");
    std::fs::write(&pem, format!("{certificate}{key}")).unwrap();
    let cluster = Cluster {
        server: Some("https://10.0.0.1:6443".to_owned()),
        tls_server_name: Some("api".to_owned()),
        ..Cluster::default()
    };
    let path = dir.path().join("etc/kubelet.conf");
    write(&path, cluster, &pem).unwrap();
    let config = load(&path).unwrap();
    assert_eq!(config.cluster_url.to_string(), "https://10.0.0.1:6443/");
    assert_eq!(config.tls_server_name.as_deref(), Some("api"));
    // One certificate, one key: not the file twice.
    let data = data(config.auth_info.client_certificate_data.as_deref(), None).unwrap().unwrap();
    assert_eq!(String::from_utf8(data).unwrap(), certificate);
    assert!(super::certificate(&config).is_some());
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn blocks_of_a_pem_are_told_apart() {
    let pem = "x\n-----BEGIN CERTIFICATE-----\na\n-----END CERTIFICATE-----\ny\n-----BEGIN EC PRIVATE KEY-----\nb\n-----END EC PRIVATE KEY-----\n";
    assert_eq!(
        only(pem.as_bytes(), &KEYS),
        b"-----BEGIN EC PRIVATE KEY-----\nb\n-----END EC PRIVATE KEY-----\n"
    );
    assert_eq!(
        only(pem.as_bytes(), &["CERTIFICATE"]),
        b"-----BEGIN CERTIFICATE-----\na\n-----END CERTIFICATE-----\n"
    );
}
