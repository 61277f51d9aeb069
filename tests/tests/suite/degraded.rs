//! The agent with less than it would like: no BTF, no tracefs, no room in the ring buffer, no root, no runtime. What is
//! left works, and it says what is missing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use oomlet_tests::command;
use oomlet_tests::node::{Node, soon};
use oomlet_tests::{newest, oldest, pod};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use xtask::node::manifest::pod as workload;

const NOBODY: u32 = 65534;

#[test]
fn without_btf_and_without_tracefs_pods_run() {
    let mut node = Node::new("no-btf", newest());
    node.put(&workload("first", "idle", &[]));
    let all = node.start();
    node.wait_up(&["first"]);
    let first = node.the_container_of("first");
    let loaded = all.number("programs_loaded").unwrap();
    assert_eq!(all.number("tier"), Some(2), "{}", all.message);

    // Tier 1 has another variant of what needs BTF, but for the kernel's functions.
    let check = node.oomlet(&["check", "--output", "json"]).unwrap().output().unwrap().stdout;
    let check: Value = serde_json::from_slice(&check).unwrap();
    let hooked =
        |p: &&Value| p["state"] == "loaded" && p["hook"].as_str().is_some_and(|h| h.starts_with("fentry:"));
    let functions = check["programs"].as_array().unwrap().iter().filter(hooked).count() as i64;
    node.config_mut()["oomlet"]["kernel"] = json!({ "btfPath": "/nonexistent/btf" });
    let started = node.start();
    assert_eq!(
        (started.number("tier"), started.number("programs_loaded")),
        (Some(1), Some(loaded - functions))
    );
    let loaded = loaded - functions;
    node.put(&workload("without-btf", "idle", &[]));
    node.wait_up(&["first", "without-btf"]);

    node.config_mut()["oomlet"]["kernel"] =
        json!({ "btfPath": "/nonexistent/btf", "tracefsPath": "/nonexistent/tracefs" });
    let started = node.start();
    assert!(started.number("programs_loaded") < Some(loaded), "{}", started.message);
    assert!(started.number("programs_loaded") > Some(0), "raw tracepoints need neither: {}", started.message);
    node.put(&workload("without-tracefs", "idle", &[]));
    node.wait_up(&["first", "without-btf", "without-tracefs"]);
    let log = node.agent_log();
    for missing in ["/nonexistent/btf", "/nonexistent/tracefs"] {
        assert!(log.lines().any(|l| l.contains("unavailable") && l.contains(missing)), "{missing} in {log}");
    }
    assert_eq!(node.the_container_of("first"), first, "no start of the agent disturbed it");
}

