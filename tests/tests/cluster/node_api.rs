//! What people do with pods by `kubectl`, against this node: logs, exec, cp, attach, port-forward. With the release's own
//! kubectl, which speaks WebSocket to the API server, and with one of 2021, which speaks SPDY.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oomlet_tests::cluster::joined::{Joined, obedient, shell};
use oomlet_tests::cluster::{self, wait};
use oomlet_tests::command::run;
use oomlet_tests::https::Caller;
use serde_json::{Value, json};
use xtask::control_plane::ControlPlane;
use xtask::setup::old_kubectl;

const BOUND: Duration = Duration::from_secs(180);

/// Each kubectl that there is: where set-up left the old one out, its absence is said.
fn kubectls(plane: &ControlPlane, node: &Joined<'_>) -> Vec<(&'static str, Box<dyn Fn(&[&str]) -> Command>)> {
    let admin = plane.kubeconfig_admin().to_owned();
    let namespace = node.name.clone();
    let new = plane.programs().path(xtask::control_plane::programs::Program::Kubectl);
    let mut all: Vec<(&'static str, std::path::PathBuf)> = vec![("1.37", new)];
    match old_kubectl::binary().unwrap() {
        Some(old) => all.push(("1.20", old)),
        None => eprintln!("kubectl 1.20 is missing (cargo xtask setup): its part of the test is left out"),
    }
    let cache = node.scratch().path().join("kubectl-cache");
    all.into_iter()
        .map(|(version, path)| {
            let (admin, namespace, cache) = (admin.clone(), namespace.clone(), cache.join(version));
            let command = move |args: &[&str]| {
                let mut command = Command::new(&path);
                // One word: as two, a namespace called like the subcommand is taken for it.
                command.arg("--kubeconfig").arg(&admin).arg(format!("--namespace={namespace}"));
                command.arg("--cache-dir").arg(&cache).args(args);
                command
            };
            (version, Box::new(command) as Box<dyn Fn(&[&str]) -> Command>)
        })
        .collect()
}

fn is_running(pod: &Value) -> bool {
    let statuses = pod["status"]["containerStatuses"].as_array();
    statuses.is_some_and(|all| all.iter().all(|c| c["state"]["running"].is_object()))
}

#[test]
fn logs() {
    let plane = cluster::shared();
    let mut node = Joined::serving(plane, "logs");
    node.start();
    node.wait_ready();
    let counts = "echo begin; for n in 1 2 3 4 5 6 7 8; do echo line $n; echo err $n >&2; done; \
                  while [ ! -e /tmp/go ]; do sleep 0.1; done; echo last";
    node.run_pod("counts", &json!({ "restartPolicy": "Never", "containers": [shell("main", counts)] }));
    let again = "echo run; sleep 0.2; exit 3";
    node.run_pod("again", &json!({ "containers": [shell("main", again)] }));
    node.wait_api_pod("counts", "running", is_running);
    node.wait_api_pod("again", "started again", |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"].as_u64() > Some(0)
    });
    for (version, kubectl) in kubectls(plane, &node) {
        let said = |args: &[&str]| run(&mut kubectl(&[&["logs"], args].concat()), BOUND).ok();
        wait("the lines are there", || (said(&["counts"]).lines().count() == 17).then_some(()));
        assert!(said(&["counts"]).starts_with("begin\n"), "{version}");
        assert_eq!(said(&["counts", "--tail=0"]), "", "{version}");
        assert_eq!(said(&["counts", "--tail=3"]).lines().count(), 3, "{version}");
        assert_eq!(said(&["counts", "--limit-bytes=7"]), "begin\nl", "{version}");
        assert_eq!(said(&["counts", "--since=1h"]).lines().count(), 17, "{version}");
        assert_eq!(said(&["counts", "--since-time=2099-01-01T00:00:00Z"]), "", "{version}");
        let times = said(&["counts", "--timestamps", "--tail=1"]);
        let time = times.split(' ').next().unwrap();
        assert!(time.len() == "2026-01-02T03:04:05.123456789Z".len() && time.ends_with('Z'), "{times}");
        wait("the run before", || {
            let ran = run(&mut kubectl(&["logs", "again", "--previous"]), BOUND);
            (ran.status.success() && ran.stdout == "run\n").then_some(())
        });
        let missing = run(&mut kubectl(&["logs", "counts", "--previous"]), BOUND);
        missing.refused(&["previous terminated container \"main\" in pod \"counts\" not found"]);
    }
    // Followed by all of them at once, to the container's end.
    let followers: Vec<(&str, Child)> = kubectls(plane, &node)
        .iter()
        .map(|(version, kubectl)| {
            let mut command = kubectl(&["logs", "counts", "--follow", "--tail=1"]);
            (*version, command.stdout(Stdio::piped()).spawn().unwrap())
        })
        .collect();
    let mut outputs = Vec::new();
    for (version, mut child) in followers {
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        assert!(first.ends_with(" 8"), "{version}: {first}");
        outputs.push((version, child, lines));
    }
    plane.kubectl(&["exec", "counts", "--namespace", "logs", "--", "touch", "/tmp/go"]).unwrap();
    for (version, mut child, lines) in outputs {
        let rest: Vec<String> = lines.map(Result::unwrap).collect();
        assert_eq!(rest.last().map(String::as_str), Some("last"), "{version}");
        assert!(child.wait().unwrap().success(), "{version}");
    }
    let missing = run(&mut kubectls(plane, &node)[0].1(&["logs", "counts", "-c", "x"]), BOUND);
    missing.refused(&["container x is not valid for pod counts"]);
}

