//! A node's requests to the API server, by its audit log: each counted once, by what it was about.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How many of each kind, such as `patch pods/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests(pub BTreeMap<String, u64>);

impl Requests {
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// Those of one user, from one look at the log to the next.
#[derive(Debug)]
pub struct Counter {
    user: String,
    /// A watch is logged when it begins and once more when it ends.
    seen: BTreeSet<String>,
}

impl Counter {
    #[must_use]
    pub fn of_node(node: &str) -> Counter {
        Counter { user: format!("system:node:{node}"), seen: BTreeSet::new() }
    }

    /// What has been asked since the last call.
    pub fn take(&mut self, log: &[Value]) -> Requests {
        let mut requests = Requests::default();
        for entry in log.iter().filter(|entry| entry["user"]["username"] == self.user.as_str()) {
            let id = entry["auditID"].as_str().unwrap_or_default();
            if self.seen.insert(id.to_owned()) {
                *requests.0.entry(kind(entry)).or_default() += 1;
            }
        }
        requests
    }
}

fn kind(entry: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (verb, object) = (text(&entry["verb"]), &entry["objectRef"]);
    if !object["resource"].is_string() {
        return format!("{verb} {}", text(&entry["requestURI"]));
    }
    let subresource = object["subresource"].as_str().map(|sub| format!("/{sub}")).unwrap_or_default();
    let code = entry["responseStatus"]["code"].as_u64().filter(|code| *code >= 400);
    let refused = code.map(|code| format!(" ({code})")).unwrap_or_default();
    format!("{verb} {}{subresource}{refused}", text(&object["resource"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_request_of_the_node_counts_once() {
        let entry = |id: &str, user: &str, stage: &str, verb: &str, resource: Value| {
            json!({
                "auditID": id, "stage": stage, "verb": verb, "user": { "username": user },
                "objectRef": resource, "requestURI": "/healthz", "responseStatus": { "code": 200 },
            })
        };
        let node = "system:node:n";
        let pods = || json!({ "resource": "pods" });
        let log = [
            entry("1", node, "ResponseStarted", "watch", pods()),
            entry("2", "admin", "ResponseComplete", "list", pods()),
            entry(
                "3",
                node,
                "ResponseComplete",
                "patch",
                json!({ "resource": "pods", "subresource": "status" }),
            ),
            entry("4", node, "ResponseComplete", "get", Value::Null),
        ];
        let mut counter = Counter::of_node("n");
        let first = counter.take(&log);
        let expected = [("get /healthz", 1), ("patch pods/status", 1), ("watch pods", 1)];
        assert_eq!(first.0, expected.map(|(kind, n)| (kind.to_owned(), n)).into());
        assert_eq!(first.total(), 3);
        let ended = entry("1", node, "ResponseComplete", "watch", pods());
        assert_eq!(counter.take(&[log[0].clone(), ended]).total(), 0, "the end of a watch that was counted");
    }
}
