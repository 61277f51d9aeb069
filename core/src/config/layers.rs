//! The configuration in layers, as kubelet puts them on each other: the file of `--config`, the `*.conf` files of
//! `--config-dir`, then the flags. Core. Reads texts, emits a [`Loaded`].
//!
//! A drop-in is merged as a JSON merge patch (RFC 7386): maps by their keys, lists as a whole, null takes a key out. A
//! flag takes the place of its key; only feature gates are merged (cmd/kubelet/app/server.go).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::flags::{Given, Sets};
use super::{API_VERSION, Config, ConfigError, ConfigWarning, KIND, keys, raw};
use crate::eviction::threshold::default_eviction_hard;

const UPDATE: &str = "nodeStatusUpdateFrequency";
const REPORT: &str = "nodeStatusReportFrequency";
/// kubelet's `--read-only-port` where there is no file (pkg/cluster/ports).
const LEGACY_READ_ONLY_PORT: u16 = 10255;

/// Where a value comes from, for those who read about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    /// Without its hyphens.
    Flag(&'static str),
    Defaults,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::File(path) => write!(f, "configuration {}", path.display()),
            Source::Flag(name) => write!(f, "flag --{name}"),
            Source::Defaults => f.write_str("kubelet's defaults"),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Layers {
    document: Map<String, Value>,
    /// Of each key at the top, who has said something of it; the last has the last word.
    sources: BTreeMap<String, Vec<Source>>,
    warnings: Vec<ConfigWarning>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<ConfigWarning>,
    /// The whole KubeletConfiguration in effect, kubelet's defaults with it; without the section `oomlet:`.
    pub effective: Value,
}

impl Layers {
    /// What `--config` names, YAML or JSON.
    ///
    /// # Errors
    /// It is no KubeletConfiguration.
    pub fn file(&mut self, text: &str, path: &Path) -> Result<(), ConfigError> {
        let document = raw::document(text, path)?;
        self.note(&document, &Source::File(path.to_owned()));
        self.document = document;
        Ok(())
    }

    /// There is no `--config`: a few defaults are those that kubelet's flags had before there was a file, which let anybody
    /// in (cmd/kubelet/app/options, applyLegacyDefaults). `--config-dir` is laid over them.
    pub fn no_file(&mut self) {
        let legacy = [
            ("authentication.anonymous.enabled", json!(true)),
            ("authentication.webhook.enabled", json!(false)),
            ("authorization.mode", json!("AlwaysAllow")),
            ("readOnlyPort", json!(LEGACY_READ_ONLY_PORT)),
        ];
        for (path, value) in legacy {
            set(&mut self.document, path, value);
        }
    }

    /// One file of `--config-dir`, over what is there.
    ///
    /// # Errors
    /// It is no KubeletConfiguration.
    pub fn drop_in(&mut self, text: &str, path: &Path) -> Result<(), ConfigError> {
        let patch = raw::document(text, path)?;
        // kubelet fills in the default thresholds before it merges, so that a drop-in adds to them.
        if patch.contains_key("evictionHard") && !self.document.contains_key("evictionHard") {
            self.document.insert("evictionHard".to_owned(), json!(default_eviction_hard()));
        }
        self.note(&patch, &Source::File(path.to_owned()));
        merge(&mut self.document, patch);
        Ok(())
    }

    /// The command line's, over what is there.
    ///
    /// # Errors
    /// A value that its flag does not take.
    pub fn flags(&mut self, given: &[Given]) -> Result<(), ConfigError> {
        self.derive();
        for given in given {
            let flag = given.flag;
            let value = given.value()?;
            match flag.sets {
                Sets::Own(_) => {}
                Sets::Nothing => self.warnings.push(ConfigWarning::FlagNotHonoured { flag: flag.name }),
                Sets::Key(path) => {
                    let top = path.split('.').next().unwrap_or(path);
                    self.sources.entry(top.to_owned()).or_default().push(Source::Flag(flag.name));
                    if path == UPDATE && !is_set(&self.document, REPORT) {
                        // By flag the one does not set the other: kubelet fills in defaults before it reads flags.
                        self.document.insert(REPORT.to_owned(), "5m0s".into());
                    }
                    set(&mut self.document, path, value);
                }
            }
        }
        Ok(())
    }

    /// The defaults that hang on what else is said.
    fn derive(&mut self) {
        if is_set(&self.document, UPDATE) && !is_set(&self.document, REPORT) {
            let update = self.document[UPDATE].clone();
            self.document.insert(REPORT.to_owned(), update);
        }
    }

    fn note(&mut self, document: &Map<String, Value>, source: &Source) {
        for key in document.keys() {
            self.sources.entry(key.clone()).or_default().push(source.clone());
        }
    }

    /// # Errors
    /// A value that is not allowed, with the layer that it comes from.
    pub fn load(mut self) -> Result<Loaded, ConfigError> {
        self.derive();
        let effective = effective(&self.document);
        let (config, found) = raw::read(Value::Object(self.document)).map_err(|(key, error)| {
            let origin = self.sources.get(top(&key)).and_then(|all| all.last().cloned());
            ConfigError::Value { origin: origin.unwrap_or(Source::Defaults), key, error }
        })?;
        let mut warnings = self.warnings;
        for warning in found {
            by_source(warning, &self.sources, &mut warnings);
        }
        Ok(Loaded { config, warnings, effective })
    }
}

/// A key that flags alone have set is named by them.
fn by_source(
    warning: ConfigWarning,
    sources: &BTreeMap<String, Vec<Source>>,
    warnings: &mut Vec<ConfigWarning>,
) {
    let ConfigWarning::NotHonoured { key } = &warning else {
        warnings.push(warning);
        return;
    };
    let all = sources.get(top(key)).map(Vec::as_slice).unwrap_or_default();
    if all.iter().any(|source| matches!(source, Source::File(_))) {
        warnings.push(warning.clone());
    }
    for source in all {
        let Source::Flag(flag) = *source else { continue };
        let of_flag = ConfigWarning::FlagNotHonoured { flag };
        if !warnings.contains(&of_flag) {
            warnings.push(of_flag);
        }
    }
}

/// kubelet takes a zero as not set.
fn is_set(document: &Map<String, Value>, key: &str) -> bool {
    let text = document.get(key).and_then(Value::as_str);
    text.is_some_and(|text| !crate::duration::parse(text).is_ok_and(|time| time.is_zero()))
}

/// The key at the top of a path as errors write it.
fn top(key: &str) -> &str {
    key.split(['.', '[']).next().unwrap_or(key)
}

fn set(document: &mut Map<String, Value>, path: &str, value: Value) {
    let Some((first, rest)) = path.split_once('.') else {
        match (document.get_mut(path), value) {
            (Some(Value::Object(there)), Value::Object(gates)) if path == "featureGates" => {
                there.extend(gates);
            }
            (_, value) => {
                document.insert(path.to_owned(), value);
            }
        }
        return;
    };
    let below = document.entry(first).or_insert_with(|| json!({}));
    if !below.is_object() {
        *below = json!({});
    }
    if let Value::Object(below) = below {
        set(below, rest, value);
    }
}

/// RFC 7386.
fn merge(document: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                document.remove(&key);
            }
            Value::Object(patch) => {
                let there = document.entry(key).or_insert_with(|| json!({}));
                if !there.is_object() {
                    *there = json!({});
                }
                if let Value::Object(there) = there {
                    merge(there, patch);
                }
            }
            value => {
                document.insert(key, value);
            }
        }
    }
}

/// What kubelet 1.37 has where nothing is said, and over it what is said.
fn effective(document: &Map<String, Value>) -> Value {
    let defaults = include_str!("data/kubelet-1.37-defaults.yaml");
    let mut all: Map<String, Value> = serde_saphyr::from_str(defaults).unwrap_or_default();
    all.insert("apiVersion".to_owned(), API_VERSION.into());
    all.insert("kind".to_owned(), KIND.into());
    if document.get("evictionHard").is_none() {
        all.insert("evictionHard".to_owned(), json!(default_eviction_hard()));
    }
    let known = |key: &str| keys::HONOURED.contains(&key) || keys::NOT_HONOURED.contains(&key);
    let said = document.iter().filter(|(key, _)| key.as_str() != "oomlet" && known(key));
    merge(&mut all, said.map(|(key, value)| (key.clone(), value.clone())).collect());
    Value::Object(all)
}

#[cfg(test)]
mod tests;
