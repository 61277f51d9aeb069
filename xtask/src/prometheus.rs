//! A Prometheus of one's own that scrapes one node, and promtool, which asks it and checks what is to be checked. For tests
//! and benches; where the programs come from is [`crate::setup::prometheus`]'s.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::netns::NetNs;
use crate::process;
use crate::setup::prometheus::Programs;

/// In its namespace, where nobody else has it.
const PORT: u16 = 9090;
/// Usually a second.
const READY: Duration = Duration::from_secs(120);

/// What it is to scrape, and by which right.
#[derive(Clone, Debug)]
pub struct Scrape<'a> {
    pub interval: Duration,
    /// `host:port` of the node's API.
    pub target: String,
    /// Signs the node's serving certificate; `None`: whatever it shows is taken.
    pub authority: Option<&'a Path>,
    /// Certificate and key of whoever may read `nodes/metrics`.
    /// `None`: nobody in particular.
    pub client: Option<(&'a Path, &'a Path)>,
    /// Such as `/metrics`; each is a job named by its path without the slashes.
    pub paths: &'a [&'a str],
    pub rules: &'a [&'a Path],
}

impl Scrape<'_> {
    /// As the configuration takes it; JSON is YAML.
    fn config(&self) -> Value {
        let interval = format!("{}s", self.interval.as_secs().max(1));
        let tls = json!({
            "ca_file": self.authority,
            "insecure_skip_verify": self.authority.is_none(),
            "cert_file": self.client.map(|(certificate, _)| certificate),
            "key_file": self.client.map(|(_, key)| key),
        });
        let job = |path: &&str| {
            json!({
                "job_name": path.trim_matches('/').replace('/', "-"),
                "scheme": "https",
                "metrics_path": path,
                "tls_config": tls,
                "static_configs": [{ "targets": [self.target] }],
            })
        };
        json!({
            "global": { "scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval },
            "rule_files": self.rules,
            "scrape_configs": self.paths.iter().map(job).collect::<Vec<_>>(),
        })
    }
}

/// Ends when dropped; its folder is the caller's.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    netns: Arc<NetNs>,
    programs: Programs,
    log: PathBuf,
}

impl Prometheus {
    /// Returns when it answers.
    pub fn start(dir: &Path, netns: &Arc<NetNs>, scrape: &Scrape<'_>) -> Result<Prometheus> {
        let programs = programs()?;
        let (path, log) = (dir.join("prometheus.yml"), dir.join("prometheus.log"));
        std::fs::write(&path, serde_json::to_string_pretty(&scrape.config())?)
            .with_context(|| format!("writing {}", path.display()))?;
        let out = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = netns.command(&programs.prometheus);
        command
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{PORT}"))
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0);
        let child = command.spawn().context("starting prometheus")?;
        let mut started = Prometheus { child, netns: Arc::clone(netns), programs, log };
        let mut ended = None;
        let ready = process::holds_within(READY, || {
            ended = started.child.try_wait().ok().flatten();
            ended.is_some() || started.query("vector(1)").is_ok()
        });
        if let Some(status) = ended {
            bail!("prometheus ended with {status}\n{}", started.diagnosis());
        }
        ensure!(ready, "prometheus does not answer within {} s\n{}", READY.as_secs(), started.diagnosis());
        Ok(started)
    }

    /// What an instant query is answered: one value for each set of labels.
    pub fn query(&self, query: &str) -> Result<Vec<Value>> {
        let mut command = self.netns.command(&self.programs.promtool);
        command
            .args(["query", "instant", "--format=json"])
            .arg(format!("http://127.0.0.1:{PORT}"))
            .arg(query);
        match serde_json::from_str(&process::output(&mut command)?)? {
            Value::Array(series) => Ok(series),
            other => Ok(vec![other]),
        }
    }

    /// The end of its log.
    #[must_use]
    pub fn diagnosis(&self) -> String {
        process::file_tail(&self.log, 20)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn programs() -> Result<Programs> {
    Programs::find()?.context("there is no prometheus and promtool here; run `cargo xtask setup`")
}

/// What `promtool` says with these arguments and this input; an error with what it says where it is not content.
pub fn promtool(args: &[&str], input: &str) -> Result<String> {
    process::output_of(Command::new(programs()?.promtool).args(args), input.as_bytes())
}

/// What `promtool check metrics` has against this exposition, a line each: `name words`. An error where it cannot be read.
pub fn lint(exposition: &str) -> Result<Vec<String>> {
    let mut command = Command::new(programs()?.promtool);
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("starting promtool")?;
    let mut input = child.stdin.take().context("promtool has no stdin")?;
    let text = exposition.to_owned();
    // Where it does not read to the end it says why.
    let writing = std::thread::spawn(move || drop(input.write_all(text.as_bytes())));
    let out = child.wait_with_output().context("waiting for promtool")?;
    let _ = writing.join();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    match out.status.code() {
        Some(0) => Ok(Vec::new()),
        // Its code for findings.
        Some(3) => Ok(said.lines().map(str::to_owned).collect()),
        _ => bail!("promtool check metrics ended with {}:\n{said}", out.status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_a_job() {
        let (cert, key) = (Path::new("/c"), Path::new("/k"));
        let scrape = Scrape {
            interval: Duration::from_secs(15),
            target: "198.51.100.1:10250".to_owned(),
            authority: None,
            client: Some((cert, key)),
            paths: &["/metrics", "/metrics/cadvisor"],
            rules: &[],
        };
        let config = scrape.config();
        let jobs = config["scrape_configs"].as_array().unwrap();
        let names: Vec<&Value> = jobs.iter().map(|job| &job["job_name"]).collect();
        assert_eq!(names, ["metrics", "metrics-cadvisor"]);
        assert_eq!(jobs[0]["tls_config"]["insecure_skip_verify"], true);
        assert_eq!(config["global"]["scrape_interval"], "15s");
    }
}
