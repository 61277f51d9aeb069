//! The table of programs, and loading them. Each is loaded and attached on its own: one that the kernel
//! refuses costs itself and nothing else. Where a program has variants, the first that works is used.

use aya::Ebpf;
use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::programs::{BtfTracePoint, PerfEvent, Program, ProgramError, RawTracePoint, TracePoint};
use aya::util::online_cpus;

use super::facts::Facts;
use super::layout::MarkVictim;
use super::{Options, ProgramReport, ProgramState};

/// Where a program is hooked in.
#[derive(Clone, Copy, Debug)]
enum Hook {
    /// By name; needs neither tracefs nor BTF, and reads no arguments that differ between kernels.
    RawTracepoint(&'static str),
    /// Category and name; needs tracefs.
    Tracepoint(&'static str, &'static str),
    /// Typed arguments; needs BTF.
    BtfTracepoint(&'static str),
    /// One perf event on each CPU.
    PageFaults,
}

impl Hook {
    fn describe(self) -> String {
        match self {
            Hook::RawTracepoint(name) => format!("raw_tp:{name}"),
            Hook::Tracepoint(category, name) => format!("tracepoint:{category}:{name}"),
            Hook::BtfTracepoint(name) => format!("tp_btf:{name}"),
            Hook::PageFaults => "perf_event:page-faults".to_owned(),
        }
    }
}

/// One way to have a program.
struct Variant {
    /// The function's name in the object.
    function: &'static str,
    tier: u8,
    hook: Hook,
    /// Whether what it reads could be located in this kernel.
    usable: fn(&Facts) -> Result<(), String>,
}

struct Spec {
    name: &'static str,
    /// Best first.
    variants: &'static [Variant],
}

const fn raw(function: &'static str, tracepoint: &'static str) -> Variant {
    Variant { function, tier: 1, hook: Hook::RawTracepoint(tracepoint), usable: |_| Ok(()) }
}

const PROGRAMS: &[Spec] = &[
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
            // The pid alone: the plain tracepoint never says less, so this is for a node without tracefs.
            Variant {
                function: "mark_victim_pid",
                tier: 2,
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
    Spec { name: PROCESS_EXIT, variants: &[raw("process_exit", "sched_process_exit")] },
];

/// The program that tells of growth, so that fewer samples are needed.
pub(super) const PAGE_FAULT_SAMPLE: &str = "page_fault_sample";

/// The program that `watch_init` depends on.
pub(super) const PROCESS_EXIT: &str = "process_exit";

/// Loads and attaches every program of the table that this kernel takes. `Err` holds why there is no object at all.
pub(super) fn load_all(
    ebpf: Result<&mut Ebpf, &str>,
    facts: &Facts,
    options: &Options,
) -> Vec<ProgramReport> {
    match ebpf {
        Ok(ebpf) => PROGRAMS.iter().map(|spec| load_best(ebpf, spec, facts, options)).collect(),
        Err(why) => PROGRAMS
            .iter()
            .map(|spec| report(spec, &spec.variants[0], ProgramState::Unavailable(why.to_owned()), None))
            .collect(),
    }
}

fn report(spec: &Spec, variant: &Variant, state: ProgramState, passed_over: Option<String>) -> ProgramReport {
    ProgramReport { name: spec.name, tier: variant.tier, hook: variant.hook.describe(), state, passed_over }
}

fn load_best(ebpf: &mut Ebpf, spec: &Spec, facts: &Facts, options: &Options) -> ProgramReport {
    let mut refused: Vec<String> = Vec::new();
    for variant in spec.variants {
        let attempt = if variant.tier > options.max_tier {
            Err(format!("tier {} is turned off (max tier {})", variant.tier, options.max_tier))
        } else {
            (variant.usable)(facts).and_then(|()| load_and_attach(ebpf, variant, facts))
        };
        match attempt {
            Ok(()) => {
                let passed_over = (!refused.is_empty()).then(|| refused.join("; "));
                return report(spec, variant, ProgramState::Loaded, passed_over);
            }
            Err(why) => refused.push(match spec.variants {
                [_] => why,
                _ => format!("{}: {why}", variant.hook.describe()),
            }),
        }
    }
    report(spec, &spec.variants[0], ProgramState::Unavailable(refused.join("; ")), None)
}

fn load_and_attach(ebpf: &mut Ebpf, variant: &Variant, facts: &Facts) -> Result<(), String> {
    let Some(program) = ebpf.program_mut(variant.function) else {
        return Err(format!("the eBPF object has no function `{}`; rebuild the agent", variant.function));
    };
    let result = match variant.hook {
        Hook::RawTracepoint(name) => raw_tracepoint(program, name),
        Hook::Tracepoint(category, name) => tracepoint(program, category, name),
        Hook::BtfTracepoint(name) => match &facts.btf {
            Ok(btf) => btf_tracepoint(program, name, btf),
            Err(why) => return Err(why.clone()),
        },
        Hook::PageFaults => page_faults(program, facts.fault_sample_period),
    };
    result.map_err(|error| {
        tracing::debug!(program = variant.function, error = chain(&error), "not loaded");
        explain(&error)
    })
}

fn raw_tracepoint(program: &mut Program, name: &str) -> Result<(), ProgramError> {
    let program: &mut RawTracePoint = program.try_into()?;
    program.load()?;
    program.attach(name).map(drop)
}

fn tracepoint(program: &mut Program, category: &str, name: &str) -> Result<(), ProgramError> {
    let program: &mut TracePoint = program.try_into()?;
    program.load()?;
    program.attach(category, name).map(drop)
}

fn btf_tracepoint(program: &mut Program, name: &str, btf: &aya::Btf) -> Result<(), ProgramError> {
    let program: &mut BtfTracePoint = program.try_into()?;
    program.load(name, btf)?;
    program.attach().map(drop)
}

/// A CPU that comes online later is not sampled: the sampler of tier 0 covers what runs there.
fn page_faults(program: &mut Program, period: u64) -> Result<(), ProgramError> {
    let program: &mut PerfEvent = program.try_into()?;
    program.load()?;
    let mut refused = None;
    let mut attached = 0;
    for cpu in online_cpus().map_err(|(_, error)| error)? {
        let link = program.attach(
            PerfEventConfig::Software(SoftwareEvent::PageFaults),
            PerfEventScope::AllProcessesOneCpu { cpu },
            SamplePolicy::Period(period),
            false,
        );
        match link {
            Ok(_) => attached += 1,
            // It may have gone offline between the two calls.
            Err(error) => {
                tracing::warn!(cpu, error = chain(&error), "page faults of this CPU are not sampled");
                refused = Some(error);
            }
        }
    }
    match refused {
        Some(error) if attached == 0 => Err(error),
        _ => Ok(()),
    }
}

/// One line for people. The verifier's whole log goes to the debug log.
fn explain(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            if io_error.kind() == std::io::ErrorKind::PermissionDenied {
                return format!(
                    "the kernel refused to load it ({io_error}): CAP_BPF and CAP_PERFMON are missing, or lockdown forbids it"
                );
            }
            let log = verifier_log.to_string();
            let last = log.lines().rev().find(|line| !line.is_empty() && !line.starts_with("processed "));
            format!("the kernel refused to load it ({io_error}): {}", last.unwrap_or("no verifier output"))
        }
        other => chain(other),
    }
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::facts;
    use super::*;

    #[test]
    fn names_and_functions_are_unique() {
        let mut names = HashSet::new();
        let mut functions = HashSet::new();
        for spec in PROGRAMS {
            assert!(names.insert(spec.name), "{}", spec.name);
            assert!(!spec.variants.is_empty(), "{}", spec.name);
            for variant in spec.variants {
                assert!(functions.insert(variant.function), "{}", variant.function);
            }
        }
    }

    #[test]
    fn without_an_object_every_program_says_why() {
        let options = Options { max_tier: 0, ..Options::default() };
        let reports = load_all(Err("not allowed"), &facts::gather(&options), &options);
        assert_eq!(reports.len(), PROGRAMS.len());
        for report in reports {
            assert_eq!(report.state, ProgramState::Unavailable("not allowed".to_owned()));
        }
    }

    #[test]
    fn an_error_shows_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: inner")]
        struct Outer(#[source] std::io::Error);
        assert_eq!(chain(&Outer(std::io::Error::other("inner"))), "outer: inner");
        assert_eq!(chain(&Outer(std::io::Error::other("deep"))), "outer: inner: deep");
    }
}
