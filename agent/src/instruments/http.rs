//! Requests to the node's own API.

use std::time::{Duration, Instant};

use prometheus::{GaugeVec, HistogramVec, IntCounterVec};

use super::registered::{DEFAULT_BUCKETS, Registered};

#[derive(Clone, Debug)]
pub struct HttpRequests {
    total: IntCounterVec,
    duration: HistogramVec,
    in_flight: GaugeVec,
}

impl Default for HttpRequests {
    fn default() -> HttpRequests {
        HttpRequests::new(&Registered::nowhere())
    }
}

/// What is told of a request: `method` and `path` are words that are known, `server` is `readwrite` or `readonly`.
#[derive(Clone, Copy, Debug)]
pub struct RequestTo {
    pub method: &'static str,
    pub path: &'static str,
    pub server: &'static str,
    pub long_running: bool,
}

impl RequestTo {
    fn labels(self) -> [&'static str; 4] {
        [self.method, self.path, self.server, if self.long_running { "true" } else { "false" }]
    }
}

impl HttpRequests {
    #[must_use]
    pub fn new(on: &Registered) -> HttpRequests {
        let labels = &["method", "path", "server_type", "long_running"];
        HttpRequests {
            total: on.counters(
                "kubelet_http_requests_total",
                "[ALPHA] Number of the http requests received since the server started",
                labels,
            ),
            duration: on.histograms(
                "kubelet_http_requests_duration_seconds",
                "[ALPHA] Duration in seconds to serve http requests",
                labels,
                &DEFAULT_BUCKETS,
            ),
            in_flight: on.gauges(
                "kubelet_http_inflight_requests",
                "[ALPHA] Number of the inflight http requests",
                labels,
            ),
        }
    }

    /// It is under way for as long as the answer lives.
    #[must_use]
    pub fn begun(&self, to: RequestTo) -> InFlight {
        self.total.with_label_values(&to.labels()).inc();
        self.in_flight.with_label_values(&to.labels()).inc();
        InFlight { requests: self.clone(), to, begun: Instant::now() }
    }

    fn ended(&self, to: RequestTo, took: Duration) {
        self.in_flight.with_label_values(&to.labels()).dec();
        self.duration.with_label_values(&to.labels()).observe(took.as_secs_f64());
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct InFlight {
    requests: HttpRequests,
    to: RequestTo,
    begun: Instant,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.requests.ended(self.to, self.begun.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_under_way_until_its_end() {
        let requests = HttpRequests::default();
        let to = RequestTo { method: "GET", path: "exec", server: "readwrite", long_running: true };
        let under_way = requests.begun(to);
        let told = || {
            let labels = &to.labels();
            let in_flight = requests.in_flight.with_label_values(labels).get();
            (in_flight, requests.duration.with_label_values(labels).get_sample_count())
        };
        assert_eq!(told(), (1.0, 0));
        drop(under_way);
        assert_eq!(told(), (0.0, 1));
        assert_eq!(requests.total.with_label_values(&to.labels()).get(), 1);
    }
}
