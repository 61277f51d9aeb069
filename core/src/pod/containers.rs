//! What is known of one pod's sandboxes and containers. Two tell of them: the pod's worker, which reads everything of its
//! own pod, and PLEG, which lists the containers of all pods and may know of one before its worker is done with the others.
//! Nothing known is not the same as nothing there: a worker that could not read has not seen that its pod is gone.

use super::ContainerInstance;
use super::runtime_status::{ContainerState, ContainerStatus, PodRuntimeStatus};

#[derive(Clone, Debug, Default)]
pub struct Containers {
    /// As the worker read it last. `None`: it has not.
    read: Option<PodRuntimeStatus>,
    /// PLEG's last list. `None`: there has been none since the pod is known.
    listed: Option<Vec<ListedContainer>>,
    /// Of the same list.
    listed_sandboxes: Vec<ListedSandbox>,
}

/// A sandbox as PLEG lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedSandbox {
    pub id: String,
    pub ready: bool,
}

/// A container as PLEG lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedContainer {
    pub container: ContainerInstance,
    pub state: ContainerState,
}

impl ListedContainer {
    fn runs(&self) -> bool {
        self.state == ContainerState::Running
    }
}

impl Containers {
    /// The worker has read.
    pub fn set_read(&mut self, status: PodRuntimeStatus) {
        self.read = Some(status);
    }

    /// PLEG has listed. Whether other containers are there than the time before.
    pub fn set_listed(&mut self, listed: Vec<ListedContainer>) -> bool {
        let before = self.listed.replace(listed).unwrap_or_default();
        !self.listed.iter().flatten().map(|c| &c.container).eq(before.iter().map(|c| &c.container))
    }

    /// PLEG has listed just these.
    #[must_use]
    pub fn is_listed_as(&self, listed: &[ListedContainer], sandboxes: &[ListedSandbox]) -> bool {
        self.listed.as_deref() == Some(listed) && self.listed_sandboxes == sandboxes
    }

    pub fn set_listed_sandboxes(&mut self, sandboxes: Vec<ListedSandbox>) {
        self.listed_sandboxes = sandboxes;
    }

    /// PLEG has listed nothing that the worker has not read: the same sandboxes and containers, in the same states. Neither
    /// of them ever comes back to a state that it has left.
    #[must_use]
    pub fn is_read_as_listed(&self) -> bool {
        let (Some(read), Some(listed)) = (&self.read, &self.listed) else { return false };
        let container = |c: &ListedContainer| {
            read.containers.iter().any(|r| r.id == c.container.id && r.state == c.state)
        };
        let sandbox = |s: &ListedSandbox| read.sandboxes.iter().any(|r| r.id == s.id && r.ready == s.ready);
        read.containers.len() == listed.len()
            && read.sandboxes.len() == self.listed_sandboxes.len()
            && listed.iter().all(container)
            && self.listed_sandboxes.iter().all(sandbox)
    }

    /// PLEG has listed something of the pod, be it dead.
    #[must_use]
    pub fn is_there(&self) -> bool {
        !self.listed_sandboxes.is_empty() || self.any_listed()
    }

    /// As the worker read it last; `None`: it has not.
    #[must_use]
    pub fn status(&self) -> Option<&PodRuntimeStatus> {
        self.read.as_ref()
    }

    /// Those that the worker knows, newest first.
    #[must_use]
    pub fn read(&self) -> &[ContainerStatus] {
        self.read.as_ref().map_or(&[], |status| &status.containers)
    }

    /// The newest instance of the named container that the worker knows.
    #[must_use]
    pub fn newest(&self, name: &str) -> Option<&ContainerStatus> {
        self.read.as_ref()?.container(name)
    }

    /// One runs, by whoever says so.
    #[must_use]
    pub fn any_running(&self) -> bool {
        self.any_listed_running() || self.read.as_ref().is_some_and(PodRuntimeStatus::any_running)
    }

    /// One runs by PLEG's list.
    #[must_use]
    pub fn any_listed_running(&self) -> bool {
        self.listed.iter().flatten().any(ListedContainer::runs)
    }

