use oomlet_ebpf_common::layout::ABSENT;
use zerocopy::IntoBytes;

use super::super::btf::tests::Builder;
use super::*;

const TASK: MarkVictim = MarkVictim::Task { args: 2 };

/// Pruned BTF of kernels that are supported; `examples/prune_btf.rs` makes them.
const FIXTURES: &[(&str, &[u8], MarkVictim)] = &[
    ("5.10", include_bytes!("../../../tests/fixtures/btf/5.10.btf"), MarkVictim::Pid),
    ("6.1", include_bytes!("../../../tests/fixtures/btf/6.1.btf"), TASK),
    ("6.12", include_bytes!("../../../tests/fixtures/btf/6.12.btf"), TASK),
    ("6.18", include_bytes!("../../../tests/fixtures/btf/6.18.btf"), TASK),
    ("7.2", include_bytes!("../../../tests/fixtures/btf/7.2.btf"), TASK),
];

fn fixture(kernel: &str) -> Btf {
    let (_, blob, _) = FIXTURES.iter().find(|(name, ..)| *name == kernel).expect("a fixture");
    Btf::parse(blob.to_vec()).expect("BTF")
}

fn btf_entries(layout: &Layout) -> Vec<u32> {
    // All up to the plain tracepoints' formats come from BTF.
    let words: Vec<u32> = layout
        .as_bytes()
        .chunks_exact(4)
        .map(|word| u32::from_ne_bytes(word.try_into().expect("four bytes")))
        .collect();
    words[..std::mem::offset_of!(Layout, mark_victim) / 4].to_vec()
}

#[test]
fn every_field_resolves_in_every_supported_kernel() {
    for (kernel, _, prototype) in FIXTURES {
        let btf = fixture(kernel);
        let mut layout = Layout::ABSENT;
        assert_eq!(from_btf(&btf, &mut layout), Vec::<String>::new(), "{kernel}");
        // `mark_victim` with a pid has no arguments that anything is read of.
        let absent = btf_entries(&layout).iter().filter(|entry| **entry == ABSENT).count();
        assert_eq!(absent, usize::from(*prototype == MarkVictim::Pid), "{kernel}: {layout:?}");
        assert_eq!(mark_victim_prototype(&btf).ok(), Some(*prototype), "{kernel}");
    }
}

/// Which functions a program can be hooked to, by kernel. One that is absent was inlined, cloned or renamed.
#[test]
fn functions_of_supported_kernels() {
    let everywhere = ["oom_kill_process", "page_counter_try_charge", "try_to_free_mem_cgroup_pages"];
    let table: [(&str, &[&str]); 5] = [
        ("5.10", &["mem_cgroup_handle_over_high"]),
        ("6.1", &["reclaim_high", "mem_cgroup_handle_over_high"]),
        ("6.12", &["reclaim_high", "mem_cgroup_handle_over_high"]),
        ("6.18", &["reclaim_high", "__mem_cgroup_handle_over_high"]),
        ("7.2", &["reclaim_high", "__mem_cgroup_handle_over_high"]),
    ];
    for (kernel, more) in table {
        let btf = fixture(kernel);
        for function in FUNCTIONS {
            let expected = everywhere.contains(&function.name) || more.contains(&function.name);
            let found = check_function(&btf, function);
            assert_eq!(found.is_ok(), expected, "{kernel} {}: {found:?}", function.name);
            if let Err(why) = found {
                assert!(why.contains(function.name) && why.contains("no function"), "{why}");
            }
        }
    }
}

/// How many arguments the kernels pass, to see a prototype change that no program depends on.
#[test]
fn prototypes_of_supported_kernels() {
    for (function, expected) in [
        ("oom_kill_process", [2, 2, 2, 2, 2]),
        ("page_counter_try_charge", [3, 3, 3, 3, 3]),
        // may_swap became reclaim_options; swappiness came on top.
        ("try_to_free_mem_cgroup_pages", [4, 4, 5, 5, 5]),
    ] {
        let found: Vec<usize> = FIXTURES
            .iter()
            .map(|(kernel, ..)| fixture(kernel).function_args(function).expect("there").len())
            .collect();
        assert_eq!(found, expected, "{function}");
    }
}

#[test]
fn a_function_with_other_arguments_is_not_hooked() {
    let function = Function { name: "f", args: &[Arg::Struct("task_struct"), Arg::Integer] };
    let check = |args: fn(&mut Builder) -> Vec<u32>| {
        let mut b = Builder::default();
        let args = args(&mut b);
        b.function("f", &args);
        check_function(&b.build(), &function).is_ok()
    };
    assert!(check(|b| vec![task_pointer(b), b.int("long", 8)]));
    assert!(check(|b| vec![task_pointer(b), b.int("long", 8), b.int("more", 4)]));
    assert!(!check(|b| vec![task_pointer(b)]), "one is gone");
    assert!(!check(|b| vec![b.int("int", 4), b.int("long", 8)]), "an id instead of the struct");
    assert!(!check(|b| vec![task_pointer(b), task_pointer(b)]), "a struct instead of a number");
}

