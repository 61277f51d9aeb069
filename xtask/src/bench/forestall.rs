//! `bench forestall`: whether the kernel's OOM killer is forestalled, and what else happens, for leaks of each speed and
//! shape, by oomlet with all and less of its senses, by what people use today, and by nobody.
//!
//! - [`matrix`]: what is measured; [`pods`]: the leaks, and what only looks like one.
//! - [`session`]: a node for many runs; [`run`]: one of them; [`watch`], [`gauge`]: what is seen from outside.
//! - [`outcome`]: a run judged; [`figures`]: cells of many; [`summary`], [`report`], [`picture`], and
//!   the [`page`] of all three: what people read.
//! - [`lab`]: the same in a machine whose own memory runs out, beside [`peers`], or with a [`kubelet`].

mod figures;
mod gauge;
mod kubelet;
mod lab;
mod matrix;
mod outcome;
mod page;
mod peers;
mod picture;
mod pods;
mod report;
mod run;
mod session;
mod summary;
mod watch;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::demo::Interrupted;
use crate::lab::kernel::Kernel;
use crate::{paths, scratch};
use figures::{BenignFigures, CellFigures, Figures, HOST};
use matrix::{Cell, Domain, Group, PICTURED, Part, Shape, Tool};
use pods::Benign;
use session::{Session, Setting};

/// The benign pods meet a smaller cap: some of them write it to the disk one and a half times.
const BENIGN_CAP_MIB: u64 = 512;
/// About what an idle machine of the lab has available.
const LAB_BENIGN_MIB: u64 = 560;
/// Attempts without a result that end a cell.
const FAILURES: usize = 3;

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Few speeds and few runs: ends within ten minutes, where all takes about two hours.
    #[arg(long)]
    quick: bool,
    /// Runs of each cell, instead of 30 for oomlet's tiers 1 and 2 and 5 for the rest.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,
    /// Only what has this in its name, such as `tier 2/anonymous/1000/`, `nothing/` or `benign`.
    #[arg(long)]
    only: Option<String>,
    /// In a machine of the lab with this kernel, whose own memory runs out, beside earlyoom, nohang and systemd-oomd.
    #[arg(long, value_name = "KERNEL")]
    lab: Option<Kernel>,
    /// In the lab with this kubelet as well, in oomlet's place. Such as one of the release binaries, of any 1.x that the
    /// lab's containerd serves.
    #[arg(long, value_name = "PATH", requires = "lab")]
    kubelet: Option<PathBuf>,
    /// Measures nothing: makes tables and picture from the figures that are there.
    #[arg(long, conflicts_with_all = ["quick", "runs", "only", "lab"])]
    report: bool,
    /// Puts a short table into README.md, and all tables, picture and figures into docs/.
    #[arg(long)]
    write: bool,
    /// Inside a machine of the lab with this kernel.
    #[arg(long, hide = true)]
    here: Option<String>,
}

impl Options {
    /// In a machine that has all it needs, and nothing to build it with; or nothing is measured.
    pub fn is_inside(&self) -> bool {
        self.here.is_some() || self.report
    }

    /// Fewer runs than the figures should rest on.
    fn is_short(&self) -> bool {
        self.quick || self.runs.is_some()
    }

    fn wants_benign(&self) -> bool {
        self.only.as_ref().is_none_or(|only| only == "benign")
    }

    fn is_partial(&self) -> bool {
        self.is_short() || self.only.is_some()
    }

    fn chosen(&self, groups: Vec<Group>) -> Vec<Group> {
        let mut groups = self.only.as_ref().map_or(groups.clone(), |part| matrix::only(groups, part));
        if let Some(runs) = self.runs {
            groups.iter_mut().flat_map(|group| &mut group.cells).for_each(|cell| cell.runs = runs);
        }
        groups
    }
}

pub fn run(options: &Options) -> Result<()> {
    if !options.report {
        scratch::sweep_leftovers()?;
    }
    if let Some(line) = &options.here {
        return inside(options, line);
    }
    let kept = Kept { json: json_path()?, with_sources: paths::repository().join(page::KEPT) };
    if !options.report {
        match options.lab {
            Some(kernel) => lab::run(kernel, options, &kept)?,
            None => on_host(options, &kept)?,
        }
    }
    show(options, &kept.figures()?, &kept.json.with_extension("svg"))
}

/// The file with the figures of all calls, to which new ones are added as they come: a measurement of hours may be cut short.
struct Kept {
    json: PathBuf,
    /// What `--write` has put beside the sources: where nothing was measured here yet, new figures are added to these.
    with_sources: PathBuf,
}

