//! Which program loads on which kernel, and at which tier. The other tests ask here whether a program must be there, so
//! that on a node that does not let it load they assert that, and why, instead of passing in silence.

use oomlet::kernel::{Kernel, Lockdown, Options, ProgramReport, ProgramState, probe};

use Expected::{Lacks, Tier};

#[derive(Clone, Copy, Debug)]
enum Expected {
    Tier(u8),
    /// Not loaded; the reason has this in it.
    Lacks(&'static str),
}

const KERNELS: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", "7.2"];

/// By kernel, in the order of [`KERNELS`].
const TABLE: [(&str, [Expected; 5]); 16] = [
    // 5.10 passes a pid: the plain tracepoint says more than that.
    ("mark_victim", [Tier(1), Tier(2), Tier(2), Tier(2), Tier(2)]),
    ("reclaim_retry_zone", [Tier(1); 5]),
    ("memcg_reclaim_begin", [Tier(1); 5]),
    ("memcg_reclaim_end", [Tier(1); 5]),
    ("direct_reclaim_begin", [Tier(1); 5]),
    ("direct_reclaim_end", [Tier(1); 5]),
    ("kswapd_wake", [Tier(1); 5]),
    ("page_fault_sample", [Tier(1); 5]),
    ("cgroup_mkdir", [Tier(1); 5]),
    ("cgroup_rmdir", [Tier(1); 5]),
    ("process_exit", [Tier(1); 5]),
    ("oom_kill_process", [Tier(2); 5]),
    ("try_to_free_mem_cgroup_pages", [Tier(2); 5]),
    // 5.10's compiler made `reclaim_high.constprop.0` of it.
    ("reclaim_high", [Lacks("no function `reclaim_high`"), Tier(2), Tier(2), Tier(2), Tier(2)]),
    ("mem_cgroup_handle_over_high", [Tier(2); 5]),
    ("page_counter_try_charge", [Tier(2); 5]),
];

/// `None`: a kernel that is not in the table.
fn column() -> Option<usize> {
    let release = probe(&Options::default()).kernel_release;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let version = format!("{}.{}", numbers.next()?, numbers.next()?);
    KERNELS.iter().position(|kernel| *kernel == version)
}

fn is_fentry(report: &ProgramReport) -> bool {
    report.hook.starts_with("fentry:")
}

/// Lockdown is in force, and with it the programs on kernel functions may be refused.
fn locked_down() -> bool {
    matches!(probe(&Options::default()).lockdown, Lockdown::Integrity | Lockdown::Confidentiality)
}

fn report<'a>(kernel: &'a Kernel, name: &str) -> &'a ProgramReport {
    let report = kernel.programs().iter().find(|p| p.name == name);
    report.unwrap_or_else(|| panic!("no program {name}"))
}

/// Compares one program with the table. True when it is loaded.
pub fn check(kernel: &Kernel, name: &str) -> bool {
    let report = report(kernel, name);
    let expected = column().map(|column| {
        let row = TABLE.iter().find(|(program, _)| *program == name);
        row.unwrap_or_else(|| panic!("{name} is not in the table")).1[column]
    });
    match (&report.state, expected) {
        (ProgramState::Loaded, Some(Tier(tier))) => {
            assert_eq!(report.tier, tier, "{report:?}");
            true
        }
        (ProgramState::Loaded, None) => true,
        (ProgramState::Unavailable(why), Some(Tier(_)) | None) if is_fentry(report) && locked_down() => {
            assert!(why.contains("permission") && why.contains("lockdown"), "{report:?}");
            println!("{name}: {why}");
            false
        }
        (ProgramState::Unavailable(why), Some(Lacks(reason))) => {
            assert!(why.contains(reason), "{report:?}");
            println!("{name}: {why}");
            false
        }
        (ProgramState::Unavailable(why), None) if is_fentry(report) => {
            assert!(!why.is_empty());
            false
        }
        _ => panic!("expected {expected:?}: {report:?}"),
    }
}

#[test]
fn what_loads_is_as_the_table_has_it() {
    let kernel = Kernel::load(&Options::default());
    crate::print_programs(&kernel);
    let names: Vec<&str> = kernel.programs().iter().map(|p| p.name).collect();
    assert_eq!(names.len(), TABLE.len(), "a row for each program: {names:?}");
    let loaded: Vec<bool> = names.iter().map(|name| check(&kernel, name)).collect();
    assert_eq!(kernel.tier(), 2);

    // Lockdown lets all programs on functions load or none.
    if locked_down() {
        let on_functions = kernel.programs().iter().zip(&loaded).filter(|(p, _)| is_fentry(p));
        let verdicts: Vec<bool> = on_functions.map(|(_, loaded)| *loaded).collect();
        assert!(verdicts.iter().all(|v| *v == verdicts[0]), "{:?}", kernel.programs());
    }
}

/// The function has two names over the kernels; the hook says which is in use, or would be.
#[test]
fn a_renamed_function_is_hooked_by_the_name_that_this_kernel_has() {
    let Some(column) = column() else { return };
    let kernel = Kernel::load(&Options::default());
    let names = ["mem_cgroup_handle_over_high", "__mem_cgroup_handle_over_high"];
    let [old, new] = names.map(|name| format!("fentry:{name}"));
    let renamed = KERNELS[..column].contains(&"6.12");
    let (here, other) = if renamed { (new, old) } else { (old, new) };
    let report = report(&kernel, "mem_cgroup_handle_over_high");
    match &report.state {
        ProgramState::Loaded => {
            assert_eq!(report.hook, here);
            let told = report.passed_over.as_deref().is_none_or(|why| why.contains(&other));
            assert!(told, "{report:?}");
        }
        ProgramState::Unavailable(why) => {
            assert!(locked_down(), "{report:?}");
            assert!(why.contains(&format!("{other}: BTF has no function")), "{report:?}");
            assert!(why.contains(&format!("{here}: no permission")), "{report:?}");
        }
    }
}
