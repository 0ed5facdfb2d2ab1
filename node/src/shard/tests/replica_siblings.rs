//! Keys of tables with siblings: what a shard makes of the sets that other replicas send, and sends to them.

use ferrite_cluster::{CausalClock, Context, Dot, SetLimits, Sibling, SiblingSet};
use ferrite_lsm::mem_disk::CrashMode;
use ferrite_wire::{Actor, ErrorCode, OVERWRITE, ReadWant, ReplicaAnswer, Reply, Version, WriteAnswer};

use super::siblings::{Told, get_of, key, owned, put_of, settings_of, told};
use super::*;
use crate::shard::slab::OperationId;

/// Longer than any write is delayed, in milliseconds.
const DELAY_MS_MAX: usize = 1_000;

/// A node of three that is a replica of all keys, with links to both others.
fn of_three() -> (Bench, Rc<Shard<Bench>>) {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings_of(3, 1, 3)).expect("an empty disk opens");
    tables::accept_links(&bench, &shard);
    (bench, shard)
}

fn links(shard: &Shard<Bench>) -> Vec<Connection> {
    shard.links.borrow().iter().map(|link| link.up().expect("it is up")).collect()
}

/// The set of a write that others coordinated.
fn set_with<'v>(dots: &[(u64, u64, &'v [u8])]) -> SiblingSet<'v> {
    let mut set = SiblingSet::default();
    for (actor, number, value) in dots {
        let dot = Dot { actor: Actor(*actor), number: *number };
        let sibling = Sibling { dot, order: Order(*number), expiry_ms: 0, value };
        set.put(&CausalClock::default(), sibling, &SetLimits::default()).expect("there is room");
    }
    set
}

fn bytes_of(set: &SiblingSet<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    set.encode(&mut out);
    out
}

fn peer_answers(bench: &Bench, connection: Connection) -> Vec<(FrameHeader, Vec<u8>)> {
    bench.frames(connection)
}

/// Sends a set as its coordinator does; the answer.
fn replicate(bench: &Bench, shard: &Rc<Shard<Bench>>, from: Connection, set: &SiblingSet<'_>) -> WriteAnswer {
    replicate_of(bench, shard, from, b"k", set)
}

