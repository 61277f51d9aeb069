//! Holds the source to the rules that the compiler cannot: the core does no I/O, `unsafe` stays where it belongs, files
//! stay readable.

#![allow(clippy::unwrap_used)] // Every function here serves the tests.

use std::fs;
use std::path::{Path, PathBuf};

/// Functional core: files and folders below `agent/src` that decide and do no I/O. `ARCHITECTURE.md` names the same.
const CORE: &[&str] = &[
    "brake/plan.rs",
    "brake/plan/",
    "cgroup/names.rs",
    "cgroup/parse.rs",
    "cgroup/systemd/properties.rs",
    "cgroup/systemd/unit.rs",
    "config.rs",
    "config/duration.rs",
    "config/extension.rs",
    "config/keys.rs",
    "config/raw.rs",
    "eviction.rs",
    "eviction/",
    "forecast.rs",
    "forecast/",
    "image/gc.rs",
    "pod.rs",
    "pod/admission.rs",
    "pod/admission/",
    "pod/backoff.rs",
    "pod/env.rs",
    "pod/lifecycle.rs",
    "pod/lifecycle/",
    "pod/memory_limit.rs",
    "pod/order.rs",
    "pod/qos.rs",
    "pod/qos/",
    "pod/runtime_status.rs",
    "pod/status.rs",
    "pod/status/",
    "pod/stop_signal.rs",
    "pod_source/defaults.rs",
    "pod_source/manifest.rs",
    "pod_source/manifest/",
    "pod_source/validation.rs",
    "quantity.rs",
    "reason.rs",
    "signal.rs",
    "signal/",
    "sync_loop/event.rs",
    "sync_loop/plan.rs",
    "sync_loop/state.rs",
    "sync_loop/state/",
    "trace/record.rs",
    "trace/render.rs",
];

/// What the core must not name, and why.
const BANNED_IN_CORE: &[(&str, &str)] = &[
    ("async ", "the core is synchronous"),
    (".await", "the core is synchronous"),
    ("tokio::", "the core does no I/O"),
    ("std::fs", "the core does no I/O"),
    ("std::net", "the core does no I/O"),
    ("std::process", "the core does no I/O"),
    // `std::io::Error` is data, see `offences`.
    ("std::io::", "the core does no I/O"),
    ("std::env", "the core reads no environment"),
    ("std::thread", "the core starts nothing"),
    ("Instant", "time arrives as an argument"),
    ("SystemTime", "time arrives as an argument"),
    ("Mono::now", "time arrives as an argument"),
    ("aya::", "kernel access is the shell's"),
    ("tonic::", "the network is the shell's"),
    ("k8s_cri", "the runtime is the shell's"),
    ("kube::", "the API server is the shell's"),
    ("rustix::", "system calls are the shell's"),
    ("tracing::", "the core returns records, the shell logs them"),
];

const BANNED_EVERYWHERE: &[(&str, &str)] = &[
    ("todo!(", "unfinished work does not land"),
    ("unimplemented!(", "unfinished work does not land"),
    ("#[ignore", "a test runs or is not there"),
];

/// Lines of a file, tests beside the code included. Beyond this it has two jobs.
const MAX_LINES: usize = 450;

#[test]
fn the_core_is_pure() {
    let src = root().join("agent/src");
    for entry in CORE {
        assert!(src.join(entry).exists(), "tidy.rs names {entry} as core, and it is not there");
    }
    let core: Vec<PathBuf> =
        rust_files(&src).into_iter().filter(|path| is_core(path.strip_prefix(&src).unwrap())).collect();
    assert!(core.len() >= 15, "only {} core files found: has the layout changed?", core.len());
    let found: Vec<String> = core.iter().flat_map(|p| offences(p, BANNED_IN_CORE)).collect();
    assert!(found.is_empty(), "the functional core does I/O or reads the clock:\n{}", found.join("\n"));
}

#[test]
fn unsafe_stays_in_the_kernel_modules() {
    let allowed = |p: &str| {
        p.starts_with("agent/src/kernel") || p.starts_with("agent/tests/") || p.starts_with("ebpf/")
    };
    let found: Vec<String> = rust_files(&root())
        .into_iter()
        .filter(|p| !allowed(&relative(p)))
        .flat_map(|p| offences(&p, &[("unsafe ", "unsafe belongs in agent/src/kernel and ebpf")]))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn anyhow_stays_at_the_edge() {
    let src = root().join("agent/src");
    let found: Vec<String> = rust_files(&src)
        .into_iter()
        .filter(|p| p.strip_prefix(&src).unwrap() != Path::new("main.rs"))
        .flat_map(|p| offences(&p, &[("anyhow", "below the edge an error has a type")]))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn files_are_finished_and_of_readable_size() {
    let mut found = Vec::new();
    for path in rust_files(&root()) {
        let name = relative(&path);
        if name == "agent/tests/tidy.rs" {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        if text.lines().count() > MAX_LINES {
            found.push(format!(
                "{name}: {} lines, more than {MAX_LINES}: it has two jobs",
                text.lines().count()
            ));
        }
        if path.file_name().is_some_and(|f| f == "mod.rs") {
            found.push(format!("{name}: write `foo.rs` beside `foo/`"));
        }
        let first = text.lines().next().unwrap_or_default();
        let documented = first.starts_with("//!") || first.starts_with("#![");
        if name.contains("/src/") && !documented && path.file_name().is_none_or(|f| f != "tests.rs") {
            found.push(format!("{name}: opens without `//!`"));
        }
        found.extend(offences(&path, BANNED_EVERYWHERE));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_checker_finds_what_it_looks_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dirty.rs");
    fs::write(&path, "//! x\nfn f() { let _ = std::fs::read(\"x\"); }\n// std::fs in a comment\n").unwrap();
    assert_eq!(offences(&path, BANNED_IN_CORE).len(), 1);
    fs::write(&path, "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() { std::fs::read(\"x\"); }\n}\n")
        .unwrap();
    assert_eq!(offences(&path, BANNED_IN_CORE).len(), 0, "tests beside the core may do I/O");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned()
}

fn is_core(path: &Path) -> bool {
    let name = path.to_string_lossy();
    if path.file_name().is_some_and(|f| f == "tests.rs") {
        return false;
    }
    CORE.iter().any(|c| if c.ends_with('/') { name.starts_with(c) } else { name == *c })
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                found.extend(rust_files(&path));
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Lines of code, not of comments and not of the tests at the end, that contain a banned word.
fn offences(path: &Path, banned: &[(&str, &str)]) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim() == "#[cfg(test)]" && text.lines().nth(number + 1).is_some_and(|l| l.ends_with('{')) {
            break;
        }
        let code = line.split("//").next().unwrap_or_default().replace("std::io::Error", "");
        for (word, why) in banned {
            if code.contains(word) {
                found.push(format!("{}:{}: `{word}`: {why}", relative(path), number + 1));
            }
        }
    }
    found
}
