//! What `cargo xtask test` runs in virtual machines, and why. The host has run the whole integration suite before, on its
//! own kernel and cgroup version, so this is only what a machine of its own can show; `cargo xtask lab -- selection` runs
//! it alone, or the machines that are named behind it. All tests, on all kernels: `cargo xtask lab --kernel all -- suite`.

use anyhow::{Result, ensure};

use super::jobs::{self, Job, Names};
use crate::lab::kernel::Kernel;
use crate::lab::machine::Profile;

/// The kernel of Debian's stable release before the present one: most nodes have it or one like it.
pub const KERNEL: Kernel = Kernel::V6_1;

/// One machine.
#[derive(Debug)]
pub struct Chosen {
    pub profile: Profile,
    pub about: &'static str,
    pub memory_mib: u64,
    /// For the kernel's command line.
    pub append: &'static str,
    pub groups: &'static [Group],
}

/// Tests of one binary.
#[derive(Debug)]
pub struct Group {
    pub binary: &'static str,
    /// Beginnings of test names; none: all of the binary.
    pub tests: &'static [&'static str],
    /// What they show that the host cannot.
    pub why: &'static str,
}

/// Those that take longest first.
pub const MACHINES: &[Chosen] = &[
    Chosen {
        profile: Profile::Fast,
        about: "cgroup-v2",
        memory_mib: 2048,
        append: "",
        groups: &[
            Group {
                binary: "suite",
                tests: &["lifecycle::running::pods_of_every_class::on_the_oldest"],
                why: "limits and shares of every QoS class in the files of cgroup v2",
            },
            Group {
                binary: "suite",
                tests: &["eviction::before_the_kernel_kills_at_100_mib_a_second"],
                why: "usage and working set from memory.current and memory.stat, PSI triggers from memory.pressure",
            },
            Group {
                binary: "suite",
                tests: &[
                    "brake::a_parallel_leak_is_held_until_its_handler_is_done",
                    "brake::nothing_stays_held_when_the_agent_is_gone",
                ],
                why: "cgroup.freeze and memory.high: v1 has another freezer and no throttle; the guard undoes both",
            },
            Group {
                binary: "suite",
                tests: &["memory_limit::a_leak_is_stopped_before_its_limit_and_restarted"],
                why: "a container held below its memory.max by memory.high",
            },
            Group {
                binary: "suite",
                tests: &["oom::a_containers_own_limit_is_named"],
                why: "which limit was reached, by memory.events of container and pod, and mark_victim of an older kernel",
            },
        ],
    },
    Chosen {
        profile: Profile::Fast,
        about: "node",
        memory_mib: 1024,
        append: "",
        groups: &[Group {
            binary: "vm",
            tests: &[
                "node::a_fast_leak_is_evicted_before_the_kernel_kills",
                "node::without_eviction_the_kernel_kills_and_the_agent_explains",
                "oom_group::kills_take_the_whole_container",
            ],
            why: "the machine itself runs out of memory, and memory.oom.group",
        }],
    },
    Chosen {
        profile: Profile::Fast,
        about: "kernel",
        memory_mib: 1024,
        append: "",
        groups: &[Group {
            binary: "kernel",
            tests: &[],
            why: "another kernel's verifier and BTF; fentry programs, which a locked-down host refuses",
        }],
    },
    Chosen {
        profile: Profile::Fast,
        about: "cgroup-files",
        memory_mib: 1024,
        append: "",
        groups: &[Group {
            binary: "oomlet",
            tests: &["cgroup::"],
            why: "the agent's unit tests on a real cgroup v2",
        }],
    },
    Chosen {
        profile: Profile::Systemd,
        about: "service",
        memory_mib: 1024,
        append: "",
        groups: &[Group {
            binary: "vm",
            tests: &["service::"],
            why: "the shipped unit under systemd: notification, watchdog, slices over D-Bus",
        }],
    },
    Chosen {
        profile: Profile::Fast,
        about: "lockdown",
        memory_mib: 1024,
        append: "lockdown=confidentiality",
        groups: &[Group {
            binary: "vm",
            tests: &["lockdown::"],
            why: "a kernel that was booted to refuse programs that read its memory",
        }],
    },
];

/// Those of these names; without any, all.
pub fn named(machines: &[String]) -> Result<Vec<&'static Chosen>> {
    for name in machines {
        ensure!(
            MACHINES.iter().any(|chosen| chosen.about == name),
            "there is no machine {name}; there are {}",
            MACHINES.iter().map(|chosen| chosen.about).collect::<Vec<_>>().join(", ")
        );
    }
    let is_named = |chosen: &&Chosen| machines.is_empty() || machines.iter().any(|name| name == chosen.about);
    Ok(MACHINES.iter().filter(is_named).collect())
}