/// The same of this name. Where writers are delayed because flushes are behind, the time passes that it takes.
fn replicate_of(
    bench: &Bench,
    shard: &Rc<Shard<Bench>>,
    from: Connection,
    name: &[u8],
    set: &SiblingSet<'_>,
) -> WriteAnswer {
    let value = bytes_of(set);
    let message = PeerMessage::ReplicaWrite {
        vnode_epoch: Epoch(1),
        key: key(name),
        version: set.version(),
        value: &value,
    };
    receive(shard, from, &message_frame(1, 1_000_000, &message));
    shard.on_batch_end();
    bench.run();
    let mut answers = peer_answers(bench, from);
    for _ in 0..DELAY_MS_MAX {
        if answers.is_empty() {
            pass(bench, shard, 1);
            answers = peer_answers(bench, from);
        }
    }
    let (header, body) = answers.remove(0);
    match PeerMessage::decode(header.kind, &body) {
        Ok(PeerMessage::ReplicaWriteAnswer(answer)) => answer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_whole_joined_set_is_sent_to_the_other_replicas() {
    let (bench, shard) = of_three();
    let from = peer(&bench, &shard);
    let theirs = set_with(&[(7, 10, b"theirs"), (8, 20, b"others")]);
    assert_eq!(replicate(&bench, &shard, from, &theirs), WriteAnswer::Applied);
    let connection = client(&bench, &shard);
    for link in links(&shard) {
        bench.frames(link);
    }
    receive(&shard, connection, &request_frame(1, &put_of(b"k", b"mine", b"")));
    let mut sent = Vec::new();
    for link in links(&shard) {
        for (header, body) in bench.frames(link) {
            if let Ok(PeerMessage::ReplicaWrite { version, value, .. }) =
                PeerMessage::decode(header.kind, &body)
            {
                let set = SiblingSet::decode(value).expect("a set");
                assert_eq!(set.version(), version);
                let values: Vec<&[u8]> = set.siblings().iter().map(|sibling| sibling.value).collect();
                let mut values = owned(&values);
                values.sort();
                sent.push(values);
            }
        }
    }
    let all = owned(&[b"mine", b"others", b"theirs"]);
    assert_eq!(sent, [all.clone(), all], "each of both gets all of it");
}

#[test]
fn sets_of_others_are_joined_whatever_their_order_and_repeats() {
    let one = set_with(&[(7, 10, b"a")]);
    let mut merged = one.clone();
    let sibling = Sibling {
        dot: Dot { actor: Actor(8), number: 30 },
        order: Order(30),
        expiry_ms: 0,
        value: b"merged",
    };
    merged.put(one.clock(), sibling, &SetLimits::default()).expect("there is room");
    let apart = set_with(&[(9, 20, b"apart")]);
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1]] {
        let (bench, shard) = of_three();
        let from = peer(&bench, &shard);
        for at in order.into_iter().chain(order) {
            let set = [&one, &merged, &apart][at];
            assert_eq!(replicate(&bench, &shard, from, set), WriteAnswer::Applied);
        }
        let read = PeerMessage::ReplicaRead { vnode_epoch: Epoch(1), want: ReadWant::Full, key: key(b"k") };
        receive(&shard, from, &message_frame(2, 1_000_000, &read));
        let (header, body) = peer_answers(&bench, from).remove(0);
        let Ok(PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Full { version, value })) =
            PeerMessage::decode(header.kind, &body)
        else {
            panic!("{:?}", header.kind)
        };
        let expected = merged.join(&apart);
        assert_eq!((version, value), (expected.version(), &bytes_of(&expected)[..]), "{order:?}");
    }
}

/// Sets of a key lie in tables, in memtables and in the log at once, and are joined wherever two of them meet: later ones must not take
/// the place of earlier ones, nor newer ones that of older ones.
#[test]
fn sets_of_others_are_joined_across_memtables_tables_and_merges() {
    let mut settings = settings_of(3, 1, 3);
    settings.engine.memtable_bytes = 64 * 1024;
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings.clone()).expect("an empty disk opens");
    let from = peer(&bench, &shard);
    let names: Vec<[u8; 4]> = (0..60_u32).map(u32::to_be_bytes).collect();
    let values: [Vec<u8>; 4] = std::array::from_fn(|round| vec![round as u8; 700]);
    // The second is the newest.
    let sets: Vec<SiblingSet<'_>> = (0..4)
        .map(|round| set_with(&[(7 + round, [20, 40, 10, 30][round as usize], &values[round as usize])]))
        .collect();
    for set in &sets {
        for name in &names {
            assert_eq!(replicate_of(&bench, &shard, from, name, set), WriteAnswer::Applied);
        }
    }
    let expected = bytes_of(&sets.iter().fold(SiblingSet::default(), |joined, set| joined.join(set)));
    let check = |shard: &Shard<Bench>| {
        for name in &names {
            let route = shard.route(&key(name)).expect("a table");
            let stored = crate::shard::record::engine_key(&key(name), route.vnode, route.token);
            let found = block_on(shard.engine.read(stored)).expect("readable").expect("written");
            assert_eq!(found.record().value, expected, "{name:?}");
        }
    };
    check(&shard);
    let stats = shard.engine.stats();
    assert!(stats.flushes > 4 && stats.compactions > 0, "{} and {}", stats.flushes, stats.compactions);
    let mut bits = 0;
    let image = bench.0.disk.crash(CrashMode::All, &mut || {
        bits += 1;
        bits
    });
    bench.0.tasks.borrow_mut().clear();
    let wall_ms = bench.wall_ms();
    let bench = Bench::new(image);
    bench.0.wall_ms.set(wall_ms);
    check(&open(&bench, settings).expect("what a process leaves opens"));
}

