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

/// One row for each number of pods, with the agents' figures beside each other.
fn come_and_go(figures: &Figures) -> String {
    let mut table = table(&[
        "pods at once",
        "all Ready, s",
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
        let of_agents = figures.agents.iter().filter_map(|a| a.rounds.iter().find(|r| r.pods == pods));
        let numbers: Vec<[String; 7]> = of_agents.map(numbers).collect();
        let beside = |index: usize| {
            let all: Vec<&str> = numbers.iter().map(|of_agent| of_agent[index].as_str()).collect();
            all.join(" : ")
        };
        table.add_row(std::iter::once(pods.to_string()).chain((0..7).map(beside)));
    }
    aligned(table, &[])
}

fn numbers(round: &Round) -> [String; 7] {
    [
        format!("{:.2}", round.ready_s),
        format!("{:.2}", round.create.cpu_s),
        format!("{:.0}", round.create.peak_rss_mib),
        round.create.requests.total().to_string(),
        format!("{:.2}", round.gone_s),
        format!("{:.2}", round.delete.cpu_s),
        round.delete.requests.total().to_string(),
    ]
}

fn at_rest(figures: &Figures) -> String {
    let of_agent = |agent: &AgentFigures| {
        let rest = &agent.rest;
        format!(
            "{} {:.1} % of a core, {:.0} MiB, {:.0} requests a minute",
            agent.agent,
            rest.cost.cpu_s / rest.seconds * 100.0,
            rest.rss_mib,
            rest.cost.requests.total() as f64 / rest.seconds * 60.0
        )
    };
    let pods = figures.agents.first().map_or(0, |agent| agent.rest.pods);
    let all: Vec<String> = figures.agents.iter().map(of_agent).collect();
    format!("At rest with {pods} pods: {}.", all.join("; "))
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
    fn agents_stand_beside_each_other_for_each_number() {
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
        let firsts: Vec<[&str; 2]> = rows.iter().map(|row| [row[1], row[2]]).collect();
        assert_eq!(firsts, [["pods at once", "all Ready, s"], ["1", "1.25 : 3.50"], ["20", "1.25 : 3.50"]]);
        let rest = "At rest with 20 pods: a 1.0 % of a core, 12 MiB, 0 requests a minute; b 1.0 % of a core";
        assert!(text.contains(rest), "{text}");
    }
}
