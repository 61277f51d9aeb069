//! `oomlet check`: what this node offers, as a table or as JSON. Loads the programs, changes nothing that stays.

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::{Output, print_line};
use crate::cri::Connection;
use crate::cri::connection::DEFAULT_REQUEST_TIMEOUT;
use crate::kernel::{self, Capabilities, Found, Kernel, ProgramReport, ProgramState};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The container runtime's CRI socket.
    #[arg(long, default_value = "unix:///run/containerd/containerd.sock")]
    container_runtime_endpoint: String,
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("cannot print: {0}")]
    Print(#[from] std::io::Error),
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    /// 0 sampler, 1 tracepoints, 2 BTF.
    tier: u8,
    programs: Vec<ProgramReport>,
    kernel: Capabilities,
    runtime: Runtime,
    /// What keeps `oomlet run` from starting.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Runtime {
    endpoint: String,
    /// `containerd 1.7.24`.
    version: Option<String>,
    error: Option<String>,
}

/// True when `oomlet run` could start here.
///
/// # Errors
/// When the output fails.
pub fn check(args: &Args) -> Result<bool, CheckError> {
    let options = kernel::Options::default();
    let capabilities = kernel::probe(&options);
    let loaded = Kernel::load(&options);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let runtime = tokio.block_on(reach(&args.container_runtime_endpoint));
    let mut problems = Vec::new();
    if !capabilities.root {
        problems.push("not root: the agent must run as root (sudo oomlet check)".to_owned());
    }
    if let Found::Missing(why) = &capabilities.memory_controller {
        problems.push(why.clone());
    }
    problems.extend(runtime.error.clone());
    let report = Report {
        tier: loaded.tier(),
        programs: loaded.programs().to_vec(),
        kernel: capabilities,
        runtime,
        problems,
    };
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(&report).map_err(std::io::Error::from)?,
        Output::Table => table(&report),
    };
    print_line(&text)?;
    Ok(report.problems.is_empty())
}

async fn reach(endpoint: &str) -> Runtime {
    let answer = match Connection::open(endpoint, DEFAULT_REQUEST_TIMEOUT) {
        Ok(connection) => connection.check().await,
        Err(error) => Err(error),
    };
    let (version, error) = match answer {
        Ok(v) => (Some(format!("{} {}", v.runtime_name, v.runtime_version)), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Runtime { endpoint: endpoint.to_owned(), version, error }
}

fn table(report: &Report) -> String {
    let kernel = &report.kernel;
    let meaning = ["sampler only", "tracepoints", "BTF"][usize::from(report.tier.min(2))];
    let mut rows = vec![
        ["sensing tier".to_owned(), format!("{} ({meaning})", report.tier)],
        ["kernel".to_owned(), kernel.kernel_release.clone()],
        ["BTF".to_owned(), found(&kernel.btf)],
        ["tracefs".to_owned(), found(&kernel.tracefs)],
        ["cgroups".to_owned(), format!("{:?}", kernel.cgroup).to_lowercase()],
        ["memory controller".to_owned(), found(&kernel.memory_controller)],
        ["PSI".to_owned(), found(&kernel.psi)],
        ["lockdown".to_owned(), format!("{:?}", kernel.lockdown).to_lowercase()],
    ];
    for missing in kernel.capabilities.iter().filter(|c| !c.held) {
        rows.push([format!("missing {}", missing.name), format!("needed to {}", missing.needed_for)]);
    }
    let runtime = report.runtime.version.clone().or_else(|| report.runtime.error.clone());
    rows.push(["container runtime".to_owned(), runtime.unwrap_or_default()]);

    let mut node = plain_table();
    for row in rows {
        node.add_row(row);
    }
    let mut programs = plain_table();
    programs.set_header(["PROGRAM", "TIER", "HOOK", "STATE"]);
    for p in &report.programs {
        let state = match &p.state {
            ProgramState::Loaded => match &p.passed_over {
                Some(why) => format!("loaded (better variant: {why})"),
                None => "loaded".to_owned(),
            },
            ProgramState::Unavailable(why) => format!("unavailable: {why}"),
        };
        programs.add_row([p.name.to_owned(), p.tier.to_string(), p.hook.clone(), state]);
    }
    let verdict = if report.problems.is_empty() {
        "oomlet can run here.".to_owned()
    } else {
        let list: Vec<String> = report.problems.iter().map(|p| format!("  - {p}")).collect();
        format!("oomlet cannot run here:\n{}", list.join("\n"))
    };
    format!("{node}\n\n{programs}\n\n{verdict}")
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn found(found: &Found) -> String {
    match found {
        Found::At(path) => path.display().to_string(),
        Found::Missing(why) => format!("missing: {why}"),
    }
}
