//! What containers are made from while the API server is away: ConfigMaps, Secrets, tokens.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use oomlet_tests::cluster::fault_proxy::{Fault, Request};
use oomlet_tests::cluster::joined::{Joined, obedient, shell};
use oomlet_tests::cluster::{self, condition};
use oomlet_tests::node::{script, soon};
use oomlet_tests::{pod, speed};
use serde_json::{Value, json};
use xtask::process;
use xtask::relay::Way;

/// Nothing else has this.
const PLANTED: &str = "planted-b41c-secret-bytes";

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")["status"] == "True"
}

/// It says what it was given, then runs.
fn shows_all() -> Value {
    let mut spec = obedient();
    let said = "echo $COLOUR $PASSWORD $size - $NONE $MY_DB_SERVICE_PORT; cat /all/colour /login/password; cat /all/token | wc -c; \
                trap 'exit 0' TERM; while true; do sleep 0.1; done";
    spec["containers"][0] = shell("main", said);
    let main = &mut spec["containers"][0];
    main["env"] = json!([
        { "name": "COLOUR", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "colour" } } },
        { "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": "login", "key": "password" } } },
        { "name": "NONE", "valueFrom": { "secretKeyRef": { "name": "none", "key": "k", "optional": true } } },
    ]);
    main["envFrom"] = json!([{ "configMapRef": { "name": "settings" } }]);
    main["volumeMounts"] =
        json!([{ "name": "all", "mountPath": "/all" }, { "name": "login", "mountPath": "/login" }]);
    spec["volumes"] = json!([
        { "name": "login", "secret": { "secretName": "login" } },
        { "name": "all", "projected": { "sources": [
            { "serviceAccountToken": { "path": "token" } }, { "configMap": { "name": "settings" } }] } },
    ]);
    spec
}

#[test]
fn a_container_starts_again_with_all_that_it_had_while_nobody_can_be_asked() {
    let plane = cluster::shared();
    let mut node = Joined::ready(plane, "remembers");
    let kubectl = |args: &[&str]| plane.kubectl(&[args, &["--namespace", "remembers"]].concat()).unwrap();
    kubectl(&["create", "configmap", "settings", "--from-literal=colour=red", "--from-literal=size=large"]);
    kubectl(&["create", "secret", "generic", "login", &format!("--from-literal=password={PLANTED}")]);
    kubectl(&["create", "service", "clusterip", "my-db", "--tcp=5432"]);
    node.run_pod("made-of", &shows_all());
    let ready = node.wait_api_pod("made-of", "ready", is_ready);
    let first = said(&node, &ready, 0);
    assert!(first.starts_with(&format!("red {PLANTED} large - 5432\nred{PLANTED}")), "{first}");
    let token = volume(&node, &ready, "kubernetes.io~projected/all/token");
    let shown = fs::read_to_string(&token).unwrap();

    node.kill_agent().unwrap();
    node.relay().unwrap().set(Way::Cut);
    let before = node.container_of_pod("made-of");
    node.start();
    process::output(std::process::Command::new("kill").args(["-9", &before.pid.to_string()])).unwrap();
    let again = || node.containers_of_pod("made-of").iter().any(|c| c.id != before.id);
    assert!(process::holds_within(soon(), again), "it is not started again\n{}", node.diagnosis());
    assert_eq!(said(&node, &ready, 1), first, "it was given the same");
    assert_eq!(fs::read_to_string(&token).unwrap(), shown, "the token is still good");

    // What is kept for that is nowhere but in memory, and nobody else's to read.
    let mut found = Vec::new();
    for place in [node.root_dir(), node.agent_log_path(), node.trace_path()] {
        search(&place, &[PLANTED, &shown], &mut found);
    }
    assert!(found.is_empty(), "{found:?}");
    let store = node.root_dir().join("oomlet/content");
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(&store).unwrap()) & 0o777, 0o700);
    assert!(files(&store.join("objects")) == 3, "a ConfigMap, a Secret, and that one is not there");

    node.relay().unwrap().set(Way::Open);
    kubectl(&["patch", "secret", "login", "--patch", r#"{"stringData":{"password":"changed"}}"#]);
    let password = volume(&node, &ready, "kubernetes.io~secret/login/password");
    node.wait("the change has arrived", |_| {
        fs::read_to_string(&password).is_ok_and(|text| text == "changed")
    });
    kubectl(&["delete", "pod", "made-of"]);
    node.wait("nothing is kept of it", |_| files(&store.join("objects")) + files(&store.join("pods")) == 0);
}

/// Both lines that the container has written, once it has.
fn said(node: &Joined<'_>, pod: &Value, attempt: u32) -> String {
    let path = node.pod_logs_dir().join(format!("remembers_made-of_{}/main/{attempt}.log", pod::uid(pod)));
    node.wait("the container has said what it has", |node| {
        path.exists() && node.log(pod, "main", attempt).lines().count() >= 2
    });
    node.log(pod, "main", attempt)
}

fn volume(node: &Joined<'_>, pod: &Value, path: &str) -> PathBuf {
    node.root_dir().join("pods").join(pod::uid(pod)).join("volumes").join(path)
}

fn files(dir: &Path) -> usize {
    let below = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path) } else { 1 }
    };
    fs::read_dir(dir).unwrap().map(below).sum()
}