#[test]
fn a_full_ring_buffer_is_told_and_healed() {
    let mut node = Node::new("ring", oldest());
    node.config_mut()["oomlet"]["kernel"] = json!({ "ringBytes": "4Ki" });
    node.put(&workload("crashes", "idle", &[]));
    node.put(&workload("stays", "idle", &[]));
    node.start();
    node.wait_up(&["crashes", "stays"]);
    let (crashes, stays) = (node.the_container_of("crashes"), node.the_container_of("stays"));
    let agent = Pid::from_raw(node.agent.as_ref().unwrap().pid().cast_signed()).unwrap();

    // While the agent stands still nobody empties the buffer: each cgroup made or removed is a record.
    kill_process(agent, Signal::STOP).unwrap();
    let burst = node.scratch().cgroup_dir("memory").unwrap().join("burst");
    for _ in 0..200 {
        fs::create_dir(&burst).unwrap();
        fs::remove_dir(&burst).unwrap();
    }
    // This exit has no room either.
    kill_process(Pid::from_raw(crashes.pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    kill_process(agent, Signal::CONT).unwrap();

    let lost = node.wait_record("the loss", |r| r.kind == "Warning" && r.reason == "RecordsLost");
    assert!(lost.number("lost_records") > Some(0), "{lost:?}");
    node.wait_pod("crashes", "restarted", |pod| {
        pod::is_up(pod) && pod::container(pod, "main")["restartCount"] == 1
    });
    node.put(&workload("later", "idle", &[]));
    node.wait_up(&["later"]);
    assert_eq!(node.the_container_of("stays"), stays);
}

#[test]
fn a_user_who_is_not_root_is_told_so() {
    let mut node = Node::new("not-root", newest());
    node.put(&workload("bystander", "idle", &[]));
    node.start();
    node.wait_up(&["bystander"]);
    node.kill_agent().unwrap();
    let bystander = node.the_container_of("bystander");

    // Where nobody may read it: neither the build's folder nor the node's is open to others.
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let agent = dir.path().join("oomlet");
    fs::copy(node.oomlet(&[]).unwrap().get_program(), &agent).unwrap();
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new(&agent);
        command.args(args).uid(NOBODY).gid(NOBODY).current_dir("/");
        command::run(&mut command, soon())
    };
    let endpoint = node.containerd.endpoint();
    let root = dir.path().join("root");
    let run = ["run", "--root-dir", root.to_str().unwrap(), "--container-runtime-endpoint", &endpoint];
    as_nobody(&run).refused(&["root", "sudo"]);
    assert!(!root.exists(), "nothing was begun");
    let check = as_nobody(&["check", "--container-runtime-endpoint", &endpoint, "--output", "json"]);
    assert_eq!(check.status.code(), Some(1), "{}", check.stderr);
    let report: Value = serde_json::from_str(&check.stdout).unwrap();
    assert_eq!((&report["tier"], &report["kernel"]["root"]), (&json!(0), &json!(false)));
    let problems = report["problems"].to_string();
    assert!(problems.contains("not root") && problems.contains("sudo"), "{problems}");
    assert_eq!(node.the_container_of("bystander"), bystander);
}

#[test]
fn check_tells_what_the_node_offers() {
    let node = Node::new("check", oldest());
    let endpoint = node.containerd.endpoint();
    let check = |endpoint: &str, output: &str| {
        let args = ["check", "--container-runtime-endpoint", endpoint, "--output", output];
        command::run(&mut node.oomlet(&args).unwrap(), soon())
    };
    let report: Value = serde_json::from_str(&check(&endpoint, "json").ok()).unwrap();
    assert_eq!((&report["tier"], &report["problems"]), (&json!(2), &json!([])));
    assert_eq!(report["runtime"]["endpoint"], endpoint.as_str());
    let version = report["runtime"]["version"].as_str().unwrap();
    assert!(version.starts_with(&format!("containerd {}", node.containerd.version().series())), "{version}");
    assert_eq!(report["runtime"]["error"], Value::Null);
    let kernel = &report["kernel"];
    for key in [
        "kernel_release",
        "btf",
        "tracefs",
        "root",
        "capabilities",
        "lockdown",
        "cgroup",
        "memory_controller",
        "psi",
    ] {
        assert!(!kernel[key].is_null(), "{key} in {kernel}");
    }
    let version =
        if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { ["v2"; 2] } else { ["v1", "hybrid"] };
    assert!(version.contains(&kernel["cgroup"].as_str().unwrap()), "{}", kernel["cgroup"]);
    let programs = report["programs"].as_array().unwrap();
    assert!(programs.len() >= 8, "{programs:?}");
    for program in programs {
        for key in ["name", "tier", "hook", "state"] {
            assert!(!program[key].is_null(), "{key} in {program}");
        }
    }

    let table = check(&endpoint, "table").ok();
    for line in [
        "sensing tier",
        "2 (BTF)",
        "container runtime",
        "PROGRAM",
        "tp_btf:mark_victim",
        "oomlet can run here.",
    ] {
        assert!(table.contains(line), "{line:?} in\n{table}");
    }
    let missing = node.scratch().path().join("nothing.sock");
    let endpoint = format!("unix://{}", missing.display());
    let without = check(&endpoint, "table");
    assert_eq!(without.status.code(), Some(1));
    assert!(
        without.stdout.contains("oomlet cannot run here") && without.stdout.contains("nothing.sock"),
        "{}",
        without.stdout
    );
    let report: Value = serde_json::from_str(&check(&endpoint, "json").stdout).unwrap();
    let error = report["runtime"]["error"].as_str().unwrap();
    assert!(error.contains("nothing.sock") && error.contains("--container-runtime-endpoint"), "{error}");
    assert_eq!(report["problems"], json!([error]));
}
