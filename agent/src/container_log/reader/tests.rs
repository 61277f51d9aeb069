use std::fs;

use k8s_openapi::api::core::v1::PodStatus;
use oomlet_core::node::published::PublishedPod;
use serde_json::json;

use super::*;
use crate::container_log::rotation::{self, MovedAway};

const BOUND: Duration = Duration::from_secs(60);

fn line(text: &str) -> String {
    format!("2026-01-02T03:04:05Z stdout F {text}\n")
}

fn snapshot(runs: bool) -> Arc<NodeSnapshot> {
    let state = if runs { json!({ "running": {} }) } else { json!({ "terminated": { "exitCode": 0 } }) };
    let status: PodStatus = serde_json::from_value(json!({ "containerStatuses": [{
        "name": "c", "containerID": "containerd://id", "image": "", "imageID": "", "ready": true, "restartCount": 0,
        "state": state,
    }] }))
    .unwrap();
    let published = PublishedPod { status: Arc::new(status), ..PublishedPod::default() };
    let mut snapshot = NodeSnapshot::default();
    snapshot.pods.insert(PodUid::from("uid"), Arc::new(published));
    Arc::new(snapshot)
}

struct Followed {
    path: PathBuf,
    snapshots: watch::Sender<Arc<NodeSnapshot>>,
    received: mpsc::Receiver<Bytes>,
    text: String,
}

impl Followed {
    fn start(dir: &Path, options: LogOptions) -> Followed {
        let path = dir.join("0.log");
        let (snapshots, of_reader) = watch::channel(snapshot(options.follow));
        let of = LogOf {
            path: path.clone(),
            pod: PodUid::from("uid"),
            container_id: "id".to_owned(),
            snapshots: of_reader,
        };
        let (to, received) = mpsc::channel(4);
        tokio::spawn(async move {
            let watches = DirWatches::new();
            tokio::spawn(watches.events(tokio_util::sync::CancellationToken::new()));
            send(of, options, &watches, to).await;
        });
        Followed { path, snapshots, received, text: String::new() }
    }

    async fn wait_for(&mut self, text: &str) {
        while self.text != text {
            let next = tokio::time::timeout(BOUND, self.received.recv()).await;
            let next = next.unwrap_or_else(|_| panic!("{text:?} does not come, only {:?}", self.text));
            let bytes = next.unwrap_or_else(|| panic!("{text:?} did not come, only {:?}", self.text));
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    async fn ends(&mut self) {
        let next = tokio::time::timeout(BOUND, self.received.recv()).await.unwrap();
        assert_eq!(next, None);
    }

    fn append(&self, text: &str) {
        use std::io::Write as _;
        let mut file = fs::File::options().append(true).create(true).open(&self.path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}

#[tokio::test]
async fn what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let all: String = (0..5000).map(|n| line(&format!("number {n}"))).collect();
    fs::write(dir.path().join("0.log"), &all).unwrap();
    for (tail, begin) in [(None, 0), (Some(3), 4997), (Some(0), 5000), (Some(4000), 1000), (Some(9999), 0)] {
        let options = LogOptions { tail_lines: tail, ..LogOptions::default() };
        let mut followed = Followed::start(dir.path(), options);
        let expected: String = (begin..5000).map(|n| format!("number {n}\n")).collect();
        followed.wait_for(&expected).await;
        followed.ends().await;
    }
}

#[tokio::test]
async fn a_last_line_without_its_end() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("0.log"), line("one") + line("two").trim_end()).unwrap();
    let mut followed = Followed::start(dir.path(), LogOptions::default());
    followed.wait_for("one\ntwo").await;
    followed.ends().await;
}

#[tokio::test]
async fn no_file_and_no_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let mut followed = Followed::start(dir.path(), LogOptions::default());
    let text = format!("failed to read log file {path:?}: No such file or directory (os error 2)");
    followed.wait_for(&text).await;
    fs::write(&path, "what is this\n").unwrap();
    let mut followed = Followed::start(dir.path(), LogOptions::default());
    followed.wait_for("unsupported log format: \"what is this\\n\"").await;
    followed.ends().await;
}

