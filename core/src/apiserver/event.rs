//! Kubernetes Events, and how many of them there are: what repeats is counted in one object, what is alike is combined, and
//! no object floods the API server (client-go, tools/record/events_cache.go).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::trace::event_reason::EventType;

/// Whoever filters Events for those of the node agent knows it by this name.
const COMPONENT: &str = "kubelet";
/// client-go's `maxLruCacheEntries`.
const MAX_KNOWN: usize = 4096;
/// `defaultAggregateMaxEvents` within `defaultAggregateIntervalInSeconds`: more different messages than this are combined.
const ALIKE_MAX: usize = 10;
const ALIKE_SECONDS: i64 = 600;
/// `defaultSpamBurst` and `defaultSpamQPS`: 25 at once about one object, then one in five minutes.
const SPAM_BURST: f64 = 25.0;
const SPAM_PER_SECOND: f64 = 1.0 / 300.0;

/// Something to tell of an object.
#[derive(Clone, Debug)]
pub struct Telling {
    pub about: ObjectReference,
    pub type_: EventType,
    pub reason: &'static str,
    pub message: String,
    /// It is one with those about the same object and field that say this, whatever else their messages say; the newest
    /// stands. `None`: with those of the same message.
    pub same_as: Option<&'static str>,
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    Create(Box<Event>),
    /// Of an Event that was written before, strategic merge.
    Patch {
        namespace: String,
        name: String,
        patch: Value,
    },
}

#[derive(Clone, Debug)]
struct Known {
    event: Event,
    last_at: i64,
}

#[derive(Clone, Debug, Default)]
struct Alike {
    messages: BTreeSet<String>,
    last_at: i64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: i64,
}

/// What has been told lately.
#[derive(Debug)]
pub struct Correlator {
    host: String,
    known: BTreeMap<String, Known>,
    alike: BTreeMap<String, Alike>,
    buckets: BTreeMap<String, Bucket>,
}

impl Correlator {
    /// `host`: the node's name.
    #[must_use]
    pub fn new(host: String) -> Correlator {
        Correlator { host, known: BTreeMap::new(), alike: BTreeMap::new(), buckets: BTreeMap::new() }
    }

    /// What to write for it. `None`: too much has been told of that object lately.
    pub fn take(&mut self, telling: Telling, now: Timestamp) -> Option<Write> {
        let second = now.as_second();
        if !self.may_tell(&telling, second) {
            return None;
        }
        let combined = telling.same_as.is_none() && self.is_one_of_many(&telling, second);
        let message = if combined {
            format!("(combined from similar events): {}", telling.message)
        } else {
            telling.message.clone()
        };
        let key = match telling.same_as {
            _ if combined => alike_key(&telling),
            Some(what) => format!("{}|={what}", alike_key(&telling)),
            None => format!("{}|{message}", alike_key(&telling)),
        };
        if let Some(known) = self.known.get_mut(&key) {
            let count = known.event.count.unwrap_or(1).saturating_add(1);
            known.event.count = Some(count);
            known.event.last_timestamp = time(now);
            known.event.message = Some(message.clone());
            known.last_at = second;
            let meta = &known.event.metadata;
            return Some(Write::Patch {
                namespace: meta.namespace.clone().unwrap_or_default(),
                name: meta.name.clone().unwrap_or_default(),
                patch: json!({ "count": count, "lastTimestamp": time(now), "message": message }),
            });
        }
        let event = self.event(telling, message, now);
        forget_oldest(&mut self.known, |known| known.last_at);
        self.known.insert(key, Known { event: event.clone(), last_at: second });
        Some(Write::Create(Box::new(event)))
    }

    /// The Event that the patch was for is not there any more: it is made anew, with its count.
    #[must_use]
    pub fn again(&self, namespace: &str, name: &str) -> Option<Write> {
        let is_it = |event: &Event| {
            event.metadata.name.as_deref() == Some(name)
                && event.metadata.namespace.as_deref() == Some(namespace)
        };
        let known = self.known.values().find(|known| is_it(&known.event))?;
        Some(Write::Create(Box::new(known.event.clone())))
    }

    fn may_tell(&mut self, telling: &Telling, second: i64) -> bool {
        let key = object_key(&telling.about);
        let before = self.buckets.get(&key).copied();
        let mut bucket = before.unwrap_or(Bucket { tokens: SPAM_BURST, at: second });
        let elapsed = second.saturating_sub(bucket.at).max(0);
        bucket.tokens = (bucket.tokens + elapsed as f64 * SPAM_PER_SECOND).min(SPAM_BURST);
        bucket.at = second;
        let may = bucket.tokens >= 1.0;
        if may {
            bucket.tokens -= 1.0;
        }
        forget_oldest(&mut self.buckets, |bucket| bucket.at);
        self.buckets.insert(key, bucket);
        may
    }

    fn is_one_of_many(&mut self, telling: &Telling, second: i64) -> bool {
        let key = alike_key(telling);
        forget_oldest(&mut self.alike, |alike| alike.last_at);
        let alike = self.alike.entry(key).or_default();
        if second.saturating_sub(alike.last_at) > ALIKE_SECONDS {
            alike.messages.clear();
        }
        alike.last_at = second;
        alike.messages.insert(telling.message.clone());
        if alike.messages.len() <= ALIKE_MAX {
            return false;
        }
        alike.messages.remove(&telling.message);
        true
    }