/// An error when a name in the table is no test's any more.
pub fn jobs(chosen: &[&Chosen], names: &Names) -> Result<Vec<Job>> {
    chosen.iter().map(|chosen| job(chosen, names)).collect()
}

fn job(chosen: &Chosen, names: &Names) -> Result<Job> {
    let mut lines = Vec::new();
    if chosen.groups.iter().any(|group| group.binary == "kernel") {
        lines.push(jobs::CHECK.to_owned());
    }
    // One call of a binary runs all that is chosen of it.
    let mut binaries: Vec<&str> = chosen.groups.iter().map(|group| group.binary).collect();
    binaries.dedup();
    for binary in &binaries {
        let groups = chosen.groups.iter().filter(|group| group.binary == *binary);
        let beginnings: Vec<&str> = groups.flat_map(|group| group.tests).copied().collect();
        let tests = tests_of(names, binary, &beginnings)?;
        lines.push(jobs::test(binary, jobs::threads(binary), "--exact", &tests));
    }
    let again = match binaries[..] {
        [binary] => Some((Vec::new(), binary)),
        _ => None,
    };
    Ok(Job {
        kernel: KERNEL,
        profile: chosen.profile,
        about: chosen.about.to_owned(),
        memory_mib: chosen.memory_mib,
        append: chosen.append,
        command: jobs::script(&lines),
        again,
    })
}

fn tests_of(names: &Names, binary: &str, beginnings: &[&str]) -> Result<Vec<String>> {
    let all = names.get(binary).map(Vec::as_slice).unwrap_or_default();
    for beginning in beginnings {
        ensure!(
            all.iter().any(|name| name.starts_with(beginning)),
            "no test of `{binary}` is called {beginning}…: xtask/src/lab/suite/selection.rs has to follow its new name"
        );
    }
    let is_chosen = |name: &&String| beginnings.is_empty() || beginnings.iter().any(|b| name.starts_with(b));
    Ok(all.iter().filter(is_chosen).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn tests_are_chosen_by_the_beginning_of_their_name() {
        let names = Names::from([("suite".to_owned(), owned(&["a::one", "a::two", "b::one"]))]);
        for (beginnings, expected) in [
            (&["a::"][..], &["a::one", "a::two"][..]),
            (&["a::two", "b::one"], &["a::two", "b::one"]),
            (&[], &["a::one", "a::two", "b::one"]),
        ] {
            assert_eq!(tests_of(&names, "suite", beginnings).unwrap(), owned(expected));
        }
        let error = tests_of(&names, "suite", &["a::", "c::"]).unwrap_err().to_string();
        assert!(error.contains("c::") && error.contains("suite"), "{error}");
    }

    #[test]
    fn machines_are_chosen_by_name() {
        let about = |names: &[&str]| -> Vec<&str> {
            named(&owned(names)).unwrap().iter().map(|chosen| chosen.about).collect()
        };
        assert_eq!(about(&["lockdown", "node"]), ["node", "lockdown"]);
        assert_eq!(about(&[]).len(), MACHINES.len());
        let error = named(&owned(&["nodes"])).unwrap_err().to_string();
        assert!(error.contains("no machine nodes") && error.contains("lockdown"), "{error}");
    }

    #[test]
    fn each_machine_runs_what_the_table_says() {
        let mut names = Names::new();
        for group in MACHINES.iter().flat_map(|chosen| chosen.groups) {
            let of_binary = names.entry(group.binary.to_owned()).or_default();
            of_binary.extend(group.tests.iter().map(|name| format!("{name}_x")));
            of_binary.push(format!("other_of_{}", group.binary));
        }
        let jobs = jobs(&named(&[]).unwrap(), &names).unwrap();
        let about: Vec<String> = jobs.iter().map(Job::name).collect();
        let expected = [
            "6.1-fast-cgroup-v2",
            "6.1-fast-node",
            "6.1-fast-kernel",
            "6.1-fast-cgroup-files",
            "6.1-systemd-service",
            "6.1-fast-lockdown",
        ];
        assert_eq!(about, expected);
        for (job, chosen) in jobs.iter().zip(MACHINES) {
            for group in chosen.groups {
                assert!(!group.why.is_empty());
                for name in group.tests {
                    assert!(job.command.contains(&format!(" {name}_x")), "{name} in {}", job.command);
                }
                let takes_all = job.command.contains(&format!("other_of_{}", group.binary));
                assert_eq!(takes_all, group.tests.is_empty(), "{}", job.command);
            }
        }
        assert_eq!(jobs[0].command.matches("/suite ").count(), 1, "{}", jobs[0].command);
        let again = jobs[0].of_tests(&owned(&["oom::a_containers_own_limit_is_named"])).unwrap();
        assert!(again.command.contains("--exact oom::a_containers_own_limit_is_named"), "{}", again.command);
    }
}
