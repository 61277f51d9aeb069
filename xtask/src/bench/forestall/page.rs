//! docs/forestall.md as a whole, and the files that lie next to it. Pure.

use anyhow::Result;

use super::figures::Figures;
use super::{report, summary};

/// The picture, next to the tables.
pub const PICTURE: &str = "docs/forestall.svg";
/// With every cell.
pub const WHOLE: &str = "docs/forestall.md";
/// What tables are made of, [`Figures::summed_up`]: other machines add to it.
pub const KEPT: &str = "docs/forestall.json";

/// Of docs/forestall.md.
const TITLE: &str = "\
# Leaks: who ends them, and how

Pods leak memory at each speed, again and again, and what became of each is counted: with oomlet at each of its sensing tiers, with the
tools that people use today, and with nobody but the kernel. Pods that only look like a leak are run as well, for false evictions.

```sh
cargo xtask bench forestall              # on this machine, about an hour and a half; --quick: ten minutes
cargo xtask bench forestall --lab 6.12   # in virtual machines on cgroup v2, with earlyoom, nohang and systemd-oomd: two hours more
                                         # --kubelet PATH: with a kubelet in oomlet's place, too
cargo xtask bench forestall --report --write   # measures nothing: makes this page and README.md of the figures that are there
```

`--write` after a measurement puts it here. `docs/forestall.json` keeps every cell until it is measured again, so not all are of the same
build. This page is written by the command; what is edited by hand is lost.";

/// What docs/forestall.md holds below its title.
pub fn tables(figures: &Figures) -> String {
    format!("{}\n{}", summary::markdown(figures), report::markdown(figures))
}

pub fn whole(figures: &Figures) -> String {
    format!("{TITLE}\n\n{}\n", tables(figures).trim())
}

/// What docs/forestall.json holds.
pub fn kept(figures: &Figures) -> Result<String> {
    Ok(serde_json::to_string_pretty(&figures.summed_up())? + "\n")
}

#[cfg(test)]
mod tests {
    use super::super::super::{README, replace_between};
    use super::*;
    use crate::paths;

    /// A table that was edited by hand, or one that a change of this bench would write otherwise, fails here: run
    /// `cargo xtask bench forestall --report --write`.
    #[test]
    fn pages_hold_what_the_command_makes_of_the_figures_that_are_kept() {
        let text = |name: &str| std::fs::read_to_string(paths::repository().join(name)).unwrap();
        let figures: Figures = serde_json::from_str(&text(KEPT)).unwrap();
        assert_eq!(text(KEPT), kept(&figures).unwrap());
        assert_eq!(text(WHOLE), whole(&figures));
        let readme = text(README);
        assert_eq!(readme, replace_between(&readme, "forestall", &summary::readme(&figures)).unwrap());
    }
}