impl Kept {
    fn figures(&self) -> Result<Figures> {
        let found = [&self.json, &self.with_sources].into_iter().find(|path| path.is_file());
        let missing = || format!("there is no {} to make tables of; measure first", self.json.display());
        let path = found.with_context(missing)?;
        let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is of another version of this bench; remove it", path.display()))
    }

    /// Adds `new`, of which those before it are a part; `whole`: nothing else of the same place stays.
    fn write(&self, new: &Figures, whole: bool) -> Result<()> {
        let is_first = !self.json.is_file() && !self.with_sources.is_file();
        let mut all = if is_first { Figures::default() } else { self.figures()? };
        if let Some(host) = new.machines.get(HOST) {
            all = all.of_host(host);
        }
        all.take(new.clone(), whole);
        super::write("forestall", serde_json::to_value(&all)?).map(drop)
    }
}

fn json_path() -> Result<PathBuf> {
    Ok(paths::target()?.join("bench/forestall.json"))
}

fn show(options: &Options, figures: &Figures, svg: &Path) -> Result<()> {
    println!("\n{}", page::tables(figures));
    let json = svg.with_extension("json");
    if json.is_file() {
        println!("written: {}", super::shown(&json));
    }
    let both = figures.watched.as_ref().zip(figures.alone.as_ref());
    let drawn = both.map(|(watched, alone)| picture::draw(watched, alone)).transpose()?;
    if let Some(drawn) = &drawn {
        std::fs::write(svg, drawn).with_context(|| format!("writing {}", svg.display()))?;
        println!("written: {}", super::shown(svg));
    }
    if options.write {
        super::write_between(super::README, "forestall", &summary::readme(figures))?;
        let (whole, kept) = (page::whole(figures), page::kept(figures)?);
        let files = [(page::WHOLE, Some(whole)), (page::KEPT, Some(kept)), (page::PICTURE, drawn)];
        for (name, text) in files {
            let path = paths::repository().join(name);
            let Some(text) = text else {
                ensure!(path.is_file(), "there is no picture: measure tier 2 and nothing at 1000 MiB/s");
                println!(
                    "{} stays: tier 2 and nothing at 1000 MiB/s were not measured here",
                    super::shown(&path)
                );
                continue;
            };
            let dir = path.parent().context("a file without a folder")?;
            std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
            std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            println!("written: {}", super::shown(&path));
        }
    }
    Ok(())
}

fn on_host(options: &Options, kept: &Kept) -> Result<()> {
    let stop = Interrupted::install()?;
    let groups = options.chosen(matrix::host(options.quick));
    let keep = |figures: &Figures| kept.write(figures, false);
    let mut measured = Measured::new(HOST, false, &stop, &keep)?;
    measured.figures.quick = options.is_short();
    measured.cells(&groups)?;
    if options.wants_benign() {
        let tiers: &[u8] = if options.quick { &[2, 0] } else { &[2, 1, 0] };
        let tools = tiers.iter().map(|&tier| Tool::Oomlet { tier, brake: true });
        let runs = options.runs.unwrap_or(if options.quick { 1 } else { 5 });
        // Nobody's: shows that the kernel lets all of it be.
        let nobody = (!options.quick).then_some((Tool::Nothing, 1));
        for (tool, runs) in tools.map(|tool| (tool, runs)).chain(nobody) {
            measured.benign(tool, Domain::Kubepods, BENIGN_CAP_MIB, runs)?;
        }
    }
    kept.write(&measured.figures, !options.is_partial())
}

/// In a machine of the lab, which is for one part; `here` is `KERNEL/PART`.
fn inside(options: &Options, here: &str) -> Result<()> {
    let stop = Interrupted::install()?;
    lab::install_peers()?;
    let part = here.split_once('/').and_then(|(line, part)| Some((line, Part::of(part)?)));
    let (line, part) = part.with_context(|| format!("--here {here}: not KERNEL/PART"))?;
    let place = if part == Part::Capped { format!("lab {line}, capped") } else { format!("lab {line}") };
    let mut measured = Measured::new(&place, true, &stop, &lab::leave)?;
    let (with_swap, without): (Vec<_>, Vec<_>) =
        options.chosen(part.groups(options.quick)).into_iter().partition(|group| group.swap);
    measured.cells(&without)?;
    if options.wants_benign() {
        for tool in part.benign() {
            measured.benign(tool, Domain::Node, LAB_BENIGN_MIB, options.runs.unwrap_or(1))?;
        }
    }
    if !with_swap.is_empty() {
        lab::swap_on()?;
        measured.cells(&with_swap)?;
    }
    lab::leave(&measured.figures)
}

