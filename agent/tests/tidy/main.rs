//! Holds the source to the rules that the compiler cannot: the core depends on nothing that does I/O, folders import each
//! other in one direction, `unsafe` stays where it belongs, files stay readable.

#![allow(clippy::unwrap_used)] // Every function here serves the tests.

mod folders;

use std::fs;
use std::path::{Path, PathBuf};

/// What the core may not depend on, and why. The crate boundary does the rest: what is not a dependency cannot be called.
const BANNED_IN_CORE: &[(&str, &str)] = &[
    ("tokio", "the core is synchronous"),
    ("futures", "the core is synchronous"),
    ("async", "the core is synchronous"),
    ("aya", "kernel access is the shell's"),
    ("tonic", "the network is the shell's"),
    ("hyper", "the network is the shell's"),
    ("k8s-cri", "the runtime is the shell's"),
    ("kube", "the API server is the shell's"),
    ("rustix", "system calls are the shell's"),
    ("nix", "system calls are the shell's"),
    ("libc", "system calls are the shell's"),
    ("tracing", "the core returns records, the shell logs them"),
    ("log", "the core returns records, the shell logs them"),
    ("cgroups-rs", "cgroup files are the shell's"),
    ("zbus", "D-Bus is the shell's"),
    ("inotify", "files are the shell's"),
];

const BANNED_EVERYWHERE: &[(&str, &str)] = &[
    ("todo!(", "unfinished work does not land"),
    ("unimplemented!(", "unfinished work does not land"),
    ("#[ignore", "a test runs or is not there"),
];

/// Lines of a file, tests beside the code included. Beyond this it has two jobs.
const MAX_LINES: usize = 420;

#[test]
fn the_core_cannot_do_io() {
    let manifest = fs::read_to_string(root().join("core/Cargo.toml")).unwrap();
    let named = dependencies(&manifest);
    assert!(named.len() >= 5, "only {named:?} found: has core/Cargo.toml changed its form?");
    let found: Vec<String> = named
        .iter()
        .flat_map(|name| BANNED_IN_CORE.iter().filter(|(banned, _)| is_of(name, banned)))
        .map(|(banned, why)| format!("core/Cargo.toml depends on {banned}: {why}"))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let listed: Vec<String> = named.iter().map(|name| format!("`{name}`")).collect();
    assert!(page.contains(&listed.join(", ")), "ARCHITECTURE.md does not list {}", listed.join(", "));
}

#[test]
fn the_folders_have_no_cycle() {
    let graph = folders::graph(&root(), &["core", "agent"]);
    assert!(graph.len() >= 20, "only {} folders found: has the layout changed?", graph.len());
    if let Err(cycle) = folders::levels(&graph) {
        panic!("folders import each other in a circle: {cycle}");
    }
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
        if name == "agent/tests/tidy/main.rs" {
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
fn the_checkers_find_what_they_look_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dirty.rs");
    let banned = [("todo!(", "no")];
    fs::write(&path, "//! x\nfn f() { todo!() }\n// todo!( in a comment\n").unwrap();
    assert_eq!(offences(&path, &banned).len(), 1);
    let manifest = "[package]\nname = \"x\"\n[dependencies]\ntokio-stream.workspace = true\nserde = \"1\"\n[dev-dependencies]\ntempfile = \"3\"\n";
    assert_eq!(dependencies(manifest), ["tokio-stream", "serde"]);
    assert!(is_of("tokio-stream", "tokio") && is_of("kube", "kube") && !is_of("kubelet", "kube"));
}

/// The names below `[dependencies]`.
fn dependencies(manifest: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|line| line.trim() != "[dependencies]").skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split(['.', '=']).next()).map(str::trim);
    names.filter(|name| !name.is_empty() && !name.starts_with('#')).map(str::to_owned).collect()
}

/// The crate itself, or one of its family (`tokio-util`).
fn is_of(name: &str, banned: &str) -> bool {
    name.strip_prefix(banned).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned()
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
