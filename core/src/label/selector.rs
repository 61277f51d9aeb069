//! Label selectors as objects have them (`LabelSelectorAsSelector`, k8s.io/apimachinery/pkg/apis/meta/v1).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Whether the selector chooses what has these labels: `None` nothing, an empty one everything.
///
/// # Errors
/// An operator that there is not.
pub fn selects(selector: Option<&LabelSelector>, labels: &BTreeMap<String, String>) -> Result<bool, String> {
    let Some(selector) = selector else { return Ok(false) };
    let mut all = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    for wanted in selector.match_expressions.iter().flatten() {
        let value = labels.get(&wanted.key);
        let is_listed = value.is_some_and(|value| wanted.values.iter().flatten().any(|v| v == value));
        all &= match wanted.operator.as_str() {
            "In" => is_listed,
            "NotIn" => !is_listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            other => return Err(format!("{other:?} is not a valid label selector operator")),
        };
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_selected() {
        let labels =
            BTreeMap::from([("app".to_owned(), "web".to_owned()), ("tier".to_owned(), String::new())]);
        let expression = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (selector, want) in [
            (json!({}), Ok(true)),
            (json!({"matchLabels": {"app": "web", "tier": ""}}), Ok(true)),
            (json!({"matchLabels": {"app": "db"}}), Ok(false)),
            (json!({"matchLabels": {"other": ""}}), Ok(false)),
            (expression("app", "In", &["db", "web"]), Ok(true)),
            (expression("app", "In", &["db"]), Ok(false)),
            (expression("app", "NotIn", &["db"]), Ok(true)),
            // As with kubelet, also where the label is not there.
            (expression("other", "NotIn", &["db"]), Ok(true)),
            (expression("app", "NotIn", &["web"]), Ok(false)),
            (expression("tier", "Exists", &[]), Ok(true)),
            (expression("other", "Exists", &[]), Ok(false)),
            (expression("other", "DoesNotExist", &[]), Ok(true)),
            (expression("app", "DoesNotExist", &[]), Ok(false)),
            (
                expression("app", "Near", &[]),
                Err("\"Near\" is not a valid label selector operator".to_owned()),
            ),
        ] {
            let parsed = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(selects(Some(&parsed), &labels), want, "{selector}");
        }
        assert_eq!(selects(None, &labels), Ok(false));
    }
}
