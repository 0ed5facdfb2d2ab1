//! Keys of tables with siblings: what one shard makes of writes and reads of them, and of sets that others send.

use ferrite_cluster::{CausalClock, Context, Dot, SetLimits, Sibling, SiblingSet};
use ferrite_lsm::mem_disk::CrashMode;
use ferrite_wire::{
    Actor, ErrorCode, Item, Mode, OVERWRITE, ReadWant, Reader, ReplicaAnswer, Reply, Siblings, Table,
    TableId, Version, WriteAnswer,
};

use super::*;
use crate::shard::latches::WAITERS_MAX;

const MAX_SIBLINGS: u16 = 4;

fn carts(replication: u8) -> Table {
    let name = "carts".to_owned();
    let id = TableId::of(&name);
    Table { id, name, mode: Mode::Siblings, max_siblings: MAX_SIBLINGS, ..Table::default_of(replication) }
}

fn settings_of(nodes: u16, cores: u16, replication: u8) -> ShardSettings {
    let tables = Tables::new(vec![Table::default_of(3), carts(replication)]).expect("a sound list");
    settings_with(nodes, cores, 2, tables)
}

fn key(partition: &[u8]) -> Key<'_> {
    Key { table: TableId::of("carts"), partition, sort: b"" }
}

/// A shard of a node that is alone, and a client of it.
struct Alone {
    bench: Bench,
    shard: Rc<Shard<Bench>>,
    client: Connection,
    number: u64,
}

/// What a client is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Done(Version),
    Values { values: Vec<Vec<u8>>, context: Vec<u8> },
    Absent,
    Error(ErrorCode, String),
}

impl Told {
    fn values(self) -> (Vec<Vec<u8>>, Vec<u8>) {
        match self {
            Told::Values { mut values, context } => {
                values.sort();
                (values, context)
            }
            other => panic!("no siblings: {other:?}"),
        }
    }

    fn version(self) -> Version {
        match self {
            Told::Done(version) => version,
            other => panic!("not done: {other:?}"),
        }
    }

    fn code(self) -> ErrorCode {
        match self {
            Told::Error(code, _) => code,
            other => panic!("no error: {other:?}"),
        }
    }
}

fn told(header: &FrameHeader, body: &[u8]) -> Told {
    match Reply::decode(header.kind, body).expect("a reply") {
        Reply::Done { version, .. } => Told::Done(version),
        Reply::Absent { .. } => Told::Absent,
        Reply::Error { code, text } => Told::Error(code, text.to_owned()),
        Reply::Siblings { siblings, .. } => {
            let values = siblings.iter().map(|sibling| sibling.value.to_vec()).collect();
            Told::Values { values, context: siblings.context().to_vec() }
        }
        other => panic!("{other:?} answers nothing here"),
    }
}

impl Alone {
    fn new() -> Alone {
        Alone::on(Bench::new(MemDisk::new()))
    }

    fn on(bench: Bench) -> Alone {
        let shard = open(&bench, settings_of(1, 1, 3)).expect("a sound disk opens");
        let client = client(&bench, &shard);
        Alone { bench, shard, client, number: 0 }
    }

    fn send(&mut self, request: &Request<'_>) {
        self.number += 1;
        receive(&self.shard, self.client, &request_frame(self.number, request));
    }

    fn ask(&mut self, request: &Request<'_>) -> Told {
        self.send(request);
        self.shard.on_batch_end();
        self.bench.run();
        let frames = self.bench.frames(self.client);
        let [(header, body)] = &frames[..] else { panic!("one answer: {frames:?}") };
        told(header, body)
    }

    fn put(&mut self, name: &[u8], value: &[u8], context: &[u8]) -> Told {
        self.ask(&put_of(name, value, context))
    }

    fn delete(&mut self, name: &[u8], context: &[u8], options: u8) -> Told {
        self.ask(&Request::Delete { epoch: Epoch(0), level: Level::One, options, key: key(name), context })
    }

