use proptest::prelude::*;

use super::*;

fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn hard(value: &str) -> Result<Thresholds, ThresholdError> {
    parse_thresholds(&map(&[("memory.available", value)]), &map(&[]), &map(&[]), &map(&[]), false)
}

#[test]
fn values_as_kubelet_reads_them() {
    use ThresholdValue::{Bytes, Share};
    for (value, want) in [
        ("100Mi", Some(Bytes(100 << 20))),
        ("1.5Gi", Some(Bytes(3 << 29))),
        ("104857600", Some(Bytes(100 << 20))),
        ("100M", Some(Bytes(100_000_000))),
        ("1500m", Some(Bytes(2))),
        ("5%", Some(Share(0.05))),
        ("12.5%", Some(Share(0.125))),
        ("0%", None),
        ("100%", None),
    ] {
        let got = hard(value).unwrap().enforced.first().map(|t| t.value);
        assert_eq!(got, want, "{value}");
    }
    for (value, why) in [
        ("-5%", "negative"),
        ("101%", "more than 100 %"),
        ("x%", "not a number"),
        ("NaN%", "not a number"),
        ("0", "not more than zero"),
        ("-1Mi", "negative"),
        ("+-1Mi", "not an amount"),
        ("Mi", "not an amount"),
        ("10 Mi", "not an amount"),
        ("10Mib", "not an amount"),
        ("", "not an amount"),
        ("100000Pi", "too large"),
    ] {
        let error = hard(value).unwrap_err().to_string();
        assert!(
            error.contains(why) && error.contains("memory.available") && error.contains(value),
            "{value}: {error}"
        );
    }
}

#[test]
fn a_percentage_is_of_the_capacity() {
    assert_eq!(ThresholdValue::Share(0.05).of(1 << 30), 53_687_091);
    assert_eq!(ThresholdValue::Bytes(7).of(1 << 30), 7);
}

#[test]
fn defaults_are_kubelets() {
    let t = parse_thresholds(&default_eviction_hard(), &map(&[]), &map(&[]), &map(&[]), true).unwrap();
    let want = |signal| Threshold {
        signal,
        value: ThresholdValue::Bytes(100 << 20),
        grace_period: Duration::ZERO,
        min_reclaim: None,
    };
    assert_eq!(t.enforced, [want(Signal::MemoryAvailable), want(Signal::AllocatableMemoryAvailable)]);
    assert_eq!(
        t.not_enforced,
        ["imagefs.available", "imagefs.inodesFree", "nodefs.available", "nodefs.inodesFree"]
    );
}

#[test]
fn the_kubepods_threshold_is_copied_only_where_it_is_enforced_and_not_given() {
    let both = map(&[("memory.available", "100Mi"), ("allocatableMemory.available", "60Mi")]);
    let node = map(&[("memory.available", "100Mi")]);
    let allocatable = |t: &Thresholds| {
        t.enforced.iter().find(|t| t.signal == Signal::AllocatableMemoryAvailable).map(|t| t.value)
    };
    for (hard, enforced, want) in [
        (&both, true, Some(ThresholdValue::Bytes(60 << 20))),
        (&both, false, Some(ThresholdValue::Bytes(60 << 20))),
        (&node, true, Some(ThresholdValue::Bytes(100 << 20))),
        (&node, false, None),
        (&map(&[]), true, None),
    ] {
        let t = parse_thresholds(hard, &map(&[]), &map(&[]), &map(&[]), enforced).unwrap();
        assert_eq!(allocatable(&t), want, "{hard:?} {enforced}");
    }
    // A soft threshold is not copied.
    let grace = map(&[("memory.available", "1m")]);
    let t = parse_thresholds(&map(&[]), &node, &grace, &map(&[]), true).unwrap();
    assert_eq!(allocatable(&t), None);
}

#[test]
fn soft_thresholds_need_their_grace_period() {
    let soft = map(&[("memory.available", "200Mi")]);
    let error = parse_thresholds(&map(&[]), &soft, &map(&[]), &map(&[]), false).unwrap_err();
    assert_eq!(error, ThresholdError::NoGracePeriod { signal: "memory.available".into() });

    let grace = map(&[("memory.available", "1m30s")]);
    let reclaim = map(&[("memory.available", "0"), ("nodefs.available", "1Gi")]);
    let t = parse_thresholds(&map(&[]), &soft, &grace, &reclaim, false).unwrap();
    assert_eq!(
        t.enforced,
        [Threshold {
            signal: Signal::MemoryAvailable,
            value: ThresholdValue::Bytes(200 << 20),
            grace_period: Duration::from_secs(90),
            min_reclaim: Some(ThresholdValue::Bytes(0)),
        }]
    );
    for bad in ["", "x", "5", "1m-3s", "1q", "-1s", "1.2.3s"] {
        let error = parse_thresholds(&map(&[]), &soft, &map(&[("memory.available", bad)]), &map(&[]), false);
        assert!(matches!(error, Err(ThresholdError::GracePeriod { .. })), "{bad}");
    }
}

#[test]
fn an_unknown_signal_is_named_with_the_valid_ones() {
    let bad = map(&[("memory.free", "1Mi")]);
    let none = map(&[]);
    for (field, result) in [
        ("evictionHard", parse_thresholds(&bad, &none, &none, &none, false)),
        ("evictionSoft", parse_thresholds(&none, &bad, &none, &none, false)),
        ("evictionSoftGracePeriod", parse_thresholds(&none, &none, &bad, &none, false)),
        ("evictionMinimumReclaim", parse_thresholds(&none, &none, &none, &bad, false)),
    ] {
        let text = result.unwrap_err().to_string();
        for part in [field, "memory.free", "memory.available", "allocatableMemory.available", "pid.available"]
        {
            assert!(text.contains(part), "{text}");
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(value in "\\PC{0,20}", grace in "[0-9.hmsuµn-]{0,12}") {
        let _ = hard(&value);
        let _ = parse_go_duration(&grace);
    }

    #[test]
    fn go_durations_are_read_back(h in 0u64..100, m in 0u64..60, s in 0u64..60, ms in 0u64..1000) {
        let want = Duration::from_millis(((h * 60 + m) * 60 + s) * 1000 + ms);
        let got = parse_go_duration(&format!("{h}h{m}m{s}s{ms}ms")).unwrap();
        prop_assert!(got.abs_diff(want) < Duration::from_micros(1));
    }
}
