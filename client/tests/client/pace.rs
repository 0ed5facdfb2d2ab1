//! Replicas that answer slowly, or not at all, are asked last: the middle against servers with a delay each, on a clock that is a field.

use crate::frames::{done, encoded, topology, version};
use crate::script::{Script, Seen, options};
use ferrite_client::{Completion, Key, Operation, ReadOptions, WriteOptions};
use ferrite_wire::{FrameKind, Reply};
use std::collections::BTreeMap;
use std::time::Duration;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Three nodes, each a replica of every key and the first one of a third of them.
struct World {
    script: Script,
    /// How long each takes to answer.
    delays: BTreeMap<&'static str, Duration>,
    asked: BTreeMap<String, usize>,
    calls: u64,
}

impl World {
    fn new(delays_ms: [u64; 3]) -> World {
        let delays = ["n1:7101", "n2:7101", "n3:7101"].into_iter().zip(delays_ms.map(ms)).collect();
        let script = Script::with_nodes(options(&["n1:7100"]), 3);
        World { script, delays, asked: BTreeMap::new(), calls: 0 }
    }

    /// One call, alone, and how long it took.
    fn call(&mut self, is_write: bool) -> Duration {
        self.calls += 1;
        let name = self.calls.to_le_bytes();
        let start = self.script.now;
        self.script.submit(
            self.calls,
            match is_write {
                true => Operation::Put(Key::plain(&name), b"v", WriteOptions::default()),
                false => Operation::Get(Key::plain(&name), ReadOptions::default()),
            },
        );
        while self.script.completions.is_empty() {
            self.script.connect_all();
            let request = self.script.request();
            *self.asked.entry(request.address.clone()).or_default() += 1;
            self.script.advance(self.delays[request.address.as_str()]);
            self.answer(&request);
        }
        self.script.completion();
        self.script.now - start
    }

    fn answer(&mut self, request: &Seen) {
        match request.header.kind {
            FrameKind::Put => self.script.reply(request, &done()),
            _ => self.script.reply(request, &Reply::Value { version: version(1), answered: 2, value: b"v" }),
        }
    }

    /// How long calls took, one each `pause`: the longest of all but a hundredth of them.
    fn p99(&mut self, calls: usize, pause: Duration, is_write: bool) -> Duration {
        let mut took: Vec<Duration> = Vec::new();
        for _ in 0..calls {
            took.push(self.call(is_write));
            self.script.advance(pause);
        }
        took.sort();
        took[calls * 99 / 100]
    }
}

/// A third of all keys had a coordinator behind a slow link, and each of their reads waited for it, though any other replica would have
/// answered at once.
#[test]
fn one_slow_coordinator_of_three_does_not_show_in_the_p99() {
    for is_write in [false, true] {
        for pause in [ms(0), ms(1), ms(50)] {
            let mut world = World::new([50, 1, 1]);
            assert!(world.p99(4_000, pause, is_write) <= ms(2), "one each {pause:?}, writes: {is_write}");
        }
        let mut healthy = World::new([1, 1, 1]);
        assert_eq!(healthy.p99(1_000, ms(1), is_write), ms(1));
        let least = *healthy.asked.values().min().unwrap();
        assert!(healthy.asked.len() == 3 && least > 200, "each in its turn: {:?}", healthy.asked);
    }
}

#[test]
fn one_that_is_fast_again_is_asked_in_its_turn_again() {
    let mut world = World::new([50, 1, 1]);
    world.p99(4_000, ms(10), false);
    world.delays.insert("n1:7101", ms(1));
    // No longer than the longest pause.
    for _ in 0..1_700 {
        world.call(false);
        world.script.advance(ms(10));
    }
    let before = world.asked["n1:7101"];
    (0..300).for_each(|_| _ = world.call(false));
    assert!(world.asked["n1:7101"] - before > 60, "{:?}", world.asked);
}

#[test]
fn all_that_are_slow_alike_keep_their_turns() {
    let mut world = World::new([50, 60, 70]);
    (0..300).for_each(|_| _ = world.call(false));
    assert!(world.asked.values().all(|asked| *asked > 60), "{:?}", world.asked);
}

#[test]
fn a_slow_disk_moves_writes_and_not_reads() {
    let mut world = World::new([1, 1, 1]);
    for _ in 0..100 {
        world.delays.insert("n1:7101", ms(50));
        world.call(true);
        world.delays.insert("n1:7101", ms(1));
        world.call(false);
    }
    world.asked.clear();
    (0..60).for_each(|_| _ = world.call(true));
    assert!(world.asked.get("n1:7101").is_none_or(|asked| *asked <= 2), "{:?}", world.asked);
    world.asked.clear();
    (0..60).for_each(|_| _ = world.call(false));
    assert!(world.asked["n1:7101"] > 10, "{:?}", world.asked);
}

/// A call has half its time for one replica. Those after it need not find out by themselves.
#[test]
fn calls_go_round_a_replica_that_owes_an_answer_for_long() {
    let mut world = World::new([1, 1, 1]);
    (0..60).for_each(|_| _ = world.call(false));
    let get = Operation::Get(Key::plain(b"key"), ReadOptions::default());
    world.script.submit(1_001, get);
    let owed = world.script.request();
    world.script.advance(ms(49));
    world.script.submit(1_002, get);
    assert_eq!(world.script.request().address, owed.address, "not so long yet");
    world.script.advance(ms(2));
    world.script.submit(1_003, get);
    let other = world.script.request();
    assert_ne!(other.address, owed.address);
    world.answer(&other);
    assert!(matches!(world.script.completion(), (1_003, Completion::Read(Ok(_)))));
    world.answer(&owed);
    world.script.completions.clear();
    world.script.submit(1_004, get);
    assert_eq!(world.script.request().address, owed.address, "it speaks again");
}

/// A multi-get is split by who will be asked, so that the slow one's part does not hold up the whole.
#[test]
fn a_multi_get_leaves_a_slow_replica_out() {
    let mut world = World::new([50, 1, 1]);
    (0..60).for_each(|_| _ = world.call(false));
    let names: Vec<Vec<u8>> = (0..40u8).map(|name| vec![name]).collect();
    let keys: Vec<Key<'_>> = names.iter().map(|name| Key::plain(name)).collect();
    world.script.submit(1_001, Operation::MultiGet(&keys, ReadOptions::default()));
    let mut asked: Vec<_> = world.script.requests.drain(..).map(|part| part.address).collect();
    asked.sort();
    assert_eq!(asked, ["n2:7101", "n3:7101"]);
}

/// Replicas change places when the topology does; what is known is of addresses.
#[test]
fn a_new_topology_does_not_forget_who_is_slow() {
    let mut world = World::new([50, 1, 1]);
    (0..60).for_each(|_| _ = world.call(false));
    let nodes: Vec<_> =
        [1, 3, 2].map(|node| (format!("n{node}:7100"), vec![format!("n{node}:7101")])).to_vec();
    world.script.submit(1_001, Operation::Topology(None, ReadOptions::default()));
    world.script.connect_all();
    let request = world.script.request();
    world.script.reply(&request, &Reply::Topology(&encoded(&topology(2, &nodes))));
    world.script.completions.clear();
    world.asked.clear();
    (0..30).for_each(|_| _ = world.call(false));
    assert!(world.asked.get("n1:7101").is_none_or(|asked| *asked <= 1), "{:?}", world.asked);
}
