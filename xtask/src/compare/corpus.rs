//! The manifests: one file a behaviour, with one pod and the objects that it needs. Annotations say how it is run.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// In annotations of the pod. They are taken out before the pod is made.
const PREFIX: &str = "compare.oomlet.dev/";
/// Stands for [`INSPECT`] in a container's command and arguments.
const INSPECT_MARK: &str = "$(INSPECT)";
/// What a small program sees from inside. `sort` where the order says nothing.
const INSPECT: &str = r##"
echo "# env"; env | sort
echo "# id"; id; pwd; umask; hostname
echo "# capabilities"; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status
echo "# limits"; cat /proc/self/limits; cat /proc/self/oom_score_adj
echo "# hosts"; cat /etc/hosts
echo "# resolv.conf"; cat /etc/resolv.conf
echo "# mounts"; awk '{ print $5, $6, $(NF-2) }' /proc/self/mountinfo | sort
echo "# end"
"##;

/// One manifest.
#[derive(Clone, Debug)]
pub struct Case {
    /// The file's name without its ending, and the pod's.
    pub name: String,
    /// It, and after it what it needs, without namespaces.
    pub pod: Value,
    pub others: Vec<Value>,
    /// When it has done what it is there for.
    pub until: Until,
    /// More than that: a patch that is applied then, and until when.
    pub then: Option<(Value, Until)>,
}

/// What is waited for, of the pod's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Until {
    Phase(String),
    /// A condition that is True.
    Condition(String),
    /// A container that waits for this reason.
    Waiting(String),
    /// A container that was started again so often, and is in this state.
    Restarts(u64),
    /// An Event with this reason.
    Event(String),
}

impl Until {
    fn parse(text: &str) -> Result<Until> {
        let (kind, value) = text.split_once('=').with_context(|| format!("{text:?} is not KIND=VALUE"))?;
        let value = value.to_owned();
        Ok(match kind {
            "phase" => Until::Phase(value),
            "condition" => Until::Condition(value),
            "waiting" => Until::Waiting(value),
            "restarts" => Until::Restarts(value.parse().with_context(|| format!("{text:?}"))?),
            "event" => Until::Event(value),
            _ => bail!("{kind:?} is none of phase, condition, waiting, restarts, event"),
        })
    }

    /// Of the pod as it is now, and the reasons of its Events.
    #[must_use]
    pub fn holds(&self, pod: &Value, events: &[String]) -> bool {
        let status = &pod["status"];
        let containers = || {
            let of = |key: &str| status[key].as_array().cloned().unwrap_or_default();
            [of("initContainerStatuses"), of("containerStatuses")].concat()
        };
        match self {
            Until::Phase(phase) => status["phase"] == phase.as_str(),
            Until::Condition(kind) => {
                let mut all = status["conditions"].as_array().into_iter().flatten();
                all.any(|c| c["type"] == kind.as_str() && c["status"] == "True")
            }
            Until::Waiting(reason) => {
                containers().iter().any(|c| c["state"]["waiting"]["reason"] == reason.as_str())
            }
            Until::Restarts(count) => {
                containers().iter().any(|c| c["restartCount"].as_u64().unwrap_or_default() >= *count)
            }
            Until::Event(reason) => events.contains(reason),
        }
    }
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Until::Phase(value) => write!(f, "phase={value}"),
            Until::Condition(value) => write!(f, "condition={value}"),
            Until::Waiting(value) => write!(f, "waiting={value}"),
            Until::Restarts(value) => write!(f, "restarts={value}"),
            Until::Event(value) => write!(f, "event={value}"),
        }
    }
}

/// All manifests of a folder whose name contains `only`, by name.
pub fn read(dir: &Path, only: Option<&str>) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let wanted = only.is_none_or(|only| name.contains(only));
        if !wanted || path.extension().is_none_or(|ending| ending != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        cases.push(Case::parse(&name, &text).with_context(|| format!("in {}", path.display()))?);
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

impl Case {
    fn parse(name: &str, text: &str) -> Result<Case> {
        let text = text.replace(INSPECT_MARK, &json_text(INSPECT));
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).context("not YAML")?;
        let (mut pods, others): (Vec<Value>, Vec<Value>) =
            documents.into_iter().filter(|one| !one.is_null()).partition(|one| one["kind"] == "Pod");
        ensure!(pods.len() == 1, "{} pods instead of one", pods.len());
        let mut pod = pods.remove(0);
        pod["metadata"]["name"] = json!(name);
        let until = Until::parse(&take(&mut pod, "until").context("there is no annotation `until`")?)?;
        let then = match (take(&mut pod, "patch"), take(&mut pod, "then-until")) {
            (None, None) => None,
            (Some(patch), Some(until)) => {
                let patch = serde_json::from_str(&patch).context("the annotation `patch` is not JSON")?;
                Some((patch, Until::parse(&until)?))
            }
            _ => bail!("the annotations `patch` and `then-until` belong together"),
        };
        Ok(Case { name: name.to_owned(), pod, others, until, then })
    }
}

/// Inside of a quoted YAML string.
fn json_text(text: &str) -> String {
    let quoted = Value::from(text.trim()).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

fn take(pod: &mut Value, key: &str) -> Option<String> {
    let annotations = pod["metadata"]["annotations"].as_object_mut()?;
    let found = annotations.remove(&format!("{PREFIX}{key}"))?.as_str().map(str::to_owned);
    if annotations.is_empty() {
        pod["metadata"].as_object_mut()?.remove("annotations");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_projects_own_manifests_are_read() {
        let cases = read(&super::super::corpus_dir(), None).unwrap();
        assert!(cases.len() >= 30, "{}", cases.len());
        for case in cases {
            let pod = &case.pod;
            assert!(pod["metadata"]["annotations"].to_string().find(PREFIX).is_none(), "{}", case.name);
        }
    }

    #[test]
    fn what_is_waited_for() {
        let pod = json!({ "status": {
            "phase": "Running",
            "conditions": [{ "type": "Ready", "status": "True" }, { "type": "Initialized", "status": "False" }],
            "containerStatuses": [{ "restartCount": 2, "state": { "waiting": { "reason": "CrashLoopBackOff" } } }],
        } });
        let events = ["Pulled".to_owned()];
        for (text, expected) in [
            ("phase=Running", true),
            ("phase=Failed", false),
            ("condition=Ready", true),
            ("condition=Initialized", false),
            ("waiting=CrashLoopBackOff", true),
            ("waiting=ErrImagePull", false),
            ("restarts=2", true),
            ("restarts=3", false),
            ("event=Pulled", true),
            ("event=Killing", false),
        ] {
            let until = Until::parse(text).unwrap();
            assert_eq!(until.holds(&pod, &events), expected, "{text}");
            assert_eq!(until.to_string(), text);
        }
        assert!(Until::parse("phase").is_err() && Until::parse("mood=good").is_err());
    }
}
