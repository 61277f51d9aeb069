//! The texts of flags as Go's flag types read them. Core.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::Kind;
use crate::duration;

/// The last text counts where the kind is one value; lists and maps add up.
pub(super) fn parse(kind: Kind, texts: &[String]) -> Result<Value, String> {
    let last = texts.last().map(String::as_str).unwrap_or_default();
    match kind {
        Kind::Bool => boolean(last).map(Value::from),
        Kind::Int => {
            last.parse::<i64>().map(Value::from).map_err(|_| format!("{last:?} is not a whole number"))
        }
        Kind::Text => Ok(last.into()),
        Kind::Duration => duration::parse(last).map(|_| Value::from(last)).map_err(|error| error.to_string()),
        Kind::Ip => last
            .trim()
            .parse::<IpAddr>()
            .map(|ip| ip.to_string().into())
            .map_err(|_| format!("{last:?} is not an IP address")),
        Kind::List => Ok(items(texts).collect::<Vec<_>>().into()),
        Kind::Map => parse_pairs(texts, '=').map(|map| json!(map)),
        Kind::LessThanMap => parse_pairs(texts, '<').map(|map| json!(map)),
        Kind::BoolMap => {
            let of = |(gate, text): (String, String)| Ok((gate, boolean(&text)?.into()));
            parse_pairs(texts, '=')?
                .into_iter()
                .map(of)
                .collect::<Result<Map<_, _>, String>>()
                .map(Value::from)
        }
        Kind::MultiMap => {
            let mut lists: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for item in items(texts) {
                let (name, value) = pair(item, ':')?;
                lists.entry(name).or_default().push(value);
            }
            Ok(json!(lists))
        }
        Kind::Taints => items(texts).map(taint).collect::<Result<Vec<_>, _>>().map(Value::from),
    }
}

/// `a=1,b=2` of all texts; of a key that comes twice the last counts.
///
/// # Errors
/// An item without the separator.
pub fn parse_pairs(texts: &[String], separator: char) -> Result<BTreeMap<String, String>, String> {
    items(texts).map(|item| pair(item, separator)).collect()
}

/// strconv.ParseBool's words.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

fn items(texts: &[String]) -> impl Iterator<Item = &str> {
    texts.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|item| !item.is_empty())
}

fn pair(item: &str, separator: char) -> Result<(String, String), String> {
    let (key, value) = item
        .split_once(separator)
        .ok_or_else(|| format!("{item:?} must be written as key{separator}value"))?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// `key=value:Effect` or `key:Effect`. What may stand in them is looked at with the configuration's other taints.
fn taint(item: &str) -> Result<Value, String> {
    let (name, effect) =
        item.rsplit_once(':').ok_or_else(|| format!("{item:?} must be written as key=value:Effect"))?;
    let (key, value) = match name.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (name, None),
    };
    let mut taint = json!({"key": key, "effect": effect});
    if let (Some(value), Some(fields)) = (value, taint.as_object_mut()) {
        fields.insert("value".to_owned(), value.into());
    }
    Ok(taint)
}