    fn get(&mut self, name: &[u8]) -> Told {
        self.ask(&get_of(name, Level::One))
    }

    /// The set as it is stored.
    fn stored(&self, name: &[u8]) -> Vec<u8> {
        let route = self.shard.route(&key(name)).expect("a table");
        let engine_key = crate::shard::record::engine_key(&key(name), route.vnode, route.token);
        let found = block_on(self.shard.engine.read(engine_key)).expect("readable").expect("written");
        found.record().value.to_vec()
    }

    /// Stops in order, or drops the process where it stands; then starts again.
    fn restart(self, orderly: bool) -> Alone {
        if orderly {
            self.shard.on_stop();
            while !self.shard.is_drained() {
                self.bench.run();
            }
        }
        self.bench.0.tasks.borrow_mut().clear();
        let mut bits = 0;
        let mut random = move || {
            bits += 1;
            bits
        };
        let image = if orderly {
            self.bench.0.disk.clone()
        } else {
            self.bench.0.disk.crash(CrashMode::All, &mut random)
        };
        let bench = Bench::new(image);
        bench.0.random.set(self.bench.0.random.get() + 1_000);
        bench.0.wall_ms.set(self.bench.wall_ms());
        drop(self);
        Alone::on(bench)
    }
}

fn put_of<'r>(name: &'r [u8], value: &'r [u8], context: &'r [u8]) -> Request<'r> {
    Request::Put { epoch: Epoch(0), level: Level::One, options: 0, key: key(name), ttl_ms: 0, context, value }
}

fn get_of(name: &[u8], level: Level) -> Request<'_> {
    Request::Get { epoch: Epoch(0), level, options: 0, key: key(name) }
}

fn owned(values: &[&[u8]]) -> Vec<Vec<u8>> {
    values.iter().map(|value| value.to_vec()).collect()
}

#[test]
fn puts_are_concurrent_until_one_has_seen_them() {
    let mut node = Alone::new();
    assert_eq!(node.get(b"k"), Told::Absent);
    let first = node.put(b"k", b"apple", b"").version();
    let second = node.put(b"k", b"pear", b"").version();
    assert!(second.order > first.order);
    let (values, both) = node.get(b"k").values();
    assert_eq!(values, owned(&[b"apple", b"pear"]));
    node.put(b"k", b"plum", b"").version();
    node.put(b"k", b"apple and pear", &both).version();
    let (values, seen) = node.get(b"k").values();
    assert_eq!(values, owned(&[b"apple and pear", b"plum"]), "exactly what the context had seen is replaced");
    // A context that is behind replaces what it saw, which is gone already, and nothing else.
    node.put(b"k", b"late", &both).version();
    assert_eq!(node.get(b"k").values().0, owned(&[b"apple and pear", b"late", b"plum"]));
    node.delete(b"k", &seen, 0).version();
    let (values, rest) = node.get(b"k").values();
    assert_eq!(values, owned(&[b"late"]), "a delete takes what it saw");
    node.delete(b"k", &rest, 0).version();
    let (values, after) = node.get(b"k").values();
    assert_eq!(values, owned(&[]));
    assert!(!after.is_empty(), "a deleted key has a context");
    node.put(b"k", b"again", &after).version();
    assert_eq!(node.get(b"k").values().0, owned(&[b"again"]));
}

#[test]
fn versions_of_siblings_are_those_their_writes_were_given() {
    let mut node = Alone::new();
    let expected = [node.put(b"k", b"a", b"").version(), node.put(b"k", b"b", b"").version()];
    node.send(&get_of(b"k", Level::Quorum));
    node.bench.run();
    let (header, body) = node.bench.frames(node.client).remove(0);
    let Ok(Reply::Siblings { siblings, answered: 1 }) = Reply::decode(header.kind, &body) else {
        panic!("{:?}", header.kind)
    };
    assert_eq!(siblings.iter().map(|sibling| sibling.version).collect::<Vec<_>>(), expected);
    assert!(header.time >= expected[1].order);
}

