//! The pods: the leaks, the quiet neighbours, and what only looks like a leak. Pure.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::matrix::{BALLAST_MIB, CAP_MIB, Cell, RUN_UP_MIB_S, Shape, Speed};
use crate::node::manifest::{guaranteed, pod, with_memory};

/// How long a leak's SIGTERM handler works, in ms. It leaks on meanwhile.
pub const SIGTERM_MS: u64 = 500;
/// Where a leak would end if nobody ended it.
const LEAK_MIB: u64 = 4 * CAP_MIB;
/// What the leaks that end by themselves write or start in all.
const DIRTY_MIB: u64 = CAP_MIB * 3 / 2;
const BOMB_MIB: u64 = 2 * CAP_MIB;
/// One thread alone cannot touch as much.
const ONE_THREAD_MIB_S: u64 = 1000;

/// The folder of marks in a pod.
const MARKS: &str = "/marks";

/// The process's mark inside its pod: it is on its command line, so it is what the process is found by.
pub fn mark_of(name: &str) -> String {
    format!("{MARKS}/{name}.mark")
}

/// A pod of this name that leaks, never restarted. `marks` is the host's folder of marks.
pub fn leaking(name: &str, cell: Cell, start_mib: u64, marks: &Path) -> Value {
    let sigterm_ms = SIGTERM_MS.to_string();
    let mut args: Vec<String> = Vec::new();
    let mut option = |name: &str, value: u64| args.extend([format!("--{name}"), value.to_string()]);
    let volume = match cell.shape {
        Shape::Anonymous => {
            option("max-mib", LEAK_MIB);
            if start_mib > 0 {
                option("start-mib", start_mib);
                option("start-rate-mib-s", RUN_UP_MIB_S);
            }
            let many = cell.speed.mib_s().is_none_or(|rate| rate > ONE_THREAD_MIB_S);
            option("threads", if many { 2 } else { 1 });
            None
        }
        Shape::Tmpfs => {
            option("mib", LEAK_MIB);
            Some(("/mem", json!({ "medium": "Memory" })))
        }
        Shape::Dirty => {
            option("mib", DIRTY_MIB);
            Some(("/disk", json!({})))
        }
        Shape::ForkBomb => {
            option("max-mib", BOMB_MIB);
            None
        }
    };
    match (cell.speed, cell.shape) {
        (Speed::MibS(rate), _) => option("rate-mib-s", rate),
        (Speed::Word(_), Shape::Anonymous) => args.push("--burst".to_owned()),
        (Speed::Word(_), Shape::ForkBomb) => option("rate-mib-s", 100_000),
        (Speed::Word(_), Shape::Tmpfs | Shape::Dirty) => {}
    }
    if let Some((at, _)) = &volume {
        args.extend(["--file".to_owned(), format!("{at}/file")]);
    }
    args.extend(["--sigterm-ms".to_owned(), sigterm_ms, "--leak-after-sigterm".to_owned()]);
    let subcommand = match cell.shape {
        Shape::Anonymous => "hog",
        Shape::Tmpfs => "tmpfs-fill",
        Shape::Dirty => "dirty",
        Shape::ForkBomb => "fork-bomb",
    };
    marked(name, subcommand, args, volume, marks)
}