/// The figures as they come.
struct Measured<'a> {
    place: &'a str,
    /// The machine is ours alone.
    alone: bool,
    stop: &'a Interrupted,
    /// Called with all of them after each cell.
    keep: &'a dyn Fn(&Figures) -> Result<()>,
    figures: Figures,
}

impl<'a> Measured<'a> {
    fn new(
        place: &'a str,
        alone: bool,
        stop: &'a Interrupted,
        keep: &'a dyn Fn(&Figures) -> Result<()>,
    ) -> Result<Measured<'a>> {
        let mut figures = Figures::default();
        figures.machines.insert(place.to_owned(), run::machine()?);
        Ok(Measured { place, alone, stop, keep, figures })
    }

    fn cells(&mut self, groups: &[Group]) -> Result<()> {
        if groups.is_empty() {
            return Ok(());
        }
        let seconds: f64 = groups.iter().map(Group::seconds).sum();
        let runs: u32 = groups.iter().flat_map(|group| &group.cells).map(|cell| cell.runs).sum();
        println!("{}: {runs} runs of leaks, about {:.0} minutes", self.place, (seconds / 60.0).ceil());
        for group in groups {
            let cap_mib = matrix::CAP_MIB;
            let setting = Setting { tool: group.tool, domain: group.domain, cap_mib, alone: self.alone };
            let mut runner = Runner::new(setting);
            for cell in &group.cells {
                let (each, failed) = self.leaks(&mut runner, *cell)?;
                let of = CellFigures::of(self.place, runner.hierarchy, group, *cell, each, failed);
                println!("{}", of.line());
                self.figures.cells.push(of);
                (self.keep)(&self.figures)?;
            }
        }
        Ok(())
    }

    /// All runs of a cell, and how many attempts failed.
    fn leaks(&mut self, runner: &mut Runner, cell: Cell) -> Result<(Vec<outcome::Run>, usize)> {
        let (mut each, mut failed) = (Vec::new(), 0);
        while each.len() < cell.runs as usize && failed < FAILURES {
            let Some((run, recording)) = runner.attempt(self.stop, |session| run::leak(session, cell))?
            else {
                failed += 1;
                continue;
            };
            if cell.shape == Shape::Anonymous && cell.speed == PICTURED {
                match runner.setting.tool {
                    Tool::OOMLET if run.sigterm_completed => self.figures.watched = Some(recording),
                    Tool::Nothing => self.figures.alone = Some(recording),
                    _ => {}
                }
            }
            each.push(run);
        }
        Ok((each, failed))
    }

    /// All shapes of it, with sizes by `cap_mib`.
    fn benign(&mut self, tool: Tool, domain: Domain, cap_mib: u64, runs: u32) -> Result<()> {
        let setting = Setting { tool, domain, cap_mib, alone: self.alone };
        let mut runner = Runner::new(setting);
        for shape in Benign::ALL {
            let (mut seen, mut failed) = (Vec::new(), 0);
            while seen.len() < runs as usize && failed < FAILURES {
                match runner.attempt(self.stop, |session| run::benign(session, shape))? {
                    Some((why, kills)) => {
                        if let Some(why) = &why {
                            println!("{} evicted: {why}", shape.name());
                        }
                        seen.push((why.is_some(), kills));
                    }
                    None => failed += 1,
                }
            }
            let of = BenignFigures::of(self.place, tool, shape, cap_mib, &seen);
            println!("{}", of.line());
            self.figures.benign.push(of);
            (self.keep)(&self.figures)?;
        }
        Ok(())
    }
}

/// A session that is begun when it is needed, and anew after a run that failed.
struct Runner {
    setting: Setting,
    session: Option<Session>,
    hierarchy: &'static str,
}

impl Runner {
    fn new(setting: Setting) -> Runner {
        Runner { setting, session: None, hierarchy: "unknown" }
    }

    /// `None`: it failed, and why is shown. An error: interrupted.
    fn attempt<T>(
        &mut self,
        stop: &Interrupted,
        run: impl FnOnce(&mut Session) -> Result<T>,
    ) -> Result<Option<T>> {
        let result = match &mut self.session {
            Some(session) => run(session),
            None => match Session::start(self.setting, stop) {
                Ok(session) => {
                    self.hierarchy = session.gauge.hierarchy();
                    run(self.session.insert(session))
                }
                Err(error) => Err(error),
            },
        };
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                stop.check()?;
                let logs = self.session.take().map(|session| session.diagnosis()).unwrap_or_default();
                eprintln!("a run failed: {error:#}\n{logs}\n");
                Ok(None)
            }
        }
    }
}
