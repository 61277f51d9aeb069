//! The Grafana dashboard of `packaging/`: what its panels ask.

use serde_json::Value;
use xtask::paths;

/// What a panel asks, with Grafana's variables filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub panel: String,
    pub expr: String,
}

/// `range`: for how long back, such as `5m`.
#[must_use]
pub fn queries(range: &str) -> Vec<Query> {
    let path = paths::repository().join("packaging/grafana/oomlet.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().expect("a dashboard has panels") {
        let title = panel["title"].as_str().expect("a panel has a title");
        let targets = panel["targets"].as_array().into_iter().flatten();
        queries.extend(targets.map(|target| {
            let expr = target["expr"].as_str().expect("a target has an expression");
            let expr =
                expr.replace("$__rate_interval", range).replace("$__range", range).replace("$node", ".*");
            assert!(!expr.contains('$'), "{title} has a variable that is not known here: {expr}");
            Query { panel: title.to_owned(), expr }
        }));
    }
    assert!(queries.len() >= 15, "only {} queries: has the dashboard's form changed?", queries.len());
    queries
}
