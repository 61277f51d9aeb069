use super::*;
use crate::certificate::request::tests::issued;

const DAY: i64 = 24 * 3600;

fn identity(dir: &Path) -> (ClientIdentity, watch::Receiver<Connection>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    ClientIdentity::new(Options {
        kubeconfig: dir.join("kubelet.conf"),
        bootstrap_kubeconfig: None,
        cert_dir: dir.join("pki"),
        rotate: true,
        node_name: "n1".to_owned(),
    })
}

fn write_kubeconfig(identity: &ClientIdentity, pem: &Path) {
    let cluster = kube::config::Cluster {
        server: Some("https://127.0.0.1:1".to_owned()),
        ..kube::config::Cluster::default()
    };
    kubeconfig::write(&identity.options.kubeconfig, cluster, pem).unwrap();
}

#[tokio::test]
async fn a_broken_certificate_gives_way_to_an_older_good_one() {
    let dir = tempfile::tempdir().unwrap();
    let (identity, _) = identity(dir.path());
    assert!(identity.identity().await.err().unwrap().to_string().contains("is not there"));
    let (certificate, key) = issued(-DAY, DAY);
    identity.store.save(certificate.as_bytes(), &key).unwrap();
    let half = identity.store.save(b"-----BEGIN CERTIFICATE-----\nMII", "").unwrap();
    write_kubeconfig(&identity, &identity.store.current());
    assert_eq!(std::fs::read_link(identity.store.current()).unwrap(), half);
    let in_use = identity.identity().await.unwrap();
    assert!(in_use.certificate.is_some());
    assert_ne!(std::fs::read_link(identity.store.current()).unwrap(), half);
}

#[tokio::test]
async fn what_was_rotated_wins_over_what_the_kubeconfig_carries() {
    let dir = tempfile::tempdir().unwrap();
    let (identity, _) = identity(dir.path());
    let own = dir.path().join("own.pem");
    let (certificate, key) = issued(-DAY, DAY);
    std::fs::write(&own, format!("{certificate}{key}")).unwrap();
    write_kubeconfig(&identity, &own);
    let life = |in_use: InUse| match in_use.certificate {
        Some((Found::Certificate(validity), _)) => (validity.not_after_s - validity.not_before_s) / DAY,
        _ => 0,
    };
    assert_eq!(life(identity.identity().await.unwrap()), 2);
    let (certificate, key) = issued(-DAY, 9 * DAY);
    identity.store.save(certificate.as_bytes(), &key).unwrap();
    assert_eq!(life(identity.identity().await.unwrap()), 10);
}

#[tokio::test]
async fn a_missing_kubeconfig_is_told_and_found_later() {
    let dir = tempfile::tempdir().unwrap();
    let (identity, mut connection) = identity(dir.path());
    let own = dir.path().join("own.pem");
    let (certificate, key) = issued(-DAY, DAY);
    std::fs::write(&own, format!("{certificate}{key}")).unwrap();
    let cluster = kube::config::Cluster {
        server: Some("https://127.0.0.1:1".to_owned()),
        ..kube::config::Cluster::default()
    };
    let path = identity.options.kubeconfig.clone();
    let cancel = CancellationToken::new();
    let task = tokio::spawn(identity.run(cancel.clone()));
    let bound = Duration::from_secs(60);
    let told = timeout(bound, connection.wait_for(|c| c.problem.is_some())).await.unwrap().unwrap();
    assert!(told.client.is_none() && told.problem.as_ref().unwrap().contains("kubelet.conf is not there"));
    drop(told);
    kubeconfig::write(&path, cluster, &own).unwrap();
    timeout(bound, crate::apiserver::following::ready(&mut connection)).await.unwrap().unwrap();
    // Nobody listens there.
    let reached = |c: &Connection| c.problem.as_ref().is_some_and(|p| p.contains("cannot be reached"));
    timeout(bound, connection.wait_for(reached)).await.unwrap().unwrap();
    cancel.cancel();
    task.await.unwrap();
}