/// Settings of a core of data that is laid out for so many cores, by somebody who knows nothing of sets.
pub(super) fn laid_out_for(bench: &Bench, nodes: u16, cores: u16, core: u16) -> ShardSettings {
    let settings = settings_of(nodes, cores, 3);
    let engine = Options { join: ferrite_lsm::JoinByFlag::default(), ..settings.engine.clone() };
    laid_out_by(&engine, bench, settings, (cores, 2), core)
}

/// When the number of cores changed, the logs of the old ones were applied as if the last write won: of two sets of a key that no table held
/// yet, one was gone, and with it a sibling that had been acknowledged.
#[test]
fn sets_that_only_the_log_holds_are_joined_when_the_number_of_cores_changes() {
    let bench = Bench::new(MemDisk::new());
    let [shard, _other] =
        [0, 1].map(|core| open(&bench, laid_out_for(&bench, 3, 2, core)).expect("laid out for it"));
    let is_here = |name: &[u8; 1]| shard.route(&key(name)).is_ok_and(|route| route.hop.is_none());
    let name = (0..u8::MAX).map(|letter| [letter]).find(is_here).expect("this core has some key");
    let from = peer(&bench, &shard);
    for (actor, value) in [(7, b"a"), (8, b"b")] {
        let set = set_with(&[(actor, actor, value)]);
        assert_eq!(replicate_of(&bench, &shard, from, &name, &set), WriteAnswer::Applied);
    }
    let image = bench.0.disk.crash(CrashMode::All, &mut || 1);
    bench.0.tasks.borrow_mut().clear();
    let wall_ms = bench.wall_ms();
    let bench = Bench::new(image);
    bench.0.wall_ms.set(wall_ms);
    let settings = laid_out_for(&bench, 3, 1, 0);
    let shard = open(&bench, settings).expect("laid out for it");
    let from = client(&bench, &shard);
    receive(&shard, from, &request_frame(1, &get_of(&name, Level::One)));
    bench.run();
    let (header, body) = bench.frames(from).remove(0);
    let Told::Values { values, .. } = told(&header, &body) else { panic!("{header:?}") };
    assert_eq!(values, owned(&[b"a", b"b"]));
}

#[test]
fn what_is_no_set_is_not_taken_and_a_set_in_another_table_neither() {
    let (bench, shard) = of_three();
    let from = peer(&bench, &shard);
    let set = set_with(&[(7, 10, b"a")]);
    let (version, value) = (set.version(), bytes_of(&set));
    let plain = Version { order: Order(5), ..Version::default() };
    let other = Version { actor: Actor(version.actor.0 ^ 1), ..version };
    for (key, version, value) in [
        (key(b"k"), plain, &value[..]),
        (key(b"k"), version, &value[1..]),
        (key(b"k"), other, &value),
        (Key::plain(b"k"), version, &value),
    ] {
        let message = PeerMessage::ReplicaWrite { vnode_epoch: Epoch(1), key, version, value };
        receive(&shard, from, &message_frame(1, 1_000_000, &message));
        let (header, body) = peer_answers(&bench, from).remove(0);
        let refused = PeerMessage::ReplicaWriteAnswer(WriteAnswer::Refused(ErrorCode::Malformed));
        assert_eq!(PeerMessage::decode(header.kind, &body), Ok(refused));
    }
}