#[tokio::test]
async fn following_goes_over_rotations_to_the_container_s_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    fs::write(&path, line("zero") + &line("one")).unwrap();
    let options = LogOptions { follow: true, tail_lines: Some(1), ..LogOptions::default() };
    let mut followed = Followed::start(dir.path(), options);
    followed.wait_for("one\n").await;
    followed.append(&line("two"));
    followed.wait_for("one\ntwo\n").await;
    // As kubelet rotates: away by rename, then the runtime opens it anew.
    fs::rename(&path, dir.path().join("0.log.20260102-030405")).unwrap();
    followed.append(&line("three"));
    followed.wait_for("one\ntwo\nthree\n").await;
    // As logrotate's copytruncate.
    fs::File::create(&path).unwrap();
    followed.append(&line("4"));
    followed.wait_for("one\ntwo\nthree\n4\n").await;
    followed.append(line("five").trim_end());
    followed.snapshots.send_replace(snapshot(false));
    followed.wait_for("one\ntwo\nthree\n4\nfive").await;
    followed.ends().await;
}

/// Away by its name, then the runtime opens it anew.
async fn rotate(path: &Path, max_files: usize) {
    let log = path.to_owned();
    let moved = tokio::task::spawn_blocking(move || {
        rotation::move_away(&log, max_files, |log| Ok(log.exists()), &|| false)
    });
    let moved: MovedAway = moved.await.unwrap().unwrap().unwrap();
    fs::File::create(path).unwrap();
    moved.reopened(Ok(())).await.unwrap();
}

async fn all_lines(mut followed: Followed) -> Vec<u32> {
    followed.snapshots.send_replace(snapshot(false));
    let mut text = followed.text;
    while let Some(bytes) = tokio::time::timeout(BOUND, followed.received.recv()).await.unwrap() {
        text.push_str(std::str::from_utf8(&bytes).unwrap());
    }
    text.lines().map(|line| line.parse().unwrap_or_else(|_| panic!("{line:?} is no number"))).collect()
}

/// One who takes each line at once, and one who takes none until all have been rotated away and compressed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_over_ten_rotations_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let number = |n: u32| line(&n.to_string());
    fs::write(&path, number(0)).unwrap();
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let (mut prompt, slow) =
        (Followed::start(dir.path(), options.clone()), Followed::start(dir.path(), options));
    prompt.wait_for("0\n").await;
    let mut n = 1;
    for _ in 0..10 {
        for _ in 0..5000 {
            prompt.append(&number(n));
            n += 1;
        }
        let mut old = fs::File::options().append(true).open(&path).unwrap();
        rotate(&path, 20).await;
        // The runtime has made the new file, and not gone over to it yet.
        io::Write::write_all(&mut old, number(n).as_bytes()).unwrap();
        n += 1;
    }
    prompt.append(&number(n));
    let expected: Vec<u32> = (0..=n).collect();
    for followed in [prompt, slow] {
        let mut lines = all_lines(followed).await;
        lines.sort_unstable();
        assert_eq!(lines.len(), expected.len());
        assert!(lines == expected);
    }
    let compressed = fs::read_dir(dir.path()).unwrap().filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|end| end == "gz"))
    });
    assert_eq!(compressed.count(), 9);
}

/// What was read is not kept any more: what is goes on after it.
#[tokio::test]
async fn one_who_is_late_misses_what_is_gone_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let at = |second: u32| format!("2026-01-02T03:04:{second:02}Z stdout F {second}\n");
    fs::write(&path, at(0)).unwrap();
    let mut source = Source::open(&path).await.unwrap().unwrap();
    assert_eq!(source.read().await.unwrap(), at(0).as_bytes());
    for second in 1..6 {
        rotate(&path, 3).await;
        fs::write(&path, at(second)).unwrap();
    }
    let read_to = Some("2026-01-02T03:04:00Z".parse().unwrap());
    let mut after = source.successors(&path, read_to).await.unwrap().unwrap();
    let mut lines = Vec::new();
    for path in &after.between {
        lines.extend(Source::open(path).await.unwrap().unwrap().read().await.unwrap());
    }
    lines.extend(after.next.read().await.unwrap());
    assert_eq!(String::from_utf8(lines).unwrap(), at(3) + &at(4) + &at(5));
    // Somebody has removed it and the runtime has made it anew: what was read before does not come again.
    let first = Source::open(&path).await.unwrap().unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, at(6)).unwrap();
    let read_to = Some("2026-01-02T03:04:05Z".parse().unwrap());
    assert!(first.successors(&path, read_to).await.unwrap().unwrap().between.is_empty());
}
