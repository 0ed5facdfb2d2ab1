//! The record cache against a map, its budget, and loads that it is of no use to.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{KeyBuf, Prefix, RecordFlags};

/// Few tokens for the first thousand keys, so that tags and buckets are shared.
fn key(n: u64) -> KeyBuf {
    let prefix = Prefix {
        space: 1,
        vnode: (n % 3) as u16,
        table: (n % 2) as u32,
        token: if n < 1000 { n % 50 } else { n },
    };
    KeyBuf { prefix, partition: n.to_be_bytes().into(), sort: n.to_le_bytes()[..(n % 2) as usize].into() }
}

fn put(cache: &RecordCache, n: u64, order: u64, value: &[u8]) {
    let key = key(n);
    let record = Record { order, actor: n, flags: RecordFlags(1), expiry_ms: order + 1, value };
    cache.keep(KeyHash::of(&key.as_key()), &key.as_key(), &record);
}

fn get(cache: &RecordCache, n: u64) -> Option<(u64, Vec<u8>)> {
    let key = key(n);
    let (held, hash) = (cache.held(), KeyHash::of(&key.as_key()));
    let found = held.find(hash, &key.as_key());
    assert!(found.is_none() || held.approach(hash));
    found.map(|record| {
        assert_eq!((record.actor, record.flags.0, record.expiry_ms), (n, 1, record.order + 1));
        (record.order, record.value.to_vec())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn it_says_what_was_put_in_last_or_nothing_and_stays_within_its_budget(
        budget in 0usize..200_000,
        steps in prop::collection::vec((0u64..400, 0u8..40, 0usize..3_000), 1..2000),
    ) {
        let (cache, mut budget, mut model) = (RecordCache::default(), budget, BTreeMap::new());
        cache.resize(budget);
        for (order, (n, action, len)) in (1..).zip(steps) {
            match action {
                0 => {
                    budget = len * 60;
                    cache.resize(budget);
                }
                1 => {
                    let extent = Extent::vnode((n % 3) as u16);
                    cache.forget(extent);
                    model.retain(|&n: &u64, _| !extent.contains(key(n).prefix));
                }
                2 if len < 100 => {
                    cache.clear();
                    model.clear();
                }
                2..8 => {
                    cache.remove(&key(n).as_key());
                    model.remove(&n);
                }
                8..20 => {
                    let value = vec![order as u8; if action == 8 { len } else { len / 20 }];
                    put(&cache, n, order, &value);
                    model.insert(n, (order, value));
                }
                _ => {
                    let found = get(&cache, n);
                    prop_assert!(found.is_none() || found.as_ref() == model.get(&n), "key {n}");
                }
            }
            prop_assert!(cache.bytes() <= budget, "{} of {budget}", cache.bytes());
        }
        let held = (0..400).filter(|&n| get(&cache, n).is_some()).count();
        prop_assert_eq!(held, cache.stats().records);
    }
}

#[test]
fn what_is_hit_stays_while_others_pass() {
    let cache = RecordCache::default();
    cache.resize(256 << 10);
    let hot = 1_000..1_100;
    hot.clone().for_each(|n| put(&cache, n, 1, &[7; 100]));
    for n in 1_100..21_000 {
        put(&cache, n, 1, &[7; 100]);
        get(&cache, 1_000 + n % 100);
    }
    let kept = hot.filter(|&n| get(&cache, n).is_some()).count();
    // They came into one page, of which an eighth goes the first time.
    assert!(kept >= 85, "{kept} of 100 are left");
    assert!(cache.stats().evictions > 10_000);
}

#[test]
fn lookups_stop_asking_in_vain_and_begin_again() {
    let cache = RecordCache::default();
    assert!(!cache.asks(1), "there is no room");
    cache.resize(1 << 20);
    let asked = |lookups: u32, hit: bool| {
        let asked = (0..lookups).filter(|_| cache.asks(1));
        asked.inspect(|_| cache.count(1, u32::from(hit))).count() as u32
    };
    assert_eq!(asked(WINDOW, false), WINDOW);
    let some = asked(32_000, false);
    assert!((990..=1010).contains(&some), "{some} of 32,000 asked");
    // The load has changed.
    asked(2 * WINDOW * SAMPLED_PART, true);
    assert_eq!(asked(500, true), 500);
}