    /// PLEG has listed one, dead or alive.
    #[must_use]
    pub fn any_listed(&self) -> bool {
        self.listed.as_ref().is_some_and(|listed| !listed.is_empty())
    }

    /// All that run: by the worker's account, and by PLEG's where the worker has not told of it yet.
    #[must_use]
    pub fn running(&self) -> Vec<ContainerInstance> {
        let read = self.read();
        let runs = |c: &&ContainerStatus| c.state == ContainerState::Running;
        let told =
            |c: &ContainerInstance| read.iter().any(|r| r.id == c.id || (r.name == c.name && runs(&r)));
        let listed = self.listed.iter().flatten().filter(|c| c.runs()).map(|c| &c.container);
        let running = read.iter().filter(runs).map(ContainerInstance::of);
        running.chain(listed.filter(|c| !told(c)).cloned()).collect()
    }

    /// All that the worker or PLEG knows of.
    #[must_use]
    pub fn known(&self) -> Vec<ContainerInstance> {
        let listed = self.listed.iter().flatten().map(|c| c.container.clone());
        let mut known: Vec<_> = self.read().iter().map(ContainerInstance::of).chain(listed).collect();
        known.sort();
        known.dedup();
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ContainerState::{Exited, Running};

    fn instance(id: &str) -> ContainerInstance {
        // `a1`, `a2`: instances of the container `a`.
        ContainerInstance { name: id[..1].into(), id: id.into() }
    }

    /// What the worker read and what PLEG listed → what runs, what is known.
    #[test]
    fn what_both_tell_is_one_account() {
        type Told = Option<Vec<(&'static str, ContainerState)>>;
        let cases: [(Told, Told, &[&str], &[&str]); 8] = [
            (None, None, &[], &[]),
            (Some(vec![]), None, &[], &[]),
            (None, Some(vec![("a1", Running)]), &["a1"], &["a1"]),
            (Some(vec![("a1", Running)]), Some(vec![]), &["a1"], &["a1"]),
            (
                Some(vec![("a1", Running)]),
                Some(vec![("a1", Running), ("b1", Running)]),
                &["a1", "b1"],
                &["a1", "b1"],
            ),
            // The worker has seen its end.
            (Some(vec![("a1", Exited)]), Some(vec![("a1", Running)]), &[], &["a1"]),
            (Some(vec![("a1", Exited)]), Some(vec![("a2", Running), ("a1", Exited)]), &["a2"], &["a1", "a2"]),
            // A list from before the restart.
            (Some(vec![("a2", Running)]), Some(vec![("a1", Running)]), &["a2"], &["a1", "a2"]),
        ];
        for (read, listed, running, known) in cases {
            let what = format!("{read:?} {listed:?}");
            let runs = |told: &Told| told.iter().flatten().any(|(_, state)| *state == Running);
            let told_running = runs(&read) || runs(&listed);
            let mut containers = Containers::default();
            if let Some(read) = read {
                let status = |(id, state): (&str, _)| ContainerStatus::bare(id, &id[..1], state);
                let all = read.into_iter().map(status).collect();
                containers.set_read(PodRuntimeStatus { sandboxes: Vec::new(), containers: all });
            }
            if let Some(listed) = listed {
                let one = |(id, state)| ListedContainer { container: instance(id), state };
                let any = !listed.is_empty();
                assert_eq!(containers.set_listed(listed.into_iter().map(one).collect()), any, "{what}");
            }
            let ids = |all: Vec<ContainerInstance>| all.into_iter().map(|c| c.id).collect::<Vec<_>>();
            assert_eq!(ids(containers.running()), running, "{what}");
            assert_eq!(ids(containers.known()), known, "{what}");
            assert_eq!(containers.any_running(), told_running, "{what}");
        }
    }

    #[test]
    fn a_list_with_the_same_containers_is_no_news() {
        let mut containers = Containers::default();
        let listed = |state| vec![ListedContainer { container: instance("a1"), state }];
        assert!(!containers.set_listed(Vec::new()));
        assert!(containers.set_listed(listed(Running)) && !containers.set_listed(listed(Exited)));
        assert!(containers.set_listed(Vec::new()));
    }
}
