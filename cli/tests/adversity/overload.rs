//! Load far above what a core takes on: each request is done, refused as overload, or out of time; what was taken on is done, what was
//! not is not there, and all of it is counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ferrite_client::{BlockingClient, Key, ReadOptions, WriteOptions, WriteOutcome};
use ferrite_node::config::ByteSize;
use ferrite_wire::{ErrorCode, FrameKind, Role};

use crate::cluster::{Cluster, Status, Wanted, wait_for};
use crate::ledger::StopAtEnd;
use crate::wire::{self, Raw, request_of};

/// A node of whose reserve of 16 MiB two and a half are for records that wait for the log.
const ONE_CORE: Wanted<'static> = Wanted { nodes: 1, cores: 1, server: "memtable = \"4MiB\"" };
/// What it is given: enough that a build which was not made to be small weighs little beside it.
const MEMORY: ByteSize = ByteSize::mib(128);
const CONNECTIONS: u64 = 32;
/// Puts that each connection has in flight: together they are 128 MiB, many times what may wait, and too much beside all else if they did.
const DEPTH: u64 = 64;
const VALUE_BYTES: usize = 64 << 10;
/// The time that most puts have, and every so many one that has hardly any.
const GIVEN_US: u32 = 60_000_000;
const HURRIED_US: u32 = 1_000;
const HURRIED_EVERY: u64 = 8;
/// Puts that must have been refused, and done, before the load ends.
const REFUSED_MIN: u64 = 1_000;
const DONE_MIN: u64 = 1_000;
/// Puts within the bounds, once the load has ended.
const AFTERWARDS: u64 = 100;
/// What its process may take in all: the memory that it is given, and a tenth of it more.
const MEMORY_BYTES_MAX: u64 = MEMORY.0 / 10 * 11;

/// How puts ended, by number; each has a key of its own.
#[derive(Debug, Default)]
struct Ended {
    done: Vec<u64>,
    overloaded: Vec<u64>,
    expired: Vec<u64>,
    /// Taken on, and out of time before they were durable.
    in_doubt: Vec<u64>,
}

impl Ended {
    fn add(&mut self, mut more: Ended) {
        self.done.append(&mut more.done);
        self.overloaded.append(&mut more.overloaded);
        self.expired.append(&mut more.expired);
        self.in_doubt.append(&mut more.in_doubt);
    }

    /// Whoever had time enough was told what became of a put.
    fn hurried_alone_are_late(&self) {
        for late in [&self.expired, &self.in_doubt] {
            assert!(late.iter().all(|number| number.is_multiple_of(HURRIED_EVERY)), "{late:?}");
        }
    }

    fn total(&self) -> u64 {
        (self.done.len() + self.overloaded.len() + self.expired.len() + self.in_doubt.len()) as u64
    }
}

/// How many puts have ended so far, on all connections.
#[derive(Debug, Default)]
struct Progress {
    done: AtomicU64,
    refused: AtomicU64,
}

/// Has `depth` puts in flight all the time until it is stopped, then waits for their ends. Numbers are unlike those of other connections.
fn press(mut raw: Raw, connection: u64, depth: u64, stop: &AtomicBool, progress: &Progress) -> Ended {
    let value = vec![7; VALUE_BYTES];
    let (mut sent, mut ended) = (0, Ended::default());
    loop {
        while sent < ended.total() + depth && (sent == 0 || !stop.load(Ordering::Relaxed)) {
            let number = sent * CONNECTIONS + connection + 1;
            let given_us = if number.is_multiple_of(HURRIED_EVERY) { HURRIED_US } else { GIVEN_US };
            raw.send(&request_of(number, given_us, &wire::put(&number.to_le_bytes(), &value)));
            sent += 1;
        }
        if ended.total() == sent {
            return ended;
        }
        let said = raw.next().unwrap_or_else(|| panic!("closed with {} of {sent} answered", ended.total()));
        let number = said.request.0;
        match (said.kind, said.code) {
            (FrameKind::Done, _) => {
                progress.done.fetch_add(1, Ordering::Relaxed);
                ended.done.push(number);
            }
            (_, Some(ErrorCode::Overloaded)) => {
                progress.refused.fetch_add(1, Ordering::Relaxed);
                ended.overloaded.push(number);
            }
            (_, Some(ErrorCode::Expired)) => ended.expired.push(number),
            (_, Some(ErrorCode::Unknown)) => ended.in_doubt.push(number),
            other => panic!("number {number} ended as {other:?}"),
        }
    }
}

/// Presses on the node from all connections until enough was done and refused.
fn press_for_long(cluster: &Cluster) -> Ended {
    let (stop, progress) = (AtomicBool::new(false), Progress::default());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|connection| {
                let (raw, stop, progress) = (Raw::greeted(cluster, Role::Client), &stop, &progress);
                scope.spawn(move || press(raw, connection, DEPTH, stop, progress))
            })
            .collect();
        let stopped = StopAtEnd(&stop);
        wait_for("more is refused than is let wait, and much is done beside it", || {
            let (done, refused) = (&progress.done, &progress.refused);
            (done.load(Ordering::Relaxed) >= DONE_MIN && refused.load(Ordering::Relaxed) >= REFUSED_MIN)
                .then_some(())
        });
        drop(stopped);
        let mut all = Ended::default();
        threads.into_iter().for_each(|thread| all.add(thread.join().expect("it was answered")));
        all
    })
}

