use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use oomlet_core::volume::payload::checked;

fn payload(files: &[(&str, &str, u32)]) -> Payload {
    let file = |text: &str, mode| File { data: text.into(), mode, owner: None };
    let files: BTreeMap<String, File> =
        files.iter().map(|(path, text, mode)| ((*path).to_owned(), file(text, *mode))).collect();
    checked(files).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names = entries(dir).unwrap();
    names.retain(|n| !n.starts_with(".."));
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn the_layout_is_kubelets() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let first = payload(&[("a", "1", 0o644), ("d/e/f", "2", 0o400)]);
    assert!(!write(dir, &first, None).unwrap(), "nothing to sweep");
    assert_eq!(names(dir), ["a", "d"]);
    assert_eq!(fs::read_link(dir.join("a")).unwrap(), Path::new("..data/a"));
    assert_eq!(fs::read_link(dir.join("d")).unwrap(), Path::new("..data/d"));
    let generation = current(dir).unwrap().unwrap();
    let shape = generation.to_str().unwrap().trim_start_matches("..");
    assert!(shape.starts_with("20") && shape.matches('_').count() == 5 && shape.contains('.'), "{shape}");
    assert_eq!(fs::read_to_string(dir.join("d/e/f")).unwrap(), "2");
    assert_eq!((mode(&dir.join("a")), mode(&dir.join("d/e/f")), mode(&dir.join("d"))), (0o644, 0o400, 0o755));

    // The same once more writes nothing.
    assert!(!write(dir, &first, None).unwrap());
    assert_eq!(current(dir).unwrap().as_deref(), Some(generation.as_path()));

    // A name goes, one comes, one changes.
    assert!(write(dir, &payload(&[("a", "3", 0o644), ("b", "4", 0o600)]), None).unwrap());
    assert_eq!(names(dir), ["a", "b"]);
    assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
    assert!(dir.join(&generation).is_dir(), "for who has just followed the link");
    sweep(dir).unwrap();
    assert!(!dir.join(&generation).exists());
    assert_eq!(entries(dir).unwrap().len(), 4, "a, b, ..data and its generation");

    // Nothing at all is a volume too.
    write(dir, &payload(&[]), None).unwrap();
    sweep(dir).unwrap();
    assert_eq!((names(dir).len(), entries(dir).unwrap().len()), (0, 2));
}

#[test]
fn any_difference_is_mended() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let wanted = payload(&[("a", "1", 0o640), ("d/b", "2", 0o640)]);
    write(dir, &wanted, None).unwrap();
    let at = |name: &str| dir.join(DATA).join(name);
    for (what, damage) in [
        ("content", Box::new(|| fs::write(at("a"), "x").unwrap()) as Box<dyn Fn()>),
        ("mode", Box::new(|| fs::set_permissions(at("a"), Permissions::from_mode(0o666)).unwrap())),
        ("missing", Box::new(|| fs::remove_file(at("d/b")).unwrap())),
        ("added", Box::new(|| fs::write(at("d/c"), "x").unwrap())),
        ("name", Box::new(|| fs::remove_file(dir.join("a")).unwrap())),
        ("stale name", Box::new(|| symlink("..data/z", dir.join("z")).unwrap())),
        ("half a switch", Box::new(|| symlink("..nowhere", dir.join(NEW_DATA)).unwrap())),
        ("half a generation", Box::new(|| fs::create_dir(dir.join("..2020_01_01_00_00_00.1")).unwrap())),
        ("no data", Box::new(|| fs::remove_file(dir.join(DATA)).unwrap())),
    ] {
        damage();
        write(dir, &wanted, None).unwrap();
        sweep(dir).unwrap();
        assert_eq!(names(dir), ["a", "d"], "{what}");
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "1", "{what}");
        assert_eq!((mode(&dir.join("a")), dir.join("d/c").exists()), (0o640, false), "{what}");
        let left = leftovers(dir).unwrap();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

#[test]
fn a_group_may_read_and_an_owner_has_his_own() {
    let tmp = tempfile::tempdir().unwrap();
    let file = File { data: b"t".to_vec(), mode: 0o600, owner: Some(1000) };
    let token = checked([("d/token".to_owned(), file)].into()).unwrap();
    write(tmp.path(), &token, Some(3000)).unwrap();
    let meta = fs::metadata(tmp.path().join("d/token")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o640, 1000, 3000));
    let meta = fs::metadata(tmp.path().join("d")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o2755, 0, 3000));
    let before = current(tmp.path()).unwrap();
    write(tmp.path(), &token, Some(3000)).unwrap();
    assert_eq!(current(tmp.path()).unwrap(), before, "what is right is left alone");
}

/// Two files that belong together, and a reader that never rests.
#[test]
fn a_reader_sees_one_generation_or_the_other() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let generation = |n: usize| payload(&[("a", &n.to_string().repeat(4096), 0o644), ("gone", "x", 0o644)]);
    write(dir, &generation(0), None).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                let text = fs::read_to_string(dir.join("a")).expect("it is always there");
                let first = text.as_bytes()[0];
                assert!(text.len() == 4096 && text.bytes().all(|b| b == first), "half a file");
                reads += 1;
            }
            reads
        });
        for n in 0..300 {
            write(dir, &generation(n % 10), None).unwrap();
            // As the agent does it, which waits longer: all but the one before the last.
            if n % 50 == 49 {
                std::thread::sleep(std::time::Duration::from_millis(20));
                sweep(dir).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}
