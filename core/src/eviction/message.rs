//! The message of an evicted pod, in kubelet's wording (`evictionMessage`, pkg/kubelet/eviction/helpers.go), which
//! people and scripts look for in `status.message` and in Events; between its sentences, how long memory would have lasted
//! and why it is this pod.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Candidate, Numbers, StalledFor};
use crate::quantity::format_bytes;

/// `why_first` as [`super::ranking::why_first`] has it; `container_usage` gives the working set of a container where it is
/// known.
#[must_use]
pub fn eviction_message(
    candidate: &Candidate,
    numbers: &Numbers,
    why_first: &str,
    container_usage: impl Fn(&str) -> Option<u64>,
) -> String {
    let mut text = match numbers.stalled {
        Some(StalledFor { pod: true, .. }) => "The pod was low on resource: memory. ",
        _ => "The node was low on resource: memory. ",
    }
    .to_owned();
    if let Some(StalledFor { per_mille, window, .. }) = numbers.stalled {
        let (per_cent, tenth, window) = (per_mille / 10, per_mille % 10, short(window));
        let _ = write!(text, "All tasks waited for memory for {per_cent}.{tenth} % of the last {window}. ");
    } else if let Some(threshold) = numbers.threshold_bytes {
        let (threshold, available) = (format_bytes(threshold), format_bytes(numbers.available_bytes));
        let _ = write!(text, "Threshold quantity: {threshold}, available: {available}. ");
    }
    if let (Some(left), None) = (numbers.time_to_oom, numbers.stalled) {
        let (headroom, rate) =
            (format_bytes(numbers.headroom_bytes), format_bytes(numbers.fast_rate_bytes_per_s >> 20 << 20));
        let left = short(left);
        let _ =
            write!(text, "Forecast: {headroom} left, growing by {rate} a second, out of memory in {left}. ");
    }
    text.push_str(why_first);
    for c in &candidate.containers {
        if let Some(usage) = container_usage(&c.name)
            && usage > c.memory_request_bytes
        {
            let (name, usage, request) = (&c.name, format_bytes(usage), format_bytes(c.memory_request_bytes));
            let _ = write!(
                text,
                "Container {name} was using {usage}, request is {request}, has larger consumption of memory. "
            );
        }
    }
    text
}

pub(super) fn short(d: Duration) -> String {
    if d < Duration::from_secs(1) {
        format!("{} ms", d.as_millis())
    } else {
        format!("{:.1} s", d.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::ContainerUse;
    use crate::pod::qos::QosClass;
    use crate::pod::{PodRef, PodUid};

    #[test]
    fn messages() {
        let container = |name: &str, request| ContainerUse {
            name: name.into(),
            memory_request_bytes: request,
            usage_bytes: None,
        };
        let candidate = Candidate {
            pod: PodRef { uid: PodUid::from("u"), namespace: "n".into(), name: "p".into() },
            priority: 0,
            critical: false,
            memory_request_bytes: 0,
            grace_period: Duration::ZERO,
            qos: QosClass::BestEffort,
            containers: vec![container("hog", 0), container("small", 50 << 20), container("unknown", 0)],
        };
        let usage = |name: &str| match name {
            "hog" => Some(200 << 20),
            "small" => Some(10 << 20),
            _ => None,
        };
        let met =
            Numbers { threshold_bytes: Some(100 << 20), available_bytes: 95 << 20, ..Numbers::default() };
        assert_eq!(
            eviction_message(&candidate, &met, "First of 3 pods: because. ", usage),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 95Mi. \
             First of 3 pods: because. Container hog was using 200Mi, request is 0, has larger consumption of memory. "
        );
        let ahead = Numbers {
            headroom_bytes: 120 << 20,
            fast_rate_bytes_per_s: (480 << 20) + 123,
            time_to_oom: Some(Duration::from_millis(250)),
            ..Numbers::default()
        };
        assert_eq!(
            eviction_message(&candidate, &ahead, "", |_| None),
            "The node was low on resource: memory. Forecast: 120Mi left, growing by 480Mi a second, out of memory in 250 ms. "
        );
        let both = Numbers { threshold_bytes: Some(130 << 20), available_bytes: 120 << 20, ..ahead };
        assert_eq!(
            eviction_message(&candidate, &both, "", |_| None),
            "The node was low on resource: memory. Threshold quantity: 130Mi, available: 120Mi. \
             Forecast: 120Mi left, growing by 480Mi a second, out of memory in 250 ms. "
        );
        let window = Duration::from_secs(10);
        for (pod, whose) in [(false, "node"), (true, "pod")] {
            let stalled = Some(StalledFor { per_mille: 457, window, pod });
            assert_eq!(
                eviction_message(&candidate, &Numbers { stalled, ..Numbers::default() }, "", |_| None),
                format!(
                    "The {whose} was low on resource: memory. All tasks waited for memory for 45.7 % of the last 10.0 s. "
                )
            );
        }
    }
}