#[test]
fn contexts_that_are_none_or_of_another_key_are_refused_in_words() {
    let mut node = Alone::new();
    node.put(b"k", b"a", b"").version();
    let (_, context) = node.get(b"k").values();
    node.put(b"other", b"b", b"").version();
    let mut garbled = context.clone();
    garbled[0] = 9;
    for (name, context, part) in [
        (&b"other"[..], &context[..], "of another key"),
        (b"k", &garbled, "not a context"),
        (b"k", b"x", "not a context"),
        (b"k", &context[..context.len() - 1], "not a context"),
    ] {
        for told in [node.put(name, b"v", context), node.delete(name, context, 0)] {
            let Told::Error(code, text) = told else { panic!("{told:?}") };
            assert_eq!(code, ErrorCode::BadContext);
            assert!(text.contains(part), "{text}");
        }
    }
    let Told::Error(ErrorCode::BadContext, text) = node.delete(b"k", b"", 0) else {
        panic!("it deletes nothing")
    };
    assert!(text.contains("needs the context"), "{text}");
    assert_eq!(node.get(b"k").values().0, owned(&[b"a"]));
}

/// A context is bytes of a client's. One that claims to have seen what this core has not yet minted must not make it mint a number twice. Beyond
/// the clocks' drift it is refused; within it, it covers what is there, as any client may that has read it.
#[test]
fn a_forged_context_is_clock_drift_or_is_minted_above() {
    let mut node = Alone::new();
    node.put(b"k", b"a", b"").version();
    let actor = node.shard.dots.get();
    let forged = |ahead_ms: u64| {
        let number = Order::from_wall_ms(node.bench.wall_ms() + ahead_ms).0;
        let mut set = SiblingSet::default();
        let limits = SetLimits::default();
        let sibling = Sibling { dot: Dot { actor, number }, order: Order(number), expiry_ms: 0, value: b"" };
        set.put(&CausalClock::default(), sibling, &limits).expect("there is room");
        let mut out = Vec::new();
        Context { key_hash: Context::hash_of(&key(b"k")), clock: set.clock().clone() }.encode(&mut out);
        out
    };
    let (far, near) = (forged(60_000), forged(100));
    assert_eq!(node.put(b"k", b"b", &far).code(), ErrorCode::ClockDrift);
    assert_eq!(node.delete(b"k", &far, 0).code(), ErrorCode::ClockDrift);
    let version = node.put(b"k", b"b", &near).version();
    assert!(
        version.order > Order::from_wall_ms(node.bench.wall_ms() + 100),
        "above what it claims to have seen"
    );
    assert_eq!(node.get(b"k").values().0, owned(&[b"b"]));
}

#[test]
fn limits_are_answered_with_the_way_out() {
    let mut node = Alone::new();
    for number in 0..MAX_SIBLINGS {
        node.put(b"k", &number.to_le_bytes(), b"").version();
    }
    let Told::Error(code, text) = node.put(b"k", b"one more", b"") else {
        panic!("there are as many as may be")
    };
    assert_eq!(code, ErrorCode::TooManySiblings);
    assert!(text.contains("4 siblings") && text.contains("read it, merge them"), "{text}");
    let (values, context) = node.get(b"k").values();
    assert_eq!(values.len(), usize::from(MAX_SIBLINGS));
    node.put(b"k", b"merged", &context).version();
    assert_eq!(node.get(b"k").values().0, owned(&[b"merged"]));
    // Of a node with one replica in sight a set may be as long as a value. The bench's log takes less.
    let half = vec![7; 30_000];
    node.put(b"long", &half, b"").version();
    node.put(b"long", &half, b"").version();
    assert_eq!(node.put(b"long", &half, b"").code(), ErrorCode::TooLarge);
    assert_eq!(node.get(b"long").values().0.len(), 2, "what was refused is not in a later set");
}

