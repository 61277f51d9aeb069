//! Containers' logs: rotated, followed over rotations, kept with the pods that they are of.

use std::fs;
use std::process::Stdio;

use oomlet_tests::node::{Node, pod_name, script, soon};
use oomlet_tests::{newest, pod};
use serde_json::json;
use xtask::process;

/// A thousand lines a second, each a number; the last is `end` after the file `/marks/end` has come.
const COUNTER: &str = "n=0; while [ ! -e /marks/end ]; do \
                         for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do echo $n; n=$((n+1)); done; \
                         usleep 20000; \
                       done; echo end";

#[test]
fn a_counter_is_followed_over_rotations_without_a_gap() {
    let mut node = Node::new("rotation", newest());
    let config = node.config_mut();
    config["containerLogMaxSize"] = json!("64Ki");
    config["containerLogMaxFiles"] = json!(3);
    config["containerLogMonitorInterval"] = json!("3s");
    let marks = node.scratch().create_dir("marks").unwrap();
    node.put(&xtask::node::manifest::with_host_path(script("counter", COUNTER), &marks, "/marks"));
    node.start();
    node.wait_up(&["counter"]);
    let logs = |args: &[&str]| {
        let mut command = node.oomlet(&[&["logs", "counter"], args].concat()).unwrap();
        command.arg("--root-dir").arg(node.root_dir()).arg("--pod-logs-dir").arg(node.pod_logs_dir());
        command
    };
    let followed = node.scratch().path().join("followed");
    let mut follower = logs(&["--follow"])
        .stdout(fs::File::create(&followed).unwrap())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();

    let counter = node.pod("counter").unwrap();
    let (namespace, uid) = (counter["metadata"]["namespace"].as_str().unwrap(), pod::uid(&counter));
    let dir = node.pod_logs_dir().join(format!("{namespace}_{}_{uid}/main", pod_name("counter")));
    let files = || {
        let entries = fs::read_dir(&dir).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let rotated = || files().into_iter().filter(|name| name.starts_with("0.log.")).collect::<Vec<_>>();
    node.wait("it is rotated", |_| !rotated().is_empty());
    let first = rotated()[0].clone();
    node.wait("the first goes, and the one before the last is compressed", |_| {
        let now = rotated();
        assert!(now.len() <= 3, "two, and one more that is just being compressed: {now:?}");
        !now.iter().any(|name| name.starts_with(&first)) && now.iter().any(|name| name.ends_with(".gz"))
    });
    fs::write(marks.join("end"), "").unwrap();
    let ended = process::holds_within(soon(), || follower.try_wait().unwrap().is_some());
    assert!(ended, "it ends with its container\n{}", node.diagnosis());
    let text = fs::read_to_string(&followed).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let (last, numbers) = lines.split_last().unwrap();
    assert_eq!(*last, "end");
    for (at, line) in numbers.iter().enumerate() {
        assert_eq!(line.parse(), Ok(at), "line {at} of {}", numbers.len());
    }

    let said = |args: &[&str]| oomlet_tests::command::run(&mut logs(args), soon());
    assert_eq!(said(&["--tail", "1"]).ok(), "end\n");
    assert_eq!(said(&["--since", "1h", "--tail", "1", "-c", "main"]).ok(), "end\n");
    said(&["--previous"]).refused(&["previous terminated container \"main\""]);
    said(&["-c", "other"]).refused(&["has no container other, only main"]);
    said(&["-n", "elsewhere"]).refused(&["no pod counter in the namespace elsewhere"]);
}