/// The answers of the other replicas to a read of this node's client, and to the repairs that it asks for.
fn answer_reads(bench: &Bench, shard: &Rc<Shard<Bench>>, sets: &[(usize, &SiblingSet<'_>)]) -> usize {
    let mut answered = 0;
    for (at, set) in sets {
        let link = links(shard)[*at];
        for (header, body) in bench.frames(link) {
            let (version, value) = (set.version(), bytes_of(set));
            let message = match PeerMessage::decode(header.kind, &body) {
                Ok(PeerMessage::ReplicaRead { want: ReadWant::Full, .. }) => {
                    PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Full { version, value: &value })
                }
                Ok(PeerMessage::ReplicaRead { want: ReadWant::Digest, .. }) => {
                    PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Digest { version })
                }
                Ok(PeerMessage::ReplicaWrite { .. }) => PeerMessage::ReplicaWriteAnswer(WriteAnswer::Applied),
                _ => continue,
            };
            receive(shard, link, &message_frame(header.request.0, 0, &message));
            answered += 1;
        }
    }
    answered
}

#[test]
fn a_read_joins_the_sets_of_all_replicas_that_differ() {
    let (bench, shard) = of_three();
    let from = peer(&bench, &shard);
    replicate(&bench, &shard, from, &set_with(&[(7, 10, b"here")]));
    let connection = client(&bench, &shard);
    for link in links(&shard) {
        bench.frames(link);
    }
    let (two, three) = (set_with(&[(8, 5, b"older")]), set_with(&[(9, 20, b"newer")]));
    receive(&shard, connection, &request_frame(1, &get_of(b"k", Level::All)));
    for _ in 0..4 {
        answer_reads(&bench, &shard, &[(0, &two), (1, &three)]);
    }
    shard.on_batch_end();
    bench.run();
    let (header, body) = bench.frames(connection).remove(0);
    let (values, context) = told(&header, &body).values();
    assert_eq!(values, owned(&[b"here", b"newer", b"older"]));
    // Its context covers all three: a put with it replaces them everywhere.
    let decoded = Context::decode(&context, Context::hash_of(&key(b"k"))).expect("a context");
    assert_eq!(decoded.clock.dots().len(), 3);
    assert!(header.time >= Order(20));
}

/// The set is known to be longer than travels only by those who cannot send it.
#[test]
fn a_set_that_is_too_long_to_travel_is_told_of_and_ended_by_an_overwrite_at_one() {
    let (bench, shard) = of_three();
    let connection = client(&bench, &shard);
    let from = peer(&bench, &shard);
    let value = vec![7; 50_000];
    for actor in 1..=64 {
        let set = set_with(&[(actor, 10, &value)]);
        assert_eq!(replicate(&bench, &shard, from, &set), WriteAnswer::Applied);
        pass(&bench, &shard, 1);
        bench.frames(from);
    }
    bench.frames(connection);
    receive(&shard, connection, &request_frame(1, &get_of(b"k", Level::One)));
    bench.run();
    let (header, body) = bench.frames(connection).remove(0);
    let Told::Error(ErrorCode::TooLarge, text) = told(&header, &body) else { panic!("{:?}", header.kind) };
    assert!(text.contains("with overwrite, at ONE"), "{text}");
    let read = PeerMessage::ReplicaRead { vnode_epoch: Epoch(1), want: ReadWant::Full, key: key(b"k") };
    receive(&shard, from, &message_frame(2, 1_000_000, &read));
    bench.run();
    let (header, body) = peer_answers(&bench, from).remove(0);
    let refused = PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Refused(ErrorCode::TooLarge));
    assert_eq!(PeerMessage::decode(header.kind, &body), Ok(refused));
    let overwrite = Request::Put {
        epoch: Epoch(0),
        level: Level::One,
        options: OVERWRITE,
        key: key(b"k"),
        ttl_ms: 0,
        context: b"",
        value: b"short",
    };
    receive(&shard, connection, &request_frame(3, &overwrite));
    shard.on_batch_end();
    pass(&bench, &shard, 2);
    let (header, body) = bench.frames(connection).remove(0);
    told(&header, &body).version();
    receive(&shard, connection, &request_frame(4, &get_of(b"k", Level::One)));
    bench.run();
    let (header, body) = bench.frames(connection).remove(0);
    assert_eq!(told(&header, &body).values().0, owned(&[b"short"]));
}

