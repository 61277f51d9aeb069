//! Which pod goes first. Owns the order for memory, as kubelet's `rankMemoryPressure` has it, and one rule of our
//! own about a single runaway pod. Reads candidates and their working sets, emits them in order of eviction.

use std::cmp::Reverse;

use super::Candidate;
use crate::pod::PodUid;
use crate::quantity::format_bytes;

/// A pod that accounts for this share of the growth is alone responsible for it.
pub const RUNAWAY_SHARE: f64 = 0.8;

/// A candidate with its numbers.
#[derive(Clone, Copy, Debug)]
pub struct Ranked<'a> {
    pub candidate: &'a Candidate,
    pub working_set_bytes: u64,
}

impl Ranked<'_> {
    fn over_request(&self) -> i128 {
        i128::from(self.working_set_bytes) - i128::from(self.candidate.memory_request_bytes)
    }
}

/// Why the first of them is the first, as the sentence of a message.
#[must_use]
pub fn why_first(ranked: &[Ranked<'_>], runaway: Option<&PodUid>) -> String {
    let Some(first) = ranked.first() else { return String::new() };
    let over = first.over_request();
    let why = if over > 0 && runaway == Some(&first.candidate.pod.uid) {
        "it alone makes the growth".to_owned()
    } else {
        // Bytes of memory fit.
        let by = format_bytes(u64::try_from(over.unsigned_abs()).unwrap_or(u64::MAX) >> 20 << 20);
        let side = if over > 0 { "over its request by" } else { "within its request by" };
        format!("{side} {by}, priority {}", first.candidate.priority)
    };
    match ranked.len() {
        1 => "No other pod can go. ".to_owned(),
        pods => format!("First of {pods} pods: {why}. "),
    }
}

/// The pods that may be evicted, first to go first: those over their request; then lower priority; then the
/// largest use over request; then by UID, so that the same numbers always give the same answer.
///
/// `runaway` goes before all others if it is over its request. Within its request it is using what it was promised,
/// and kubelet's order holds.
///
/// Left out are critical pods, and pods without numbers: kubelet evicts those first, but a pod whose cgroup cannot
/// be read holds nothing that evicting it would give back.
pub fn rank<'a>(
    candidates: impl IntoIterator<Item = &'a Candidate>,
    working_set_bytes: impl Fn(&PodUid) -> Option<u64>,
    runaway: Option<&PodUid>,
) -> Vec<Ranked<'a>> {
    let mut ranked: Vec<_> = candidates
        .into_iter()
        .filter(|c| !c.critical)
        .filter_map(|candidate| {
            let working_set_bytes = working_set_bytes(&candidate.pod.uid)?;
            Some(Ranked { candidate, working_set_bytes })
        })
        .collect();
    ranked.sort_by_cached_key(|r| {
        let over = r.over_request();
        let is_runaway = over > 0 && runaway == Some(&r.candidate.pod.uid);
        (!is_runaway, over <= 0, r.candidate.priority, Reverse(over), r.candidate.pod.uid.clone())
    });
    ranked
}

