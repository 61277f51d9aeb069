//! The dashboard and the alert rules of `packaging/`, as promtool sees them. `tests/cluster` asks the dashboard's queries of a
//! Prometheus that scrapes a node.

use oomlet_tests::dashboard;
use serde_json::json;
use xtask::paths;
use xtask::prometheus::promtool;

#[test]
fn the_alert_rules_are_valid_and_fire_for_what_they_are_there_for() {
    let path = |name: &str| paths::repository().join(name).display().to_string();
    promtool(&["check", "rules", &path("packaging/prometheus/oomlet.rules.yaml")], "").unwrap();
    promtool(&["test", "rules", &path("tests/prometheus/alerts.test.yaml")], "").unwrap();
    // A rule that no test asks for could say anything.
    let tests = std::fs::read_to_string(path("tests/prometheus/alerts.test.yaml")).unwrap();
    let rules = std::fs::read_to_string(path("packaging/prometheus/oomlet.rules.yaml")).unwrap();
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 5, "{alerts:?}");
    for alert in alerts {
        assert!(tests.matches(&format!("alertname: {alert}\n")).count() > 0, "{alert} has no test");
    }
}

#[test]
fn the_dashboards_queries_are_promql() {
    let rules: Vec<_> = dashboard::queries("5m")
        .into_iter()
        .enumerate()
        .map(|(number, query)| json!({ "record": format!("query:{number}"), "expr": query.expr }))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dashboard.yaml");
    let check = |rules: &[serde_json::Value]| {
        let text = json!({ "groups": [{ "name": "dashboard", "rules": rules }] }).to_string();
        std::fs::write(&file, text).unwrap();
        promtool(&["check", "rules", file.to_str().unwrap()], "")
    };
    check(&rules).unwrap();
    let wrong = json!({ "record": "query:x", "expr": "sum by (le (rate(x[5m]))" });
    assert!(check(&[rules, vec![wrong]].concat()).is_err(), "promtool tells a query that is none");
}
