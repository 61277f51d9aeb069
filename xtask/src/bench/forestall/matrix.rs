//! What is measured: who watches, which leaks at which speeds, and how often. Pure.

use serde::{Deserialize, Serialize};

/// Of all pods together on a capped node, in MiB; `memory.available` at which an eviction is due, as kubelet has it.
pub const CAP_MIB: u64 = 1024;
pub const THRESHOLD_MIB: u64 = 100;
/// What a quiet pod holds while leaks are slow, so that they have less far to go; and less to be taken for a fast one by on
/// their way to the threshold.
pub const BALLAST_MIB: u64 = 700;
/// What it takes to have that pod and to be rid of it, in seconds.
const BALLAST_S: f64 = 17.0;
/// Containerd, agent and neighbours up.
const NODE_S: f64 = 3.0;
/// A slow leak grows this fast until it is just below the threshold.
pub const RUN_UP_MIB_S: u64 = 50;
/// Where it begins with its own speed: so many seconds below the threshold, and at least so many MiB.
const AHEAD_S: u64 = 4;
const AHEAD_MIB: u64 = 6;
/// The speed at which shapes are compared.
pub const MIDDLE: Speed = Speed::MibS(200);
/// Of the two runs in the picture.
pub const PICTURED: Speed = Speed::MibS(1000);

/// Who watches the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    Oomlet {
        tier: u8,
        brake: bool,
    },
    Peer {
        peer: Peer,
        tuned: bool,
    },
    /// In oomlet's place.
    Kubelet,
    /// The kernel's OOM killer alone.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Earlyoom,
    Nohang,
    SystemdOomd,
}

impl Tool {
    pub const OOMLET: Tool = Tool::Oomlet { tier: 2, brake: true };

    /// The key `tool` of the figures.
    pub fn name(self) -> String {
        match self {
            Tool::Oomlet { .. } => "oomlet".to_owned(),
            Tool::Kubelet => "kubelet".to_owned(),
            Tool::Nothing => "nothing".to_owned(),
            Tool::Peer { peer, tuned } => format!("{}{}", peer.name(), if tuned { " tuned" } else { "" }),
        }
    }

    pub fn tier(self) -> Option<u8> {
        match self {
            Tool::Oomlet { tier, .. } => Some(tier),
            _ => None,
        }
    }

    pub fn brake(self) -> Option<bool> {
        match self {
            Tool::Oomlet { brake, .. } => Some(brake),
            _ => None,
        }
    }
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Peer::Earlyoom => "earlyoom",
            Peer::Nohang => "nohang",
            Peer::SystemdOomd => "systemd-oomd",
        }
    }
}

/// How a name in the tables tells the variants of oomlet apart.
pub fn title(tool: &str, tier: Option<u8>, brake: Option<bool>) -> String {
    let brake = if brake == Some(false) { ", no brake" } else { "" };
    tier.map_or(tool.to_owned(), |tier| format!("{tool} tier {tier}{brake}"))
}

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    Anonymous,
    /// Files on a tmpfs: memory that cannot be reclaimed.
    Tmpfs,
    /// Page cache that has to be written before it can be reclaimed; it ends by itself.
    Dirty,
    /// Ever more processes with a little memory each.
    ForkBomb,
}

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Shape::Anonymous => "anonymous",
            Shape::Tmpfs => "tmpfs",
            Shape::Dirty => "dirty",
            Shape::ForkBomb => "fork-bomb",
        }
    }
}

/// In the figures a number of MiB/s or `"max"`: as fast as the machine can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Speed {
    MibS(u64),
    Word(Word),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    Max,
}

impl Speed {
    pub const MAX: Speed = Speed::Word(Word::Max);

    pub fn mib_s(self) -> Option<u64> {
        match self {
            Speed::MibS(rate) => Some(rate),
            Speed::Word(Word::Max) => None,
        }
    }

    pub fn name(self) -> String {
        self.mib_s().map_or("max".to_owned(), |rate| rate.to_string())
    }
}

