//! SIGKILL under load, again and again: what was acknowledged is there afterwards. And SIGTERM, which loses nothing either.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ferrite_cli::local::LocalCluster;
use ferrite_client::{BlockingClient, Key, Level, ReadOptions, Record, WriteOptions, WriteOutcome};

use crate::{client, cluster, directory};

const ROUNDS: u64 = 20;
/// Keys that are written over and over, so that a stale value would show too.
const KEYS: u64 = 500;
/// Writes under way.
const WINDOW: usize = 64;
/// Longest time until so many are acknowledged.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is known of a key: a write that was acknowledged, and the last that was tried. A read may find anything between.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    acknowledged: u64,
    tried: u64,
}

/// All keys, by number. Counters of a key only ever grow.
#[derive(Default)]
pub(crate) struct Ledger(BTreeMap<u64, Known>);

fn value(key: u64, count: u64) -> Vec<u8> {
    // Longer than a line of anything, so that a torn write would not go unnoticed.
    format!("{key} {count} ").repeat(8).into_bytes()
}

fn count_of(key: u64, bytes: &[u8]) -> u64 {
    let text = std::str::from_utf8(bytes).expect("a value is text");
    let count = text.split(' ').nth(1).and_then(|count| count.parse().ok()).expect("a value has a count");
    assert_eq!(value(key, count), bytes, "a value is whole");
    count
}

impl Ledger {
    /// Writes until `enough` are acknowledged, which it says, and then until one fails. On a slow machine some may fail before.
    fn write_until_it_fails(&mut self, client: &mut BlockingClient, enough: u64, told: &mpsc::Sender<()>) {
        let (mut next, mut acknowledged) = (0u64, 0);
        let mut under_way = BTreeMap::new();
        let ledger = std::cell::RefCell::new(&mut self.0);
        let taken = std::cell::RefCell::new(&mut under_way);
        // No key is under way twice: the outcome of the earlier write would say nothing any more. Nor is one written again whose last
        // write may still be under way although its time is over: it may come behind the next one.
        let records = std::iter::from_fn(|| {
            let mut ledger = ledger.borrow_mut();
            let mut taken = taken.borrow_mut();
            let key = (0..KEYS)
                .map(|at| (next * 7 + at) % KEYS)
                .find(|key| !taken.values().any(|(k, _)| k == key))?;
            let known = ledger.entry(key).or_default();
            known.tried += 1;
            taken.insert(next, (key, known.tried));
            next += 1;
            Some(Record::plain(format!("key {key}"), value(key, known.tried)))
        });
        let options = WriteOptions {
            level: Some(Level::Quorum),
            timeout: Some(Duration::from_secs(2)),
            ttl: None,
            sloppy: false,
        };
        let begun = Instant::now();
        client.put_many(records, options, WINDOW, |number, outcome| {
            let (key, count) = taken.borrow()[&number];
            match outcome {
                WriteOutcome::Done { .. } => {
                    taken.borrow_mut().remove(&number);
                    let mut ledger = ledger.borrow_mut();
                    let known = ledger.get_mut(&key).expect("it was tried");
                    known.acknowledged = known.acknowledged.max(count);
                    acknowledged += 1;
                    if acknowledged == enough {
                        told.send(()).expect("somebody waits");
                    }
                }
                WriteOutcome::NotApplied(_) => {
                    taken.borrow_mut().remove(&number);
                }
                WriteOutcome::Unknown(_) => {}
            }
            let is_over = match acknowledged < enough {
                true => begun.elapsed() >= PATIENCE,
                false => !outcome.is_done(),
            };
            if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(acknowledged >= enough, "the node failed before it was killed: {acknowledged} of {enough}");
    }

    /// Reads every key.
    pub(crate) fn check(&mut self, client: &mut BlockingClient, when: &str) {
        for (key, known) in &mut self.0 {
            let name = format!("key {key}");
            let found = client.get(Key::plain(name.as_bytes()), ReadOptions::default()).unwrap();
            let found = found.map_or(0, |value| count_of(*key, &value.bytes));
            assert!(
                (known.acknowledged..=known.tried).contains(&found),
                "{when}: {name} has {found}, acknowledged {}, tried {}",
                known.acknowledged,
                known.tried
            );
            // What was read at QUORUM stays readable.
            known.acknowledged = known.acknowledged.max(found);
        }
    }
}

/// Kills `victims` once `enough` writes are acknowledged, and starts them again.
pub(crate) fn round(cluster: &mut LocalCluster, ledger: &mut Ledger, victims: &[usize], enough: u64) {
    let mut writer = client(cluster);
    std::thread::scope(|scope| {
        let (told, killed) = mpsc::channel();
        let (ledger, writer) = (&mut *ledger, &mut writer);
        let writing = scope.spawn(move || ledger.write_until_it_fails(writer, enough, &told));
        if killed.recv().is_ok() {
            victims.iter().for_each(|victim| cluster.kill(*victim).unwrap());
        }
        writing.join().expect("the writer checks what it may check");
    });
    victims.iter().for_each(|victim| cluster.start(*victim).unwrap());
}

#[test]
fn twenty_kills_of_the_only_replica_lose_nothing_acknowledged() {
    let home = directory();
    let mut cluster = cluster(home.path(), 1);
    let mut ledger = Ledger::default();
    for at in 0..ROUNDS {
        round(&mut cluster, &mut ledger, &[0], 100 + at * 37);
        ledger.check(&mut client(&cluster), &format!("after kill {at}"));
    }
    println!("counted: kills {ROUNDS}");
}

#[test]
fn sigterm_drains_syncs_and_exits_with_zero() {
    let home = directory();
    let mut cluster = cluster(home.path(), 1);
    let mut ledger = Ledger::default();
    for at in 0..3 {
        let mut writer = client(&cluster);
        std::thread::scope(|scope| {
            let (told, stop) = mpsc::channel();
            let (ledger, writer) = (&mut ledger, &mut writer);
            let writing = scope.spawn(move || ledger.write_until_it_fails(writer, 300, &told));
            stop.recv().expect("writes are acknowledged");
            let status = cluster.stop(0).unwrap();
            assert_eq!(status.code(), Some(0), "stop {at}: {status}");
            writing.join().expect("the writer checks what it may check");
        });
        cluster.start(0).unwrap();
        ledger.check(&mut client(&cluster), &format!("after stop {at}"));
    }
}
