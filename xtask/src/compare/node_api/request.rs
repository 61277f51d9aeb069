//! What the node's API is asked: every route that kubelet has (pkg/kubelet/server/server.go), and what lies beside them.

/// One request, without a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub method: &'static str,
    pub path: String,
    pub headers: &'static [&'static str],
}

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// `$` is a namespace and a pod in it.
const ROUTES: [&str; 23] = [
    "/",
    "/healthz",
    "/healthz/ping",
    "/pods",
    "/stats/summary",
    "/metrics",
    "/metrics/cadvisor",
    "/metrics/resource",
    "/metrics/probes",
    "/metrics/slis",
    "/configz",
    "/runningpods/",
    "/logs/",
    "/containerLogs/$/app",
    "/run/$/app?cmd=true",
    "/exec/$/app?command=true&output=1",
    "/attach/$/app?output=1",
    "/portForward/$",
    "/checkpoint/$/none",
    "/debug/pprof/",
    "/debug/flags/v",
    "/statusz",
    "/nowhere",
];

/// Of the same routes: what is wrong with a request, and other ways to write one.
const READ: [&str; 70] = [
    "/healthz/",
    "/healthz/log",
    "/healthz/syncloop",
    "/healthz/none",
    "/healthz?verbose",
    "/healthz?verbose&exclude=ping",
    "/healthz?verbose&exclude=none",
    "/pods/",
    "/podsx",
    "/allocatedPods",
    "/allocatedPods/$",
    "/stats",
    "/stats/",
    "/stats/none",
    "/stats/summary/",
    "/stats/summary?only_cpu_and_memory=true",
    "/metrics/",
    "/metrics/none",
    "/metrics/cadvisor/",
    "/configz/",
    "/flagz",
    "/runningpods",
    "/logs",
    "/logs/none",
    "/logs/apt",
    "/logs/apt/",
    "/logs/dpkg.log",
    "/logs/../etc/passwd",
    "/logs/%2e%2e/etc/passwd",
    "/logs/?query=none",
    "/containerLogs",
    "/containerLogs/$",
    "/containerLogs/$/app/",
    "/containerLogs/$/first",
    "/containerLogs/$/none",
    "/containerLogs/$-none/app",
    "/containerLogs/none/none/app",
    "/containerLogs/$/app?tailLines=1&timestamps=true",
    "/containerLogs/$/app?tailLines=x",
    "/containerLogs/$/app?tailLines=-1",
    "/containerLogs/$/app?tail=all&limitBytes=10",
    "/containerLogs/$/app?previous=true",
    "/containerLogs/$/app?stream=Stderr",
    "/containerLogs/$/app?stream=stderr",
    "/containerLogs/$/app?limitBytes=0",
    "/containerLogs/$/app?sinceTime=yesterday",
    "/containerLogs/$/app?sinceSeconds=1&sinceTime=2026-01-02T03:04:05Z",
    "/run",
    "/exec",
    "/exec/$",
    "/exec/$/app",
    "/exec/$/app?command=true&output=true",
    "/exec/$/none?command=true&output=1",
    "/exec/$-none/app?command=true&output=1",
    "/exec/$/another-uid/app?command=true&output=1",
    "/attach/$/none?output=1",
    "/attach/$-none/app?output=1",
    "/attach/$/another-uid/app?output=1",
    "/portForward",
    "/portForward/$-none",
    "/portForward/$/another-uid",
    "/checkpoint/$/app",
    "/debug/pprof",
    "/debug/pprof/cmdline",
    "//pods",
    "/pods//",
    "/pods/../configz",
    "/./pods",
    "/PODS",
    "/%70ods",
];

const POSTED: [&str; 14] = [
    "/run/$/app?cmd=false",
    "/run/$/app?cmd=echo%20hello",
    "/run/$/app?cmd=/nonexistent",
    "/run/$/app",
    "/run/$/none?cmd=true",
    "/run/$-none/app?cmd=true",
    "/run/$/another-uid/app?cmd=true",
    "/exec/$/none?command=true&output=1",
    "/portForward/$-none",
    "/checkpoint/$/app",
    "/checkpoint/$/app?timeout=x",
    "/checkpoint/$-none/app",
    "/checkpoint/none/none/none",
    "//run/$/app?cmd=true",
];

