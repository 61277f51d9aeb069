use zbus::zvariant::Value;

use super::super::fake::{FakeSystemd, Unit};
use super::*;

const UNIT: &str = "kubepods-podx.slice";

fn limit(bytes: u64) -> Property {
    ("MemoryMax", Value::from(bytes))
}

fn ensure(bus: &Bus, bytes: u64) -> Result<(), CgroupError> {
    let all = [("TasksMax", Value::from(7_u64)), limit(bytes)];
    bus.ensure(UNIT, &all, &[limit(bytes)])
}

#[test]
fn a_node_without_systemd_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let sockets = |booted| Sockets {
        booted,
        private: dir.path().join("private"),
        system_bus: dir.path().join("system_bus_socket"),
    };
    let error = Bus::connect(sockets(dir.path().join("systemd"))).unwrap_err().to_string();
    for part in ["dir.path/systemd", "cgroupDriver: cgroupfs", "SystemdCgroup = false"] {
        let part = part.replace("dir.path", dir.path().to_str().unwrap());
        assert!(error.contains(&part), "{part} is not in: {error}");
    }
    let error = Bus::connect(sockets(dir.path().to_owned())).unwrap_err().to_string();
    for part in
        ["/private: ", "/system_bus_socket: ", "No such file", "run as root", "cgroupDriver: cgroupfs"]
    {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
}

#[test]
fn a_slice_is_made_once_and_then_changed() {
    let fake = FakeSystemd::start();
    let bus = Bus::connect(fake.sockets()).unwrap();
    ensure(&bus, 100).unwrap();
    assert_eq!(fake.state().calls, ["StartTransientUnit"]);
    fake.state().units.get_mut(UNIT).unwrap().properties.remove("TasksMax");
    ensure(&bus, 200).unwrap();
    assert_eq!(fake.number(UNIT, "MemoryMax"), Some(200));
    assert_eq!(fake.number(UNIT, "TasksMax"), None, "what does not change is not set again");
}

#[test]
fn a_stopped_slice_that_is_not_forgotten_yet_is_started() {
    let fake = FakeSystemd::start();
    let bus = Bus::connect(fake.sockets()).unwrap();
    fake.state().units.insert(UNIT.into(), Unit::default());
    ensure(&bus, 100).unwrap();
    assert!(fake.state().units[UNIT].active);
    assert_eq!(fake.number(UNIT, "MemoryMax"), Some(100));
}

#[test]
fn a_slice_that_goes_away_meanwhile_is_made_again() {
    let fake = FakeSystemd::start();
    let bus = Bus::connect(fake.sockets()).unwrap();
    fake.state().units.insert(UNIT.into(), Unit::default());
    fake.state().forgets = true;
    ensure(&bus, 100).unwrap();
    assert_eq!(fake.state().calls, ["StartTransientUnit", "StartUnit", "StartTransientUnit"]);
    assert_eq!(fake.number(UNIT, "TasksMax"), Some(7));
}

#[test]
fn a_job_that_fails_is_told_of() {
    let fake = FakeSystemd::start();
    let bus = Bus::connect(fake.sockets()).unwrap();
    fake.state().job_result = "dependency".into();
    let error = ensure(&bus, 100).unwrap_err().to_string();
    assert!(error.contains(UNIT) && error.contains("`dependency`"), "{error}");
}

#[test]
fn stopping_twice_is_fine() {
    let fake = FakeSystemd::start();
    let bus = Bus::connect(fake.sockets()).unwrap();
    ensure(&bus, 100).unwrap();
    for _ in 0..2 {
        bus.stop(UNIT).unwrap();
        assert!(fake.state().units.is_empty());
    }
}

#[test]
fn a_lost_connection_is_made_again() {
    let fake = FakeSystemd::start();
    let bus = Bus::connect(fake.sockets()).unwrap();
    ensure(&bus, 100).unwrap();
    fake.drop_connections();
    ensure(&bus, 200).unwrap();
    assert_eq!(fake.number(UNIT, "MemoryMax"), Some(200));
    std::fs::remove_file(fake.sockets().private).unwrap();
    fake.drop_connections();
    let error = ensure(&bus, 300).unwrap_err().to_string();
    assert!(error.contains("/private: "), "{error}");
}
