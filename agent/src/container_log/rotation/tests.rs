use std::os::unix::fs::MetadataExt as _;

use flate2::read::GzDecoder;

use super::*;

fn always(_: &Path) -> io::Result<bool> {
    Ok(true)
}

fn there(dir: &Path) -> Vec<String> {
    let mut names = dir::names(dir).unwrap();
    names.sort();
    names
}

/// What has been rotated, without the time in it.
fn kinds(dir: &Path) -> Vec<String> {
    let kind = |name: String| match name.rsplit_once('.') {
        Some((_, "gz")) => "gz".to_owned(),
        Some((_, "log")) => name,
        _ => "plain".to_owned(),
    };
    there(dir).into_iter().map(kind).collect()
}

#[test]
fn names_modes_and_what_is_compressed() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("0.log");
    let mut kept = Vec::new();
    for expected in [
        &["plain"][..],
        &["gz", "plain"],
        &["gz", "gz", "plain"],
        // With the one that is written as many as `max_files`.
        &["gz", "gz", "plain"],
    ] {
        let text = format!("line {}\n", kept.len()).repeat(1000);
        fs::write(&log, &text).unwrap();
        kept.push(text);
        fs::set_permissions(&log, fs::Permissions::from_mode(0o640)).unwrap();
        let moved = move_away(&log, 4, always, &|| false).unwrap().unwrap();
        assert!(!log.exists() && moved.rotated.exists());
        drop(moved);
        assert_eq!(kinds(dir.path()), expected);
    }
    let oldest = dir.path().join(&there(dir.path())[0]);
    let mut text = String::new();
    GzDecoder::new(File::open(&oldest).unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(text, kept[1]);
    assert_eq!(fs::metadata(&oldest).unwrap().mode() & 0o777, 0o640);
}

#[test]
fn an_agent_that_ends_leaves_the_log_and_no_half_file() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("0.log");
    fs::write(&log, "x").unwrap();
    drop(move_away(&log, 5, always, &|| false).unwrap().unwrap());
    fs::write(&log, "y").unwrap();
    assert!(move_away(&log, 5, always, &|| true).unwrap().is_none());
    assert_eq!(kinds(dir.path()), ["0.log", "plain"]);
    // It was rotated by somebody else meanwhile; its container is gone.
    assert!(move_away(&log, 5, |_| Ok(false), &|| false).unwrap().is_none());
    assert!(move_away(&dir.path().join("none/0.log"), 5, always, &|| false).unwrap().is_none());
}

#[tokio::test]
async fn a_runtime_that_refuses_leaves_the_log_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("0.log");
    fs::write(&log, "x").unwrap();
    let refusal =
        || Box::new(CriError::BadAnswer { call: "ReopenContainerLog", target: "c".into(), what: "x" });
    let moved = move_away(&log, 5, always, &|| false).unwrap().unwrap();
    assert!(matches!(moved.reopened(Err(refusal())).await, Err(RotationError::Runtime { .. })));
    assert_eq!(there(dir.path()), ["0.log"]);
    // It had made the new file, and was too late to say so.
    let moved = move_away(&log, 5, always, &|| false).unwrap().unwrap();
    fs::write(&log, "new").unwrap();
    moved.reopened(Err(refusal())).await.unwrap_err();
    assert_eq!((fs::read(&log).unwrap(), kinds(dir.path()).len()), (b"new".to_vec(), 2));
}

#[test]
fn logs_of_what_runs() {
    let status = serde_json::json!({
        "containerStatuses": [
            { "name": "a", "containerID": "containerd://1", "image": "", "imageID": "", "ready": true,
              "restartCount": 3, "state": { "running": {} } },
            { "name": "b", "containerID": "containerd://2", "image": "", "imageID": "", "ready": true,
              "restartCount": 0, "state": { "waiting": {} } },
        ],
        "initContainerStatuses": [
            { "name": "side", "containerID": "containerd://3", "image": "", "imageID": "", "ready": true,
              "restartCount": 0, "state": { "running": {} } },
        ],
    });
    let published = oomlet_core::node::published::PublishedPod {
        status: Arc::new(serde_json::from_value(status).unwrap()),
        pod: Arc::new(
            serde_json::from_value(serde_json::json!({
                "metadata": { "name": "web", "namespace": "shop", "uid": "u" } }))
            .unwrap(),
        ),
        ..Default::default()
    };
    let mut snapshot = NodeSnapshot::default();
    snapshot.pods.insert("u".into(), Arc::new(published));
    let logs = running(&snapshot, Path::new("/logs"));
    let logs: Vec<_> =
        logs.iter().map(|log| (log.container_id.as_str(), log.path.to_str().unwrap())).collect();
    assert_eq!(logs, [("1", "/logs/shop_web_u/a/3.log"), ("3", "/logs/shop_web_u/side/0.log")]);
}
