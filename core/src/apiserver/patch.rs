//! What differs between what the API server has and what it should have, as a strategic merge patch: the form in which two
//! writers of one object do not undo each other's part.

use serde_json::{Map, Value};

/// A list whose items the API server tells apart by this field (`patchMergeKey` in Kubernetes' types). Any other list is
/// written as a whole.
#[derive(Clone, Copy, Debug)]
pub struct MergeKey {
    pub list: &'static str,
    pub key: &'static str,
    /// Items that are gone are deleted by the patch; else they are somebody else's and stay.
    pub owned: bool,
}

/// `None`: nothing differs. `from` and `to` are objects; what is empty counts as not there, for the API server leaves it out.
#[must_use]
pub fn difference(from: &Value, to: &Value, merge_keys: &[MergeKey]) -> Option<Map<String, Value>> {
    let (from, to) = (pruned(from), pruned(to));
    let none = Map::new();
    let (from, to) = (from.as_object().unwrap_or(&none), to.as_object().unwrap_or(&none));
    let mut patch = Map::new();
    for (field, wanted) in to {
        let there = from.get(field);
        if there == Some(wanted) {
            continue;
        }
        let change = match merge_keys.iter().find(|m| m.list == field) {
            Some(by) => changed_items(there, wanted, *by),
            None => match (there, wanted) {
                (Some(Value::Object(_)), Value::Object(_)) => {
                    difference(there.unwrap_or(&Value::Null), wanted, merge_keys).map(Value::Object)
                }
                _ => Some(wanted.clone()),
            },
        };
        if let Some(change) = change {
            patch.insert(field.clone(), change);
        }
    }
    for (field, there) in from.iter().filter(|(field, _)| !to.contains_key(*field)) {
        match merge_keys.iter().find(|m| m.list == field) {
            Some(by) => {
                if let Some(change) = changed_items(Some(there), &Value::Array(Vec::new()), *by) {
                    patch.insert(field.clone(), change);
                }
            }
            None => {
                patch.insert(field.clone(), Value::Null);
            }
        }
    }
    (!patch.is_empty()).then_some(patch)
}

/// Items that are new or differ, whole, with a null for each field that the API server's item has and ours has not: it
/// would stay otherwise, for items are merged. And a deletion for each of ours that is gone.
fn changed_items(from: Option<&Value>, to: &Value, by: MergeKey) -> Option<Value> {
    let items = |list: Option<&Value>| list.and_then(Value::as_array).cloned().unwrap_or_default();
    let (from, to) = (items(from), items(Some(to)));
    let has = |list: &[Value], item: &Value| list.iter().any(|other| other[by.key] == item[by.key]);
    let differing = to.iter().filter(|item| !from.contains(item));
    let mut changed: Vec<Value> = differing
        .map(|item| {
            let mut item = item.clone();
            let there = from.iter().find(|other| other[by.key] == item[by.key]).and_then(Value::as_object);
            if let (Some(fields), Some(there)) = (item.as_object_mut(), there) {
                for field in there.keys() {
                    fields.entry(field.clone()).or_insert(Value::Null);
                }
            }
            item
        })
        .collect();
    if by.owned {
        let gone = from.iter().filter(|item| !has(&to, item));
        changed.extend(gone.map(|item| serde_json::json!({ "$patch": "delete", by.key: item[by.key] })));
    }
    (!changed.is_empty()).then_some(Value::Array(changed))
}

/// Without nulls and without objects and lists that are empty once that is done.
fn pruned(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().map(|(k, v)| (k.clone(), pruned(v))).filter(|(_, v)| !is_empty(v));
            Value::Object(kept.collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(pruned).collect()),
        other => other.clone(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const KEYS: &[MergeKey] = &[
        MergeKey { list: "conditions", key: "type", owned: false },
        MergeKey { list: "podIPs", key: "ip", owned: true },
    ];

    #[test]
    fn only_what_differs_is_written() {
        let cases = [
            (json!({}), json!({}), json!(null)),
            (json!({"a": 1, "state": {}}), json!({"a": 1, "state": null, "l": []}), json!(null)),
            (json!({"a": 1}), json!({"a": 2}), json!({"a": 2})),
            (json!({"a": 1, "b": 1}), json!({"b": 1}), json!({"a": null})),
            (json!({"m": {"x": 1, "y": 1}}), json!({"m": {"x": 2, "y": 1}}), json!({"m": {"x": 2}})),
            (json!({"l": [1, 2]}), json!({"l": [2]}), json!({"l": [2]})),
            (
                json!({"conditions": [{"type": "A", "status": "True"}, {"type": "Other"}]}),
                json!({"conditions": [{"type": "A", "status": "False"}]}),
                json!({"conditions": [{"type": "A", "status": "False"}]}),
            ),
            (
                json!({"conditions": [{"type": "A", "status": "True", "message": "m"}]}),
                json!({"conditions": [{"type": "A", "status": "True"}]}),
                json!({"conditions": [{"type": "A", "status": "True", "message": null}]}),
            ),
            (json!({"conditions": [{"type": "Other"}]}), json!({}), json!(null)),
            (
                json!({"podIPs": [{"ip": "1"}]}),
                json!({"podIPs": [{"ip": "2"}]}),
                json!({"podIPs": [{"ip": "2"}, {"$patch": "delete", "ip": "1"}]}),
            ),
            (
                json!({"podIPs": [{"ip": "1"}]}),
                json!({}),
                json!({"podIPs": [{"$patch": "delete", "ip": "1"}]}),
            ),
        ];
        for (from, to, expected) in cases {
            let patch = difference(&from, &to, KEYS).map_or(Value::Null, Value::Object);
            assert_eq!(patch, expected, "{from} -> {to}");
        }
    }
}