/// Whether keys have values.
fn are_there(client: &mut BlockingClient, numbers: &[u64]) -> Vec<bool> {
    let names: Vec<[u8; 8]> = numbers.iter().map(|number| number.to_le_bytes()).collect();
    let mut there = Vec::new();
    // So many values as one multi-get may hold in such a node.
    for names in names.chunks(8) {
        let keys: Vec<Key<'_>> = names.iter().map(|name| Key::plain(name)).collect();
        let found = client.multi_get(&keys, ReadOptions::default());
        there.extend(found.into_iter().map(|found| found.expect("the node is at rest").is_some()));
    }
    there
}

fn grown(before: &Status, after: &Status, name: &str) -> u64 {
    let number = |status: &Status| status.line(name).map_or(0, |line| line.parse().expect("a number"));
    number(after) - number(before)
}

#[test]
fn what_is_above_the_bounds_is_refused_and_what_was_taken_on_is_done() {
    let cluster = Cluster::start_with(ONE_CORE, MEMORY);
    let mut client = cluster.client();
    let (before, memory_before) = (cluster.status(&mut client, 0), cluster.resident_bytes_max(0));
    let ended = press_for_long(&cluster);
    let after = cluster.status(&mut client, 0);
    let [done, overloaded, expired, in_doubt] =
        [&ended.done, &ended.overloaded, &ended.expired, &ended.in_doubt].map(|numbers| numbers.len() as u64);
    println!(
        "{} puts: {done} done, {overloaded} refused as overload, {expired} out of time, {in_doubt} in doubt",
        ended.total()
    );

    // The node has counted what its clients were told, by reason, and nothing else.
    let grown = |name: &str| grown(&before, &after, name);
    assert_eq!(grown("errors.Overloaded"), overloaded);
    assert_eq!(grown("errors.Expired"), expired);
    assert_eq!(grown("errors.Unknown"), in_doubt);
    let reasons =
        ["in_socket", "in_queue", "at_replica", "waiting_for_log", "waiting_for_latch", "waiting_for_disk"];
    let waited: BTreeMap<&str, u64> =
        reasons.into_iter().map(|reason| (reason, grown(&format!("expired.{reason}")))).collect();
    // What is out of time before its frame is whole is not begun.
    assert_eq!(waited["in_socket"] + waited["waiting_for_log"], expired, "{waited:?}");
    assert_eq!(waited.values().sum::<u64>(), expired, "{waited:?}");
    let begun = grown("puts");
    assert!(
        (done + in_doubt + waited["waiting_for_log"]..=ended.total()).contains(&begun),
        "{begun} puts were begun"
    );
    assert!(grown("engine.log_records") >= done);

    // Of what was taken on, only what had hardly any time was dropped, or answered before it was durable.
    ended.hurried_alone_are_late();
    assert!(are_there(&mut client, &ended.done).into_iter().all(|there| there), "what is done is there");
    for refused in [&ended.overloaded, &ended.expired] {
        assert!(!are_there(&mut client, refused).into_iter().any(|there| there), "what is refused is not");
    }
    let memory = cluster.resident_bytes_max(0);
    println!(
        "the node took {} MiB of memory at most, {} of them before, of {} that it may",
        memory >> 20,
        memory_before >> 20,
        MEMORY_BYTES_MAX >> 20
    );
    assert!(memory < MEMORY_BYTES_MAX, "{memory} bytes");

    // Nothing of it is left, once what was taken on is in tables: what is within the bounds is done, all of it.
    wait_for("what was taken on is flushed", || {
        (cluster.status(&mut client, 0).number("engine.frozen_bytes") == 0).then_some(())
    });
    let (stop, progress) = (AtomicBool::new(false), Progress::default());
    let after = std::thread::scope(|scope| {
        let raw = Raw::greeted(&cluster, Role::Client);
        let pressing = scope.spawn(|| press(raw, CONNECTIONS - 2, 4, &stop, &progress));
        let stopped = StopAtEnd(&stop);
        wait_for("puts within the bounds", || {
            (progress.done.load(Ordering::Relaxed) >= AFTERWARDS).then_some(())
        });
        drop(stopped);
        pressing.join().expect("it was answered")
    });
    assert_eq!(after.overloaded, [0; 0], "of {}", after.total());
    after.hurried_alone_are_late();
}

/// A client that comes again a little later gets through, however many come again at once.
#[test]
fn who_comes_again_later_is_served_while_others_press() {
    let cluster = Cluster::start_with(ONE_CORE, MEMORY);
    let mut client = cluster.client();
    let (stop, progress) = (AtomicBool::new(false), Progress::default());
    // Refused, or served: how often it comes again is its own affair, and so is how soon the machine lets it.
    let mut serve = |number: u32, when: &str| {
        let key = number.to_le_bytes();
        wait_for(when, || {
            let outcome = client.put(Key::plain(&key), b"v", WriteOptions::default());
            let is_refused =
                matches!(&outcome, WriteOutcome::NotApplied(fault) if fault.code == ErrorCode::Overloaded);
            assert!(outcome.is_done() || is_refused, "{when}: {outcome}");
            outcome.is_done().then_some(())
        });
        let read = client.get(Key::plain(&key), ReadOptions::default()).expect("reads have room");
        assert_eq!(read.expect("it is there").bytes, b"v", "{when}");
    };
    std::thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let (raw, stop, progress) = (Raw::greeted(&cluster, Role::Client), &stop, &progress);
            scope.spawn(move || press(raw, connection, DEPTH, stop, progress).hurried_alone_are_late());
        }
        let stopped = StopAtEnd(&stop);
        wait_for("puts are refused", || {
            (progress.refused.load(Ordering::Relaxed) >= REFUSED_MIN).then_some(())
        });
        for number in 0..20 {
            serve(number, "served while others press");
        }
        drop(stopped);
    });
    serve(20, "served after they have stopped");
}
