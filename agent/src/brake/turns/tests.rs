//! The core by a table; the rest on this machine's real freezer, as root.

use std::process::{Child, Command};

use super::super::files::tests::{HeldPod, POD, container};
use super::*;

/// CPU time in µs of thread 1, 2 and 3 as seen one after the other; 0: there is no such thread. → who was busy.
#[test]
fn busy_is_who_used_the_cpu_in_the_run_before() {
    let mut seen = Seen::default();
    for (used, expected) in [
        ([90_000, 50, 0], vec![]),
        // What was used before is no matter, nor is what a handler does in its end; who is new has used nothing before.
        ([90_200, 120, 1_000], vec![(1, false), (2, false), (3, true)]),
        ([91_000, 0, 1_000], vec![(1, true), (3, false)]),
        // The number is another's.
        ([0, 40, 900], vec![(2, false), (3, false)]),
    ] {
        let threads = used.iter().zip(1..).filter(|(us, _)| **us > 0);
        let threads = threads.map(|(us, tid)| (tid, Duration::from_micros(*us)));
        assert_eq!(seen.busy(threads.collect()).into_iter().collect::<Vec<_>>(), expected, "{used:?}");
    }
}

/// In the container, beside the process that is busy.
struct Sleeper {
    process: Child,
    files: BrakeFiles,
}

impl Sleeper {
    fn new(pod: &HeldPod) -> Sleeper {
        let process = Command::new("sleep").arg("1000").spawn().unwrap();
        let sleeper = Sleeper { process, files: pod.files.clone() };
        fs::write(pod.dir.join("c/cgroup.procs"), sleeper.tid().to_string()).unwrap();
        let stat = format!("/proc/{}/stat", sleeper.tid());
        pod.wait("it sleeps", |_| fs::read_to_string(&stat).unwrap().contains("(sleep) S"));
        sleeper
    }

    fn tid(&self) -> i32 {
        self.process.id().cast_signed()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // What stands still in a freezer of v1 does not die.
        let _ = self.files.release_all();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn busy(pod: &HeldPod) -> i32 {
    pod.process.id().cast_signed()
}

/// The busy one's, and the sleeper's.
fn policies(pod: &HeldPod, sleeper: &Sleeper) -> [Policy; 2] {
    [busy(pod), sleeper.tid()].map(|tid| Policy::of(tid).unwrap())
}

/// Until it has been busy by anybody's account.
fn wait_busy(pod: &HeldPod) {
    let tid = busy(pod);
    let used = |pod: &HeldPod| cpu_times(&pod.dir).unwrap()[&tid];
    let before = used(pod);
    pod.wait("it is busy", |pod| used(pod) > before + 3 * BUSY);
}

#[test]
fn who_was_busy_comes_last_until_it_is_let_go() {
    for below in ["", "c"] {
        let pod = HeldPod::new();
        let sleeper = Sleeper::new(&pod);
        let dir = pod.dir.join(below);
        let mut seen = Seen::default();
        look(&dir, &mut seen).unwrap();
        assert!(!Mark::Turns.is_on(&dir), "nothing is known yet");
        wait_busy(&pod);
        look(&dir, &mut seen).unwrap();
        assert_eq!(policies(&pod, &sleeper), [Policy::Idle, Policy::Other]);
        assert!(Mark::Turns.is_on(&dir));

        // Without the agent that knows of it, and though nothing stands still.
        assert_eq!(pod.files.release_all().unwrap(), 1, "{below}");
        assert_eq!(policies(&pod, &sleeper), [Policy::Other; 2]);
        assert!(!Mark::Turns.is_on(&dir));
        assert_eq!(pod.files.release_all().unwrap(), 0);
    }
}

#[test]
fn who_does_nothing_in_a_run_has_its_turn_again() {
    let pod = HeldPod::new();
    let sleeper = Sleeper::new(&pod);
    let mut seen = Seen::default();
    look(&pod.dir, &mut seen).unwrap();
    wait_busy(&pod);
    pod.set(Gear::Frozen);
    pod.wait("it stands still", HeldPod::is_frozen);
    for expected in [Policy::Idle, Policy::Other] {
        look(&pod.dir, &mut seen).unwrap();
        assert_eq!(policies(&pod, &sleeper), [expected, Policy::Other]);
    }
}

#[test]
fn one_with_idle_threads_of_its_own_is_left_as_it_is() {
    let pod = HeldPod::new();
    let sleeper = Sleeper::new(&pod);
    Policy::Idle.give(sleeper.tid()).unwrap();
    let mut seen = Seen::default();
    look(&pod.dir, &mut seen).unwrap();
    wait_busy(&pod);
    look(&pod.dir, &mut seen).unwrap();
    assert_eq!(policies(&pod, &sleeper), [Policy::Other, Policy::Idle]);
    assert!(!Mark::Turns.is_on(&pod.dir));
    assert_eq!(pod.files.release_all().unwrap(), 0);
    assert_eq!(policies(&pod, &sleeper), [Policy::Other, Policy::Idle]);
}

/// By the thread that looks: frozen, let run, frozen, let go.
#[test]
fn each_freeze_is_looked_at() {
    for held in [Held::pod(&POD.into()), container("c")] {
        let pod = HeldPod::new();
        let sleeper = Sleeper::new(&pod);
        let turns = Turns::start(pod.files.clone()).unwrap().expect("tests run with CAP_SYS_NICE");
        let set = |gear| {
            pod.files.set(&held, QosClass::Burstable, gear).unwrap();
            turns.geared(&held, QosClass::Burstable, gear);
        };
        let throttled = Gear::Throttled { room_bytes: 16 << 20 };
        pod.wait("the busy one comes last", |pod| {
            set(Gear::Frozen);
            set(throttled);
            wait_busy(pod);
            policies(pod, &sleeper) == [Policy::Idle, Policy::Other]
        });
        set(Gear::Free);
        pod.wait("it has its turn again", |pod| policies(pod, &sleeper) == [Policy::Other; 2]);
        let dir = pod.files.freezer_dir(&held, QosClass::Burstable).unwrap().unwrap();
        pod.wait("nothing is marked", |_| !Mark::Turns.is_on(&dir));
    }
}