/// A set of so many siblings, made by actors from this one on.
fn many(from: u64, count: u64, value: &[u8]) -> SiblingSet<'_> {
    let dots: Vec<_> = (from..from + count).map(|actor| (actor, 10, value)).collect();
    set_with(&dots)
}

/// Reads at ALL what the others have one such set of each, and gives the number of siblings shown and of repairs asked for.
fn read_at_all(bench: &Bench, shard: &Rc<Shard<Bench>>, others: &SiblingSet<'_>) -> (usize, usize) {
    let (told, writes) = told_at_all(bench, shard, others);
    (told.values().0.len(), writes)
}

/// The same; what the client is told.
fn told_at_all(bench: &Bench, shard: &Rc<Shard<Bench>>, others: &SiblingSet<'_>) -> (Told, usize) {
    let connection = client(bench, shard);
    links(shard).into_iter().for_each(|link| drop(bench.frames(link)));
    receive(shard, connection, &request_frame(1, &get_of(b"k", Level::All)));
    bench.run();
    let mut writes = 0;
    loop {
        let mut answers = Vec::new();
        for link in links(shard) {
            for (header, body) in bench.frames(link) {
                let (version, value) = (others.version(), bytes_of(others));
                let answer = match PeerMessage::decode(header.kind, &body).expect("sound") {
                    PeerMessage::ReplicaRead { want: ReadWant::Full, .. } => {
                        PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Full { version, value: &value })
                    }
                    PeerMessage::ReplicaRead { .. } => {
                        PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Digest { version })
                    }
                    PeerMessage::ReplicaWrite { .. } => {
                        writes += 1;
                        PeerMessage::ReplicaWriteAnswer(WriteAnswer::Applied)
                    }
                    _ => continue,
                };
                answers.push((link, message_frame(header.request.0, 0, &answer)));
            }
        }
        if answers.is_empty() {
            break;
        }
        answers.iter().for_each(|(link, frame)| receive(shard, *link, frame));
        shard.on_batch_end();
        pass(bench, shard, 1);
    }
    pass(bench, shard, 1);
    let (header, body) = bench.frames(connection).remove(0);
    (told(&header, &body), writes)
}

/// Two replicas had 42 siblings and 3, 77 KiB together, and their logs took 63: each is found, and stays where it is.
#[test]
fn sets_that_are_together_longer_than_a_log_takes_are_shown_and_not_repaired() {
    let (bench, shard) = of_three();
    let from = peer(&bench, &shard);
    let value = vec![7; 3_000];
    replicate(&bench, &shard, from, &many(1, 14, &value));
    pass(&bench, &shard, 1);
    assert_eq!(read_at_all(&bench, &shard, &many(101, 14, &value)), (28, 0));
    assert_eq!(read_at_all(&bench, &shard, &many(101, 1, &value)), (15, 2), "shorter, and repaired");
}

/// Two replicas have the same, which the third was never sent, for it is longer than its log takes: it is shown, and not written to anybody.
#[test]
fn one_set_that_is_longer_than_a_log_takes_is_shown_and_not_repaired() {
    let (bench, shard) = of_three();
    let value = vec![7; 3_000];
    let repairs = || shard.counters.repairs.written.get();
    assert_eq!(read_at_all(&bench, &shard, &many(1, 25, &value)), (25, 0));
    assert_eq!(repairs(), 0);
    assert_eq!(read_at_all(&bench, &shard, &many(1, 14, &value)), (14, 0), "shorter");
    assert_eq!(repairs(), 1, "of this one");
}

