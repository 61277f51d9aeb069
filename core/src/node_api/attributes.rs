//! What a request asks leave for: a verb on a subresource of this node (pkg/kubelet/server/auth.go, with
//! KubeletFineGrainedAuthz, which is on since 1.33).

/// The API verb of a method; empty for those that have none, as `HEAD`.
#[must_use]
pub fn verb(method: &str) -> &'static str {
    match method {
        "POST" => "create",
        "GET" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

/// Any one of them will do; they are asked for in this order.
#[must_use]
pub fn subresources(path: &str) -> &'static [&'static str] {
    let is = |route: &str| is_below(route, path);
    if is("/allocatedPods") || is("/pods") || is("/runningpods") {
        &["pods", "proxy"]
    } else if is("/healthz") {
        &["healthz", "proxy"]
    } else if is("/configz") {
        &["configz", "proxy"]
    } else if is("/stats") {
        &["stats"]
    } else if is("/metrics") {
        &["metrics"]
    } else if is("/logs") {
        &["log"]
    } else if is("/checkpoint") {
        &["checkpoint"]
    } else if is("/statusz") {
        &["statusz"]
    } else if is("/flagz") {
        &["configz"]
    } else {
        &["proxy"]
    }
}

/// The path itself or something below it.
fn is_below(route: &str, path: &str) -> bool {
    path.strip_prefix(route).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// kubelet's words for a refusal.
#[must_use]
pub fn forbidden(user: &str, verb: &str, subresources: &[&str]) -> String {
    let all = subresources.join(" ");
    format!("Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[{all}])\n")
}

/// kubelet's words for an answer that the API server did not give.
#[must_use]
pub fn authorization_error(user: &str, verb: &str, subresource: &str) -> String {
    format!("Authorization error (user={user}, verb={verb}, resource=nodes, subresource={subresource})")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cases of kubelet's own table (pkg/kubelet/server/auth_test.go), and what lies beside them.
    #[test]
    fn routes_and_what_they_ask_leave_for() {
        for (path, expected) in [
            ("/", &["proxy"][..]),
            ("", &["proxy"]),
            ("/pods", &["pods", "proxy"]),
            ("/pods/", &["pods", "proxy"]),
            ("/podsx", &["proxy"]),
            ("/runningpods/", &["pods", "proxy"]),
            ("/runningpods", &["pods", "proxy"]),
            ("/healthz", &["healthz", "proxy"]),
            ("/healthz/syncloop", &["healthz", "proxy"]),
            ("/configz", &["configz", "proxy"]),
            ("/stats", &["stats"]),
            ("/stats/summary", &["stats"]),
            ("/statistics", &["proxy"]),
            ("/metrics", &["metrics"]),
            ("/metrics/cadvisor", &["metrics"]),
            ("/logs/", &["log"]),
            ("/logs/x", &["log"]),
            ("/checkpoint/ns/pod/c", &["checkpoint"]),
            ("/exec/ns/pod/c", &["proxy"]),
            ("/attach/ns/pod/c", &["proxy"]),
            ("/run/ns/pod/c", &["proxy"]),
            ("/portForward/ns/pod", &["proxy"]),
            ("/containerLogs/ns/pod/c", &["proxy"]),
            ("/debug/pprof/", &["proxy"]),
            // Not a way round: these are other paths for the router too.
            ("//pods", &["proxy"]),
            ("/PODS", &["proxy"]),
        ] {
            assert_eq!(subresources(path), expected, "{path}");
        }
        for (method, expected) in [("GET", "get"), ("POST", "create"), ("HEAD", ""), ("get", "")] {
            assert_eq!(verb(method), expected, "{method}");
        }
    }

    #[test]
    fn refusals_in_kubelets_words() {
        assert_eq!(
            forbidden("u", "get", &["pods", "proxy"]),
            "Forbidden (user=u, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"
        );
    }
}