/// Whose memory runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Domain {
    /// That of all pods under a cap.
    Kubepods,
    /// That of the whole machine.
    Node,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub shape: Shape,
    pub speed: Speed,
    pub runs: u32,
}

/// Cells that share a node: its agent is configured once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub tool: Tool,
    pub domain: Domain,
    pub swap: bool,
    pub cells: Vec<Cell>,
}

impl Cell {
    /// A quiet pod holds a part of the memory meanwhile.
    pub fn wants_ballast(self, domain: Domain) -> bool {
        let slow = self.speed.mib_s().is_some_and(|rate| rate <= RUN_UP_MIB_S);
        domain == Domain::Kubepods && (slow || self.shape != Shape::Anonymous)
    }

    /// What a leak holds before it begins with its own speed, where the threshold is `room_mib` away.
    pub fn start_mib(self, room_mib: u64) -> u64 {
        match self.speed {
            Speed::MibS(rate) if rate < RUN_UP_MIB_S && self.shape == Shape::Anonymous => {
                room_mib.saturating_sub((rate * AHEAD_S).max(AHEAD_MIB))
            }
            _ => 0,
        }
    }

    /// How long a run takes, in seconds, pod and pause included: for the estimate at the beginning, and for its bound.
    pub fn seconds(self, domain: Domain) -> f64 {
        let room = match domain {
            Domain::Kubepods if self.wants_ballast(domain) => CAP_MIB - THRESHOLD_MIB - BALLAST_MIB - 40,
            Domain::Kubepods => CAP_MIB - THRESHOLD_MIB - 40,
            Domain::Node => 500,
        };
        let start = self.start_mib(room);
        let own = (room - start) as f64 / self.speed.mib_s().unwrap_or(2000).min(2000) as f64;
        3.5 + start as f64 / RUN_UP_MIB_S as f64 + own
    }
}

impl Group {
    /// All its runs.
    pub fn seconds(&self) -> f64 {
        let runs: f64 = self.cells.iter().map(|cell| cell.seconds(self.domain) * f64::from(cell.runs)).sum();
        let ballast = self.cells.iter().any(|cell| cell.wants_ballast(self.domain));
        NODE_S + runs + if ballast { BALLAST_S } else { 0.0 }
    }
}

fn cells(shape: Shape, speeds: &[Speed], runs: u32) -> impl Iterator<Item = Cell> {
    speeds.iter().map(move |&speed| Cell { shape, speed, runs })
}

fn shapes(runs: u32) -> impl Iterator<Item = Cell> {
    [Shape::Tmpfs, Shape::Dirty, Shape::ForkBomb].map(|shape| Cell { shape, speed: MIDDLE, runs }).into_iter()
}

const fn all_speeds() -> [Speed; 7] {
    [Speed::MibS(1), Speed::MibS(10), Speed::MibS(50), MIDDLE, PICTURED, Speed::MibS(4000), Speed::MAX]
}

/// On this machine, under a cap.
pub fn host(quick: bool) -> Vec<Group> {
    let all = all_speeds();
    let speeds: &[Speed] = if quick { &[Speed::MibS(10), MIDDLE, PICTURED, Speed::MAX] } else { &all };
    // Where holding a pod matters: nothing is held that does not outrun its grace.
    let fast: &[Speed] = if quick { &[PICTURED] } else { &all[3..] };
    let group = |tool, speeds: &[Speed], runs: u32, shape_runs: u32| {
        let mut cells: Vec<Cell> = cells(Shape::Anonymous, speeds, runs).collect();
        cells.extend(shapes(shape_runs).filter(|cell| cell.runs > 0));
        // The ballast comes and goes once.
        cells.sort_by_key(|cell| !cell.wants_ballast(Domain::Kubepods));
        Group { tool, domain: Domain::Kubepods, swap: false, cells }
    };
    let oomlet = |tier, brake| Tool::Oomlet { tier, brake };
    if quick {
        return vec![
            group(oomlet(2, true), speeds, 3, 1),
            group(oomlet(1, true), speeds, 2, 0),
            group(oomlet(0, true), speeds, 2, 0),
            group(oomlet(2, false), fast, 2, 0),
            group(Tool::Nothing, speeds, 1, 1),
        ];
    }
    vec![
        group(oomlet(2, true), speeds, 30, 30),
        group(oomlet(1, true), speeds, 30, 30),
        group(oomlet(0, true), speeds, 5, 5),
        group(oomlet(2, false), fast, 5, 0),
        group(Tool::Nothing, speeds, 5, 5),
    ]
}

