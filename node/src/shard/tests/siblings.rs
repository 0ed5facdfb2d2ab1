//! Keys of tables with siblings: what a shard that is alone makes of writes and reads of them.

use ferrite_cluster::{CausalClock, Context, Dot, SetLimits, Sibling, SiblingSet};
use ferrite_lsm::mem_disk::CrashMode;
use ferrite_wire::{ErrorCode, Item, Mode, OVERWRITE, Reader, Reply, Siblings, Table, TableId, Version};

use super::*;
use crate::Place;
use crate::shard::latches::WAITERS_MAX;

const MAX_SIBLINGS: u16 = 4;

pub(super) fn carts(replication: u8) -> Table {
    let name = "carts".to_owned();
    let id = TableId::of(&name);
    Table { id, name, mode: Mode::Siblings, max_siblings: MAX_SIBLINGS, ..Table::default_of(replication) }
}

pub(super) fn settings_of(nodes: u16, cores: u16, replication: u8) -> ShardSettings {
    let tables = Tables::new(vec![Table::default_of(3), carts(replication)]).expect("a sound list");
    settings_with(nodes, cores, 2, tables)
}

pub(super) fn key(partition: &[u8]) -> Key<'_> {
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
pub(super) enum Told {
    Done(Version),
    Values { values: Vec<Vec<u8>>, context: Vec<u8> },
    Absent,
    Error(ErrorCode, String),
}

impl Told {
    pub(super) fn values(self) -> (Vec<Vec<u8>>, Vec<u8>) {
        match self {
            Told::Values { mut values, context } => {
                values.sort();
                (values, context)
            }
            other => panic!("no siblings: {other:?}"),
        }
    }

    pub(super) fn version(self) -> Version {
        match self {
            Told::Done(version) => version,
            other => panic!("not done: {other:?}"),
        }
    }

    pub(super) fn code(self) -> ErrorCode {
        match self {
            Told::Error(code, _) => code,
            other => panic!("no error: {other:?}"),
        }
    }
}

pub(super) fn told(header: &FrameHeader, body: &[u8]) -> Told {
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
        Alone::on(Bench::new(MemDisk::new()), Place::FIXED)
    }

    fn on(bench: Bench, place: Place) -> Alone {
        let settings = ShardSettings { place, ..settings_of(1, 1, 3) };
        let shard = open(&bench, settings).expect("a sound disk opens");
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
        self.restart_at(orderly, Place::FIXED)
    }

    /// The same, at another place.
    fn restart_at(self, orderly: bool, place: Place) -> Alone {
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
        Alone::on(bench, place)
    }
}

pub(super) fn put_of<'r>(name: &'r [u8], value: &'r [u8], context: &'r [u8]) -> Request<'r> {
    Request::Put { epoch: Epoch(0), level: Level::One, options: 0, key: key(name), ttl_ms: 0, context, value }
}

pub(super) fn get_of(name: &[u8], level: Level) -> Request<'_> {
    Request::Get { epoch: Epoch(0), level, options: 0, key: key(name) }
}

pub(super) fn owned(values: &[&[u8]]) -> Vec<Vec<u8>> {
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

/// The limits let a write pass that makes a set shorter which joins have made too long; where what was left was longer than a group of the log all the same, its
/// client was told that it was too large, and not what to do.
#[test]
fn a_set_that_no_group_of_the_log_takes_is_refused_with_the_way_out() {
    let mut node = Alone::new();
    // A group of the bench takes two of these, and the limits any number.
    let half = vec![7; 30_000];
    node.put(b"k", &half, b"").version();
    node.put(b"k", &half, b"").version();
    let Told::Error(code, text) = node.put(b"k", &half, b"") else { panic!("no group takes it") };
    assert_eq!(code, ErrorCode::TooLarge);
    assert!(text.contains("bytes together: read it, merge them"), "{text}");
    let (_, context) = node.get(b"k").values();
    let Told::Error(code, text) = node.put(b"k", &[7; 70_000], &context) else { panic!("nor this") };
    assert_eq!(code, ErrorCode::TooLarge);
    assert!(text.contains("put less"), "{text}");
    node.put(b"k", b"merged", &context).version();
    assert_eq!(node.get(b"k").values().0, owned(&[b"merged"]));
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

/// A context says that what came since its read is to stay. Where the last write wins it went unheard, and what came was lost.
#[test]
fn a_context_is_refused_where_the_last_write_wins() {
    let mut node = Alone::new();
    node.put(b"k", b"v", b"").version();
    let context = node.get(b"k").values().1;
    let put = |context| Request::Put {
        epoch: Epoch(0),
        level: Level::One,
        options: 0,
        key: Key::plain(b"k"),
        ttl_ms: 0,
        context,
        value: b"v",
    };
    assert_eq!(node.ask(&put(&context)).code(), ErrorCode::BadContext);
    node.ask(&put(b"")).version();
    let delete = Request::Delete {
        epoch: Epoch(0),
        level: Level::One,
        options: 0,
        key: Key::plain(b"k"),
        context: &context,
    };
    assert_eq!(node.ask(&delete).code(), ErrorCode::BadContext);
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
    let [Item::Siblings { answered: 1, siblings }, Item::Absent { answered: 1 }] = &items[..] else {
        panic!("{items:?}")
    };
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
    assert_eq!(node.shard.latches.borrow().len(), 0);
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
    assert_eq!(node.shard.latches.borrow().len(), 0);
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
    assert_eq!(node.shard.latches.borrow().len(), 0);
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

/// A directory that was left in order, copied, used on and then put back brought its actor back to life: the next dot of it made every
/// replica drop what had been acknowledged under the same actor since.
#[test]
fn a_copy_of_what_was_left_in_order_does_not_bring_its_actor_back() {
    let mut node = Alone::new();
    node.put(b"k", b"a", b"").version();
    let first = node.shard.dots.get();
    let at = |found, now| Place { found, now };
    let node = node.restart_at(true, at(Place::FIXED.now, 2));
    assert_eq!(node.shard.dots.get(), first, "it is where it was left");
    let node = node.restart_at(true, at(1, 3));
    let second = node.shard.dots.get();
    assert_ne!(second, first, "the copy of a life before");
    // It could not say where it is: nobody can tell what is put back from it.
    let node = node.restart_at(true, at(3, 0));
    assert_eq!(node.shard.dots.get(), second);
    let node = node.restart_at(true, at(0, 4));
    assert!(![first, second].contains(&node.shard.dots.get()));
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
