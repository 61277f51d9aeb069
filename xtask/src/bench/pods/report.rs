//! The tables.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use super::{AgentFigures, Figures, Round};

/// For the README: markdown.
pub fn tables(figures: &Figures, machine: &Value) -> String {
    let names: Vec<&str> = figures.agents.iter().map(|agent| agent.agent.as_str()).collect();
    let text = |key: &str| machine[key].as_str().unwrap_or_default().to_owned();
    format!(
        "On {} CPUs ({}), Linux {}, cgroup {}, containerd {}, load {} at the end: {}, one after the other, each on a fresh \
         node of the same control plane. CPU and memory are the agent's own; requests are those that the API server's \
         audit log has of the node, until five seconds after the last pod was Ready or gone.\n\n{}\n\n{}",
        machine["cpus"],
        text("cpu"),
        text("kernel"),
        text("cgroup"),
        figures.containerd,
        text("load"),
        names.join(" and "),
        come_and_go(figures),
        at_rest(figures),
    )
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(header);
    table
}

/// Numbers to the right.
fn aligned(mut table: Table, texts: &[usize]) -> String {
    for (index, column) in table.column_iter_mut().enumerate() {
        if !texts.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

fn come_and_go(figures: &Figures) -> String {
    let mut table = table(&[
        "pods at once",
        "agent",
        "all Ready, s",
        "half of them, s",
        "CPU, s",
        "peak RSS, MiB",
        "requests",
        "all gone, s",
        "CPU, s",
        "requests",
    ]);
    let counts: Vec<u32> =
        figures.agents.first().map(|a| a.rounds.iter().map(|r| r.pods).collect()).unwrap_or_default();
    for pods in counts {
        for agent in &figures.agents {
            if let Some(round) = agent.rounds.iter().find(|round| round.pods == pods) {
                table.add_row(row(agent, round));
            }
        }
    }
    aligned(table, &[1])
}

fn row(agent: &AgentFigures, round: &Round) -> [String; 10] {
    [
        round.pods.to_string(),
        agent.agent.clone(),
        format!("{:.2}", round.ready_s),
        format!("{:.2}", round.ready_p50_s),
        format!("{:.2}", round.create.cpu_s),
        format!("{:.0}", round.create.peak_rss_mib),
        round.create.requests.total().to_string(),
        format!("{:.2}", round.gone_s),
        format!("{:.2}", round.delete.cpu_s),
        round.delete.requests.total().to_string(),
    ]
}

fn at_rest(figures: &Figures) -> String {
    let mut table = table(&["at rest with", "agent", "CPU, % of a core", "RSS, MiB", "requests a minute"]);
    for agent in &figures.agents {
        let rest = &agent.rest;
        table.add_row([
            format!("{} pods", rest.pods),
            agent.agent.clone(),
            format!("{:.2}", rest.cost.cpu_s / rest.seconds * 100.0),
            format!("{:.0}", rest.rss_mib),
            format!("{:.0}", rest.cost.requests.total() as f64 / rest.seconds * 60.0),
        ]);
    }
    aligned(table, &[1])
}

/// Where the requests of the largest round and at rest went.
pub fn kinds(figures: &Figures) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["agent", "request", "come", "at rest", "go"]);
    for agent in &figures.agents {
        let Some(round) = agent.rounds.last() else { continue };
        let parts = [&round.create.requests, &agent.rest.cost.requests, &round.delete.requests];
        let kinds: std::collections::BTreeSet<&String> =
            parts.iter().flat_map(|part| part.0.keys()).collect();
        for kind in kinds {
            let count = |part: &super::Requests| part.0.get(kind).copied().unwrap_or_default().to_string();
            let [come, rest, go] = parts.map(count);
            table.add_row([agent.agent.clone(), kind.clone(), come, rest, go]);
        }
    }
    aligned(table, &[0, 1])
}

#[cfg(test)]
mod tests {
    use super::super::{Cost, Rest};
    use super::*;
    use serde_json::json;

    #[test]
    fn agents_stand_beneath_each_other_for_each_number() {
        let round = |pods, ready_s| Round {
            pods,
            ready_s,
            ready_p50_s: 1.0,
            create: Cost::default(),
            gone_s: 2.0,
            delete: Cost::default(),
            load: String::new(),
        };
        let agent = |name: &str, ready_s| AgentFigures {
            agent: name.to_owned(),
            rounds: vec![round(1, ready_s), round(20, ready_s)],
            rest: Rest {
                pods: 20,
                seconds: 30.0,
                rss_mib: 12.3,
                cost: Cost { cpu_s: 0.3, ..Cost::default() },
            },
        };
        let figures = Figures { containerd: "2".into(), agents: vec![agent("a", 1.25), agent("b", 3.5)] };
        let text = tables(&figures, &json!({ "cpus": 2 }));
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.starts_with("| ") || line.starts_with("|  "))
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        let firsts: Vec<[&str; 3]> = rows.iter().map(|row| [row[1], row[2], row[3]]).collect();
        assert_eq!(
            firsts,
            [
                ["pods at once", "agent", "all Ready, s"],
                ["1", "a", "1.25"],
                ["1", "b", "3.50"],
                ["20", "a", "1.25"],
                ["20", "b", "3.50"],
                ["at rest with", "agent", "CPU, % of a core"],
                ["20 pods", "a", "1.00"],
                ["20 pods", "b", "1.00"],
            ]
        );
    }
}