/// Files with one of the texts that are not on a tmpfs.
fn search(path: &Path, planted: &[&str], found: &mut Vec<PathBuf>) {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            search(&entry.unwrap().path(), planted, found);
        }
    } else if meta.is_file() {
        let on_tmpfs = rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type as u64 == TMPFS_MAGIC);
        let bytes = fs::read(path).unwrap_or_default();
        let holds = |text: &&str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        if !on_tmpfs && planted.iter().any(holds) {
            found.push(path.to_owned());
        }
    }
}

/// The server says of its tokens that they live for a minute: another is due within one, and refused for a while.
#[test]
fn a_token_that_is_due_in_an_outage_is_another_soon_after_it() {
    let plane = cluster::shared();
    let (proxy, mut node) = Joined::through_faults(plane, "renews");
    let is_token = |request: &Request| request.path.contains("/serviceaccounts/default/token");
    proxy.set(move |request| is_token(request).then_some(Fault::TokenLives(60)));
    node.start();
    node.wait_ready();
    let mut spec = obedient();
    spec["volumes"] = json!([{ "name": "own", "projected": { "sources": [
        { "serviceAccountToken": { "path": "token", "expirationSeconds": 600 } }] } }]);
    node.run_pod("holds", &spec);
    let ready = node.wait_api_pod("holds", "ready", is_ready);
    let token = volume(&node, &ready, "kubernetes.io~projected/own/token");
    let first = fs::read_to_string(&token).unwrap();

    proxy.set(move |request| is_token(request).then_some(Fault::Status(500, "")));
    let tried = || proxy.seen().iter().filter(|request| is_token(request)).count();
    let bound = Duration::from_secs(60) + soon();
    assert!(process::holds_within(bound, || tried() >= 1), "it is not due\n{}", node.diagnosis());
    let reader = Reader::start(&token);
    node.wait("it is tried again", |_| tried() >= 2);
    assert_eq!(fs::read_to_string(&token).unwrap(), first, "the old one stays");
    proxy.clear();
    let back = Instant::now();
    node.wait("there is another", |_| fs::read_to_string(&token).unwrap() != first);
    let took = back.elapsed();
    assert!(took < Duration::from_secs(30).mul_f64(speed::scale()), "only after {took:?}");
    let second = fs::read_to_string(&token).unwrap();
    assert_eq!(reader.end(), BTreeSet::from([first, second.clone()]), "never empty, never half of one");
    // It is one that the server takes.
    let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": second } });
    let path = node.scratch().path().join("review.json");
    fs::write(&path, review.to_string()).unwrap();
    let reviewed = plane.kubectl_json(&["create", "--filename", path.to_str().unwrap()]).unwrap();
    assert_eq!(
        reviewed["status"]["user"]["username"], "system:serviceaccount:renews:default",
        "{reviewed:#}"
    );
}

/// Reads a file again and again.
struct Reader {
    end: Arc<AtomicBool>,
    task: thread::JoinHandle<BTreeSet<String>>,
}

impl Reader {
    fn start(path: &Path) -> Reader {
        let (end, path) = (Arc::new(AtomicBool::new(false)), path.to_owned());
        let ended = Arc::clone(&end);
        let task = thread::spawn(move || {
            let mut read = BTreeSet::new();
            loop {
                // What is there as it ends is read, too.
                let last = ended.load(Ordering::Relaxed);
                // One that is not there counts as empty.
                read.insert(fs::read_to_string(&path).unwrap_or_default());
                if last {
                    return read;
                }
                thread::yield_now();
            }
        });
        Reader { end, task }
    }

    /// All that it has read.
    fn end(self) -> BTreeSet<String> {
        self.end.store(true, Ordering::Relaxed);
        self.task.join().unwrap()
    }
}

#[test]
fn a_static_pod_that_names_what_the_api_server_holds_is_refused() {
    let plane = cluster::shared();
    let mut node = Joined::new(plane, "static");
    let mut refused = script("refused", "sleep 1000");
    refused["spec"]["volumes"] = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }]);
    let accepted = script("accepted", "sleep 1000");
    for mut manifest in [refused, accepted] {
        manifest["metadata"]["namespace"] = json!("static");
        node.put(&manifest);
    }
    node.start();
    node.wait_ready();
    node.wait_api_pod("accepted-static", "running", |pod| pod["status"]["phase"] == "Running");
    let told = node.wait_record("the refusal", |r| r.reason == "ManifestRejected");
    assert!(
        told.message.ends_with("static pods may not reference persistentvolumeclaims"),
        "{}",
        told.message
    );
    assert!(plane.kubectl(&["get", "pod", "refused-static", "--namespace", "static"]).is_err());
}
