//! The task that keeps running pods' volumes up to date.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Contents, Followed, lock};
use crate::clock;
use crate::trust_bundle::Known;
use oomlet_core::node::event::Event;
use oomlet_core::object::ObjectRef;
use oomlet_core::pod::{Pod, PodRef, PodUid};
use oomlet_core::reason::Reason;
use oomlet_core::trace::record::{Kind, Record};
use oomlet_core::{pod_certificate, trust_bundle};

/// How long files that were replaced stay for whoever is on the way to one: far longer than a path's walk takes, also on a
/// throttled CPU.
const SWEEP_AFTER: Duration = Duration::from_secs(1);
/// A token's time is of the wall clock, which may be set: it is looked at anew at least this often.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// A volume that could not be brought up to date, as on a full disk, is tried again: as often as kubelet looks at a pod.
const WRITE_AGAIN: Duration = Duration::from_secs(60);

/// What tells of changes.
struct Receivers {
    objects: broadcast::Receiver<ObjectRef>,
    certificates: broadcast::Receiver<PodUid>,
    trust_bundles: watch::Receiver<Known>,
}

/// What has changed since the last turn.
#[derive(Default)]
struct Changed {
    objects: BTreeSet<ObjectRef>,
    /// Pods with a certificate that has.
    certificates: BTreeSet<PodUid>,
    trust_bundles: bool,
    /// Nobody knows what.
    all: bool,
}

impl Changed {
    fn is_nothing(&self) -> bool {
        !self.all && !self.trust_bundles && self.objects.is_empty() && self.certificates.is_empty()
    }

    /// `Err`: the source has gone.
    fn take<T: Ord>(
        all: &mut bool,
        into: &mut BTreeSet<T>,
        change: Result<T, broadcast::error::RecvError>,
    ) -> Result<(), ()> {
        match change {
            Ok(change) => _ = into.insert(change),
            Err(broadcast::error::RecvError::Lagged(_)) => *all = true,
            Err(broadcast::error::RecvError::Closed) => return Err(()),
        }
        Ok(())
    }

    /// What else has come by now.
    fn drain<T: Ord + Clone>(all: &mut bool, into: &mut BTreeSet<T>, from: &mut broadcast::Receiver<T>) {
        use broadcast::error::TryRecvError::{Closed, Empty, Lagged};
        loop {
            match from.try_recv() {
                Ok(change) => _ = into.insert(change),
                Err(Lagged(_)) => *all = true,
                Err(Empty | Closed) => return,
            }
        }
    }

    /// Whether it is about the pod, and whether about its volumes.
    fn concerns(&self, uid: &PodUid, pod: &Followed) -> Option<bool> {
        let named = |object: &ObjectRef| self.all || self.objects.contains(object);
        let mut needs = pod.needs.iter().filter(|(object, _)| named(object)).peekable();
        let objects = needs.peek().is_some();
        let in_volumes = needs.any(|(_, needed)| needed.mounted)
            || self.certificates.contains(uid)
            || self.all && !pod_certificate::keys(&lock(&pod.pod)).is_empty()
            || (self.all || self.trust_bundles) && trust_bundle::shows_any(&lock(&pod.pod));
        (objects || in_volumes).then_some(in_volumes)
    }
}

impl Contents {
    /// The task. Ends when `cancel` is cancelled. A change after this call is seen, whenever the task begins.
    pub fn run(
        self: Arc<Self>,
        events: mpsc::Sender<Event>,
        cancel: CancellationToken,
    ) -> impl Future<Output = ()> + Send {
        let receivers = Receivers {
            objects: self.sources.objects.changes(),
            certificates: self.sources.certificates.changes(),
            trust_bundles: self.sources.trust_bundles.changes(),
        };
        self.follow_changes(receivers, events, cancel)
    }

    async fn follow_changes(
        self: Arc<Self>,
        mut receivers: Receivers,
        events: mpsc::Sender<Event>,
        cancel: CancellationToken,
    ) {
        loop {
            let mut changed = Changed::default();
            let Changed { objects, certificates, trust_bundles, all } = &mut changed;
            // Cancel-safe: `recv` takes nothing when it loses, `changed` and `notified` keep what they have, time is looked at
            // anew.
            let gone = tokio::select! {
                () = cancel.cancelled() => return,
                change = receivers.objects.recv() => Changed::take(all, objects, change),
                change = receivers.certificates.recv() => Changed::take(all, certificates, change),
                // Where nobody tells of bundles none will change.
                Ok(()) = receivers.trust_bundles.changed() => {
                    *trust_bundles = true;
                    Ok(())
                }
                () = self.wake.notified() => Ok(()),
                () = tokio::time::sleep_until(self.next_due()) => Ok(()),
            };
            if gone.is_err() {
                // So will this.
                return cancel.cancelled().await;
            }
            Changed::drain(all, objects, &mut receivers.objects);
            Changed::drain(all, certificates, &mut receivers.certificates);
            if !changed.is_nothing() {
                let named = self.changed(&changed);
                if !named.is_empty() && events.send(Event::ObjectsChanged(named)).await.is_err() {
                    return;
                }
            }
            self.start_rewrites();
        }
    }

