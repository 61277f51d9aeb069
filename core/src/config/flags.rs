//! kubelet's flags, of releases 1.30 to 1.37: what each is called, how its value is written and what it sets. Core.
//!
//! Reads the texts that were given on the command line, emits values for the configuration's document.

use serde_json::Value;

mod table;
mod value;

pub use table::FLAGS;
pub use value::parse_pairs;

/// One flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flag {
    /// Without the two hyphens.
    pub name: &'static str,
    pub kind: Kind,
    pub sets: Sets,
}

/// How a flag's value is written. Go's pflag and k8s.io/component-base/cli/flag have these forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `--flag`, `--flag=false`.
    Bool,
    Int,
    Text,
    /// Go's syntax.
    Duration,
    Ip,
    /// `a,b`; given again it adds.
    List,
    /// `key=value,…`; given again it adds.
    Map,
    /// `signal<threshold,…`.
    LessThanMap,
    /// `gate=true,…`.
    BoolMap,
    /// `name:value,…`; a name may come again.
    MultiMap,
    /// `key=value:Effect,…`.
    Taints,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sets {
    /// This key of KubeletConfiguration, by its path.
    Key(&'static str),
    /// Something that the configuration has no key for: its help.
    Own(&'static str),
    /// Nothing: it is taken, and a warning names it.
    Nothing,
}

/// A flag that was given, with its values in the order in which they stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    pub flag: &'static Flag,
    pub texts: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{flag}: {error}")]
pub struct FlagError {
    pub flag: String,
    pub error: String,
}

impl Given {
    /// # Errors
    /// No value of the flag's kind.
    pub fn value(&self) -> Result<Value, FlagError> {
        value::parse(self.flag.kind, &self.texts)
            .map_err(|error| FlagError { flag: self.flag.name.to_owned(), error })
    }
}

#[must_use]
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

#[cfg(test)]
mod tests;