/// One replica had kept siblings while the others were away, longer than a record together with theirs: it was left out, counted as having answered, and what the
/// others had was shown as all that there is, and written to it.
#[test]
fn a_replica_whose_set_does_not_fit_beside_the_others_has_not_answered() {
    let (bench, shard) = of_three();
    let value = vec![7; 1 << 20];
    let one = |actor| set_with(&[(actor, 10, &value[..actor as usize % 10 * 1_000 + 1_000_000])]);
    let long = (11..20).fold(one(10), |all, actor| all.join(&one(actor)));
    let short = set_with(&[(1, 1, b"short")]);
    let connection = client(&bench, &shard);
    links(&shard).into_iter().for_each(|link| drop(bench.frames(link)));
    receive(&shard, connection, &request_frame(1, &get_of(b"k", Level::All)));
    bench.run();
    let (mut asked, mut writes) = (0, 0);
    for _ in 0..10 {
        for (number, link) in links(&shard).into_iter().enumerate() {
            let set = [&short, &long][number];
            for (header, body) in bench.frames(link) {
                let (id, replica) = OperationId::from_request(header.request.0);
                let (version, value) = (set.version(), bytes_of(set));
                match PeerMessage::decode(header.kind, &body).expect("sound") {
                    // Longer than a frame may be: as if it were this node's own, which is slow to come from its disk.
                    PeerMessage::ReplicaRead { want: ReadWant::Full, .. } => {
                        shard.on_read_answer(id, replica, &ReplicaAnswer::Full { version, value: &value });
                        asked += 1;
                    }
                    PeerMessage::ReplicaRead { .. } => {
                        shard.on_read_answer(id, replica, &ReplicaAnswer::Digest { version });
                    }
                    PeerMessage::ReplicaWrite { .. } => writes += 1,
                    _ => {}
                }
            }
        }
        pass(&bench, &shard, 1);
    }
    let (header, body) = bench.frames(connection).remove(0);
    assert!(
        matches!(told(&header, &body), Told::Error(ErrorCode::TooLarge, _)),
        "{:?}",
        told(&header, &body)
    );
    assert_eq!((asked, writes), (2, 0));
}

/// Longer than any answer to a client: it is told so, and nobody is written what no log takes.
#[test]
fn what_others_have_and_is_too_long_to_be_shown_repairs_nobody() {
    let (bench, shard) = of_three();
    let from = peer(&bench, &shard);
    assert_eq!(replicate(&bench, &shard, from, &set_with(&[(1, 1, &[7; 3_000])])), WriteAnswer::Applied);
    pass(&bench, &shard, 1);
    let long = vec![8; limits::SET_BYTES_MAX / 3 - 200];
    let others = (2..4).fold(set_with(&[(4, 4, &long)]), |all, at| all.join(&set_with(&[(at, at, &long)])));
    assert!(others.encoded_bytes() <= limits::SET_BYTES_MAX);
    let (told, writes) = told_at_all(&bench, &shard, &others);
    assert!(matches!(told, Told::Error(ErrorCode::TooLarge, _)), "{told:?}");
    assert_eq!(writes, 0);
}

/// Its own set was too long, so a replica left itself as it was, though what replaced that was short.
#[test]
fn a_replica_whose_own_set_is_too_long_is_repaired_by_what_is_short_together() {
    let (bench, shard) = of_three();
    let from = peer(&bench, &shard);
    let value = vec![7; 3_000];
    for actor in 1..=30 {
        assert_eq!(replicate(&bench, &shard, from, &many(actor, 1, &value)), WriteAnswer::Applied);
        pass(&bench, &shard, 1);
    }
    let mut replaced = many(1, 30, b"gone");
    let seen = replaced.clock().clone();
    let sibling = Sibling {
        dot: Dot { actor: Actor(99), number: 10 },
        order: Order(10),
        expiry_ms: 0,
        value: b"short",
    };
    replaced.put(&seen, sibling, &SetLimits::default()).expect("there is room");
    assert_eq!(read_at_all(&bench, &shard, &replaced), (1, 0), "the others have it");
    let connection = client(&bench, &shard);
    receive(&shard, connection, &request_frame(1, &get_of(b"k", Level::One)));
    bench.run();
    let (header, body) = bench.frames(connection).remove(0);
    assert!(told(&header, &body).values().0 == owned(&[b"short"]), "its own 30 are gone");
}

