use proptest::prelude::*;

use super::*;

fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn no_grace() -> BTreeMap<String, Duration> {
    BTreeMap::new()
}

fn hard(value: &str) -> Result<Thresholds, ThresholdError> {
    parse_thresholds(&map(&[("memory.available", value)]), &map(&[]), &no_grace(), &map(&[]), false)
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
        ("-5%", "from 0% to 100%"),
        ("101%", "from 0% to 100%"),
        ("x%", "not a percentage"),
        ("%", "not a percentage"),
        ("NaN%", "not a percentage"),
        ("inf%", "not a percentage"),
        ("0", "more than 0"),
        ("-1Mi", "negative"),
        ("+-1Mi", "not a number"),
        ("Mi", "not a number"),
        ("10 Mi", "not a number"),
        ("10Mib", "not a number"),
        ("", "a percentage such as \"10%\" is allowed too"),
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
    let t = Thresholds::kubelet_defaults(true);
    let want = |signal| Threshold {
        signal,
        value: ThresholdValue::Bytes(100 << 20),
        grace_period: Duration::ZERO,
        min_reclaim: None,
    };
    assert_eq!(t.enforced, [want(Signal::MemoryAvailable), want(Signal::AllocatableMemoryAvailable)]);
    let resources: Vec<_> = t.resources.iter().map(|t| (t.signal.as_str(), t.value, t.is_hard())).collect();
    assert_eq!(
        resources,
        [
            ("imagefs.available", ThresholdValue::Share(0.15), true),
            ("imagefs.inodesFree", ThresholdValue::Share(0.05), true),
            ("nodefs.available", ThresholdValue::Share(0.1), true),
            ("nodefs.inodesFree", ThresholdValue::Share(0.05), true),
        ],
        "and none of process ids"
    );
    assert!(t.not_enforced.is_empty());
    assert_eq!(Thresholds::kubelet_defaults(false).enforced, [want(Signal::MemoryAvailable)]);
}

#[test]
fn signals_of_disks_and_process_ids() {
    let hard = map(&[
        ("nodefs.available", "0%"),
        ("imagefs.available", "100%"),
        ("imagefs.inodesFree", "10k"),
        ("containerfs.available", "5%"),
    ]);
    let soft = map(&[("nodefs.inodesFree", "5%"), ("pid.available", "10%")]);
    let minute = Duration::from_secs(60);
    let grace = ["nodefs.inodesFree", "pid.available"].map(|s| (s.to_owned(), minute)).into();
    let reclaim = map(&[("pid.available", "1%")]);
    let t = parse_thresholds(&hard, &soft, &grace, &reclaim, true).unwrap();
    assert_eq!(t.enforced, []);
    assert_eq!(t.not_enforced, ["containerfs.available"]);
    let threshold =
        |signal, value, grace_period, min_reclaim| Threshold { signal, value, grace_period, min_reclaim };
    let share = ThresholdValue::Share;
    assert_eq!(
        t.resources,
        [
            threshold(ResourceSignal::ImagefsInodesFree, ThresholdValue::Bytes(10_000), Duration::ZERO, None),
            threshold(ResourceSignal::NodefsInodesFree, share(0.05), minute, None),
            threshold(ResourceSignal::PidAvailable, share(0.1), minute, Some(share(0.01))),
        ],
        "what is switched off is not there"
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
        let t = parse_thresholds(hard, &map(&[]), &no_grace(), &map(&[]), enforced).unwrap();
        assert_eq!(allocatable(&t), want, "{hard:?} {enforced}");
    }
    // A soft threshold is not copied.
    let grace = [("memory.available".to_owned(), Duration::from_secs(60))].into();
    let t = parse_thresholds(&map(&[]), &node, &grace, &map(&[]), true).unwrap();
    assert_eq!(allocatable(&t), None);
}

#[test]
fn soft_thresholds_need_their_grace_period() {
    let soft = map(&[("memory.available", "200Mi")]);
    let error = parse_thresholds(&map(&[]), &soft, &no_grace(), &map(&[]), false).unwrap_err();
    let (field, signal) = ("evictionSoft", "memory.available".to_owned());
    assert_eq!(error, ThresholdError { field, signal, fault: Fault::NoGracePeriod });

    let grace = [("memory.available".to_owned(), Duration::from_secs(90))].into();
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
}

#[test]
fn an_unknown_signal_is_named_with_the_valid_ones() {
    let bad = map(&[("memory.free", "1Mi")]);
    let bad_grace = [("memory.free".to_owned(), Duration::from_secs(1))].into();
    let none = map(&[]);
    for (field, result) in [
        ("evictionHard", parse_thresholds(&bad, &none, &no_grace(), &none, false)),
        ("evictionSoft", parse_thresholds(&none, &bad, &no_grace(), &none, false)),
        ("evictionSoftGracePeriod", parse_thresholds(&none, &none, &bad_grace, &none, false)),
        ("evictionMinimumReclaim", parse_thresholds(&none, &none, &no_grace(), &bad, false)),
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
    fn any_text_is_read_or_refused(value in "\\PC{0,20}") {
        let _ = hard(&value);
    }
}
