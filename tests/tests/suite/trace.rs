//! `oomlet trace`: what the agent saw, decided and did, over its socket, and the same in the trace file.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use oomlet_tests::newest;
use oomlet_tests::node::{Node, pod_name, soon};
use serde_json::Value;
use xtask::node::manifest::pod as workload;

/// `oomlet trace --follow`, killed when dropped.
struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn start(node: &Node, args: &[&str]) -> Follower {
        let mut command = node.oomlet(&["trace", "--follow", "--root-dir"]).unwrap();
        command.arg(node.root_dir()).args(args).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        // Ends with the child's output.
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        Follower { child, lines }
    }

    #[track_caller]
    fn wait_line(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + soon();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|e| panic!("no line of {what}: {e}"));
            if fits(&line) {
                return line;
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

#[test]
fn the_trace_is_told_to_people_machines_and_a_file() {
    let mut node = Node::new("trace", newest());
    node.put(&workload("first", "idle", &[]));
    node.start();
    node.wait_up(&["first"]);

    let text = node.command(&["trace"]).ok();
    let first = pod_name("first");
    assert!(text.lines().any(|l| l.contains("Agent") && l.contains("AgentStarted")), "{text}");
    let started =
        text.lines().find(|l| l.contains(&format!("default/{first}/main")) && l.contains("started"));
    let started = started.unwrap_or_else(|| panic!("the container's start in {text}"));
    // `HH:MM:SS.mmm  Kind`
    assert!(
        started.as_bytes()[2] == b':' && started.as_bytes()[8] == b'.' && !started.contains('\x1b'),
        "{started}"
    );

    let records = json_lines(&node.command(&["trace", "--output", "json"]).ok());
    let seq = |r: &Value| r["seq"].as_u64().unwrap();
    assert_eq!(seq(&records[0]), 1);
    assert!(records.windows(2).all(|pair| seq(&pair[0]) < seq(&pair[1])));
    for key in ["seq", "monotonic_ns", "unix_ms", "kind", "reason", "message"] {
        assert!(records.iter().all(|r| !r[key].is_null()), "{key}");
    }
    let after = records.len() as u64 / 2;
    let rest = json_lines(&node.command(&["trace", "--after-seq", &after.to_string(), "-o", "json"]).ok());
    assert!(seq(&rest[0]) > after, "{}", rest[0]);

    // Two followers, each with all that comes.
    let people = Follower::start(&node, &[]);
    let machines =
        Follower::start(&node, &["--output", "json", "--after-seq", &seq(&records[0]).to_string()]);
    people.wait_line("the past", |line| line.contains("AgentStarted"));
    node.put(&workload("second", "idle", &[]));
    let second = pod_name("second");
    people.wait_line("the second pod", |line| line.contains(&second) && line.contains("container started"));
    let line = machines.wait_line("the second pod", |line| line.contains(&second));
    let record: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&record["kind"], &record["pod"]["name"]), (&"Pod".into(), &Value::from(second.as_str())));
    drop((people, machines));

    // The file has what the socket tells, record for record.
    let told = json_lines(&node.command(&["trace", "--output", "json"]).ok());
    let last = seq(told.last().unwrap());
    let in_file = || json_lines(&complete_lines(&node));
    node.wait("the file has the newest record", |_| in_file().iter().any(|r| seq(r) == last));
    let in_file = in_file();
    for record in &told {
        let same = in_file.iter().find(|r| seq(r) == seq(record));
        assert_eq!(same, Some(record));
    }

    node.kill_agent().unwrap();
    let socket = node.root_dir().join("oomlet/trace.sock");
    node.command(&["trace"]).refused(&[socket.to_str().unwrap(), "--root-dir"]);
}

/// The trace file without a last line that is being written.
fn complete_lines(node: &Node) -> String {
    let mut text = std::fs::read_to_string(node.trace_path()).unwrap();
    text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    text
}

#[test]
fn a_second_agent_on_the_same_root_directory_is_refused() {
    let mut node = Node::new("second", newest());
    node.put(&workload("pod", "idle", &[]));
    node.start();
    node.wait_up(&["pod"]);
    let pod = node.the_container_of("pod");
    let config = node.config_mut().clone();
    let mut second = node.run_command(&config);
    second.args(["--container-runtime-endpoint", &node.containerd.endpoint()]);
    let pid = node.agent.as_ref().unwrap().pid();
    let ran = oomlet_tests::command::run(&mut second, Duration::from_secs(20));
    ran.refused(&[&format!("pid {pid}"), "--root-dir"]);

    // The first one goes on as if nothing had been.
    node.put(&workload("later", "idle", &[]));
    node.wait_up(&["later"]);
    assert_eq!(node.the_container_of("pod"), pod);
    // With it gone, its place is free, whatever is left on disk.
    node.start();
    node.wait_up(&["pod", "later"]);
    assert_eq!(node.the_container_of("pod"), pod);
}