    /// Wants the pods that show some of it, and returns those that name some.
    fn changed(&self, changed: &Changed) -> Vec<PodUid> {
        let followed = lock(&self.followed).clone();
        let mut named = Vec::new();
        for (uid, pod) in followed {
            let Some(in_volumes) = changed.concerns(&uid, &pod) else { continue };
            if in_volumes && pod.set_up.load(Ordering::SeqCst) {
                lock(&self.wanted).insert(uid.clone());
            }
            named.push(uid);
        }
        named
    }

    /// When the next pod is.
    fn next_due(&self) -> Instant {
        let followed = lock(&self.followed);
        let due =
            followed.values().filter(|p| p.set_up.load(Ordering::SeqCst)).filter_map(|p| *lock(&p.due)).min();
        due.unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400))
    }

    fn start_rewrites(self: &Arc<Self>) {
        let mut wanted = std::mem::take(&mut *lock(&self.wanted));
        let followed = lock(&self.followed).clone();
        let now = Instant::now();
        for (uid, pod) in followed.iter().filter(|(_, p)| p.set_up.load(Ordering::SeqCst)) {
            let mut due = lock(&pod.due);
            if due.is_some_and(|at| at <= now) {
                // Set again when it has been asked for.
                *due = None;
                wanted.insert(uid.clone());
            }
        }
        for pod in wanted.iter().filter_map(|uid| followed.get(uid)) {
            // One that has not begun will see this change too.
            if !pod.queued.swap(true, Ordering::SeqCst) {
                tokio::spawn(Arc::clone(self).rewrite(Arc::clone(pod)));
            }
        }
    }

    /// Each pod by itself: a token that is long in coming keeps no other pod's content.
    async fn rewrite(self: Arc<Self>, known: Arc<Followed>) {
        let writing = Arc::clone(&known.writing).lock_owned().await;
        known.queued.store(false, Ordering::SeqCst);
        let pod = Arc::clone(&*lock(&known.pod));
        if !self.still_follows(&pod, &known) {
            return;
        }
        let content = self.content(&pod).await;
        // When it is due has changed.
        self.wake.notify_one();
        let (volumes, its_pod) = (Arc::clone(&self.volumes), Arc::clone(&pod));
        let done = tokio::task::spawn_blocking(move || {
            let _writing = writing;
            volumes.refresh(&its_pod, &content)
        });
        let Ok((leftovers, errors)) = done.await else {
            tracing::error!(pod = %PodRef::of(&pod), "bringing its volumes up to date panicked: report this with the log");
            return;
        };
        let error = errors.first().map(ToString::to_string);
        let news = error.clone().filter(|error| lock(&known.told).as_ref() != Some(error));
        *lock(&known.told) = error;
        if let Some(message) = news {
            tracing::warn!(pod = %PodRef::of(&pod), error = message, "a volume keeps what it shows");
            let record = Record::new(clock::now(), Kind::Warning, Reason::FailedMount, message);
            self.journal.publish(record.pod(&PodRef::of(&pod)));
        }
        if !errors.is_empty() {
            let again = Instant::now() + WRITE_AGAIN;
            let mut due = lock(&known.due);
            *due = Some(due.map_or(again, |at| at.min(again)));
            drop(due);
            self.wake.notify_one();
        }
        if leftovers || !errors.is_empty() {
            self.sweep(known).await;
        }
    }

    /// Deletes what was replaced, a moment later.
    pub(super) async fn sweep(self: Arc<Self>, known: Arc<Followed>) {
        tokio::time::sleep(SWEEP_AFTER).await;
        let writing = Arc::clone(&known.writing).lock_owned().await;
        let pod = Arc::clone(&*lock(&known.pod));
        if !self.still_follows(&pod, &known) {
            return;
        }
        let (volumes, its_pod) = (Arc::clone(&self.volumes), Arc::clone(&pod));
        let swept = tokio::task::spawn_blocking(move || {
            let _writing = writing;
            volumes.sweep(&its_pod)
        });
        if let Ok(Err(error)) = swept.await {
            tracing::warn!(pod = %PodRef::of(&pod), %error, "files that were replaced are left in a volume");
        }
    }

    fn still_follows(&self, pod: &Pod, known: &Arc<Followed>) -> bool {
        lock(&self.followed).get(&PodRef::of(pod).uid).is_some_and(|now| Arc::ptr_eq(now, known))
    }
}
