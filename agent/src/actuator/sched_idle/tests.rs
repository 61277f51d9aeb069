//! The core by a table; the rest on this machine's real freezer, as root.

use std::process::{Child, Command};

use super::super::brake_files::tests::{HeldPod, POD, container};
use super::*;
use crate::kernel::scheduling::run_to_its_end;

/// CPU time in µs of thread 1, 2 and 3 as seen one after the other; 0: there is no such thread. → who was busy.
#[test]
fn busy_is_who_used_the_cpu_while_it_was_held() {
    let mut seen = Seen::default();
    for (used, expected) in [
        ([90_000, 50, 0], vec![]),
        // What was used before is no matter, nor is what a handler does; who is new has used nothing before.
        ([90_200, 250, 1_500], vec![3]),
        // Little by little, and once for all.
        ([90_401, 350, 1_500], vec![1, 3]),
        ([90_401, 450, 0], vec![1]),
        // The number is another's.
        ([300, 451, 0], vec![2]),
    ] {
        let threads = used.iter().zip(1..).filter(|(us, _)| **us > 0);
        let threads = threads.map(|(us, tid)| (tid, Duration::from_micros(*us)));
        let mut busy = seen.busy(threads.collect());
        busy.sort_unstable();
        assert_eq!(busy, expected, "{used:?}");
    }
}

/// In the container, next to the process that is busy.
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
        assert!(!Mark::SchedIdle.is_on(&dir), "nothing is known yet");
        wait_busy(&pod);
        look(&dir, &mut seen).unwrap();
        assert_eq!(policies(&pod, &sleeper), [Policy::Idle, Policy::Other]);
        assert!(Mark::SchedIdle.is_on(&dir));

        // Without the agent that knows of it, and though nothing stands still.
        assert_eq!(pod.files.release_all().unwrap(), 1, "{below}");
        assert_eq!(policies(&pod, &sleeper), [Policy::Other; 2]);
        assert!(!Mark::SchedIdle.is_on(&dir));
        assert_eq!(pod.files.release_all().unwrap(), 0);
    }
}

/// A second look at what stands still, or one at the pod of a container that was looked at, is no reason to change anything.
#[test]
fn whose_turn_it_is_stays_so_while_it_is_held() {
    let pod = HeldPod::new();
    let sleeper = Sleeper::new(&pod);
    let (mut of_container, mut of_pod) = (Seen::default(), Seen::default());
    look(&pod.dir.join("c"), &mut of_container).unwrap();
    wait_busy(&pod);
    pod.set(Gear::Frozen);
    pod.wait("it stands still", HeldPod::is_frozen);
    for _ in 0..2 {
        look(&pod.dir.join("c"), &mut of_container).unwrap();
        look(&pod.dir, &mut of_pod).unwrap();
        assert_eq!(policies(&pod, &sleeper), [Policy::Idle, Policy::Other]);
        assert!(!of_pod.has_idle, "that was the agent's doing");
    }
}

#[test]
fn what_is_killed_has_its_turn() {
    let pod = HeldPod::new();
    let sleeper = Sleeper::new(&pod);
    Policy::Idle.give(busy(&pod)).unwrap();
    run_to_its_end(busy(&pod));
    run_to_its_end(sleeper.tid());
    assert_eq!(policies(&pod, &sleeper), [Policy::Other; 2]);
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
    assert!(!Mark::SchedIdle.is_on(&pod.dir));
    assert_eq!(pod.files.release_all().unwrap(), 0);
    assert_eq!(policies(&pod, &sleeper), [Policy::Other, Policy::Idle]);
}

/// By the thread that looks: frozen, let run, frozen, and let go, or with nobody to order anything any more.
#[test]
fn each_freeze_is_looked_at() {
    for (held, is_let_go) in [(Held::pod(&POD.into()), true), (container("c"), true), (container("c"), false)]
    {
        let pod = HeldPod::new();
        let sleeper = Sleeper::new(&pod);
        let sched_idle = SchedIdle::start(pod.files.clone()).unwrap().expect("tests run with CAP_SYS_NICE");
        let set = |gear| {
            pod.files.set(&held, QosClass::Burstable, gear).unwrap();
            sched_idle.geared(&held, QosClass::Burstable, gear);
        };
        let throttled = Gear::Throttled { room_bytes: 16 << 20 };
        // The first look has nothing to compare with, whenever it comes.
        pod.wait("the busy one comes last", |pod| {
            set(throttled);
            wait_busy(pod);
            set(Gear::Frozen);
            std::thread::sleep(20 * FREEZE_SETTLES);
            policies(pod, &sleeper) == [Policy::Idle, Policy::Other]
        });
        set(throttled);
        if is_let_go {
            set(Gear::Free);
            pod.wait("it has its turn again", |pod| policies(pod, &sleeper) == [Policy::Other; 2]);
        } else {
            drop(sched_idle);
            assert_eq!(policies(&pod, &sleeper), [Policy::Other; 2]);
        }
        let dir = pod.files.freezer_dir(&held, QosClass::Burstable).unwrap().unwrap();
        pod.wait("nothing is marked", |_| !Mark::SchedIdle.is_on(&dir));
    }
}
