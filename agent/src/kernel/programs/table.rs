//! Which programs there are, and how each is hooked in. Where a program has variants, the first that works is used.

use oomlet_ebpf_common::layout::Layout;

use crate::kernel::facts::Facts;
use crate::kernel::layout::MarkVictim;

/// Where a program is hooked in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hook {
    /// By name; needs neither tracefs nor BTF, and reads no arguments that differ between kernels.
    RawTracepoint(&'static str),
    /// Category and name; needs tracefs.
    Tracepoint(&'static str, &'static str),
    /// Typed arguments; needs BTF.
    BtfTracepoint(&'static str),
    /// Entry of a kernel function; needs BTF, and a kernel that lets tracing programs be attached to its code.
    Fentry(&'static str),
    /// One perf event on each CPU.
    PageFaults,
}

impl Hook {
    pub(super) fn describe(self) -> String {
        match self {
            Hook::RawTracepoint(name) => format!("raw_tp:{name}"),
            Hook::Tracepoint(category, name) => format!("tracepoint:{category}:{name}"),
            Hook::BtfTracepoint(name) => format!("tp_btf:{name}"),
            Hook::Fentry(function) => format!("fentry:{function}"),
            Hook::PageFaults => "perf_event:page-faults".to_owned(),
        }
    }
}

/// One way to have a program.
pub(super) struct Variant {
    /// The function's name in the object.
    pub(super) function: &'static str,
    pub(super) tier: u8,
    pub(super) hook: Hook,
    /// Whether what it reads could be located in this kernel.
    pub(super) usable: fn(&Facts) -> Result<(), String>,
}

pub(super) struct Spec {
    pub(super) name: &'static str,
    /// Best first.
    pub(super) variants: &'static [Variant],
}

/// A program on a function of the same name.
const fn fentry(function: &'static str, usable: fn(&Facts) -> Result<(), String>) -> Variant {
    Variant { function, tier: 2, hook: Hook::Fentry(function), usable }
}

/// The fields from a memcg to its id and usage.
fn memcg_fields(l: &Layout) -> [(&'static str, u32); 5] {
    [
        ("mem_cgroup.css", l.mem_cgroup_css),
        ("cgroup_subsys_state.cgroup", l.css_cgroup),
        ("cgroup.kn", l.cgroup_kn),
        ("kernfs_node.id", l.kernfs_node_id),
        ("mem_cgroup.memory.usage", l.mem_cgroup_usage),
    ]
}

/// [`Facts::hookable`] for a program about memcgs.
fn about_memcgs(
    facts: &Facts,
    function: &str,
    more: impl FnOnce(&Layout) -> Vec<(&'static str, u32)>,
) -> Result<(), String> {
    let mut fields = memcg_fields(&facts.layout).to_vec();
    fields.extend(more(&facts.layout));
    facts.hookable(function, &fields)
}

/// For both names of the function.
fn handle_over_high(facts: &Facts, function: &str) -> Result<(), String> {
    about_memcgs(facts, function, |l| {
        vec![
            ("task_struct.cgroups", l.task_cgroups),
            ("task_struct.memcg_nr_pages_over_high", l.task_pages_over_high),
            ("css_set.subsys[memory_cgrp_id]", l.css_set_memory),
            ("mem_cgroup.memory.high", l.mem_cgroup_high),
        ]
    })
}

const fn raw(function: &'static str, tracepoint: &'static str) -> Variant {
    Variant { function, tier: 1, hook: Hook::RawTracepoint(tracepoint), usable: |_| Ok(()) }
}

pub(super) const PROGRAMS: &[Spec] = &[
    Spec {
        name: "mark_victim",
        variants: &[
            Variant {
                function: "mark_victim_task",
                tier: 2,
                hook: Hook::BtfTracepoint("mark_victim"),
                usable: |facts| match facts.mark_victim {
                    Ok(MarkVictim::Task { .. }) => Ok(()),
                    Ok(MarkVictim::Pid) => {
                        Err("this kernel's mark_victim passes a pid, not a task".to_owned())
                    }
                    Ok(MarkVictim::Unknown) => {
                        Err("this kernel's mark_victim has an unknown prototype".to_owned())
                    }
                    Err(ref why) => Err(why.clone()),
                },
            },
            Variant {
                function: "mark_victim",
                tier: 1,
                hook: Hook::Tracepoint("oom", "mark_victim"),
                usable: |facts| facts.formats.mark_victim.clone(),
            },
            // The pid alone: the plain tracepoint never says less, so this is for a node without tracefs. Though BTF is
            // what it needs, it gives no more than tier 1.
            Variant {
                function: "mark_victim_pid",
                tier: 1,
                hook: Hook::BtfTracepoint("mark_victim"),
                usable: |facts| match facts.mark_victim {
                    Ok(MarkVictim::Pid) => Ok(()),
                    Ok(_) => Err("this kernel's mark_victim does not pass a pid".to_owned()),
                    Err(ref why) => Err(why.clone()),
                },
            },
        ],
    },
    Spec {
        name: "reclaim_retry_zone",
        variants: &[Variant {
            function: "reclaim_retry_zone",
            tier: 1,
            hook: Hook::Tracepoint("oom", "reclaim_retry_zone"),
            usable: |facts| facts.formats.reclaim_retry_zone.clone(),
        }],
    },
    Spec {
        name: "memcg_reclaim_begin",
        variants: &[raw("memcg_reclaim_begin", "mm_vmscan_memcg_reclaim_begin")],
    },
    Spec { name: "memcg_reclaim_end", variants: &[raw("memcg_reclaim_end", "mm_vmscan_memcg_reclaim_end")] },
    Spec {
        name: "direct_reclaim_begin",
        variants: &[raw("direct_reclaim_begin", "mm_vmscan_direct_reclaim_begin")],
    },
    Spec {
        name: "direct_reclaim_end",
        variants: &[raw("direct_reclaim_end", "mm_vmscan_direct_reclaim_end")],
    },
    Spec { name: "kswapd_wake", variants: &[raw("kswapd_wake", "mm_vmscan_kswapd_wake")] },
    Spec {
        name: PAGE_FAULT_SAMPLE,
        variants: &[Variant {
            function: "page_fault_sample",
            tier: 1,
            hook: Hook::PageFaults,
            usable: |facts| {
                (facts.fault_sample_period > 0)
                    .then_some(())
                    .ok_or_else(|| "turned off: the sample period is 0".to_owned())
            },
        }],
    },
    Spec {
        name: "cgroup_mkdir",
        variants: &[Variant {
            function: "cgroup_mkdir",
            tier: 1,
            hook: Hook::Tracepoint("cgroup", "cgroup_mkdir"),
            usable: |facts| facts.formats.cgroup_mkdir.clone(),
        }],
    },
    Spec {
        name: "cgroup_rmdir",
        variants: &[Variant {
            function: "cgroup_rmdir",
            tier: 1,
            hook: Hook::Tracepoint("cgroup", "cgroup_rmdir"),
            usable: |facts| facts.formats.cgroup_rmdir.clone(),
        }],
    },
    Spec {
        name: "oom_kill_process",
        variants: &[fentry("oom_kill_process", |facts| {
            facts.hookable("oom_kill_process", &[("oom_control.memcg", facts.layout.oom_control_memcg)])
        })],
    },
    Spec {
        name: "try_to_free_mem_cgroup_pages",
        variants: &[fentry("try_to_free_mem_cgroup_pages", |facts| {
            about_memcgs(facts, "try_to_free_mem_cgroup_pages", |l| {
                vec![("mem_cgroup.memory.max", l.mem_cgroup_max)]
            })
        })],
    },
    Spec {
        name: "reclaim_high",
        variants: &[fentry("reclaim_high", |facts| {
            about_memcgs(facts, "reclaim_high", |l| vec![("mem_cgroup.memory.high", l.mem_cgroup_high)])
        })],
    },
    Spec {
        name: "mem_cgroup_handle_over_high",
        variants: &[
            fentry("mem_cgroup_handle_over_high", |facts| {
                handle_over_high(facts, "mem_cgroup_handle_over_high")
            }),
            // In newer kernels the old name is an inline function that calls this one.
            Variant {
                function: "mem_cgroup_handle_over_high_7",
                tier: 2,
                hook: Hook::Fentry("__mem_cgroup_handle_over_high"),
                usable: |facts| handle_over_high(facts, "__mem_cgroup_handle_over_high"),
            },
        ],
    },
    Spec {
        name: PAGE_COUNTER_TRY_CHARGE,
        variants: &[fentry(PAGE_COUNTER_TRY_CHARGE, |facts| {
            about_memcgs(facts, PAGE_COUNTER_TRY_CHARGE, |l| {
                vec![
                    ("mem_cgroup.memory", l.mem_cgroup_memory),
                    ("mem_cgroup.memory.max", l.mem_cgroup_max),
                    ("page_counter.parent", l.page_counter_parent),
                    ("cgroup.subsys[memory_cgrp_id]", l.cgroup_memory),
                ]
            })
        })],
    },
    Spec { name: PROCESS_EXIT, variants: &[raw("process_exit", "sched_process_exit")] },
];

/// The program that tells of growth, so that fewer samples are needed.
pub(crate) const PAGE_FAULT_SAMPLE: &str = "page_fault_sample";

/// The program that `watch_init` depends on.
pub(crate) const PROCESS_EXIT: &str = "process_exit";

/// The program that forecasts of watched memcgs come from.
pub(crate) const PAGE_COUNTER_TRY_CHARGE: &str = "page_counter_try_charge";

#[cfg(test)]
mod tests {
    use oomlet_ebpf_common::layout::ABSENT;

    use super::*;
    use crate::kernel::{Options, facts};

    fn facts_of(kernel: &str) -> Facts {
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/btf");
        facts::gather(&Options { btf_path: format!("{fixtures}/{kernel}.btf").into(), ..Options::default() })
    }

    fn on_functions() -> impl Iterator<Item = &'static Spec> {
        PROGRAMS.iter().filter(|spec| matches!(spec.variants[0].hook, Hook::Fentry(_)))
    }

    /// The hook of the first variant that this kernel can have, or why there is none.
    fn choose(spec: &Spec, facts: &Facts) -> Result<String, String> {
        let tried: Vec<_> =
            spec.variants.iter().map(|v| (v.usable)(facts).map(|()| v.hook.describe())).collect();
        tried.iter().find(|verdict| verdict.is_ok()).unwrap_or(&tried[0]).clone()
    }

    #[test]
    fn programs_on_functions_of_supported_kernels() {
        for kernel in ["5.10", "6.1", "6.12", "6.18", "7.2"] {
            let facts = facts_of(kernel);
            for spec in on_functions() {
                let found = choose(spec, &facts);
                match (kernel, spec.name) {
                    ("5.10", "reclaim_high") => {
                        let why = found.expect_err("it is a clone of the compiler's there");
                        assert!(why.contains("no function `reclaim_high`"), "{why}");
                    }
                    ("6.18" | "7.2", "mem_cgroup_handle_over_high") => {
                        assert_eq!(found.as_deref(), Ok("fentry:__mem_cgroup_handle_over_high"), "{kernel}");
                    }
                    (_, name) => assert_eq!(found, Ok(format!("fentry:{name}")), "{kernel}"),
                }
            }
        }
    }

    #[test]
    fn a_field_that_is_gone_costs_the_programs_that_need_it() {
        let mut facts = facts_of("6.12");
        facts.layout.page_counter_parent = ABSENT;
        for spec in on_functions() {
            let why = choose(spec, &facts).err();
            let expected = (spec.name == PAGE_COUNTER_TRY_CHARGE)
                .then(|| "this kernel's BTF lacks page_counter.parent".to_owned());
            assert_eq!(why, expected, "{}", spec.name);
        }
        facts.layout.kernfs_node_id = ABSENT;
        let able: Vec<_> =
            on_functions().filter(|spec| choose(spec, &facts).is_ok()).map(|s| s.name).collect();
        assert_eq!(able, ["oom_kill_process"], "whether it is global needs no id");
    }
}