/// Runs once, with a mark and at most one emptyDir beside it; asks for little.
fn marked(
    name: &str,
    subcommand: &str,
    mut args: Vec<String>,
    volume: Option<(&str, Value)>,
    marks: &Path,
) -> Value {
    args.extend(["--mark".to_owned(), mark_of(name)]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut pod = with_memory(pod(name, subcommand, &args), "16Mi", "");
    pod["spec"]["restartPolicy"] = json!("Never");
    pod["spec"]["terminationGracePeriodSeconds"] = json!(30);
    let mut volumes = vec![json!({ "name": "marks", "hostPath": { "path": marks, "type": "Directory" } })];
    let mut mounts = vec![json!({ "name": "marks", "mountPath": MARKS })];
    if let Some((at, empty_dir)) = volume {
        volumes.push(json!({ "name": "room", "emptyDir": empty_dir }));
        mounts.push(json!({ "name": "room", "mountPath": at }));
    }
    pod["spec"]["volumes"] = json!(volumes);
    pod["spec"]["containers"][0]["volumeMounts"] = json!(mounts);
    pod
}

/// What must live on, by name: one with a request, one without.
pub fn neighbours() -> [(&'static str, Value); 2] {
    [
        ("burstable", with_memory(pod("burstable", "idle", &["--mib", "16"]), "32Mi", "64Mi")),
        ("best-effort", pod("best-effort", "idle", &["--mib", "8"])),
    ]
}

/// Guaranteed what it holds, so it is nobody's victim; grows slowly enough to be taken for no leak.
pub fn ballast() -> (&'static str, Value) {
    let max = BALLAST_MIB.to_string();
    let args = ["--rate-mib-s", "50", "--max-mib", &max, "--sigterm-ms", "0"];
    ("ballast", guaranteed(pod("ballast", "hog", &args), &format!("{}Mi", BALLAST_MIB + 16), "500m"))
}

/// Takes much memory and gives it back, or leaves enough: to be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Benign {
    PageCacheScan,
    MmapThrash,
    Burst,
    Compile,
    TmpfsWithin,
    Heap,
}

impl Benign {
    pub const ALL: [Benign; 6] = [
        Benign::PageCacheScan,
        Benign::MmapThrash,
        Benign::Burst,
        Benign::Compile,
        Benign::TmpfsWithin,
        Benign::Heap,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Benign::PageCacheScan => "page-cache-scan",
            Benign::MmapThrash => "mmap-thrash",
            Benign::Burst => "burst",
            Benign::Compile => "compile",
            Benign::TmpfsWithin => "tmpfs-within",
            Benign::Heap => "heap",
        }
    }

    /// For the table.
    pub fn what(self) -> &'static str {
        match self {
            Benign::PageCacheScan => "reads a file of 1.5 times the cap, twice",
            Benign::MmapThrash => "touches the pages of a mapped file of 1.5 times the cap in no order",
            Benign::Burst => "60 % of the cap as fast as it can, given back after 0.5 s",
            Benign::Compile => "four short processes at a time, 5 % of the cap each",
            Benign::TmpfsWithin => "half of the cap into a tmpfs as fast as it can",
            Benign::Heap => "a heap that grows in saw teeth to a plateau of 60 % of the cap",
        }
    }

    /// A pod that runs it to its end within `cap_mib`.
    pub fn pod(self, name: &str, cap_mib: u64, marks: &Path) -> Value {
        let per_cent = |share: u64| (cap_mib * share / 100).to_string();
        let options = |list: &[(&str, String)]| -> Vec<String> {
            list.iter().flat_map(|(name, value)| [format!("--{name}"), value.clone()]).collect()
        };
        let file = |at: &str| ("file", format!("{at}/file"));
        let seconds = |n: u32| ("seconds", n.to_string());
        let (disk, mem) = (("/disk", json!({})), ("/mem", json!({ "medium": "Memory" })));
        let (subcommand, args, volume) = match self {
            Benign::PageCacheScan => {
                let args = options(&[file("/disk"), ("mib", per_cent(150)), ("passes", "2".to_owned())]);
                ("page-cache", args, Some(disk))
            }
            Benign::MmapThrash => {
                ("mmap-thrash", options(&[file("/disk"), ("mib", per_cent(150)), seconds(4)]), Some(disk))
            }
            Benign::Burst => ("burst", options(&[("max-mib", per_cent(60)), seconds(2)]), None),
            Benign::Compile => {
                let jobs = ("jobs", "4".to_owned());
                ("churn", options(&[jobs, ("mib", per_cent(5)), seconds(5)]), None)
            }
            Benign::TmpfsWithin => {
                let hold = ("hold-ms", "3000".to_owned());
                ("tmpfs-fill", options(&[file("/mem"), ("mib", per_cent(50)), hold]), Some(mem))
            }
            Benign::Heap => ("heap", options(&[("max-mib", per_cent(60)), seconds(3)]), None),
        };
        marked(name, subcommand, args, volume, marks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::forestall::matrix::MIDDLE;

    fn command(pod: &Value) -> String {
        let words = pod["spec"]["containers"][0]["command"].as_array().unwrap();
        words.iter().map(|word| word.as_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn leaks_have_their_speed_and_shape() {
        for (shape, speed, start, expected) in [
            (
                Shape::Anonymous,
                Speed::MibS(1),
                300,
                "hog --max-mib 4096 --start-mib 300 --start-rate-mib-s 50 --threads 1 --rate-mib-s 1 ",
            ),
            (Shape::Anonymous, Speed::MAX, 0, "hog --max-mib 4096 --threads 2 --burst "),
            (Shape::Tmpfs, MIDDLE, 0, "tmpfs-fill --mib 4096 --rate-mib-s 200 --file /mem/file "),
            (Shape::Dirty, MIDDLE, 0, "dirty --mib 1536 --rate-mib-s 200 --file /disk/file "),
            (Shape::ForkBomb, MIDDLE, 0, "fork-bomb --max-mib 2048 --rate-mib-s 200 "),
        ] {
            let pod = leaking("ramp1", Cell { shape, speed, runs: 1 }, start, Path::new("/tmp/marks"));
            let command = command(&pod);
            let end = "--sigterm-ms 500 --leak-after-sigterm --mark /marks/ramp1.mark";
            assert_eq!(command, format!("/oomlet-workload {expected}{end}"));
            assert_eq!(pod["spec"]["restartPolicy"], "Never");
            let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array().unwrap();
            assert_eq!(mounts.len(), if command.contains("--file") { 2 } else { 1 });
        }
    }

    #[test]
    fn every_benign_pod_has_a_mark() {
        for benign in Benign::ALL {
            let pod = benign.pod("benign1", 512, Path::new("/tmp/marks"));
            assert!(command(&pod).ends_with(" --mark /marks/benign1.mark"), "{pod}");
            assert_eq!(serde_json::to_value(benign).unwrap(), benign.name());
        }
    }
}
