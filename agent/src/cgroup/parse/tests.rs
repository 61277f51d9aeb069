use super::*;
use proptest::prelude::*;

const V1_STAT: &str = "cache 10\ninactive_file 1\nactive_file 2\ndirty 3\n\
    total_cache 100\ntotal_dirty 30\ntotal_writeback 4\ntotal_inactive_file 50\ntotal_active_file 60\n\
    total_workingset_refault_file 9\n";
const V2_STAT: &str = "anon 7\nfile 8\nfile_dirty 30\nfile_writeback 4\ninactive_file 50\nactive_file 60\nworkingset_refault_file 9\n";

#[test]
fn memory_stats() {
    let want =
        Ok(MemoryStat { inactive_file_bytes: 50, active_file_bytes: 60, dirty_bytes: 34, refaults: 9 });
    assert_eq!(memory_stat_v1(V1_STAT.as_bytes()), want);
    assert_eq!(memory_stat_v2(V2_STAT.as_bytes()), want);
    // The v1 file of a leaf has plain keys as well; they must not stand in for the totals.
    assert_eq!(
        memory_stat_v1(b"inactive_file 1\nactive_file 2\n"),
        Err(ParseError::Missing("total_inactive_file"))
    );
    assert_eq!(memory_stat_v2(b"inactive_file 1\n"), Err(ParseError::Missing("active_file")));
    assert_eq!(
        memory_stat_v2(b"inactive_file -1\nactive_file 2\n"),
        Err(ParseError::NotANumber { key: "inactive_file", value: "-1".into() })
    );
    assert_eq!(memory_stat_v2(b"inactive_file 1\nactive_file 2").map(|s| s.dirty_bytes), Ok(0));
}

#[test]
fn meminfos() {
    let text =
        b"MemTotal:       24684084 kB\nMemFree:        1000 kB\nMemAvailable:   2000 kB\nBuffers: 1 kB\nSwapTotal: 8 kB\n";
    assert_eq!(
        meminfo(text),
        Ok(MemInfo {
            total_bytes: 24_684_084 * 1024,
            free_bytes: 1_024_000,
            available_bytes: 2_048_000,
            swap_total_bytes: Some(8192),
            swap_free_bytes: None,
        })
    );
    assert_eq!(meminfo(b"MemTotal: 1 kB\nMemFree: 1 kB\n"), Err(ParseError::Missing("MemAvailable")));
    assert_eq!(meminfo(b""), Err(ParseError::Missing("MemTotal")));
}

#[test]
fn oom_kill_counters() {
    let check = |text: &str, want| assert_eq!(oom_kills(text.as_bytes()), want, "{text}");
    check("low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 9\n", Ok(4));
    check("oom_kill_disable 0\nunder_oom 0\noom_kill 12\n", Ok(12));
    check("oom_kill_disable 0\nunder_oom 0\n", Err(ParseError::Missing("oom_kill")));
}

#[test]
fn limits() {
    let check = |text: &str, want| assert_eq!(limit(text.as_bytes(), "memory.max"), want, "{text}");
    check("max\n", Ok(None));
    check("104857600\n", Ok(Some(104_857_600)));
    check("9223372036854771712\n", Ok(None)); // 4 KiB pages
    check("9223372036854710272\n", Ok(None)); // 64 KiB pages
    check("0\n", Ok(Some(0)));
    check("", Err(ParseError::NotANumber { key: "memory.max", value: String::new() }));
    check(
        "99999999999999999999",
        Err(ParseError::NotANumber { key: "memory.max", value: "99999999999999999999".into() }),
    );
}

#[test]
fn pressure() {
    let text = "some avg10=12.50 avg60=1.00 avg300=0.10 total=123456\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=99\n";
    assert_eq!(
        psi(text.as_bytes()),
        Ok(Psi { some_avg10: 12.5, full_avg10: 0.25, some_total_us: 123_456, full_total_us: 99 })
    );
    assert_eq!(psi(b"some avg10=1.0 total=1\n"), Err(ParseError::Missing("full")));
    assert_eq!(psi(b"some avg10=1.0\nfull avg10=1.0 total=1\n"), Err(ParseError::Missing("total")));
    assert!(psi(b"some avg10=NaN total=1\nfull avg10=1.0 total=1\n").is_err());
}

#[test]
fn reads_the_running_kernel() {
    let info = meminfo(&std::fs::read("/proc/meminfo").unwrap()).unwrap();
    assert!(info.available_bytes <= info.total_bytes && info.free_bytes > 0, "{info:?}");
    assert!(oom_kills(&std::fs::read("/proc/vmstat").unwrap()).is_ok());
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = (memory_stat_v1(&bytes), memory_stat_v2(&bytes), meminfo(&bytes), oom_kills(&bytes));
        let _ = (single(&bytes, "x"), limit(&bytes, "x"), psi(&bytes));
    }

    #[test]
    fn near_misses_never_panic(text in "((some|full|oom_kill|inactive_file|active_file|MemTotal)[ :=]{0,2}(avg10=|total=)?[0-9.]{0,25}[ \n]){0,8}") {
        let bytes = text.as_bytes();
        let _ = (memory_stat_v2(bytes), meminfo(bytes), oom_kills(bytes), limit(bytes, "x"), psi(bytes));
    }

    #[test]
    fn numbers_read_back(n: u64) {
        prop_assert_eq!(single(format!("{n}\n").as_bytes(), "x"), Ok(n));
    }
}