#[test]
fn exec_and_attach() {
    let plane = cluster::shared();
    let mut node = Joined::serving(plane, "execs");
    node.start();
    node.wait_ready();
    node.run_pod("target", &obedient());
    node.wait_api_pod("target", "running", is_running);
    for (version, kubectl) in kubectls(plane, &node) {
        let exec = |args: &[&str]| run(&mut kubectl(&[&["exec", "target"], args].concat()), BOUND);
        assert_eq!(exec(&["--", "echo", "hello"]).ok(), "hello\n", "{version}");
        let both = exec(&["--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!((both.status.code(), both.stdout.as_str()), (Some(7), "out\n"), "{version}");
        assert!(both.stderr.contains("err\n"), "{version}: {}", both.stderr);
        exec(&["--", "/nonexistent"]).refused(&["/nonexistent"]);

        // Input to its end.
        let mut cat = kubectl(&["exec", "-i", "target", "--", "sh", "-c", "wc -c"]);
        let mut child = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&vec![b'x'; 300_000]).unwrap();
        let mut counted = String::new();
        child.stdout.take().unwrap().read_to_string(&mut counted).unwrap();
        assert_eq!(counted.trim(), "300000", "{version}");
        assert!(child.wait().unwrap().success());

        // A terminal has the size of the one in front of kubectl, also when that becomes another.
        let until = |size: &str, then: &str| {
            format!("until [ \"$(stty size)\" = \"{size}\" ]; do sleep 0.1; done; {then}")
        };
        let inside = until("33 77", "echo begun; ") + &until("40 101", "echo resized; exit 5");
        let line = xtask::process::line(&kubectl(&[
            "exec",
            "-it",
            "target",
            "--",
            "sh",
            "-c",
            &format!("'{inside}'"),
        ]));
        let script = format!("tty; stty rows 33 cols 77; {line}");
        let mut command = Command::new("script");
        command.args(["-qec", &script, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut terminal = Ended(command.spawn().unwrap());
        // Its end would be the session's.
        let _input = terminal.0.stdin.take();
        let mut lines = BufReader::new(terminal.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        let tty = lines.find(|line| line.starts_with("/dev/")).unwrap();
        lines.find(|line| line.trim() == "begun").unwrap_or_else(|| panic!("{version}: no size"));
        run(Command::new("stty").args(["-F", tty.trim(), "rows", "40", "cols", "101"]), BOUND).ok();
        lines.find(|line| line.trim() == "resized").unwrap_or_else(|| panic!("{version}: not resized"));
        assert_eq!(terminal.0.wait().unwrap().code(), Some(5), "{version}");

        // Attached to the container's own process.
        let name = format!("attach-{}", version.replace('.', "-"));
        let mut main = shell("main", "while read line; do echo got $line; done; echo end");
        main["stdin"] = json!(true);
        main["stdinOnce"] = json!(true);
        node.run_pod(&name, &json!({ "restartPolicy": "Never", "containers": [main] }));
        node.wait_api_pod(&name, "running", is_running);
        let mut attach = kubectl(&["attach", "-i", &name]);
        let mut child = attach.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        input.write_all(b"one\n").unwrap();
        let said = lines.by_ref().map(Result::unwrap).find(|line| line.starts_with("got"));
        assert_eq!(said.as_deref(), Some("got one"), "{version}");
        drop(input);
        assert_eq!(lines.map(Result::unwrap).last().as_deref(), Some("end"), "{version}");
        child.wait().unwrap();
    }
    debugged(plane, &node);
    let admin = Caller::of(&plane.client_files("execs-admin", &["system:masters"]).unwrap());
    let address = node.api_address();
    let ran = admin.request(address, "POST", "/run/execs/target/main?cmd=echo%20hi", "").unwrap();
    assert_eq!(ran, (200, "hi\n".to_owned()));
    let none = admin.get(address, "/exec/execs/target/main?command=x").unwrap();
    assert_eq!(none, (400, "you must specify at least 1 of stdin, stdout, stderr".to_owned()));
    let plain = admin.get(address, "/exec/execs/target/main?command=echo&output=1").unwrap();
    assert_eq!(plain, (500, "Upgrade request required\n".to_owned()));
    let (status, running) = admin.get(address, "/runningpods/").unwrap();
    assert!(status == 200 && running.contains("\"name\":\"target\""), "{running}");
    let (status, body) = admin.request(address, "POST", "/checkpoint/execs/target/none", "").unwrap();
    assert_eq!((status, body.as_str()), (404, "container none does not exist"));
}

/// An ephemeral container comes into the pod that runs, sees its target's processes, and ends without being missed.
fn debugged(plane: &ControlPlane, node: &Joined<'_>) {
    let kubectl = |args: &[&str]| plane.kubectl(&[&["--namespace", "execs"], args].concat()).unwrap();
    let before = node.wait_api_pod("target", "running", is_running);
    let image = format!("--image={}", xtask::images::BUSYBOX);
    let what =
        ["--target=main", "--container=debug", "--image-pull-policy=Never", "--", "cat", "/proc/1/cmdline"];
    kubectl(&[&["debug", "target", &image], what.as_slice()].concat());
    let after = node.wait_api_pod("target", "debugged", |pod| {
        let debug = &pod["status"]["ephemeralContainerStatuses"][0];
        debug["name"] == "debug" && debug["state"]["terminated"]["exitCode"] == 0
    });
    assert!(kubectl(&["logs", "target", "--container=debug"]).contains("trap 'exit 0' TERM"), "{after:#}");
    let main = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    assert_eq!(main(&after), main(&before));
    assert_eq!(after["status"]["phase"], "Running");
    assert_eq!(node.events("target").iter().filter(|(reason, ..)| reason == "UnsupportedFeature").count(), 0);
}

#[test]
fn cp_both_ways() {
    let plane = cluster::shared();
    let mut node = Joined::serving(plane, "copies");
    node.start();
    node.wait_ready();
    node.run_pod("target", &obedient());
    node.wait_api_pod("target", "running", is_running);
    let dir = node.scratch().path().to_owned();
    // Not to be compressed, nor the same anywhere.
    let mut state = 0x9e37_79b9_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let bytes: Vec<u8> = (0..50_000_000 / 8).flat_map(|_| random()).collect();
    fs::write(dir.join("there"), &bytes).unwrap();
    for (version, kubectl) in kubectls(plane, &node) {
        let there = format!("target:/tmp/copied-{version}");
        let (from, back) = (dir.join("there").display().to_string(), dir.join(format!("back-{version}")));
        run(&mut kubectl(&["cp", &from, &there]), BOUND).ok();
        run(&mut kubectl(&["cp", &there, &back.display().to_string()]), BOUND).ok();
        assert!(fs::read(&back).unwrap() == bytes, "{version}: what came back is not what went");
        fs::remove_file(&back).unwrap();
    }
}

#[test]
fn port_forward_survives_connections_that_fail() {
    let plane = cluster::shared();
    let mut node = Joined::serving(plane, "forwards");
    node.start();
    node.wait_ready();
    let serve = "mkdir /tmp/www; echo served > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www";
    node.run_pod("web", &json!({ "containers": [shell("main", serve)] }));
    node.wait_api_pod("web", "running", is_running);
    for (version, kubectl) in kubectls(plane, &node) {
        let mut command = kubectl(&["port-forward", "--address=127.0.0.1", "pod/web", ":8080", ":8081"]);
        let mut child = Ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let mut port_of = |port: &str| {
            let line = lines.by_ref().map(Result::unwrap).find(|line| line.ends_with(port)).unwrap();
            line.split(' ').nth(2).unwrap().to_owned()
        };
        let (served, refused) = (port_of("8080"), port_of("8081"));
        let get = |address: &str| -> std::io::Result<String> {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        wait("the pod's server answers", || get(&served).ok()?.contains("served").then_some(()));
        // A newer kubectl ends by itself as soon as it is told of a failure (client-go/tools/portforward).
        let refusals = if version == "1.20" { 3 } else { 0 };
        for _ in 0..refusals {
            // Nobody listens there: an end, or a reset.
            assert!(get(&refused).map_or(true, |answer| answer.is_empty()), "{version}");
            assert!(get(&served).unwrap().contains("served"), "{version}");
        }
        // Closed with what was sent still unread, which resets the connection.
        for _ in 0..3 {
            let mut stream = TcpStream::connect(&served).unwrap();
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            stream.peek(&mut [0]).unwrap();
            drop(stream);
            assert!(get(&served).unwrap().contains("served"), "{version}");
        }
        if version == "1.20" {
            continue;
        }
        // It is told why, and it is kubectl that ends then.
        assert!(get(&refused).map_or(true, |answer| answer.is_empty()), "{version}");
        let status = child.0.wait().unwrap();
        let mut said = String::new();
        child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(!status.success() && said.to_lowercase().contains("connection refused"), "{status} {said}");
    }
}

/// Killed when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