/// A name of a key that this node is, or is not, a replica of.
fn named(shard: &Shard<Bench>, is_replica: bool) -> [u8; 4] {
    let is_it = |name: &[u8; 4]| shard.route(&key(name)).expect("a table").position.is_some() == is_replica;
    (0..1_000u32).map(u32::to_le_bytes).find(is_it).expect("there are some of both")
}

#[test]
fn a_node_that_is_no_replica_hands_a_write_on_and_relays_the_answer() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings_of(3, 1, 1)).expect("an empty disk opens");
    tables::accept_links(&bench, &shard);
    let connection = client(&bench, &shard);
    let name = named(&shard, false);
    let handed_on = |number: u64| {
        for link in links(&shard) {
            bench.frames(link);
        }
        receive(&shard, connection, &request_frame(number, &put_of(&name, b"v", b"")));
        let all = links(&shard)
            .into_iter()
            .flat_map(|link| bench.frames(link).into_iter().map(move |(header, body)| (link, header, body)));
        let mut puts: Vec<_> = all.filter(|(_, header, _)| header.kind == FrameKind::Put).collect();
        assert_eq!(puts.len(), 1, "to one of them");
        puts.remove(0)
    };
    let version = Version { order: Order(77), actor: Actor(5), ..Version::default() };
    let text = "the way out";
    for (reply, expected) in [
        (Reply::Done { version, answered: 1, sloppy: false }, Told::Done(version)),
        (
            Reply::Error { code: ErrorCode::TooManySiblings, text },
            Told::Error(ErrorCode::TooManySiblings, text.to_owned()),
        ),
    ] {
        let (link, header, body) = handed_on(5);
        assert_eq!(
            Request::decode(header.kind, &body),
            Ok(put_of(&name, b"v", b"")),
            "as the client sent it"
        );
        let answer = frame_of(reply.kind(), header.request.0, 0, |out| reply.encode(out));
        receive(&shard, link, &answer);
        let (header, body) = bench.frames(connection).remove(0);
        assert_eq!((told(&header, &body), header.request), (expected, RequestId(5)));
        // Once more, and late, it answers nothing, and the link stays.
        receive(&shard, link, &answer);
        assert!(bench.frames(connection).is_empty());
    }
    handed_on(6);
    pass(&bench, &shard, 2_100);
    let (header, body) = bench.frames(connection).remove(0);
    assert_eq!(told(&header, &body).code(), ErrorCode::Unknown, "nobody knows what became of it");
}