/// What is measured in one machine of the lab. An emulated CPU touches some hundred MiB in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The machine's memory as a whole runs out: what all tools watch.
    Node,
    /// Pods under a cap, as on this machine.
    Capped,
    /// The machine's memory, and a kubelet: it leaves sysctls behind.
    Kubelet,
    /// The machine's memory, and systemd runs it.
    Systemd,
}

impl Part {
    pub const ALL: [Part; 4] = [Part::Node, Part::Capped, Part::Kubelet, Part::Systemd];

    pub fn name(self) -> &'static str {
        match self {
            Part::Node => "node",
            Part::Capped => "capped",
            Part::Kubelet => "kubelet",
            Part::Systemd => "systemd",
        }
    }

    pub fn of(name: &str) -> Option<Part> {
        Part::ALL.into_iter().find(|part| part.name() == name)
    }

    fn tools(self) -> Vec<Tool> {
        let oomlet = [2, 1, 0].map(|tier| Tool::Oomlet { tier, brake: true });
        let peer = |peer| [false, true].map(|tuned| Tool::Peer { peer, tuned });
        match self {
            Part::Node => {
                [&oomlet[..], &peer(Peer::Earlyoom), &peer(Peer::Nohang), &[Tool::Nothing]].concat()
            }
            Part::Capped => [&oomlet[..], &[Tool::Nothing]].concat(),
            Part::Kubelet => vec![Tool::Kubelet],
            Part::Systemd => peer(Peer::SystemdOomd).to_vec(),
        }
    }

    /// Those without swap come first: it stays on.
    pub fn groups(self, quick: bool) -> Vec<Group> {
        let runs = if quick { 1 } else { 5 };
        let (slow, middle) = (Speed::MibS(50), MIDDLE);
        let anonymous = |speeds: &[Speed]| cells(Shape::Anonymous, speeds, runs).collect::<Vec<_>>();
        let group = |tool, domain, swap, cells| Group { tool, domain, swap, cells };
        let tools = self.tools();
        if self == Part::Capped {
            let mut all = anonymous(&[slow, middle, Speed::MAX]);
            let shapes = [Shape::Tmpfs, Shape::ForkBomb];
            all.extend(shapes.map(|shape| Cell { shape, speed: middle, runs }));
            all.sort_by_key(|cell| !cell.wants_ballast(Domain::Kubepods));
            return tools.into_iter().map(|tool| group(tool, Domain::Kubepods, false, all.clone())).collect();
        }
        // A kubelet wants no swap.
        let swapping = |tool: &Tool| !matches!(tool, Tool::Oomlet { tier: 0 | 1, .. } | Tool::Kubelet);
        let with_swap: Vec<Tool> = tools.iter().copied().filter(swapping).collect();
        let without =
            tools.into_iter().map(|tool| group(tool, Domain::Node, false, anonymous(&[slow, Speed::MAX])));
        let with = with_swap.into_iter().map(|tool| group(tool, Domain::Node, true, anonymous(&[slow])));
        without.chain(with).collect()
    }

    /// Whom the benign suite is run beside, as the whole machine's memory is.
    pub fn benign(self) -> Vec<Tool> {
        let mut tools = self.tools();
        tools.retain(|tool| self != Part::Capped && !matches!(tool, Tool::Oomlet { tier: 0 | 1, .. }));
        tools
    }
}