const SPDY: &[&str] =
    &["Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v4.channel.k8s.io"];
const SPDY_FORWARD: &[&str] =
    &["Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: portforward.k8s.io"];
const SPDY_UNKNOWN: &[&str] = &["Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v99"];
const WEBSOCKET: &[&str] = &[
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol: v4.channel.k8s.io",
];
/// What an API server sends to a node that declares ExtendWebSocketsToKubelet, and to no other.
const WEBSOCKET_V5: &[&str] = &[
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol: v5.channel.k8s.io",
];
const WEBSOCKET_TUNNEL: &[&str] = &[
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io",
];

const UPGRADES: [(&str, &[&str]); 9] = [
    ("/exec/$/app?command=true&output=1", SPDY),
    ("/exec/$/app?command=true&output=1", SPDY_UNKNOWN),
    ("/exec/$/app?command=true&output=1", WEBSOCKET),
    ("/exec/$/app?command=true&output=1", WEBSOCKET_V5),
    ("/attach/$/app?output=1", SPDY),
    ("/attach/$/app?output=1", WEBSOCKET),
    ("/portForward/$", SPDY_FORWARD),
    ("/portForward/$?port=80", WEBSOCKET),
    ("/portForward/$", WEBSOCKET_TUNNEL),
];

impl Request {
    /// Each of the routes, with these methods.
    pub fn of(routes: &[&str], methods: &[&'static str]) -> Vec<Request> {
        let each = routes.iter().flat_map(|path| methods.iter().map(move |method| (*method, *path)));
        each.map(|(method, path)| Request { method, path: path.to_owned(), headers: &[] }).collect()
    }

    /// For somebody who may do all of it.
    pub fn all(namespace: &str, pod: &str) -> Vec<Request> {
        let mut all = Request::of(&ROUTES, &METHODS);
        all.extend(Request::of(&READ, &["GET"]));
        all.extend(Request::of(&POSTED, &["POST"]));
        all.extend(UPGRADES.iter().map(|(path, headers)| {
            // kubectl posts, and a WebSocket begins with GET.
            let method = if headers.contains(&"Upgrade: websocket") { "GET" } else { "POST" };
            Request { method, path: (*path).to_owned(), headers }
        }));
        Request::about(all, namespace, pod)
    }

    /// For the others.
    pub fn few(namespace: &str, pod: &str) -> Vec<Request> {
        let mut few = Request::of(&ROUTES, &["GET", "POST"]);
        few.extend(Request::of(&["/healthz", "/pods", "/metrics", "/nowhere"], &["HEAD"]));
        few.extend(Request::of(&["//pods", "/pods/../configz", "/stats", "/logs"], &["GET"]));
        Request::about(few, namespace, pod)
    }

    fn about(mut all: Vec<Request>, namespace: &str, pod: &str) -> Vec<Request> {
        for request in &mut all {
            request.path = request.path.replace('$', &format!("{namespace}/{pod}"));
        }
        all
    }

    pub fn is_upgrade(&self) -> bool {
        !self.headers.is_empty()
    }

    /// Such as `GET /pods`, `POST /exec/a/b/c as v4.channel.k8s.io by SPDY/3.1`.
    pub fn name(&self) -> String {
        let value =
            |name: &str| self.headers.iter().find_map(|header| header.strip_prefix(name)).map(str::trim);
        let mut name = format!("{} {}", self.method, self.path);
        if let Some(by) = value("Upgrade:") {
            let protocol = value("X-Stream-Protocol-Version:").or(value("Sec-WebSocket-Protocol:"));
            name += &format!(" as {} by {by}", protocol.unwrap_or_default());
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_is_asked_once_and_named() {
        for requests in [Request::all("ns", "pod"), Request::few("ns", "pod")] {
            let names: BTreeSet<String> = requests.iter().map(Request::name).collect();
            assert_eq!(names.len(), requests.len());
            assert!(names.iter().all(|name| !name.contains('$')));
        }
        let names: Vec<String> = Request::all("ns", "pod").iter().map(Request::name).collect();
        let upgrade = "POST /exec/ns/pod/app?command=true&output=1 as v4.channel.k8s.io by SPDY/3.1";
        assert!(names.iter().any(|name| name == upgrade), "{names:#?}");
    }
}
