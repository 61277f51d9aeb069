//! Loading the programs of the [`table`]. Each is loaded and attached on its own: one that the kernel
//! refuses costs itself and nothing else. Where a program has variants, the first that works is used.

use aya::Ebpf;
use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::programs::{BtfTracePoint, FEntry, PerfEvent, Program, ProgramError, RawTracePoint, TracePoint};
use aya::util::online_cpus;

use super::facts::Facts;
use super::{Options, ProgramReport, ProgramState, capability};
use table::{Hook, PROGRAMS, Spec, Variant};

mod table;

pub(super) use table::{PAGE_COUNTER_TRY_CHARGE, PAGE_FAULT_SAMPLE, PROCESS_EXIT};

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
        Hook::Fentry(function) => match &facts.btf {
            Ok(btf) => fentry(program, function, btf),
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

fn fentry(program: &mut Program, function: &str, btf: &aya::Btf) -> Result<(), ProgramError> {
    let program: &mut FEntry = program.try_into()?;
    program.load(function, btf)?;
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
                let why = capability::why_refused();
                return format!("no permission to load it ({io_error}): {why}");
            }
            let log = verifier_log.to_string();
            if capability::hides_kernel_memory() {
                let why =
                    "this kernel's lockdown, `confidentiality`, takes away the helpers that read its memory";
                return format!("{why} ({io_error}: {})", verdict(&log));
            }
            format!("the kernel refused to load it ({io_error}): {}", verdict(&log))
        }
        other => chain(other),
    }
}

/// The verifier's last word: its log ends with statistics.
fn verdict(log: &str) -> &str {
    let statistics = ["processed ", "verification time ", "stack depth ", "peak_states "];
    let spoken = |line: &&str| !line.is_empty() && !statistics.iter().any(|word| line.starts_with(word));
    log.lines().rev().find(spoken).unwrap_or("no verifier output")
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
    fn the_verifiers_last_word() {
        let log = "0: R1=ctx(off=0,imm=0)\n5: (85) call bpf_x#1\nunknown func bpf_x#1\n\
                   verification time 12 usec\nstack depth 0+0\nprocessed 6 insns (limit 1000000) peak_states 0\n\n";
        assert_eq!(verdict(log), "unknown func bpf_x#1");
        assert_eq!(verdict("\n"), "no verifier output");
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
