use oomlet_ebpf_common::layout::ABSENT;
use zerocopy::IntoBytes;

use super::super::btf::tests::Builder;
use super::*;

/// Pruned BTF of kernels that are supported; `examples/prune_btf.rs` makes one.
const FIXTURES: &[(&str, &[u8], MarkVictim)] =
    &[("6.18", include_bytes!("../../../tests/fixtures/btf/6.18.btf"), MarkVictim::Task { args: 2 })];

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
    for (kernel, blob, prototype) in FIXTURES {
        let btf = Btf::parse(blob.to_vec()).expect(kernel);
        let mut layout = Layout::ABSENT;
        assert_eq!(from_btf(&btf, &mut layout), Vec::<String>::new(), "{kernel}");
        assert!(!btf_entries(&layout).contains(&ABSENT), "{kernel}: {layout:?}");
        assert_eq!(mark_victim_prototype(&btf).ok(), Some(*prototype), "{kernel}");
    }
}

#[test]
fn offsets_of_linux_6_18() {
    let btf = Btf::parse(FIXTURES[0].1.to_vec()).expect("BTF");
    let mut layout = Layout::ABSENT;
    assert!(from_btf(&btf, &mut layout).is_empty());
    // Seen in the running kernel's full BTF; a mistake in pruning or reading would move them.
    assert_eq!((layout.task_pid, layout.task_comm, layout.task_mm), (1264, 1752, 1136));
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