#[test]
fn an_overwrite_replaces_whatever_there_is() {
    let mut node = Alone::new();
    let overwrite = |value| Request::Put {
        epoch: Epoch(0),
        level: Level::Quorum,
        options: OVERWRITE,
        key: key(b"k"),
        ttl_ms: 0,
        context: b"",
        value,
    };
    node.ask(&overwrite(b"first")).version();
    node.put(b"k", b"second", b"").version();
    node.put(b"k", b"third", b"").version();
    node.ask(&overwrite(b"all of them")).version();
    assert_eq!(node.get(b"k").values().0, owned(&[b"all of them"]));
    node.delete(b"k", b"", OVERWRITE).version();
    assert_eq!(node.get(b"k").values().0, owned(&[]));
    // Where the last write wins it changes nothing.
    let plain = Request::Put {
        epoch: Epoch(0),
        level: Level::One,
        options: OVERWRITE,
        key: Key::plain(b"k"),
        ttl_ms: 0,
        context: b"",
        value: b"v",
    };
    node.ask(&plain).version();
}

#[test]
fn each_sibling_expires_for_itself_on_every_path_and_makes_room() {
    let mut node = Alone::new();
    let brief = |value| Request::Put {
        epoch: Epoch(0),
        level: Level::One,
        options: 0,
        key: key(b"k"),
        ttl_ms: 50,
        context: b"",
        value,
    };
    assert!(node.ask(&brief(b"brief")).version().expiry_ms > 0);
    node.put(b"k", b"lasting", b"").version();
    assert_eq!(node.get(b"k").values().0.len(), 2);
    node.bench.0.wall_ms.set(node.bench.wall_ms() + 50);
    assert_eq!(node.get(b"k").values().0, owned(&[b"lasting"]));
    assert_eq!(node.ask(&get_of(b"k", Level::Quorum)).values().0, owned(&[b"lasting"]));
    let both = frame_of(FrameKind::MultiGet, 99, 0, |out| {
        Request::encode_multi_get(Epoch(0), Level::One, &[key(b"k"), key(b"none")], out);
    });
    receive(&node.shard, node.client, &both);
    let (header, body) = node.bench.frames(node.client).remove(0);
    let Ok(Reply::Values(items)) = Reply::decode(header.kind, &body) else { panic!("{:?}", header.kind) };
    let items: Vec<Item<'_>> = items.iter().collect();
    let [Item::Siblings(siblings), Item::Absent] = &items[..] else { panic!("{items:?}") };
    assert_eq!(siblings.iter().map(|sibling| sibling.value).collect::<Vec<_>>(), [b"lasting"]);
    // Once it has expired for the slowest clock there may be, it counts no more.
    for number in 0..MAX_SIBLINGS - 2 {
        node.put(b"k", &number.to_le_bytes(), b"").version();
    }
    assert_eq!(node.put(b"k", b"x", b"").code(), ErrorCode::TooManySiblings);
    node.bench.0.wall_ms.set(node.bench.wall_ms() + node.shard.settings.clock_drift_max_ms);
    node.put(b"k", b"x", b"").version();
    assert_eq!(node.get(b"k").values().0.len(), usize::from(MAX_SIBLINGS));
}

/// The coordinator of a write took what had expired by its own clock out of the set it sent. One whose clock was further ahead
/// than clocks may be deleted what others still showed.
#[test]
fn a_write_leaves_what_has_expired_where_it_is_while_there_is_room() {
    let mut node = Alone::new();
    let brief = Request::Put {
        epoch: Epoch(0),
        level: Level::One,
        options: 0,
        key: key(b"k"),
        ttl_ms: 50,
        context: b"",
        value: b"brief",
    };
    node.ask(&brief).version();
    let right_ms = node.bench.wall_ms();
    node.bench.0.wall_ms.set(right_ms + node.shard.settings.clock_drift_max_ms + 100);
    node.put(b"k", b"lasting", b"").version();
    assert_eq!(node.get(b"k").values().0, owned(&[b"lasting"]), "to this clock");
    node.bench.0.wall_ms.set(right_ms);
    assert_eq!(node.get(b"k").values().0.len(), 2, "to the others'");
}

