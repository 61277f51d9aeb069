//! Files of the downward API: a field of the pod, its labels or annotations, an amount of a container's resources
//! (pkg/volume/downwardapi, pkg/fieldpath).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, Pod};

use super::payload::{File, PayloadError, cleaned, mode};
use crate::pod::env::{EnvFacts, metadata_field, resource_field};

/// # Errors
/// Every file whose content is not to be had.
pub fn files(
    items: &[DownwardAPIVolumeFile],
    default_mode: i32,
    pod: &Pod,
    node: &EnvFacts,
) -> Result<BTreeMap<String, File>, PayloadError> {
    let (mut files, mut errors) = (BTreeMap::new(), Vec::new());
    for item in items {
        match content(item, pod, node) {
            Ok(text) => {
                let file = File {
                    data: sorted_lines(&text).into_bytes(),
                    mode: mode(item.mode, default_mode),
                    owner: None,
                };
                // A path that is no path at all is the last check's to refuse.
                let clean = cleaned(&item.path);
                let path = if item.path.starts_with('/') || clean.is_empty() { &item.path } else { &clean };
                files.insert(path.clone(), file);
            }
            Err(error) => errors.push(PayloadError::Downward(error)),
        }
    }
    match PayloadError::all(errors) {
        Some(error) => Err(error),
        None => Ok(files),
    }
}

fn content(item: &DownwardAPIVolumeFile, pod: &Pod, node: &EnvFacts) -> Result<String, String> {
    if let Some(field) = &item.field_ref {
        return match field.field_path.as_str() {
            "metadata.labels" => Ok(map(pod.metadata.labels.as_ref())),
            "metadata.annotations" => Ok(map(pod.metadata.annotations.as_ref())),
            path => metadata_field(path, pod).ok_or_else(|| format!("unsupported fieldPath: {path}")),
        };
    }
    if let Some(resource) = &item.resource_field_ref {
        let name = resource.container_name.as_deref().unwrap_or_default();
        return resource_field(resource, pod, name, node)
            .map_err(|error| format!("file {:?}: {error}", item.path));
    }
    Ok(String::new())
}

/// `key="value"`, one a line.
fn map(map: Option<&BTreeMap<String, String>>) -> String {
    let mut text = String::new();
    for (key, value) in map.into_iter().flatten() {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(key);
        text.push('=');
        quote(value, &mut text);
    }
    text
}

fn sorted_lines(text: &str) -> String {
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Go's `%q`.
fn quote(value: &str, out: &mut String) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if is_printable(c) => out.push(c),
            // Writing to a String does not fail.
            c if u32::from(c) < 0x80 => _ = write!(out, "\\x{:02x}", u32::from(c)),
            c if u32::from(c) < 0x1_0000 => _ = write!(out, "\\u{:04x}", u32::from(c)),
            c => _ = write!(out, "\\U{:08x}", u32::from(c)),
        }
    }
    out.push('"');
}

/// Go's `unicode.IsPrint`, by what Rust's own quoting leaves as it is. The `a` before it: a combining mark is printable,
/// and Rust escapes one at the start of a text alone.
fn is_printable(c: char) -> bool {
    c == ' '
        || c == '\''
        || !c.is_control() && ['a', c].iter().collect::<String>().escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::qos::Amounts;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "prod", "uid": "u-1",
                "labels": {"z": "last", "app": "web"},
                "annotations": {"note": "two\nlines \"quoted\" \\ \u{1} ä\u{301} \u{200b}", "a": ""}},
            "spec": {"containers": [{"name": "app", "resources": {"limits": {"memory": "3Mi"}, "requests": {"cpu": "250m"}}}]},
        }))
        .unwrap()
    }

    fn one(item: serde_json::Value) -> Result<String, String> {
        let node = EnvFacts {
            allocatable: Amounts { milli_cpu: 2000, memory_bytes: 1 << 30 },
            ..EnvFacts::default()
        };
        let item: DownwardAPIVolumeFile = serde_json::from_value(item).unwrap();
        let found = files(&[item], 0o644, &pod(), &node).map_err(|e| e.to_string())?;
        let (path, file) = found.into_iter().next().unwrap();
        Ok(format!("{path} {:o} {}", file.mode, String::from_utf8(file.data).unwrap()))
    }

    #[test]
    fn contents() {
        let field = |path: &str| json!({"path": "f", "fieldRef": {"fieldPath": path}});
        let resource = |r: serde_json::Value| json!({"path": "./d//f", "mode": 0o400, "resourceFieldRef": r});
        for (item, want) in [
            (field("metadata.name"), Ok("f 644 web")),
            (field("metadata.namespace"), Ok("f 644 prod")),
            (field("metadata.uid"), Ok("f 644 u-1")),
            (field("metadata.labels"), Ok("f 644 app=\"web\"\nz=\"last\"")),
            (field("metadata.labels['app']"), Ok("f 644 web")),
            (
                field("metadata.annotations"),
                Ok("f 644 a=\"\"\nnote=\"two\\nlines \\\"quoted\\\" \\\\ \\x01 ä\u{301} \\u200b\""),
            ),
            (field("status.podIP"), Err("unsupported fieldPath: status.podIP")),
            (resource(json!({"containerName": "app", "resource": "limits.memory"})), Ok("d/f 400 3145728")),
            (resource(json!({"containerName": "app", "resource": "limits.cpu"})), Ok("d/f 400 2")),
            (
                resource(json!({"containerName": "app", "resource": "requests.cpu", "divisor": "1m"})),
                Ok("d/f 400 250"),
            ),
            (resource(json!({"containerName": "no", "resource": "limits.cpu"})), Err("\"no\"")),
        ] {
            match (one(item.clone()), want) {
                (Ok(found), Ok(want)) => assert_eq!(found, want, "{item}"),
                (Err(error), Err(want)) => assert!(error.contains(want), "{item}: {error}"),
                (found, want) => panic!("{item}: want {want:?}, got {found:?}"),
            }
        }
    }
}
