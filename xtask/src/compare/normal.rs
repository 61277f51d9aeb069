//! Takes out what changes from run to run and from machine to machine: names of nodes, ids, addresses, times.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::{Map, Value};

/// What one peer's own words are replaced by.
#[derive(Clone, Debug)]
pub(super) struct Normal {
    /// The longest first, since one may be part of another.
    words: Vec<(String, &'static str)>,
}

/// Each with what stands for it.
static PATTERNS: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    [
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "$TIME"),
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "$UID"),
        (r"\b[0-9a-f]{64}\b", "$HASH"),
        (r"\b[0-9a-f]{32}\b", "$HASH"),
        (r"\b10\.88\.\d+\.\d+\b", "$POD_IP"),
        (r"\bkube-api-access-[a-z0-9]{5}\b", "kube-api-access-$SUFFIX"),
        (r"\b(\d+m)?\d+\.\d+s\b|\b\d+(\.\d+)?(ms|µs)\b", "$DURATION"),
        // A connection's own end.
        (r"\$POD_IP:\d{5}\b", "$POD_IP:$PORT"),
        (r"Image size: \d+ bytes", "Image size: $SIZE bytes"),
        // Where a container's termination message lies: kubelet calls it by chance.
        (r"/containers/[a-z0-9-]+/[0-9a-f]{1,8}$", "/containers/$CONTAINER/$RUN"),
        // Of each machine another.
        (r"^Max processes .*", "Max processes $MACHINE"),
        (r"^Max pending signals .*", "Max pending signals $MACHINE"),
        // Of each node another.
        (r"\b10\.244\.\d+\.0/24\b", "$POD_CIDR"),
    ]
    .into_iter()
    .filter_map(|(pattern, word)| Some((Regex::new(pattern).ok()?, word)))
    .collect()
});

/// Of the API server's own making.
const LEFT_OUT: [&str; 4] = ["resourceVersion", "managedFields", "uid", "selfLink"];

impl Normal {
    pub fn new(words: &[(&str, &'static str)]) -> Normal {
        let mut words: Vec<(String, &'static str)> =
            words.iter().map(|(word, by)| ((*word).to_owned(), *by)).collect();
        words.sort_by_key(|(word, _)| std::cmp::Reverse(word.len()));
        Normal { words }
    }

    pub fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (word, by) in &self.words {
            text = text.replace(word, by);
        }
        for (pattern, by) in PATTERNS.iter() {
            // Not a replacement pattern: `$TIME` means itself.
            text = pattern.replace_all(&text, |_: &Captures<'_>| (*by).to_owned()).into_owned();
        }
        text
    }

    pub fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(all) => Value::Array(all.iter().map(|one| self.value(one)).collect()),
            Value::Object(all) => {
                // A user's id is a number.
                let kept = all.iter().filter(|(key, one)| {
                    !LEFT_OUT.contains(&key.as_str()) || (*key == "uid" && one.is_number())
                });
                Value::Object(kept.map(|(key, one)| (self.text(key), self.value(one))).collect::<Map<_, _>>())
            }
            other => other.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_from_run_to_run_is_taken_out() {
        let normal = Normal::new(&[("a-node", "$NODE"), ("/var/tmp/x/a-node", "$DIR")]);
        for (text, expected) in [
            ("on a-node since 2026-01-02T03:04:05Z", "on $NODE since $TIME"),
            ("/var/tmp/x/a-node/root", "$DIR/root"),
            ("dial tcp 10.88.0.17:8080: refused", "dial tcp $POD_IP:8080: refused"),
            ("from 10.88.0.1:43210", "from $POD_IP:$PORT"),
            ("pulled in 312ms (1.2s including waiting)", "pulled in $DURATION ($DURATION including waiting)"),
            ("back-off 10s", "back-off 10s"),
            ("pod 123e4567-e89b-12d3-a456-426614174000", "pod $UID"),
            ("kube-api-access-x7k2p", "kube-api-access-$SUFFIX"),
        ] {
            assert_eq!(normal.text(text), expected);
        }
        assert_eq!(PATTERNS.len(), 13);
    }
}
