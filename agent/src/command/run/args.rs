//! The flags of `oomlet run`: clap's arguments made of core's table of kubelet's flags.
//!
//! Go's forms work: `--flag value`, `--flag=value`, `--bool`, `--bool=false`, `-v 4`, and `_` for `-` in a name.

use std::ffi::OsString;

use clap::builder::ArgAction;
use clap::{Arg, ArgMatches, Command};
use oomlet_core::config::flags::{FLAGS, Flag, Given, Kind, Sets};

/// klog's: a node's administrator wants to see what `info` has.
const DEFAULT_VERBOSITY: i64 = 2;

/// What was given on the command line.
#[derive(Clone, Debug, Default)]
pub struct Args {
    pub given: Vec<Given>,
}

impl Args {
    /// The last text of a flag, where it was given.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.given.iter().find(|given| given.flag.name == name)?.texts.last().map(String::as_str)
    }

    /// As [`Args::text`]; an empty one is none.
    #[must_use]
    pub fn set(&self, name: &str) -> Option<&str> {
        self.text(name).filter(|text| !text.is_empty())
    }

    /// `--v`. A value that is no number is refused when the flags are read.
    #[must_use]
    pub fn verbosity(&self) -> u8 {
        let level = self.text("v").and_then(|text| text.parse::<i64>().ok()).unwrap_or(DEFAULT_VERBOSITY);
        u8::try_from(level.clamp(0, 255)).unwrap_or(u8::MAX)
    }
}

/// A word of the command line with `-` for each `_` in a flag's name: kubelet takes either.
#[must_use]
pub fn with_hyphens(word: OsString) -> OsString {
    let Some(text) = word.to_str().filter(|text| text.starts_with("--")) else { return word };
    let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
    format!("{}{value}", name.replace('_', "-")).into()
}

impl clap::FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |flag: &'static Flag| {
            let texts: Vec<String> = matches.get_many::<String>(flag.name)?.cloned().collect();
            Some(Given { flag, texts })
        };
        Ok(Args { given: FLAGS.iter().filter_map(given).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Args::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        let nothing: Vec<String> = FLAGS
            .iter()
            .filter(|flag| flag.sets == Sets::Nothing)
            .map(|flag| format!("--{}", flag.name))
            .collect();
        let after =
            format!("Taken as kubelet takes them, without effect (a warning says so): {}", nothing.join(" "));
        // The groups of the help stand in the order in which they come.
        let (own, others): (Vec<_>, Vec<_>) =
            FLAGS.iter().partition(|flag| matches!(flag.sets, Sets::Own(_)));
        let all = own.into_iter().chain(others).map(argument);
        command.disable_version_flag(true).args(all).after_help(after)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Args::augment_args(command)
    }
}

fn argument(flag: &'static Flag) -> Arg {
    let arg = Arg::new(flag.name).long(flag.name).action(ArgAction::Append).value_name(value_name(flag));
    let arg = if flag.name == "v" { arg.short('v') } else { arg };
    let optional = flag.kind == Kind::Bool || flag.name == "version";
    let arg = if optional {
        arg.num_args(0..=1).require_equals(true).default_missing_value("true")
    } else {
        arg.num_args(1).allow_hyphen_values(true)
    };
    match flag.sets {
        Sets::Own(help) => arg.help(help).help_heading("The node"),
        Sets::Key(key) => arg.help(key).help_heading("Keys of the configuration"),
        Sets::Nothing => arg.hide(true),
    }
}

const fn value_name(flag: &Flag) -> &'static str {
    match flag.kind {
        Kind::Bool => "BOOL",
        Kind::Int => "N",
        Kind::Text => "TEXT",
        Kind::Duration => "DURATION",
        Kind::Ip => "IP",
        Kind::List => "A,B",
        Kind::Map => "KEY=VALUE,…",
        Kind::LessThanMap => "SIGNAL<VALUE,…",
        Kind::BoolMap => "NAME=BOOL,…",
        Kind::MultiMap => "NAME:VALUE,…",
        Kind::Taints => "KEY=VALUE:EFFECT,…",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};

    fn parse(words: &[&str]) -> Result<Args, String> {
        let command = Args::augment_args(Command::new("run").version("1"));
        let matches =
            command.try_get_matches_from([&["run"], words].concat()).map_err(|error| error.to_string())?;
        Ok(Args::from_arg_matches(&matches).unwrap())
    }

    #[test]
    fn clap_takes_the_table() {
        Args::augment_args(Command::new("run").version("1")).debug_assert();
    }

    #[test]
    fn the_forms_that_go_takes() {
        for (words, flag, expected) in [
            (&["--max-pods=5"][..], "max-pods", Some("5")),
            (&["--max-pods", "5"], "max-pods", Some("5")),
            (&["--max-pods", "5", "--max-pods=6"], "max-pods", Some("6")),
            (&["--oom-score-adj", "-999"], "oom-score-adj", Some("-999")),
            (&["--register-node"], "register-node", Some("true")),
            (&["--register-node=false"], "register-node", Some("false")),
            (&["--register-node", "--max-pods=1"], "register-node", Some("true")),
            (&["--cloud-provider="], "cloud-provider", Some("")),
            (&["--cloud-provider", ""], "cloud-provider", Some("")),
            (&["--vmodule=a=1,b=2"], "vmodule", Some("a=1,b=2")),
            (&["-v", "4"], "v", Some("4")),
            (&["-v=4"], "v", Some("4")),
            (&["-v4"], "v", Some("4")),
            (&["--v=4"], "v", Some("4")),
            (&["--version"], "version", Some("true")),
            (&["--version=raw"], "version", Some("raw")),
            (&[], "max-pods", None),
        ] {
            assert_eq!(parse(words).unwrap().text(flag), expected, "{words:?}");
        }
        assert_eq!(parse(&["--v=4"]).unwrap().verbosity(), 4);
        assert_eq!(parse(&[]).unwrap().verbosity(), 2);
        let lists = parse(&["--cluster-dns=10.0.0.1", "--cluster-dns=10.0.0.2"]).unwrap();
        assert_eq!(lists.given[0].texts, ["10.0.0.1", "10.0.0.2"]);
    }

    #[test]
    fn an_underscore_is_a_hyphen_in_a_name() {
        for (word, expected) in
            [("--max_pods=a_b", "--max-pods=a_b"), ("--max_pods", "--max-pods"), ("a_b", "a_b")]
        {
            assert_eq!(with_hyphens(word.into()), expected, "{word}");
        }
    }

    #[test]
    fn an_unknown_flag_is_named_with_the_nearest() {
        let error = parse(&["--max-pod=5"]).unwrap_err();
        assert!(error.contains("--max-pod") && error.contains("--max-pods"), "{error}");
        // Gone before 1.30.
        assert!(parse(&["--network-plugin=cni"]).unwrap_err().contains("--network-plugin"));
        assert!(parse(&["false"]).is_err() && parse(&["--max-pods"]).is_err());
    }

    #[test]
    fn the_help_is_in_groups() {
        let help = Args::augment_args(Command::new("run").version("1")).render_help().to_string();
        let (node, keys) = help.split_once("Keys of the configuration").unwrap();
        assert!(
            node.contains("--kubeconfig")
                && keys.contains("--eviction-hard")
                && keys.contains("evictionHard")
        );
        assert!(keys.contains("--lock-file"), "{help}");
    }
}