/// Two puts of one receive: the second must see the first, which is not in the log yet, or its set would take the first from other
/// replicas.
#[test]
fn a_write_waits_until_the_one_before_it_can_be_read() {
    let mut node = Alone::new();
    for value in [b"a", b"b", b"c"] {
        node.send(&put_of(b"k", value, b""));
    }
    node.send(&put_of(b"elsewhere", b"d", b""));
    assert_eq!(node.shard.acks.borrow().len(), 2, "one write of each key is on its way");
    node.shard.on_batch_end();
    node.bench.run();
    let frames = node.bench.frames(node.client);
    let orders: Vec<Order> = frames.iter().map(|(header, body)| told(header, body).version().order).collect();
    assert_eq!(orders.len(), 4);
    assert_eq!(node.get(b"k").values().0, owned(&[b"a", b"b", b"c"]));
    assert!(node.shard.latches.borrow().is_empty());
    let numbers: Vec<u64> = frames.iter().map(|(header, _)| header.request.0).collect();
    let of_k: Vec<u64> = numbers.into_iter().filter(|number| *number < 4).collect();
    assert_eq!(of_k, [1, 2, 3], "in the order of coming");
}

#[test]
fn those_who_wait_for_a_latch_are_bounded_in_number_and_by_their_deadlines() {
    let mut node = Alone::new();
    node.send(&put_of(b"k", b"holds", b""));
    for _ in 0..WAITERS_MAX {
        node.send(&put_of(b"k", b"waits", b""));
    }
    assert!(node.bench.frames(node.client).is_empty());
    node.send(&put_of(b"k", b"one too many", b""));
    let refused = node.bench.frames(node.client);
    assert_eq!(
        refused.iter().map(|(header, body)| told(header, body).code()).collect::<Vec<_>>(),
        [ErrorCode::Overloaded]
    );
    // Nobody waits for the rest any more when their turn comes.
    node.bench.0.now_ns.set(node.bench.now_ns() + 10_000 * MS);
    node.shard.on_batch_end();
    node.bench.run();
    let frames = node.bench.frames(node.client);
    let expired = |(header, body): &&(FrameHeader, Vec<u8>)| {
        matches!(told(header, body), Told::Error(ErrorCode::Expired, _))
    };
    assert_eq!(frames.iter().filter(expired).count(), WAITERS_MAX);
    assert_eq!(node.get(b"k").values().0, owned(&[b"holds"]));
    assert!(node.shard.latches.borrow().is_empty());
}

/// A group that finds the disk full was staged, and perhaps sent to others. Its dot must be in no later set of this replica, and no later
/// set may hide it where it is.
#[test]
fn what_the_log_refuses_is_in_no_later_set_and_the_next_dots_are_of_another_actor() {
    let mut node = Alone::new();
    node.put(b"k", b"before", b"").version();
    let actor = node.shard.dots.get();
    node.bench.0.disk.set_full(true);
    let mut refused = None;
    for number in 0..200u32 {
        let value = [&number.to_le_bytes()[..], &[7; 3000]].concat();
        let (_, context) = node.get(b"k").values();
        if let Told::Error(code, _) = node.put(b"k", &value, &context) {
            refused = Some((code, value));
            break;
        }
    }
    let (code, value) = refused.expect("the log needs room at last");
    assert_eq!(code, ErrorCode::DiskFull);
    assert_ne!(node.shard.dots.get(), actor, "others may have it");
    node.bench.0.disk.set_full(false);
    pass(&node.bench, &node.shard, 2_000);
    node.bench.frames(node.client);
    let version = node.put(b"k", b"after", b"").version();
    assert_eq!(version.actor, node.shard.dots.get());
    let values = node.get(b"k").values().0;
    assert!(values.contains(&b"after".to_vec()) && !values.contains(&value), "{values:?}");
    let stored = node.stored(b"k");
    let set = SiblingSet::decode(&stored).expect("a set");
    assert!(set.clock().dots().iter().any(|dot| dot.actor == actor));
    assert!(node.shard.latches.borrow().is_empty());
}