#[test]
fn offsets_of_linux_6_18() {
    let btf = fixture("6.18");
    let mut layout = Layout::ABSENT;
    assert!(from_btf(&btf, &mut layout).is_empty());
    // Seen in the running kernel's full BTF; a mistake in pruning or reading would move them.
    assert_eq!((layout.task_tgid, layout.task_comm, layout.task_mm), (1268, 1752, 1136));
    assert_eq!((layout.mm_rss_file, layout.mm_rss_anon, layout.mm_rss_shmem), (968, 1008, 1088));
    assert_eq!((layout.css_set_dfl_cgrp, layout.css_set_memory), (112, 32));
    assert_eq!((layout.kernfs_node_id, layout.cgroup_root_hierarchy_id), (96, 12));
    assert_eq!((layout.mem_cgroup_usage, layout.mem_cgroup_max), (256, 416));
}

/// On the kernel that runs the test: pruning must not move anything.
#[test]
fn pruning_keeps_what_is_read() {
    let Ok(full) = Btf::read(std::path::Path::new("/sys/kernel/btf/vmlinux")) else {
        // A kernel without BTF has nothing to prune.
        return;
    };
    let pruned = Btf::parse(prune(&full).expect("a kernel's BTF")).expect("pruned BTF is BTF");
    let (mut from_full, mut from_pruned) = (Layout::ABSENT, Layout::ABSENT);
    assert_eq!(from_btf(&full, &mut from_full), from_btf(&pruned, &mut from_pruned));
    assert_eq!(from_full, from_pruned);
    assert_eq!(mark_victim_prototype(&full).ok(), mark_victim_prototype(&pruned).ok());
    for function in FUNCTIONS {
        assert_eq!(check_function(&full, function), check_function(&pruned, function));
    }
}

/// `rss_stat` as an array of per-CPU counters (since 6.2) and as a struct of atomics (before).
#[test]
fn rss_counters_in_both_shapes() {
    let counters = [("MM_FILEPAGES", 0), ("MM_ANONPAGES", 1), ("MM_SWAPENTS", 2), ("MM_SHMEMPAGES", 3)];
    let mut old = Builder::default();
    let (int, long) = (old.int("int", 4), old.int("long", 8));
    old.enumeration("", &counters);
    let atomic = old.structure("", 8, &[("counter", long, 0)]);
    let atomic = old.typedef("atomic_long_t", atomic);
    let array = old.array(atomic, int, 4);
    let rss_stat = old.structure("mm_rss_stat", 32, &[("count", array, 0)]);
    let anonymous = old.structure("", 200, &[("total_vm", long, 16), ("rss_stat", rss_stat, 100)]);
    old.structure("mm_struct", 200, &[("", anonymous, 0)]);

    let mut new = Builder::default();
    let (int, long) = (new.int("int", 4), new.int("long", 8));
    new.enumeration("", &counters);
    let counter = new.structure("percpu_counter", 40, &[("lock", int, 0), ("count", long, 8)]);
    let array = new.array(counter, int, 4);
    new.structure("mm_struct", 400, &[("total_vm", long, 16), ("rss_stat", array, 96)]);

    for (shape, btf, expected) in
        [("old", old.build(), [100, 108, 124]), ("new", new.build(), [96 + 8, 96 + 40 + 8, 96 + 120 + 8])]
    {
        let mut layout = Layout::ABSENT;
        let missing = from_btf(&btf, &mut layout);
        assert_eq!([layout.mm_rss_file, layout.mm_rss_anon, layout.mm_rss_shmem], expected, "{shape}");
        assert_eq!(layout.mm_total_vm, 16, "{shape}");
        assert!(missing.iter().any(|what| what.contains("task_struct")), "{shape}: what is absent is named");
    }
}

#[test]
fn prototypes_of_mark_victim() {
    let build = |args: fn(&mut Builder) -> Vec<u32>| {
        let mut b = Builder::default();
        let args = args(&mut b);
        b.tracepoint("mark_victim", &args);
        mark_victim_prototype(&b.build()).ok()
    };
    assert_eq!(build(|b| vec![b.int("int", 4)]), Some(MarkVictim::Pid));
    assert_eq!(build(|b| vec![task_pointer(b)]), Some(MarkVictim::Task { args: 1 }));
    assert_eq!(build(|b| vec![task_pointer(b), b.int("uid_t", 4)]), Some(MarkVictim::Task { args: 2 }));
    assert_eq!(build(|b| vec![b.int("int", 4), b.int("int", 4)]), Some(MarkVictim::Unknown));
    assert_eq!(build(|_| vec![]), Some(MarkVictim::Unknown));
    assert_eq!(mark_victim_prototype(&Builder::default().build()).ok(), None);
}

fn task_pointer(b: &mut Builder) -> u32 {
    let task = b.structure("task_struct", 8, &[]);
    b.pointer(task)
}