/// Keeps the cells whose name contains `part`, such as `tier 2/anonymous/1000`.
pub fn only(groups: Vec<Group>, part: &str) -> Vec<Group> {
    let mut groups = groups;
    for group in &mut groups {
        let tool = title(&group.tool.name(), group.tool.tier(), group.tool.brake());
        group
            .cells
            .retain(|cell| format!("{tool}/{}/{}/", cell.shape.name(), cell.speed.name()).contains(part));
    }
    groups.retain(|group| !group.cells.is_empty());
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_matrix_is_what_it_promises() {
        let groups = host(false);
        for tier in [1, 2] {
            let tool = Tool::Oomlet { tier, brake: true };
            let of: Vec<Cell> =
                groups.iter().filter(|g| g.tool == tool).flat_map(|g| g.cells.clone()).collect();
            let anonymous: Vec<&Cell> = of.iter().filter(|c| c.shape == Shape::Anonymous).collect();
            assert!(anonymous.iter().map(|c| c.runs).sum::<u32>() >= 200);
            assert!(of.iter().all(|c| c.runs >= 30));
        }
        let hours = |quick| host(quick).iter().map(Group::seconds).sum::<f64>() / 3600.0;
        // The benign suite comes on top.
        assert!(hours(false) < 1.7, "{} h", hours(false));
        assert!(hours(true) < 6.5 / 60.0, "{} min", hours(true) * 60.0);
    }

    #[test]
    fn each_tool_is_measured_in_the_lab() {
        let groups: Vec<Group> = Part::ALL.into_iter().flat_map(|part| part.groups(false)).collect();
        let runs = |holds: &dyn Fn(&Group) -> bool| {
            groups.iter().filter(|g| holds(g)).flat_map(|g| &g.cells).map(|cell| cell.runs).sum::<u32>()
        };
        for peer in [Peer::Earlyoom, Peer::Nohang, Peer::SystemdOomd] {
            for (tuned, swap) in [(false, false), (true, false), (false, true), (true, true)] {
                let measured = runs(&|g| g.tool == Tool::Peer { peer, tuned } && g.swap == swap);
                assert!(measured >= 5, "{peer:?} {tuned} {swap}");
            }
        }
        assert!(runs(&|g| g.tool == Tool::Kubelet) >= 10);
        assert!(runs(&|g| g.tool == Tool::OOMLET && g.domain == Domain::Kubepods) >= 25);
        for part in Part::ALL {
            assert_eq!(Part::of(part.name()), Some(part));
            // Nobody comes after swap has been turned on who wants none.
            assert!(part.groups(true).is_sorted_by_key(|group| group.swap));
        }
    }

    #[test]
    fn slow_leaks_begin_just_below_the_threshold() {
        for (rate, room, start) in [(1, 300, 294), (10, 300, 260), (10, 20, 0), (50, 300, 0), (4000, 900, 0)]
        {
            let cell = Cell { shape: Shape::Anonymous, speed: Speed::MibS(rate), runs: 1 };
            assert_eq!(cell.start_mib(room), start, "{rate} of {room}");
        }
        let max = Cell { shape: Shape::Anonymous, speed: Speed::MAX, runs: 1 };
        assert_eq!(max.start_mib(300), 0);
        assert!(!max.wants_ballast(Domain::Kubepods));
    }

    #[test]
    fn speeds_and_shapes_have_their_names_in_the_figures() {
        for (speed, text) in [(Speed::MibS(10), "10"), (Speed::MAX, "\"max\"")] {
            assert_eq!(serde_json::to_string(&speed).unwrap(), text);
            assert_eq!(serde_json::from_str::<Speed>(text).unwrap(), speed);
        }
        assert!(Speed::MibS(4000) < Speed::MAX);
        assert_eq!(serde_json::to_string(&Shape::ForkBomb).unwrap(), "\"fork-bomb\"");
    }

    #[test]
    fn a_part_of_a_name_selects() {
        for (part, cells) in
            [("tier 2/anonymous/1000/", 1), ("no brake", 4), ("nothing/dirty", 1), ("none", 0)]
        {
            let found: usize = only(host(false), part).iter().map(|g| g.cells.len()).sum();
            assert_eq!(found, cells, "{part}");
        }
    }
}
