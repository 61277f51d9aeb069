//! docs/differences.md: the differences that stand, by their reasons.

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::{Context, Result};

use super::KUBELET;
use super::difference::{Difference, Reasons, Standing, shown};
use crate::paths;

const PAGE: &str = "docs/differences.md";
/// Longer values are cut: the recording has them in full.
const LONGEST: usize = 160;
/// More examples of one reason say no more.
const EXAMPLES: usize = 4;

/// Where the part about the node's API begins; it goes to the end of the page.
const NODE_API: &str = "\n<!-- compare --node-api: begin -->\n";

/// The part about manifests; what the page says of the node's API stays.
pub(super) fn write(found: &[Difference], reasons: &Reasons) -> Result<()> {
    let (_, node_api) = read()?;
    write_both(&text(found, reasons), &node_api, reasons)
}

/// The part about the node's API alone.
pub(super) fn write_node_api(found: &[Difference], reasons: &Reasons) -> Result<()> {
    let (manifests, _) = read()?;
    write_both(&manifests, &node_api_text(found, reasons), reasons)
}

fn read() -> Result<(String, String)> {
    let path = paths::repository().join(PAGE);
    let page = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let (manifests, node_api) =
        page.split_once(NODE_API).with_context(|| format!("{PAGE} has no line {}", NODE_API.trim()))?;
    Ok((manifests.to_owned(), node_api.to_owned()))
}

fn write_both(manifests: &str, node_api: &str, reasons: &Reasons) -> Result<()> {
    let path = paths::repository().join(PAGE);
    std::fs::write(&path, format!("{manifests}{NODE_API}{node_api}"))
        .with_context(|| format!("writing {}", path.display()))?;
    println!("written: {PAGE}");
    for unused in reasons.unused() {
        println!("no difference any more: {unused}");
    }
    Ok(())
}

fn text(found: &[Difference], reasons: &Reasons) -> String {
    let mut page = format!(
        "# Differences from {KUBELET}\n\nWritten by `cargo xtask compare`, which runs each manifest of \
         `tests/compare/corpus` on a node of oomlet and holds what is seen\nagainst what kubelet did with it \
         (`tests/compare/{KUBELET}`). The reasons are in `tests/compare/reasons.yaml`. Of the node's API: [below](#the-nodes-api).\n"
    );
    sections(&mut page, "##", found, reasons);
    page
}

fn node_api_text(found: &[Difference], reasons: &Reasons) -> String {
    let mut part = format!(
        "\n## The node's API\n\nWritten by `cargo xtask compare --node-api`, which asks a node of oomlet what kubelet was asked \
         (`tests/compare/{KUBELET}/node-api.json`): every route, by\nevery kind of caller; and compares the configuration in \
         effect, the keys of `/pods` and of the Summary, and the names, types and labels of all metrics. The\nreasons are in \
         `tests/compare/node-api-reasons.yaml`.\n"
    );
    sections(&mut part, "###", found, reasons);
    part
}

fn sections(page: &mut String, level: &str, found: &[Difference], reasons: &Reasons) {
    for (index, reason) in reasons.all.iter().enumerate() {
        let heading = format!("{level} {}\n\n{}", index + 1, reason.text);
        section(page, &heading, found, Standing::Explained(index));
    }
    section(page, &format!("{level} Without a reason"), found, Standing::Unexplained);
}

fn section(page: &mut String, heading: &str, found: &[Difference], standing: Standing) {
    let of: Vec<&Difference> = found.iter().filter(|one| one.standing == standing).collect();
    if of.is_empty() {
        return;
    }
    let manifests: BTreeSet<&str> = of.iter().map(|one| one.manifest.as_str()).collect();
    let in_all = manifests.into_iter().collect::<Vec<_>>().join(", ");
    let mut seen = BTreeSet::new();
    let examples = of.into_iter().filter(|one| seen.insert(one.path.clone())).take(EXAMPLES);
    let _ = write!(page, "\n{heading}\n\nSeen in: {in_all}.\n\n| what | kubelet | oomlet |\n|---|---|---|\n");
    for one in examples {
        let [a, b] = [&one.kubelet, &one.oomlet].map(|value| cell(&shown(value)));
        let _ = writeln!(page, "| {} | {a} | {b} |", cell(&one.path));
    }
}

fn cell(text: &str) -> String {
    let short: String = text.chars().take(LONGEST).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!("`{}{dots}`", short.replace('|', "\\|").replace('`', "'"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_has_no_reason_is_told_as_such() {
        let one = Difference {
            manifest: "probe".to_owned(),
            path: "a|b".to_owned(),
            kubelet: json!("x".repeat(LONGEST * 2)),
            oomlet: Value::Null,
            standing: Standing::Unexplained,
        };
        let page = text(&[one], &Reasons::default());
        assert!(
            page.contains("## Without a reason\n\nSeen in: probe.\n") && page.contains("| `a\\|b` | `\"xxx")
        );
        assert!(page.contains("…` | `-` |"), "{page}");
    }
}
