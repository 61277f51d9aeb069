//! The graph of folders: which folder's code names something of which other folder. A module that has submodules
//! (`foo.rs` with `foo/`) is one folder; a file without is part of the folder that it lies in.
//!
//! What a folder says of those inside it, or of the one around it, is no edge: a module and its parts are one thing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::Visit;

/// By folder (`agent::cgroup::stats`): the folders that it uses, each with one place that does.
pub type Graph = BTreeMap<String, BTreeMap<String, String>>;

/// `crates`: folders of the workspace with a `src`. The package `oomlet-NAME` is known as `NAME`, `oomlet` as `agent`.
pub fn graph(root: &Path, crates: &[&str]) -> Graph {
    let mut modules = BTreeSet::new();
    let mut files = Vec::new();
    for name in crates {
        collect(&root.join(name).join("src"), &mut vec![(*name).to_owned()], &mut modules, &mut files);
    }
    let mut graph: Graph = modules.iter().map(|folder| (folder.join("::"), BTreeMap::new())).collect();
    for (module, text) in files {
        let from = folder_of(&module, &modules);
        let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", module.join("::")));
        let mut paths = Paths { module: module.clone(), found: Vec::new() };
        paths.visit_file(&parsed);
        for path in paths.found {
            let to = folder_of(&path, &modules);
            if to.len() <= 1 || from.starts_with(&to) || to.starts_with(&from) {
                continue;
            }
            let place = format!("{} names {}", module.join("::"), path.join("::"));
            graph.entry(from.join("::")).or_default().entry(to.join("::")).or_insert(place);
        }
    }
    graph
}

/// By folder, the length of the longest way down from it.
///
/// # Errors
/// A circle, with the places that make it.
pub fn levels(graph: &Graph) -> Result<BTreeMap<&str, usize>, String> {
    let mut done = BTreeMap::new();
    for folder in graph.keys() {
        level(graph, folder, &mut Vec::new(), &mut done)?;
    }
    Ok(done)
}

fn level<'a>(
    graph: &'a Graph,
    folder: &'a str,
    way: &mut Vec<&'a str>,
    done: &mut BTreeMap<&'a str, usize>,
) -> Result<usize, String> {
    if let Some(known) = done.get(folder) {
        return Ok(*known);
    }
    if let Some(at) = way.iter().position(|on_it| *on_it == folder) {
        let circle: Vec<&str> = way[at..].iter().copied().chain([folder]).collect();
        let places = circle.windows(2).map(|pair| graph[pair[0]][pair[1]].as_str());
        return Err(format!("{}\n  {}", circle.join(" → "), places.collect::<Vec<_>>().join("\n  ")));
    }
    way.push(folder);
    let mut deepest = 0;
    for used in graph.get(folder).into_iter().flat_map(BTreeMap::keys) {
        deepest = deepest.max(1 + level(graph, used, way, done)?);
    }
    way.pop();
    done.insert(folder, deepest);
    Ok(deepest)
}

type Module = Vec<String>;

/// Files that are tests alone are left out: what they use says nothing of how the parts hang together.
fn collect(
    dir: &Path,
    module: &mut Module,
    folders: &mut BTreeSet<Module>,
    files: &mut Vec<(Module, String)>,
) {
    folders.insert(module.clone());
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if ["tests", "snapshots"].contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            let has_code = fs::read_dir(&path).unwrap().filter_map(Result::ok).any(|e| {
                e.path().extension().is_some_and(|x| x == "rs")
                    && e.file_name().to_string_lossy() != "tests.rs"
            });
            if has_code {
                module.push(name);
                collect(&path, module, folders, files);
                module.pop();
            }
        } else if path.extension().is_some_and(|x| x == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            // The roots bind everything together.
            if ["lib", "main"].contains(&name.as_str()) && module.len() == 1 {
                continue;
            }
            files.push((module.iter().cloned().chain([name]).collect(), text));
        }
    }
}

/// The innermost folder on the way to `path`.
fn folder_of(path: &[String], folders: &BTreeSet<Module>) -> Module {
    (1..=path.len()).rev().map(|n| path[..n].to_vec()).find(|p| folders.contains(p)).unwrap_or_default()
}

/// Paths into the workspace that a file names, outside of its test modules.
struct Paths {
    module: Module,
    found: Vec<Module>,
}

impl Paths {
    fn add(&mut self, segments: &[String]) {
        let Some((first, rest)) = segments.split_first() else { return };
        let mut base = match first.as_str() {
            "crate" => self.module[..1].to_vec(),
            "self" => self.module.clone(),
            "super" => self.module[..self.module.len() - 1].to_vec(),
            "oomlet_core" => vec!["core".to_owned()],
            "oomlet" => vec!["agent".to_owned()],
            _ => return,
        };
        for segment in rest {
            if segment == "super" {
                base.pop();
            } else {
                base.push(segment.clone());
            }
        }
        self.found.push(base);
    }

    fn add_tree(&mut self, tree: &syn::UseTree, before: &mut Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.add_tree(&path.tree, before);
                before.pop();
            }
            syn::UseTree::Name(name) if name.ident == "self" => self.add(before),
            syn::UseTree::Name(syn::UseName { ident })
            | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                before.push(ident.to_string());
                self.add(before);
                before.pop();
            }
            syn::UseTree::Glob(_) => self.add(before),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(tree, before)),
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_tree(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.add(&segments);
        syn::visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let tests = item.attrs.iter().any(|a| a.path().is_ident("cfg"));
        if let Some((_, items)) = &item.content
            && !tests
        {
            self.module.push(item.ident.to_string());
            items.iter().for_each(|item| self.visit_item(item));
            self.module.pop();
        }
    }
}

#[test]
fn circles_are_found_and_ways_are_measured() {
    let graph = |edges: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph.entry((*to).to_owned()).or_default();
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned(), format!("{from} to {to}"));
        }
        graph
    };
    let straight = graph(&[("a", "b"), ("b", "c"), ("a", "c")]);
    assert_eq!(levels(&straight).unwrap()["a"], 2);
    let circle = levels(&graph(&[("a", "b"), ("b", "c"), ("c", "b")])).unwrap_err();
    assert!(circle.contains("b → c → b") && circle.contains("c to b"), "{circle}");
}

#[test]
fn names_are_read_from_uses_and_paths() {
    let dir = tempfile::tempdir().unwrap();
    let src = dir.path().join("core/src");
    for (file, text) in [
        ("a.rs", "//! a\nuse crate::b::{self, deep::Thing};\nfn f() { super::c::g() }\n"),
        ("a/x.rs", "//! x\nuse super::super::c::h;\n#[cfg(test)]\nmod tests { use crate::d::T; }\n"),
        ("b.rs", "//! b\n"),
        ("b/deep.rs", "//! deep\n"),
        ("c.rs", "//! c\n"),
        ("c/y.rs", "//! y\n"),
        ("d/z.rs", "//! z\n"),
    ] {
        let path = src.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let graph = graph(dir.path(), &["core"]);
    let used: Vec<&str> = graph["core::a"].keys().map(String::as_str).collect();
    assert_eq!(used, ["core::b", "core::c"]);
    assert!(graph["core::b"].is_empty());
}
