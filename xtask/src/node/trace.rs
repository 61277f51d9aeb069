//! The agent's trace file as the fixtures read it: one JSON object a line. Kinds and reasons are plain text here, so
//! that this crate does not depend on the agent.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
pub struct TraceRecord {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub monotonic_ns: u64,
    /// `Agent`, `Signal`, `Decision`, `Eviction`, `OomKill` …
    pub kind: String,
    pub reason: String,
    pub pod: Option<TracePod>,
    pub container: Option<String>,
    /// `node`, `kubepods`, `pod` or `container`.
    pub domain: Option<String>,
    pub message: String,
    /// `usage_bytes`, `limit_bytes`, `signal_to_decision_us`: the unit is last in each name.
    #[serde(default)]
    pub numbers: BTreeMap<String, i64>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct TracePod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl TraceRecord {
    /// `metadata.name` of the pod that it is said of, else empty.
    #[must_use]
    pub fn pod_name(&self) -> &str {
        self.pod.as_ref().map_or("", |pod| &pod.name)
    }

    #[must_use]
    pub fn number(&self, name: &str) -> Option<i64> {
        self.numbers.get(name).copied()
    }
}

/// An absent file is an empty trace: the agent has said nothing yet.
pub fn read(path: &Path) -> Result<Vec<TraceRecord>> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text).with_context(|| format!("reading {}", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Reads on from `offset` and moves it behind the last complete line: for who looks again and again at a long trace.
pub fn read_on(path: &Path, offset: &mut u64) -> Result<Vec<TraceRecord>> {
    let mut text = String::new();
    match std::fs::File::open(path) {
        Ok(mut file) => {
            file.seek(SeekFrom::Start(*offset))
                .and_then(|_| file.read_to_string(&mut text))
                .with_context(|| format!("reading {}", path.display()))?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    }
    let records = parse(&text).with_context(|| format!("reading {}", path.display()))?;
    *offset += text.rfind('\n').map_or(0, |end| end + 1) as u64;
    Ok(records)
}

fn parse(text: &str) -> Result<Vec<TraceRecord>> {
    // A line is complete when its newline is there.
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    complete
        .lines()
        .enumerate()
        .map(|(i, line)| serde_json::from_str(line).with_context(|| format!("line {}: {line}", i + 1)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_line_waits() {
        let line = r#"{"seq":1,"monotonic_ns":5,"unix_ms":0,"kind":"OomKill","reason":"OomKilled","pod":{"namespace":"default","name":"hog","uid":"u"},"message":"m","numbers":{"usage_bytes":7}}"#;
        for (text, expected) in [
            (String::new(), 0),
            (line.to_owned(), 0),
            (format!("{line}\n"), 1),
            (format!("{line}\n{line}\n{{\"seq\""), 2),
        ] {
            let records = parse(&text).unwrap();
            assert_eq!(records.len(), expected);
            for record in records {
                assert_eq!((record.pod_name(), record.number("usage_bytes")), ("hog", Some(7)));
            }
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut offset = 0;
        for (text, expected) in [(format!("{line}\n{{\"se"), 1), (format!("{line}\n{line}\n"), 1)] {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(read_on(file.path(), &mut offset).unwrap().len(), expected);
        }
        assert!(parse("garbage\n").unwrap_err().to_string().contains("line 1"));
    }
}
