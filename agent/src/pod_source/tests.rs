use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use oomlet_core::node::event::PodUpdate;

/// A rescan that no test lives to see: what is seen is seen by inotify.
const NEVER: Duration = Duration::from_secs(3600);

struct Watching {
    dir: TempDir,
    rx: mpsc::Receiver<Event>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

fn manifest(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: a, image: {image}}}]}}\n"
    )
}

impl Watching {
    fn start(rescan: Duration, path: impl FnOnce(&Path) -> PathBuf) -> Watching {
        Watching::start_at(
            Here { node_name: "n".to_owned(), in_cluster: false, taken_over: TakenOver::default() },
            rescan,
            path,
        )
    }

    fn start_at(here: Here, rescan: Duration, path: impl FnOnce(&Path) -> PathBuf) -> Watching {
        let dir = tempfile::tempdir().unwrap();
        let (tx, rx) = mpsc::channel(16);
        let cancel = CancellationToken::new();
        let path = path(dir.path());
        let task = tokio::spawn(watch(path, here, rescan, tx, cancel.clone()));
        Watching { dir, rx, cancel, task }
    }

    /// The first update that fits, within a bound.
    async fn until(&mut self, what: &str, fits: impl Fn(&PodUpdate) -> bool) -> PodUpdate {
        let mut last = None;
        let found = timeout(Duration::from_secs(10), async {
            while let Some(Event::Pods(update)) = self.rx.recv().await {
                if fits(&update) {
                    return update;
                }
                last = Some(update);
            }
            panic!("the task ended while waiting for: {what}");
        });
        found.await.unwrap_or_else(|_| panic!("never came: {what}; last: {last:?}"))
    }