/// The pod that alone is responsible for a domain's growth, if one is. `growth` is in bytes per second for each pod;
/// `domain_growth` is that of the whole domain over the same time, which may be more than the pods' (the node's own
/// daemons grow too).
pub fn runaway<'a>(
    growth: impl IntoIterator<Item = (&'a PodUid, f64)>,
    domain_growth: f64,
) -> Option<&'a PodUid> {
    let (mut sum, mut most) = (0.0, None::<(&PodUid, f64)>);
    for (uid, rate) in growth {
        sum += rate;
        if most.is_none_or(|(_, m)| rate > m) {
            most = Some((uid, rate));
        }
    }
    let whole = domain_growth.max(sum);
    most.filter(|(_, rate)| *rate > 0.0 && *rate >= RUNAWAY_SHARE * whole).map(|(uid, _)| uid)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::pod::PodRef;
    use crate::pod::qos::QosClass;

    fn candidate(name: &str, priority: i32, request: u64, critical: bool) -> Candidate {
        Candidate {
            pod: PodRef { uid: PodUid::from(name), namespace: "default".into(), name: name.into() },
            priority,
            critical,
            memory_request_bytes: request,
            grace_period: Duration::from_secs(30),
            qos: QosClass::Burstable,
            containers: vec![],
        }
    }

    /// Name, priority, request, critical, working set.
    type Row = (&'static str, i32, u64, bool, Option<u64>);

    fn order(rows: &[Row], runaway: Option<&str>) -> String {
        let candidates: Vec<_> = rows.iter().map(|r| candidate(r.0, r.1, r.2, r.3)).collect();
        let usage: HashMap<_, _> = rows.iter().map(|r| (PodUid::from(r.0), r.4)).collect();
        let runaway = runaway.map(PodUid::from);
        let ranked = rank(&candidates, |uid| usage[uid], runaway.as_ref());
        ranked.iter().map(|r| r.candidate.pod.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn why_it_is_the_first() {
        let uid = PodUid::from("a");
        for (priority, request_mib, runaway, expected) in [
            (0, 10, None, "First of 2 pods: over its request by 90Mi, priority 0. "),
            (-5, 300, None, "First of 2 pods: within its request by 200Mi, priority -5. "),
            (0, 10, Some(&uid), "First of 2 pods: it alone makes the growth. "),
        ] {
            let first = candidate("a", priority, request_mib << 20, false);
            let other = candidate("b", 0, 0, false);
            let ranked = [(&first, 100 << 20), (&other, 0)]
                .map(|(candidate, working_set_bytes)| Ranked { candidate, working_set_bytes });
            assert_eq!(why_first(&ranked, runaway), expected);
            assert_eq!(why_first(&ranked[..1], runaway), "No other pod can go. ");
        }
        assert_eq!(why_first(&[], None), "");
    }

    #[test]
    fn kubelets_order() {
        let n = false;
        for (rows, want) in [
            (&[("a", 0, 100, n, Some(90)), ("b", 0, 10, n, Some(20))][..], "b a"),
            (&[("a", 9, 10, n, Some(500)), ("b", 0, 10, n, Some(20))], "b a"),
            (&[("a", 0, 10, n, Some(500)), ("b", 0, 600, n, Some(900))], "a b"),
            (&[("a", 0, 10, n, Some(500)), ("b", 0, 300, n, Some(900))], "b a"),
            (&[("b", 0, 0, n, Some(5)), ("a", 0, 0, n, Some(5))], "a b"),
            (&[("a", 9, 100, n, Some(10)), ("b", 0, 100, n, Some(99))], "b a"),
            (&[("a", 0, 0, true, Some(500)), ("b", 0, 0, n, None), ("c", 0, 0, n, Some(1))], "c"),
        ] {
            assert_eq!(order(rows, None), want, "{rows:?}");
        }
    }

    #[test]
    fn a_runaway_goes_first_unless_it_keeps_to_its_request() {
        let rows = [("hog", 9, 50, false, Some(200)), ("idle", 0, 0, false, Some(5))];
        assert_eq!(order(&rows, None), "idle hog");
        assert_eq!(order(&rows, Some("hog")), "hog idle");
        let rows = [("hog", 9, 300, false, Some(200)), ("idle", 0, 0, false, Some(5))];
        assert_eq!(order(&rows, Some("hog")), "idle hog");
        let rows = [("hog", 9, 50, true, Some(200)), ("idle", 0, 0, false, Some(5))];
        assert_eq!(order(&rows, Some("hog")), "idle");
    }

    #[test]
    fn who_is_alone_responsible() {
        let (a, b) = (PodUid::from("a"), PodUid::from("b"));
        for (growth_a, growth_b, domain, want) in [
            (100.0, 5.0, 105.0, Some(&a)),
            (100.0, 30.0, 130.0, None),
            (5.0, 100.0, 0.0, Some(&b)),
            (10.0, 0.0, 100.0, None),
            (0.0, 0.0, 0.0, None),
        ] {
            let got = runaway([(&a, growth_a), (&b, growth_b)], domain);
            assert_eq!(got, want, "{growth_a} {growth_b} {domain}");
        }
        assert_eq!(runaway([], 5.0), None);
    }

    proptest! {
        #[test]
        fn the_order_does_not_depend_on_the_input_order(
            rows in prop::collection::vec((0i32..3, 0u64..5, 0u64..8), 1..12).prop_shuffle()
        ) {
            let make = |i: usize| candidate(&format!("p{i:02}"), rows[i].0, rows[i].1, false);
            let forward: Vec<_> = (0..rows.len()).map(make).collect();
            let backward: Vec<_> = (0..rows.len()).rev().map(make).collect();
            let usage = |uid: &PodUid| uid.as_str()[1..].parse::<usize>().ok().map(|i| rows[i].2);
            let names = |c: &[Candidate]| -> Vec<String> {
                rank(c, usage, None).iter().map(|r| r.candidate.pod.name.clone()).collect()
            };
            prop_assert_eq!(names(&forward), names(&backward));
        }
    }
}