/// The first replica's disk was full, and the client was told so, though two others would have taken the write.
#[test]
fn a_write_that_one_replica_cannot_take_is_handed_on_to_the_next() {
    let bench = Bench::new(MemDisk::new());
    let mut settings = settings_of(5, 1, 3);
    // Nobody answers pings here.
    settings.peer_timeout_ns = u64::MAX;
    let shard = open(&bench, settings).expect("an empty disk opens");
    tables::accept_links(&bench, &shard);
    let connection = client(&bench, &shard);
    let name = named(&shard, false);
    let handed_on = || {
        let all = links(&shard)
            .into_iter()
            .flat_map(|link| bench.frames(link).into_iter().map(move |(header, body)| (link, header, body)));
        let mut puts: Vec<_> = all.filter(|(_, header, _)| header.kind == FrameKind::Put).collect();
        assert!(puts.len() <= 1, "to one at a time");
        puts.pop()
    };
    let version = Version { order: Order(77), actor: Actor(5), ..Version::default() };
    let done = (Reply::Done { version, answered: 1, sloppy: false }, Told::Done(version));
    let error = |code| (Reply::Error { code, text: "" }, Told::Error(code, String::new()));
    let full = || error(ErrorCode::DiskFull);
    for answers in [
        vec![full(), done],
        // The last one's is told when all have refused.
        vec![full(), error(ErrorCode::Fenced), error(ErrorCode::Overloaded)],
        // Another would say the same, and what became of a write is no reason to make it twice.
        vec![error(ErrorCode::TooManySiblings)],
        vec![full(), error(ErrorCode::Unknown)],
    ] {
        receive(&shard, connection, &request_frame(5, &put_of(&name, b"v", b"")));
        let mut asked = Vec::new();
        for (reply, _) in &answers {
            assert!(bench.frames(connection).is_empty(), "it has not ended");
            let (link, header, body) = handed_on().expect("somebody is asked");
            assert_eq!(
                Request::decode(header.kind, &body),
                Ok(put_of(&name, b"v", b"")),
                "as the client sent it"
            );
            assert!(!asked.contains(&link), "each once");
            asked.push(link);
            let answer = frame_of(reply.kind(), header.request.0, 0, |out| reply.encode(out));
            receive(&shard, link, &answer);
            // Once more, it answers nothing.
            receive(&shard, link, &answer);
        }
        assert!(handed_on().is_none());
        let (header, body) = bench.frames(connection).remove(0);
        assert_eq!(told(&header, &body), answers.last().expect("one at least").1);
        assert_eq!(shard.held.bytes(), 0);
    }
    receive(&shard, connection, &request_frame(6, &put_of(&name, b"v", b"")));
    handed_on().expect("somebody is asked");
    pass(&bench, &shard, 2_100);
    let (header, body) = bench.frames(connection).remove(0);
    assert_eq!(told(&header, &body).code(), ErrorCode::Unknown);
    assert!(handed_on().is_none(), "one that is silent may have it");
}

#[test]
fn a_write_that_is_handed_on_is_taken_by_a_replica_and_by_nobody_else() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings_of(3, 1, 1)).expect("an empty disk opens");
    let from = peer(&bench, &shard);
    let (mine, theirs) = (named(&shard, true), named(&shard, false));
    let ask = |request: &Request<'_>| {
        receive(&shard, from, &request_frame(9, request));
        shard.on_batch_end();
        bench.run();
        let (header, body) = bench.frames(from).remove(0);
        assert_eq!(header.request, RequestId(9));
        told(&header, &body)
    };
    ask(&put_of(&mine, b"v", b"")).version();
    assert_eq!(ask(&put_of(&theirs, b"v", b"")).code(), ErrorCode::Unavailable);
    assert_eq!(ask(&put_of(&mine, b"v", b"x")).code(), ErrorCode::BadContext);
    shard.on_stop();
    assert_eq!(ask(&put_of(&mine, b"v", b"")).code(), ErrorCode::Stopping);
    // Of a table in which the last write wins nothing is handed on: that ends the connection.
    let of_another = request_frame(9, &put(b"k", b"v", Level::One));
    assert_eq!(shard.on_received(from, &of_another), Received::Close);
    let (header, body) = bench.frames(from).remove(0);
    assert_eq!(told(&header, &body).code(), ErrorCode::Unsupported);
}

/// The replica of an answer is a byte of the number that the question had. One that this node never gave ended the core.
#[test]
fn an_answer_in_the_name_of_a_replica_that_cannot_be_ends_the_link() {
    let (bench, shard) = of_three();
    let client = client(&bench, &shard);
    receive(&shard, client, &request_frame(1, &get_of(b"k", Level::All)));
    let link = links(&shard)[0];
    let asked = bench.frames(link);
    let (header, _) = asked.iter().find(|(header, _)| header.kind == FrameKind::ReplicaRead).expect("asked");
    let number = header.request.0 | 0xff << 56;
    let message = PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Absent);
    let received = shard.on_received(link, &message_frame(number, 0, &message));
    assert!(matches!(received, Received::Close), "{received:?}");
}
