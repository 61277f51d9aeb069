use proptest::prelude::*;

use super::*;
use crate::clock::Mono;
use crate::pod::PodUid;

fn names(all: &[&str]) -> Vec<String> {
    all.iter().map(|name| (*name).to_owned()).collect()
}

const EARLIER: &str = "0.log.20260102-030405";
const LATER: &str = "0.log.20260102-030415";

#[test]
fn what_goes_and_what_is_compressed_before_a_rotation() {
    for (there, max_files, remove, compress) in [
        (&["0.log"][..], 5, &[][..], &[][..]),
        (&["0.log", EARLIER], 5, &[], &[EARLIER]),
        (&["0.log", EARLIER, LATER], 3, &[EARLIER], &[LATER]),
        (&["0.log", EARLIER, LATER], 2, &[EARLIER, LATER], &[]),
        (&["0.log", "0.log.20260102-030405.gz", LATER], 5, &[], &[LATER]),
        // An agent that ended meanwhile: half a file, and both of one.
        (&["0.log", EARLIER, "0.log.20260102-030405.tmp"], 5, &["0.log.20260102-030405.tmp"], &[EARLIER]),
        (&["0.log", EARLIER, "0.log.20260102-030405.gz"], 5, &[EARLIER], &[]),
        // Other runs' are not touched.
        (&["0.log", "1.log", "10.log", "10.log.20260102-030405", "0.logx"], 2, &[], &[]),
    ] {
        let plan = before_rotation("0.log", &names(there), max_files);
        assert_eq!(plan, Rotation { remove: names(remove), compress: names(compress) }, "{there:?}");
    }
}

#[test]
fn a_rotated_log_is_the_last_by_name() {
    let now: Timestamp = "2026-01-02T03:04:10Z".parse().unwrap();
    for (there, expected) in [
        (&["0.log"][..], "0.log.20260102-030410"),
        (&["0.log", EARLIER], "0.log.20260102-030410"),
        // The clock has been set back.
        (&["0.log", EARLIER, LATER], "0.log.20260102-030416"),
        (&["0.log", "0.log.20260102-030415.gz"], "0.log.20260102-030416"),
        (&["0.log", "0.log.20260102-030410"], "0.log.20260102-030411"),
        (&["0.log", "0.log.20251231-235959"], "0.log.20260102-030410"),
        (&["0.log", "0.log.old"], "0.log.20260102-030410"),
    ] {
        assert_eq!(rotated_name("0.log", &names(there), now), expected, "{there:?}");
    }
}

#[test]
fn what_was_rotated_in_order() {
    let there = names(&[
        LATER,
        "0.log",
        "0.log.20260102-030405.gz",
        EARLIER,
        "0.log.20260102-030425.tmp",
        "1.log.20260101-000000",
    ]);
    assert_eq!(rotated("0.log", &there), names(&["0.log.20260102-030405.gz", LATER]));
    let of_run: Vec<&String> = files_of_run("1.log", &there).collect();
    assert_eq!(of_run, ["1.log.20260101-000000"]);
}

#[test]
fn how_often_it_has_run() {
    for (there, expected) in [
        (&[][..], 0),
        (&["0.log"], 1),
        (&["9.log", "10.log"], 11),
        (&["2.log.20260102-030405.gz"], 3),
        (&["x.log", ".log", "+1.log", "7.txt", "8"], 0),
        (&["99999999999.log", "1.log"], 2),
    ] {
        assert_eq!(restart_count(&names(there)), expected, "{there:?}");
    }
}

#[test]
fn logs_of_nobody_go_after_a_while() {
    let dirs = names(&["default_web_a", "default_web_b", "lost+found", "a_b", "__c"]);
    let minute = Duration::from_secs(60);
    let mut kept = KeptLogs::default();
    let due = |kept: &mut KeptLogs, known: &'static str, keep, second: u64| {
        let due = kept.due(&dirs, |uid| known.contains(uid.as_str()), keep, Mono(second * 1_000_000_000));
        due.into_iter().map(|pod| pod.uid.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(due(&mut kept, "ab", minute, 0), [""; 0]);
    assert_eq!(due(&mut kept, "b", minute, 10), [""; 0]);
    assert_eq!(due(&mut kept, "b", minute, 69), [""; 0]);
    assert_eq!(due(&mut kept, "b", minute, 70), ["a"]);
    let all: Vec<PodUid> = kept.all().into_iter().map(|pod| pod.uid).collect();
    assert_eq!(all, [PodUid::from("a")]);
    // It is back, and gone once more.
    assert_eq!(due(&mut kept, "ab", minute, 80), [""; 0]);
    assert_eq!(due(&mut kept, "b", minute, 90), [""; 0]);
    let mut at_once = KeptLogs::default();
    assert_eq!(due(&mut at_once, "", Duration::ZERO, 0), [""; 0]);
    assert_eq!(due(&mut at_once, "", Duration::ZERO, 0), ["a", "b"]);
}

proptest! {
    /// However often it is rotated, and whenever: as many files as allowed, the newest, in the order in which they were
    /// written.
    #[test]
    fn rotated_again_and_again(times in prop::collection::vec(0i64..4_000_000_000, 1..12), max_files in 2usize..6) {
        let mut there = names(&["0.log"]);
        let mut written: Vec<String> = Vec::new();
        for seconds in times {
            let plan = before_rotation("0.log", &there, max_files);
            there.retain(|name| !plan.remove.contains(name));
            for name in plan.compress {
                there.retain(|other| *other != name);
                there.push(compressed_names(&name).0);
            }
            let name = rotated_name("0.log", &there, Timestamp::from_second(seconds).unwrap());
            prop_assert!(!there.contains(&name));
            written.push(name.clone());
            there.push(name);
            let rotated: Vec<String> = rotated("0.log", &there).iter().map(|name| uncompressed(name).to_owned()).collect();
            prop_assert!(rotated.len() < max_files && written.ends_with(&rotated), "{:?} {:?}", rotated, written);
            prop_assert_eq!(before_rotation("0.log", &there, 100).compress.len(), 1);
        }
    }
}