    async fn until_pods(&mut self, want: &[&str]) -> PodUpdate {
        self.until(&format!("{want:?}"), |update| names(update) == want).await
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn stop(self) {
        self.cancel.cancel();
        timeout(Duration::from_secs(10), self.task).await.expect("ends when cancelled").unwrap();
    }
}

/// `name=image`.
fn names(update: &PodUpdate) -> Vec<String> {
    update
        .pods
        .iter()
        .map(|pod| {
            let image = pod.pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
            format!("{}={image}", pod.pod.metadata.name.as_ref().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn manifests_come_change_and_go() {
    let mut w = Watching::start(NEVER, Path::to_owned);
    w.until_pods(&[]).await;
    fs::write(w.file("a.yaml"), manifest("a", "i:1")).unwrap();
    let first = w.until_pods(&["a-n=i:1"]).await;
    fs::write(w.file("b.yaml"), manifest("b", "i:1")).unwrap();
    w.until_pods(&["a-n=i:1", "b-n=i:1"]).await;
    // An editor's way: a hidden file, then a rename over the old one.
    fs::write(w.file(".a.swp"), manifest("a", "i:2")).unwrap();
    fs::rename(w.file(".a.swp"), w.file("a.yaml")).unwrap();
    let changed = w.until_pods(&["a-n=i:2", "b-n=i:1"]).await;
    assert_ne!(first.pods[0].pod.metadata.uid, changed.pods[0].pod.metadata.uid);
    fs::remove_file(w.file("b.yaml")).unwrap();
    w.until_pods(&["a-n=i:2"]).await;
    w.stop().await;
}

/// The pod is to end, and another run of it to begin.
#[tokio::test]
async fn a_manifest_that_is_removed_and_put_back_at_once_is_seen_to_go() {
    let mut w = Watching::start(NEVER, Path::to_owned);
    w.until_pods(&[]).await;
    for name in ["a", "b"] {
        fs::write(w.file(&format!("{name}.yaml")), manifest(name, "i:1")).unwrap();
    }
    w.until_pods(&["a-n=i:1", "b-n=i:1"]).await;
    fs::remove_file(w.file("a.yaml")).unwrap();
    fs::write(w.file("a.yaml"), manifest("a", "i:1")).unwrap();
    w.until_pods(&["b-n=i:1"]).await;
    w.until_pods(&["a-n=i:1", "b-n=i:1"]).await;
    // Renamed over by the same, it was there all the time: the file after it is seen without any list that lacks it.
    fs::write(w.file(".a.new"), manifest("a", "i:1")).unwrap();
    fs::rename(w.file(".a.new"), w.file("a.yaml")).unwrap();
    fs::write(w.file("c.yaml"), manifest("c", "i:1")).unwrap();
    let seen = w.until("the third", |update| update.pods.len() != 2).await;
    assert_eq!(names(&seen), ["a-n=i:1", "b-n=i:1", "c-n=i:1"]);
    w.stop().await;
}

#[tokio::test]
async fn a_broken_edit_keeps_the_pod() {
    let mut w = Watching::start(NEVER, Path::to_owned);
    w.until_pods(&[]).await;
    fs::write(w.file("a.yaml"), manifest("a", "i:1")).unwrap();
    let before = w.until_pods(&["a-n=i:1"]).await;
    fs::write(w.file("a.yaml"), "kind: [").unwrap();
    let broken = w.until("a rejection", |u| !u.rejected.is_empty()).await;
    assert_eq!(broken.pods, before.pods);
    assert_eq!(broken.rejected[0].path, w.file("a.yaml"));
    // Another file's garbage has no pod at all, and a directory is none of ours.
    fs::create_dir(w.file("sub")).unwrap();
    fs::write(w.file("junk"), "junk").unwrap();
    let both = w.until("two rejections", |u| u.rejected.len() == 2).await;
    assert_eq!(both.pods, before.pods);
    fs::remove_file(w.file("a.yaml")).unwrap();
    w.until("the pod is gone with its file", |u| u.pods.is_empty() && u.rejected.len() == 1).await;
    w.stop().await;
}

#[tokio::test]
async fn a_mounted_config_map() {
    let mut w = Watching::start(NEVER, Path::to_owned);
    w.until_pods(&[]).await;
    for version in ["1", "2"] {
        fs::create_dir(w.file(&format!("..v{version}"))).unwrap();
        fs::write(w.file(&format!("..v{version}")).join("a.yaml"), manifest("a", &format!("i:{version}")))
            .unwrap();
    }
    symlink("..v1", w.file("..data")).unwrap();
    symlink("..data/a.yaml", w.file("a.yaml")).unwrap();
    w.until_pods(&["a-n=i:1"]).await;
    symlink("..v2", w.file("..data_tmp")).unwrap();
    fs::rename(w.file("..data_tmp"), w.file("..data")).unwrap();
    w.until_pods(&["a-n=i:2"]).await;
    w.stop().await;
}

#[tokio::test]
async fn a_single_file() {
    let mut w = Watching::start(NEVER, |dir| {
        fs::write(dir.join("pod.yaml"), manifest("a", "i:1")).unwrap();
        fs::write(dir.join("other.yaml"), manifest("b", "i:1")).unwrap();
        dir.join("pod.yaml")
    });
    w.until_pods(&["a-n=i:1"]).await;
    fs::write(w.file("new"), manifest("a", "i:2")).unwrap();
    fs::rename(w.file("new"), w.file("pod.yaml")).unwrap();
    w.until_pods(&["a-n=i:2"]).await;
    w.stop().await;
}

#[tokio::test]
async fn a_missing_directory_is_waited_for() {
    let mut w = Watching::start(Duration::from_millis(20), |dir| dir.join("manifests"));
    w.until_pods(&[]).await;
    let dir = w.file("manifests");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a.yaml"), manifest("a", "i:1")).unwrap();
    w.until_pods(&["a-n=i:1"]).await;
    fs::remove_dir_all(&dir).unwrap();
    w.until_pods(&[]).await;
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a.yaml"), manifest("a", "i:2")).unwrap();
    w.until_pods(&["a-n=i:2"]).await;
    w.stop().await;
}

#[tokio::test]
async fn the_rescan_sees_what_inotify_does_not() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("a.yaml");
    fs::write(&target, manifest("a", "i:1")).unwrap();
    let mut w = Watching::start(Duration::from_millis(20), Path::to_owned);
    symlink(&target, w.file("a.yaml")).unwrap();
    w.until_pods(&["a-n=i:1"]).await;
    fs::write(&target, manifest("a", "i:2")).unwrap();
    w.until_pods(&["a-n=i:2"]).await;
    w.stop().await;
}

#[tokio::test]
async fn it_ends_when_nobody_listens() {
    let Watching { dir, rx, task, .. } = Watching::start(Duration::from_millis(5), Path::to_owned);
    drop(rx);
    timeout(Duration::from_secs(10), task).await.expect("ends").unwrap();
    drop(dir);
}

#[tokio::test]
async fn what_the_api_server_holds_is_not_for_static_pods_of_a_cluster() {
    let text = manifest("web", "i").replace("spec: {", "spec: {serviceAccountName: robot, ");
    for in_cluster in [true, false] {
        let here = Here { node_name: "n".to_owned(), in_cluster, taken_over: TakenOver::default() };
        let mut watching = Watching::start_at(here, NEVER, Path::to_owned);
        fs::write(watching.file("web.yaml"), &text).unwrap();
        if in_cluster {
            let update = watching.until("refused", |update| !update.rejected.is_empty()).await;
            assert_eq!(update.rejected[0].error, "static pods may not reference serviceaccounts");
            assert!(update.pods.is_empty(), "{update:?}");
        } else {
            watching.until_pods(&["web-n=i"]).await;
        }
    }
}
