//! Answers of the API server, kept for as long as the configuration has it, in a bounded number.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use crate::clock::Mono;

/// The oldest goes where there is no more room.
#[derive(Debug)]
pub struct AccessCache<K, V> {
    capacity: usize,
    entries: HashMap<K, Entry<V>>,
    /// In the order in which they came, each with the number of its entry: a key that came anew has another.
    order: VecDeque<(K, u64)>,
    next: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    until: Mono,
    number: u64,
}

impl<K: Clone + Eq + Hash, V: Clone> AccessCache<K, V> {
    #[must_use]
    pub fn new(capacity: usize) -> AccessCache<K, V> {
        AccessCache { capacity, entries: HashMap::new(), order: VecDeque::new(), next: 0 }
    }

    /// `None`: not known, or no more.
    #[must_use]
    pub fn get(&self, key: &K, now: Mono) -> Option<V> {
        self.entries.get(key).filter(|entry| now < entry.until).map(|entry| entry.value.clone())
    }

    pub fn put(&mut self, key: K, value: V, ttl: Duration, now: Mono) {
        let number = self.next;
        self.next += 1;
        self.entries.insert(key.clone(), Entry { value, until: now + ttl, number });
        self.order.push_back((key, number));
        while self.entries.len() > self.capacity || self.order.len() > 2 * self.capacity {
            let Some((oldest, number)) = self.order.pop_front() else { return };
            if self.entries.get(&oldest).is_some_and(|entry| entry.number == number) {
                self.entries.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn an_answer_holds_for_its_time() {
        let mut cache = AccessCache::new(2);
        let at = Mono::from_millis;
        cache.put("a", true, 5 * S, at(0));
        assert_eq!(cache.get(&"a", at(4999)), Some(true));
        assert_eq!(cache.get(&"a", at(5000)), None);
        cache.put("a", false, S, at(6000));
        assert_eq!(cache.get(&"a", at(6500)), Some(false));
        cache.put("b", true, S, at(6500));
        cache.put("c", true, S, at(6500));
        assert_eq!(["a", "b", "c"].map(|key| cache.get(&key, at(6600)).is_some()), [false, true, true]);
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bound(puts in prop::collection::vec((0u8..20, 0u64..10), 0..200)) {
            let mut cache = AccessCache::new(5);
            for (n, (key, ttl)) in puts.into_iter().enumerate() {
                let now = Mono::from_millis(n as u64 * 100);
                cache.put(key, n, Duration::from_secs(ttl), now);
                prop_assert!(cache.entries.len() <= 5 && cache.order.len() <= 10);
                prop_assert_eq!(cache.get(&key, now), (ttl > 0).then_some(n));
            }
        }
    }
}
