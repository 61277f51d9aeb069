//! By which words requests to the node's API are counted (pkg/kubelet/server/server.go, getMetricBucket): a caller cannot make
//! new ones.

/// The first part of the path, and of metrics the first two.
const PATHS: [&str; 17] = [
    "attach",
    "checkpoint",
    "configz",
    "containerLogs",
    "debug",
    "exec",
    "healthz",
    "logs",
    "metrics",
    "metrics/cadvisor",
    "metrics/probes",
    "metrics/resource",
    "pods",
    "portForward",
    "run",
    "runningpods",
    "stats",
];
const METHODS: [&str; 8] = ["OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT"];
const OTHER: &str = "other";

#[must_use]
pub fn path(path: &str) -> &'static str {
    let path = path.strip_prefix('/').unwrap_or(path);
    let mut slashes = path.match_indices('/').map(|(at, _)| at);
    let first = slashes.next().unwrap_or(path.len());
    let end = if &path[..first] == "metrics" { slashes.next().unwrap_or(path.len()) } else { first };
    PATHS.into_iter().find(|known| *known == &path[..end]).unwrap_or(OTHER)
}

#[must_use]
pub fn method(method: &str) -> &'static str {
    METHODS.into_iter().find(|known| *known == method).unwrap_or(OTHER)
}

/// Of a bucket of [`path`]. kubelet means port forwarding too and writes it otherwise.
#[must_use]
pub fn is_long_running(bucket: &str) -> bool {
    matches!(bucket, "exec" | "attach" | "debug")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_by_words_that_are_known() {
        for (asked, expected) in [
            ("/pods", "pods"),
            ("/pods/", "pods"),
            ("/podsx", "other"),
            ("/exec/ns/pod/c", "exec"),
            ("/metrics", "metrics"),
            ("/metrics/", "other"),
            ("/metrics/cadvisor", "metrics/cadvisor"),
            ("/metrics/cadvisor/x", "metrics/cadvisor"),
            ("/metrics/slis", "other"),
            ("/stats/summary", "stats"),
            ("//pods", "other"),
            ("/", "other"),
            ("", "other"),
            ("*", "other"),
        ] {
            assert_eq!(path(asked), expected, "{asked}");
        }
        assert_eq!([method("GET"), method("PATCH"), method("get")], ["GET", "other", "other"]);
        assert_eq!(["exec", "portForward", "pods"].map(is_long_running), [true, false, false]);
    }
}