#[test]
fn an_actor_lives_on_over_an_orderly_stop_and_over_nothing_else() {
    let mut node = Alone::new();
    node.put(b"k", b"a", b"").version();
    let first = node.shard.dots.get();
    let mut node = node.restart(true);
    assert_eq!(node.shard.dots.get(), first);
    let version = node.put(b"k", b"b", b"").version();
    assert_eq!(version.actor, first);
    let mut node = node.restart(false);
    let second = node.shard.dots.get();
    assert_ne!(second, first, "what was left by the life before the last is not taken");
    node.put(b"k", b"c", b"").version();
    let node = node.restart(false);
    assert!(![first, second].contains(&node.shard.dots.get()));
    let third = node.shard.dots.get();
    let node = node.restart(true).restart(true);
    assert_eq!(node.shard.dots.get(), third);
    node.shard.renew_actor();
    let renewed = node.shard.dots.get();
    let mut node = node.restart(true);
    assert_eq!(node.shard.dots.get(), renewed);
    assert_eq!(node.get(b"k").values().0, owned(&[b"a", b"b", b"c"]));
}

/// Everything that was put is found after restarts, orderly ones and others.
#[test]
fn sets_are_the_same_after_restarts() {
    let mut node = Alone::new();
    let mut contexts = Vec::new();
    for round in 0..3u32 {
        for name in [&b"one"[..], b"two"] {
            let value = [name, &round.to_le_bytes()].concat();
            node.put(name, &value, b"").version();
        }
        contexts.push(node.get(b"one").values().1);
        node = node.restart(round % 2 == 0);
    }
    assert_eq!(node.get(b"one").values().0.len(), 3);
    node.put(b"one", b"merged", &contexts[1]).version();
    let node = node.restart(false);
    let mut node = node.restart(true);
    assert_eq!(node.get(b"one").values().0.len(), 2);
    assert_eq!(node.get(b"two").values().0.len(), 3);
}

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
    let value = bytes_of(set);
    let message = PeerMessage::ReplicaWrite {
        vnode_epoch: Epoch(1),
        key: key(b"k"),
        version: set.version(),
        value: &value,
    };
    receive(shard, from, &message_frame(1, 1_000_000, &message));
    shard.on_batch_end();
    bench.run();
    let (header, body) = peer_answers(bench, from).remove(0);
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

/// The answers of the other replicas to a read of this node's client.
fn answer_reads(bench: &Bench, shard: &Rc<Shard<Bench>>, sets: &[(usize, &SiblingSet<'_>)]) -> usize {
    let mut answered = 0;
    for (at, set) in sets {
        let link = links(shard)[*at];
        for (header, body) in bench.frames(link) {
            let Ok(PeerMessage::ReplicaRead { want, .. }) = PeerMessage::decode(header.kind, &body) else {
                continue;
            };
            let (version, value) = (set.version(), bytes_of(set));
            let answer = match want {
                ReadWant::Full => ReplicaAnswer::Full { version, value: &value },
                ReadWant::Digest => ReplicaAnswer::Digest { version },
            };
            let message = PeerMessage::ReplicaReadAnswer(answer);
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

#[test]
fn the_siblings_of_a_reply_are_read_back_as_they_were() {
    let mut node = Alone::new();
    node.put(b"k", b"a", b"").version();
    let stored = node.stored(b"k");
    let set = SiblingSet::decode(&stored).expect("a set");
    assert_eq!(set.siblings().len(), 1);
    assert_eq!(set.siblings()[0].order.0, set.siblings()[0].dot.number, "numbers are orders");
    node.send(&get_of(b"k", Level::One));
    let (header, body) = node.bench.frames(node.client).remove(0);
    assert_eq!(header.kind, FrameKind::Siblings);
    let mut reader = Reader::new(&body[2..]);
    let siblings = Siblings::decode(&mut reader).expect("siblings");
    assert_eq!((siblings.len(), reader.rest()), (1, &b""[..]));
}