    fn event(&self, telling: Telling, message: String, now: Timestamp) -> Event {
        let mut event = Event::default();
        // Cluster-wide objects have their Events in `default`.
        let namespace = telling.about.namespace.clone().filter(|ns| !ns.is_empty());
        event.metadata.namespace = Some(namespace.unwrap_or_else(|| "default".to_owned()));
        let object = telling.about.name.clone().unwrap_or_default();
        event.metadata.name = Some(format!("{object}.{:x}", now.as_nanosecond()));
        event.involved_object = telling.about;
        event.type_ = Some(telling.type_.as_str().to_owned());
        event.reason = Some(telling.reason.to_owned());
        event.message = Some(message);
        event.source =
            Some(EventSource { component: Some(COMPONENT.to_owned()), host: Some(self.host.clone()) });
        event.reporting_component = Some(COMPONENT.to_owned());
        event.reporting_instance = Some(self.host.clone());
        event.first_timestamp = time(now);
        event.last_timestamp = time(now);
        event.count = Some(1);
        event
    }
}

/// All but the message.
fn alike_key(telling: &Telling) -> String {
    let field = telling.about.field_path.as_deref().unwrap_or_default();
    format!("{}|{field}|{}|{}", object_key(&telling.about), telling.type_.as_str(), telling.reason)
}

fn object_key(about: &ObjectReference) -> String {
    let parts = [&about.kind, &about.namespace, &about.name, &about.uid];
    parts.map(|part| part.as_deref().unwrap_or_default()).join("/")
}

/// Makes room for one more where there is none.
fn forget_oldest<T>(entries: &mut BTreeMap<String, T>, last_at: impl Fn(&T) -> i64) {
    if entries.len() < MAX_KNOWN {
        return;
    }
    if let Some(oldest) = entries.iter().min_by_key(|(_, entry)| last_at(entry)).map(|(key, _)| key.clone()) {
        entries.remove(&oldest);
    }
}

/// Whole seconds, as Kubernetes keeps times.
fn time(at: Timestamp) -> Option<Time> {
    Timestamp::from_second(at.as_second()).ok().map(Time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn telling(pod: &str, message: &str) -> Telling {
        Telling {
            about: ObjectReference {
                kind: Some("Pod".into()),
                namespace: Some("d".into()),
                name: Some(pod.into()),
                ..ObjectReference::default()
            },
            type_: EventType::Warning,
            reason: "Failed",
            message: message.into(),
            same_as: None,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn short(write: Option<Write>) -> String {
        match write {
            None => "nothing".into(),
            Some(Write::Create(event)) => format!("new: {}", event.message.unwrap_or_default()),
            Some(Write::Patch { patch, .. }) => {
                format!("x{}: {}", patch["count"], patch["message"].as_str().unwrap())
            }
        }
    }

    #[test]
    fn what_repeats_is_counted() {
        let mut correlator = Correlator::new("n".into());
        assert_eq!(short(correlator.take(telling("a", "no"), at(0))), "new: no");
        assert_eq!(short(correlator.take(telling("a", "no"), at(1))), "x2: no");
        assert_eq!(short(correlator.take(telling("b", "no"), at(1))), "new: no");
        assert_eq!(short(correlator.take(telling("a", "other"), at(2))), "new: other");
        let Some(Write::Patch { namespace, name, .. }) = correlator.take(telling("a", "no"), at(3)) else {
            panic!("it is known");
        };
        assert_eq!(namespace, "d");
        let Some(Write::Create(event)) = correlator.again(&namespace, &name) else { panic!("it is known") };
        assert_eq!(event.count, Some(3));
        assert_ne!(event.first_timestamp, event.last_timestamp);
    }

    #[test]
    fn what_is_the_same_in_other_words_is_counted() {
        let mut correlator = Correlator::new("n".into());
        let killed = |message| Telling { same_as: Some("kill"), ..telling("a", message) };
        assert_eq!(short(correlator.take(killed("pid 1"), at(0))), "new: pid 1");
        for n in 2..20 {
            assert_eq!(short(correlator.take(killed("pid 2"), at(n))), format!("x{n}: pid 2"));
        }
        assert_eq!(short(correlator.take(telling("a", "pid 1"), at(20))), "new: pid 1");
    }

    #[test]
    fn many_messages_that_are_alike_become_one_event() {
        let mut correlator = Correlator::new("n".into());
        for n in 0..ALIKE_MAX {
            assert_eq!(short(correlator.take(telling("a", &n.to_string()), at(0))), format!("new: {n}"));
        }
        let combined = "(combined from similar events)";
        assert_eq!(short(correlator.take(telling("a", "x"), at(1))), format!("new: {combined}: x"));
        assert_eq!(short(correlator.take(telling("a", "y"), at(2))), format!("x2: {combined}: y"));
        assert_eq!(short(correlator.take(telling("a", "3"), at(3))), "x2: 3", "one of the first ten");
    }

    #[test]
    fn one_object_does_not_flood_the_rest() {
        let mut correlator = Correlator::new("n".into());
        let told = (0..40).filter(|_| correlator.take(telling("a", "no"), at(0)).is_some()).count();
        assert_eq!(told, 25);
        assert!(correlator.take(telling("b", "no"), at(0)).is_some());
        assert!(correlator.take(telling("a", "no"), at(299)).is_none());
        assert!(correlator.take(telling("a", "no"), at(301)).is_some());
    }

    #[test]
    fn the_past_is_bounded() {
        let mut correlator = Correlator::new("n".into());
        for n in 0..i64::try_from(MAX_KNOWN).unwrap() + 10 {
            let _ = correlator.take(telling(&n.to_string(), "no"), at(n));
        }
        assert_eq!(correlator.known.len(), MAX_KNOWN);
        assert_eq!(short(correlator.take(telling("0", "no"), at(9000))), "new: no", "forgotten");
    }
}
