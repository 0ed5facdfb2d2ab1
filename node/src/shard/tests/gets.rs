//! Gets of one receive are answered as they would be one by one.

use ferrite_wire::{ErrorCode, Reply, TableId};

use super::super::gets::BATCH_MAX;
use super::*;

const KEYS: usize = 40;

fn key_of(number: usize) -> Vec<u8> {
    format!("key{number}").into_bytes()
}

/// A shard that holds a value for every other key; every fifth value is so long that few fit among one batch's answers.
fn filled() -> (Bench, Rc<Shard<Bench>>, Connection) {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    for number in (0..KEYS).step_by(2) {
        let len = if number % 5 == 0 { 40_000 } else { number };
        receive(
            &shard,
            connection,
            &request_frame(1, &put(&key_of(number), &vec![number as u8; len], Level::One)),
        );
        pass(&bench, &shard, 1);
    }
    assert_eq!(bench.frames(connection).len(), KEYS / 2);
    (bench, shard, connection)
}

/// Gets, with some among them that end a batch: another table, a level that one node cannot meet, a ping.
fn requests() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for number in 0..3 * KEYS {
        let key = key_of(number * 7 % KEYS);
        let request = match number {
            21 => Request::Ping,
            50 => get(&key, Level::Number(3)),
            77 => {
                let key = Key { table: TableId(9), partition: &key, sort: b"" };
                Request::Get { epoch: Epoch(0), level: Level::One, options: 0, key }
            }
            _ => get(&key, Level::One),
        };
        frames.push(request_frame(number as u64, &request));
    }
    frames
}

fn answers(bench: &Bench, connection: Connection) -> BTreeMap<u64, (FrameHeader, Vec<u8>)> {
    bench.run();
    let frames = bench.frames(connection);
    let count = frames.len();
    let answers: BTreeMap<_, _> = frames.into_iter().map(|frame| (frame.0.request.0, frame)).collect();
    assert_eq!(answers.len(), count, "one answer each");
    answers
}

#[test]
fn together_or_alone_the_answers_are_the_same() {
    let (bench, shard, connection) = filled();
    let requests = requests();
    requests.iter().for_each(|frame| receive(&shard, connection, frame));
    let alone = answers(&bench, connection);
    assert_eq!(alone.len(), requests.len());
    let of = |number: u64| Reply::decode(alone[&number].0.kind, &alone[&number].1).expect("a reply");
    assert!(matches!(of(0), Reply::Value { value, .. } if value.len() == 40_000));
    assert!(matches!(of(1), Reply::Absent { .. }), "{:?}", of(1));
    assert!(matches!(of(21), Reply::Pong));
    assert!(matches!(of(50), Reply::Error { code: ErrorCode::Unavailable, .. }), "{:?}", of(50));
    assert!(matches!(of(77), Reply::Error { code: ErrorCode::NoTable, .. }));

    let counted = shard.counters.gets.get();
    receive(&shard, connection, &requests.concat());
    assert_eq!(answers(&bench, connection), alone);
    assert_eq!(shard.counters.gets.get() - counted, counted, "each is counted once");

    // In pieces of any length: a frame that is not whole waits for its rest.
    let stream = requests.concat();
    for piece in [33, 100, 1_000] {
        let (mut from, mut to) = (0, 0);
        while to < stream.len() {
            to = (to + piece).min(stream.len());
            match shard.on_received(connection, &stream[from..to]) {
                Received::Consumed { used, .. } => from += used,
                Received::Close => panic!("nothing is wrong with these"),
            }
        }
        assert_eq!(from, stream.len());
        assert_eq!(answers(&bench, connection), alone, "in pieces of {piece}");
    }
}

#[test]
fn a_damaged_get_among_others_closes_after_those_before_it() {
    let (bench, shard, connection) = filled();
    let mut stream = requests()[..10].concat();
    let damaged = requests()[..6].concat().len() - 1;
    stream[damaged] ^= 1;
    assert_eq!(shard.on_received(connection, &stream), Received::Close);
    let kinds: Vec<_> = bench.frames(connection).iter().map(|(header, _)| header.kind).collect();
    assert_eq!(kinds.len(), 6, "{kinds:?}");
    assert!(kinds[..5].iter().all(|kind| matches!(kind, FrameKind::Value | FrameKind::Absent)));
    assert_eq!(kinds[5], FrameKind::Error);
}

/// Sixteen were looked up each time, and one or two answered: clients that asked for long values and read none kept a core busy.
#[test]
fn a_burst_of_gets_of_long_values_is_looked_up_about_once() {
    const GETS: usize = 64;
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    receive(&shard, connection, &request_frame(1, &put(b"long", &[7; 60_000], Level::One)));
    pass(&bench, &shard, 1);
    bench.frames(connection);
    let burst: Vec<u8> =
        (0..GETS as u64).flat_map(|number| request_frame(number, &get(b"long", Level::One))).collect();
    let before = shard.engine.stats().gets_memtable;
    receive(&shard, connection, &burst);
    assert_eq!(answers(&bench, connection).len(), GETS);
    let looked_up = (shard.engine.stats().gets_memtable - before) as usize;
    assert!((GETS..=2 * GETS + BATCH_MAX).contains(&looked_up), "{looked_up} for {GETS}");
}
