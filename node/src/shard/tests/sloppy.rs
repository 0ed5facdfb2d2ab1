//! Writes whose replicas are away, and who stands in for them.

use ferrite_cluster::hints::{DropReason, HintOptions, Ledger};
use ferrite_cluster::{Context, SiblingSet};
use ferrite_wire::{ErrorCode, Mode, SLOPPY, Table, TableId, Version, WriteAnswer};

use super::hints::{answer, comes, drops, patient, told, writes};
use super::*;
use crate::shard::Absences;
use crate::shard::apart::Apart;
use crate::shard::sets::joined;

pub(super) fn sloppy<'a>(key: Key<'a>, value: &'a [u8], level: Level) -> Request<'a> {
    Request::Put { epoch: Epoch(0), level, options: SLOPPY, key, ttl_ms: 0, context: b"", value }
}

fn carts() -> Table {
    let name = "carts".to_owned();
    let id = TableId::of(&name);
    Table { id, name, mode: Mode::Siblings, max_siblings: 8, ..Table::default_of(3) }
}

/// Settings of one of five nodes, with a table that keeps siblings beside the default one.
pub(super) fn of_five() -> ShardSettings {
    let tables = Tables::new(vec![Table::default_of(3), carts()]).expect("a sound list");
    let with_tables = settings_with(5, 1, 2, tables);
    let mut settings = patient(5);
    settings.topology = with_tables.topology;
    // Room for long sets.
    settings.engine.log.segment_bytes = 8 << 20;
    settings.engine.log.group_bytes = 2 << 20;
    settings
}

/// One of them.
pub(super) fn one_of_five() -> (Bench, Rc<Shard<Bench>>, Connection) {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, of_five()).expect("an empty disk opens");
    let from = client(&bench, &shard);
    (bench, shard, from)
}

/// A name whose replicas in a table are this node and others, or others only; and who they are.
pub(super) fn named(shard: &Shard<Bench>, table: TableId, mine: bool) -> (Vec<u8>, Vec<u16>, Vec<u16>) {
    for number in 0..1_000u32 {
        let partition = number.to_le_bytes();
        let key = Key { table, partition: &partition, sort: b"" };
        let route = shard.route(&key).expect("a table that is declared");
        if route.position.is_some() == mine {
            let ring = shard.ring.borrow();
            let replicas = ring.replicas(route.vnode)[..3].iter().map(|node| node.0).collect();
            let fallbacks = ring.fallbacks(route.vnode, 3).iter().map(|node| node.0).collect();
            return (partition.to_vec(), replicas, fallbacks);
        }
    }
    panic!("some key is on other nodes");
}

/// The hinted writes over a link: number, target, value, version.
fn hinted(bench: &Bench, link: Connection) -> Vec<(u64, u16, Vec<u8>, Version)> {
    let of = |(header, body): (FrameHeader, Vec<u8>)| match PeerMessage::decode(header.kind, &body) {
        Ok(PeerMessage::HintedWrite { target, version, value, .. }) => {
            Some((header.request.0, target.0, value.to_vec(), version))
        }
        _ => None,
    };
    bench.frames(link).into_iter().filter_map(of).collect()
}

fn ask(bench: &Bench, shard: &Shard<Bench>, from: Connection, request: &Request<'_>) {
    receive(shard, from, &request_frame(1, request));
    shard.on_batch_end();
    bench.run();
}

#[test]
fn others_stand_in_for_replicas_that_are_away_only_if_the_write_allows_it() {
    let (bench, shard, from) = one_of_five();
    let (name, replicas, fallbacks) = named(&shard, TableId::DEFAULT, true);
    let others: Vec<u16> = replicas.iter().copied().filter(|node| *node != 1).collect();
    let links: Vec<Connection> = fallbacks.iter().map(|node| comes(&bench, &shard, *node)).collect();
    ask(&bench, &shard, from, &put(&name, b"v", Level::Quorum));
    assert_eq!(told(&bench, from), [(1, Err(ErrorCode::Unavailable))], "strict by default");
    ask(&bench, &shard, from, &sloppy(Key::plain(&name), b"v", Level::Quorum));
    assert_eq!(told(&bench, from), [], "one copy is no quorum");
    let sent: Vec<_> = links.iter().map(|link| hinted(&bench, *link)).collect();
    let targets: Vec<u16> = sent.iter().map(|sent| sent[0].1).collect();
    assert_eq!(targets, others, "each for one of those that are away");
    assert!(sent.iter().all(|sent| sent.len() == 1 && sent[0].2 == b"v"));
    answer(&bench, &shard, links[1], sent[1][0].0, WriteAnswer::Applied);
    assert_eq!(told(&bench, from), [(1, Ok((sent[0][0].3, true)))], "and the answer says so");
    // The other one refuses: its replica is owed a hint by the coordinator.
    answer(&bench, &shard, links[0], sent[0][0].0, WriteAnswer::Refused(ErrorCode::Overloaded));
    pass(&bench, &shard, 20);
    assert_eq!(shard.hints.borrow().owed(NodeId(others[0])).0, 1);
    assert_eq!(shard.hints.borrow().owed(NodeId(others[1])).0, 0, "the stand-in delivers");
}

/// The record was in mind, for a stand-in was to have it, and was thrown away because this node's own log had had no room for it.
#[test]
fn what_is_in_mind_is_owed_though_the_log_here_refused_its_own_copy() {
    let (bench, shard, from) = one_of_five();
    let (name, replicas, fallbacks) = named(&shard, TableId::DEFAULT, true);
    let others: Vec<u16> = replicas.iter().copied().filter(|node| *node != 1).collect();
    let there = comes(&bench, &shard, others[0]);
    let stand_ins: Vec<Connection> = fallbacks.iter().map(|node| comes(&bench, &shard, *node)).collect();
    bench.0.disk.set_full(true);
    let is_full = (0..500).any(|_| {
        ask(&bench, &shard, from, &put(&name, &[7; 30_000], Level::One));
        writes(&bench, there).iter().for_each(|(number, ..)| {
            answer(&bench, &shard, there, *number, WriteAnswer::Refused(ErrorCode::DiskFull));
        });
        told(&bench, from).iter().any(|(_, told)| *told == Err(ErrorCode::DiskFull))
    });
    assert!(is_full);
    let before = shard.hints.borrow().owed(NodeId(others[1])).0;
    ask(&bench, &shard, from, &sloppy(Key::plain(&name), &[7; 30_000], Level::One));
    let sent = writes(&bench, there);
    answer(&bench, &shard, there, sent[0].0, WriteAnswer::Applied);
    assert!(matches!(told(&bench, from)[..], [(1, Ok(_))]), "the other replica will do");
    bench.0.disk.set_full(false);
    pass(&bench, &shard, 1_000);
    for link in stand_ins {
        hinted(&bench, link).iter().for_each(|(number, ..)| {
            answer(&bench, &shard, link, *number, WriteAnswer::Refused(ErrorCode::Overloaded));
        });
    }
    pass(&bench, &shard, 20);
    assert_eq!(drops(&shard, DropReason::NoRecord), 0);
    assert_eq!(shard.hints.borrow().owed(NodeId(others[1])).0, before + 1);
}

/// Its node is there, and only the node was looked at: the write was refused, or came to nothing, though another would have stood in.
#[test]
fn a_core_that_is_fenced_or_stands_still_is_passed_over_as_a_stand_in() {
    let (bench, shard, from) = one_of_five();
    let (name, _, fallbacks) = named(&shard, TableId::DEFAULT, true);
    let links: Vec<Connection> = fallbacks.iter().map(|node| comes(&bench, &shard, *node)).collect();
    let fenced = Absences::of_cores(vec![(NodeId(fallbacks[0]), CoreId(0))]);
    shard.on_absences(fenced.into());
    ask(&bench, &shard, from, &sloppy(Key::plain(&name), b"v", Level::Quorum));
    assert_eq!(hinted(&bench, links[0]), []);
    let (number, ..) = hinted(&bench, links[1]).remove(0);
    answer(&bench, &shard, links[1], number, WriteAnswer::Applied);
    assert!(matches!(told(&bench, from)[..], [(1, Ok((_, true)))]));
}

/// The first one had no room, and the write came to nothing, though the next would have taken it.
#[test]
fn the_next_one_stands_in_for_a_stand_in_that_refuses() {
    let (bench, shard, from) = one_of_five();
    let (name, replicas, fallbacks) = named(&shard, TableId::DEFAULT, true);
    let silent = replicas.iter().copied().find(|node| *node != 1).expect("three of them");
    comes(&bench, &shard, silent);
    let links: Vec<Connection> = fallbacks.iter().map(|node| comes(&bench, &shard, *node)).collect();
    ask(&bench, &shard, from, &sloppy(Key::plain(&name), b"v", Level::Quorum));
    let first = hinted(&bench, links[0]);
    assert_eq!((first.len(), hinted(&bench, links[1]).len()), (1, 0), "one is away");
    answer(&bench, &shard, links[0], first[0].0, WriteAnswer::Refused(ErrorCode::Overloaded));
    let next = hinted(&bench, links[1]);
    assert_eq!(next, first, "the same record, for the same replica");
    assert_eq!(told(&bench, from), []);
    answer(&bench, &shard, links[1], next[0].0, WriteAnswer::Applied);
    assert!(matches!(told(&bench, from)[..], [(1, Ok((_, true)))]));
    pass(&bench, &shard, 20);
    let away = replicas.iter().copied().find(|node| ![1, silent].contains(node)).expect("three of them");
    assert_eq!(shard.hints.borrow().owed(NodeId(away)).0, 0, "the stand-in delivers");
    // Where all refuse there is none left, and each was asked once.
    ask(&bench, &shard, from, &sloppy(Key::plain(&name), b"w", Level::Quorum));
    for link in &links {
        let sent = hinted(&bench, *link);
        assert_eq!(sent.len(), 1);
        answer(&bench, &shard, *link, sent[0].0, WriteAnswer::Refused(ErrorCode::Overloaded));
    }
    assert!(links.iter().all(|link| hinted(&bench, *link).is_empty()));
}

/// The same where this node is one of them, before the other in order or after it.
#[test]
fn a_coordinator_without_room_hands_on_what_it_was_to_stand_in_for_and_the_other_way_round() {
    for is_first in [true, false] {
        let (bench, shard, from) = one_of_five();
        let order = |name: &[u8; 4]| {
            let route = shard.route(&Key::plain(name)).expect("a table");
            let fallbacks = shard.ring.borrow().fallbacks(route.vnode, 3);
            route.position.is_none() && (fallbacks[0] == NodeId(1)) == is_first
        };
        let name = (0..1_000u32).map(u32::to_le_bytes).find(order).expect("some key");
        let (replicas, other) = {
            let (route, ring) = (shard.route(&Key::plain(&name)).expect("a table"), shard.ring.borrow());
            let other = ring.fallbacks(route.vnode, 3).into_iter().find(|node| *node != NodeId(1));
            (ring.replicas(route.vnode)[..3].to_vec(), other.expect("two of them").0)
        };
        for node in &replicas[..2] {
            comes(&bench, &shard, node.0);
        }
        let link = comes(&bench, &shard, other);
        if is_first {
            let none = HintOptions { bytes_max: 10, ..HintOptions::default() };
            shard.hints.replace(Ledger::new(none, 0));
        }
        ask(&bench, &shard, from, &sloppy(Key::plain(&name), b"v", Level::One));
        let sent = hinted(&bench, link);
        assert_eq!((sent.len(), sent[0].1), (1, replicas[2].0));
        let refused = WriteAnswer::Refused(ErrorCode::Overloaded);
        answer(&bench, &shard, link, sent[0].0, if is_first { WriteAnswer::Applied } else { refused });
        assert!(matches!(told(&bench, from)[..], [(1, Ok((_, true)))]), "{is_first}");
        assert_eq!(shard.hints.borrow().owed(replicas[2]).0, u64::from(!is_first));
    }
}

#[test]
fn a_level_that_replicas_meet_is_strict_whatever_was_allowed() {
    let (bench, shard, from) = one_of_five();
    let (name, replicas, fallbacks) = named(&shard, TableId::DEFAULT, true);
    let other = replicas.iter().copied().find(|node| *node != 1).expect("three of them");
    let (link, stand_in) = (comes(&bench, &shard, other), comes(&bench, &shard, fallbacks[0]));
    ask(&bench, &shard, from, &sloppy(Key::plain(&name), b"v", Level::Quorum));
    let hint = hinted(&bench, stand_in).remove(0);
    let (number, ..) = writes(&bench, link).remove(0);
    answer(&bench, &shard, link, number, WriteAnswer::Applied);
    assert!(matches!(told(&bench, from)[..], [(1, Ok((_, false)))]));
    answer(&bench, &shard, stand_in, hint.0, WriteAnswer::Applied);
    assert_eq!(shard.hints_owed(), 0, "the stand-in has what the third missed");
}

/// A node that is no replica coordinates, and is the only one that is there.
#[test]
fn the_coordinator_itself_stands_in_and_delivers_what_it_kept() {
    let (bench, shard, from) = one_of_five();
    let (name, replicas, fallbacks) = named(&shard, TableId::DEFAULT, false);
    assert!(fallbacks.contains(&1));
    ask(&bench, &shard, from, &sloppy(Key::plain(&name), b"v", Level::One));
    let told = told(&bench, from);
    let [(1, Ok((version, true)))] = told[..] else { panic!("done by a stand-in: {told:?}") };
    pass(&bench, &shard, 20);
    // One of the three it stands in for; the others are owed as by any write.
    assert_eq!(shard.hints_owed(), 3);
    for node in replicas {
        let link = comes(&bench, &shard, node);
        pass(&bench, &shard, 40);
        let sent = writes(&bench, link);
        assert_eq!(
            sent.iter().map(|(_, value, at)| (&value[..], *at)).collect::<Vec<_>>(),
            [(&b"v"[..], version)]
        );
        answer(&bench, &shard, link, sent[0].0, WriteAnswer::Applied);
    }
    assert_eq!(shard.hints_owed(), 0);
}

/// What counted towards a level is nowhere else: dropped, an acknowledged write would be lost.
#[test]
fn at_the_cap_a_sloppy_write_is_refused_and_nothing_that_counted_is_dropped() {
    let (bench, shard, _) = one_of_five();
    let link = peer(&bench, &shard);
    shard.hints.replace(Ledger::new(HintOptions { bytes_max: 2_000, ..Default::default() }, 0));
    let (name, replicas, _) = named(&shard, TableId::DEFAULT, false);
    let (mut kept, mut refused) = (0, 0);
    for order in 1..=30u64 {
        let version = Version { order: Order(order), ..Version::default() };
        let message = PeerMessage::HintedWrite {
            target: NodeId(replicas[0]),
            vnode_epoch: Epoch(1),
            key: Key::plain(&name),
            version,
            value: &[7; 100],
        };
        receive(&shard, link, &message_frame(order, 0, &message));
        shard.on_batch_end();
        bench.run();
        let (header, body) = bench.frames(link).remove(0);
        match PeerMessage::decode(header.kind, &body) {
            Ok(PeerMessage::ReplicaWriteAnswer(WriteAnswer::Applied)) => kept += 1,
            Ok(PeerMessage::ReplicaWriteAnswer(WriteAnswer::Refused(ErrorCode::Overloaded))) => refused += 1,
            other => panic!("{other:?} answers no write"),
        }
    }
    assert_eq!((kept + refused, shard.hints_owed()), (30, kept));
    assert!(kept > 5 && refused > 5, "{kept} {refused}");
    assert_eq!(drops(&shard, DropReason::Full), refused);
}

#[test]
fn a_hint_for_somebody_who_is_no_replica_is_refused() {
    let (bench, shard, _) = one_of_five();
    let link = peer(&bench, &shard);
    let (name, _, fallbacks) = named(&shard, TableId::DEFAULT, false);
    let no_replica = fallbacks.into_iter().find(|node| *node != 1).expect("two of them");
    for (target, key, expected) in [
        (no_replica, Key::plain(&name), ErrorCode::Unavailable),
        (1, Key::plain(&name), ErrorCode::Unavailable),
        (77, Key::plain(&name), ErrorCode::Unavailable),
        (2, Key { table: TableId(99), partition: &name, sort: b"" }, ErrorCode::NoTable),
        (2, Key { table: TableId::of("carts"), partition: &name, sort: b"" }, ErrorCode::Malformed),
    ] {
        let (vnode_epoch, version) = (Epoch(1), Version::default());
        let message =
            PeerMessage::HintedWrite { target: NodeId(target), vnode_epoch, key, version, value: b"v" };
        receive(&shard, link, &message_frame(5, 0, &message));
        let (header, body) = bench.frames(link).remove(0);
        let refused = PeerMessage::ReplicaWriteAnswer(WriteAnswer::Refused(expected));
        assert_eq!(PeerMessage::decode(header.kind, &body), Ok(refused));
    }
    assert_eq!(shard.hints_owed(), 0);
}

/// Names of keys with siblings that this node is no replica of.
fn elsewhere(shard: &Shard<Bench>) -> Vec<[u8; 4]> {
    let is_elsewhere =
        |partition: &[u8; 4]| shard.route(&cart(partition)).expect("a table").position.is_none();
    (0..1_000u32).map(u32::to_le_bytes).filter(is_elsewhere).collect()
}

pub(super) fn cart(partition: &[u8]) -> Key<'_> {
    Key { table: TableId::of("carts"), partition, sort: b"" }
}

/// A sloppy put at ONE; what it is told.
fn put_apart(
    bench: &Bench,
    shard: &Shard<Bench>,
    from: Connection,
    request: &Request<'_>,
) -> Result<Version, ErrorCode> {
    ask(bench, shard, from, request);
    let told = told(bench, from);
    let [(1, told)] = told[..] else { panic!("one answer: {told:?}") };
    told.map(|(version, _)| version)
}

/// A replica comes back and takes what this node keeps for it; all of it, in order.
fn takes(bench: &Bench, shard: &Shard<Bench>, node: u16) -> Vec<Vec<u8>> {
    let link = comes(bench, shard, node);
    let mut taken = Vec::new();
    for _ in 0..20 {
        for (number, bytes, _) in writes(bench, link) {
            taken.push(bytes);
            answer(bench, shard, link, number, WriteAnswer::Applied);
        }
        pass(bench, shard, 20);
    }
    shard.on_closed(link);
    taken
}

fn values_of(set: &[u8]) -> Vec<Vec<u8>> {
    let set = SiblingSet::decode(set).expect("a set");
    set.siblings().iter().map(|sibling| sibling.value.to_vec()).collect()
}

/// Each such write used to begin with an empty set, so that no limit ever bound: nine of a megabyte were done, and when the replicas
/// were back, what was too long to be joined was left out, acknowledged or not.
#[test]
fn siblings_written_while_no_replica_is_there_are_bounded_and_all_that_were_done_are_joined() {
    for (value_bytes, expected) in [(1_000_000, 0), (600_000, 1), (300_000, 2), (10, 8)] {
        let (bench, shard, from) = one_of_five();
        let (name, replicas, _) = named(&shard, TableId::of("carts"), false);
        let mut done = Vec::new();
        for number in 0..9u8 {
            let value = vec![number; value_bytes];
            match put_apart(&bench, &shard, from, &sloppy(cart(&name), &value, Level::One)) {
                Ok(_) => done.push(value),
                Err(code) if value_bytes > 10 => assert_eq!(code, ErrorCode::TooLarge),
                Err(code) => assert_eq!(code, ErrorCode::TooManySiblings),
            }
            pass(&bench, &shard, 20);
        }
        assert_eq!(done.len(), expected, "of {value_bytes} bytes");
        let join = |all: Vec<u8>, set: Vec<u8>| joined(&all, &set).expect("they are short together");
        let all = takes(&bench, &shard, replicas[0]).into_iter().fold(Vec::new(), join);
        assert!(all.len() <= limits::SET_BYTES_MAX / 4, "{} bytes", all.len());
        let values = if done.is_empty() { Vec::new() } else { values_of(&all) };
        assert!(values == done, "{} of {} are left", values.len(), done.len());
    }
}

/// Each used to have an actor of its own, and nothing takes actors out of a clock: after 512 the key could not be written any more.
#[test]
fn a_key_that_is_written_again_and_again_while_no_replica_is_there_meets_one_actor() {
    let (bench, shard, from) = one_of_five();
    let (name, _, _) = named(&shard, TableId::of("carts"), false);
    let latch_key = (TableId::of("carts").0, name.clone().into_boxed_slice(), name.len());
    let last = || shard.apart.borrow().last(&latch_key);
    for number in 0..520u32 {
        let mut context = Vec::new();
        if let Some(bytes) = last() {
            let clock = SiblingSet::decode(&bytes).expect("a set").clock().clone();
            Context { key_hash: Context::hash_of(&cart(&name)), clock }.encode(&mut context);
        }
        let value = number.to_le_bytes();
        let put = Request::Put {
            epoch: Epoch(0),
            level: Level::One,
            options: SLOPPY,
            key: cart(&name),
            ttl_ms: 0,
            context: &context,
            value: &value,
        };
        let version = put_apart(&bench, &shard, from, &put).expect("there is room");
        let bytes = last().expect("it was done");
        let set = SiblingSet::decode(&bytes).expect("a set");
        assert_eq!(set.clock().dots().len(), 1);
        assert_eq!((set.siblings().len(), set.siblings()[0].value), (1, &value[..]));
        assert_eq!(set.siblings()[0].dot.actor, version.actor);
        assert_ne!(version.actor, shard.dots.get(), "those of replicas are another's");
    }
}

/// What nobody has taken is told as not applied, and must not come with the next write. Writes of a key wait for each other for that.
#[test]
fn what_no_stand_in_took_is_not_in_the_next_set() {
    let (bench, shard, from) = one_of_five();
    let (name, replicas, _) = named(&shard, TableId::of("carts"), false);
    let none = HintOptions { bytes_max: 10, ..HintOptions::default() };
    shard.hints.replace(Ledger::new(none, 0));
    for value in [&b"refused"[..], b"too"] {
        let told = put_apart(&bench, &shard, from, &sloppy(cart(&name), value, Level::One));
        assert_eq!(told, Err(ErrorCode::Overloaded));
    }
    assert_eq!(shard.latches.borrow().len(), 0);
    shard.hints.replace(Ledger::new(HintOptions::default(), 0));
    for value in [&b"one"[..], b"two"] {
        receive(&shard, from, &request_frame(1, &sloppy(cart(&name), value, Level::One)));
    }
    assert_eq!(shard.latches.borrow().len(), 1, "the second waits");
    shard.on_batch_end();
    bench.run();
    shard.on_batch_end();
    bench.run();
    assert_eq!(told(&bench, from).len(), 2);
    assert_eq!(shard.latches.borrow().len(), 0);
    let sets: Vec<_> = takes(&bench, &shard, replicas[0]).iter().map(|set| values_of(set)).collect();
    assert_eq!(sets, [vec![b"one".to_vec()], vec![b"one".to_vec(), b"two".to_vec()]]);
}

#[test]
fn a_core_that_has_no_room_to_keep_what_it_wrote_apart_refuses_until_it_owes_nothing() {
    let (bench, shard, from) = one_of_five();
    shard.apart.replace(Apart::new(1, 1 << 20));
    let names = elsewhere(&shard);
    let put = |name: &[u8; 4], value: &[u8]| {
        put_apart(&bench, &shard, from, &sloppy(cart(name), value, Level::One))
    };
    let first = put(&names[0], b"a").expect("there is room");
    assert_eq!(put(&names[1], b"b"), Err(ErrorCode::Overloaded));
    let second = put(&names[0], b"c").expect("it is kept in mind already");
    assert_eq!(second.actor, first.actor);
    pass(&bench, &shard, 20);
    for node in 2..=5 {
        takes(&bench, &shard, node);
    }
    assert_eq!(shard.hints_owed(), 0);
    put(&names[1], b"b").expect("what was kept in mind is where it belongs");
    let next = put(&names[1], b"d").expect("it is kept in mind");
    assert_ne!(next.actor, first.actor, "that one does not go on without what it wrote");
}

/// A node that knows nothing of the key must not mint a dot that looks like a later one of somebody who does.
#[test]
fn siblings_written_while_no_replica_is_there_have_an_actor_of_their_own() {
    let (bench, shard, from) = one_of_five();
    let carts = TableId::of("carts");
    let (name, replicas, _) = named(&shard, carts, false);
    let key = Key { table: carts, partition: &name, sort: b"" };
    ask(
        &bench,
        &shard,
        from,
        &Request::Put {
            epoch: Epoch(0),
            level: Level::One,
            options: 0,
            key,
            ttl_ms: 0,
            context: b"",
            value: b"a",
        },
    );
    assert_eq!(told(&bench, from), [(1, Err(ErrorCode::Unavailable))]);
    for value in [b"a", b"b"] {
        ask(&bench, &shard, from, &sloppy(key, value, Level::One));
        assert!(matches!(told(&bench, from)[..], [(1, Ok((_, true)))]));
    }
    pass(&bench, &shard, 20);
    let link = comes(&bench, &shard, replicas[0]);
    pass(&bench, &shard, 40);
    let sent = writes(&bench, link);
    let sets: Vec<_> =
        sent.iter().map(|(_, bytes, _)| SiblingSet::decode(bytes).expect("a whole set")).collect();
    assert_eq!(sets.len(), 2);
    let (one, two) = (&sets[0].siblings()[0], &sets[1].siblings()[1]);
    assert_eq!((one.value, two.value), (&b"a"[..], &b"b"[..]));
    assert_eq!(one.dot.actor, two.dot.actor);
    assert_ne!(one.dot.actor, shard.dots.get());
    assert_eq!(sets[0].join(&sets[1]), sets[1], "the second is made on top of the first");
    let overwrite = Request::Delete {
        epoch: Epoch(0),
        level: Level::One,
        options: SLOPPY | ferrite_wire::OVERWRITE,
        key,
        context: b"",
    };
    shard.on_closed(link);
    ask(&bench, &shard, from, &overwrite);
    assert_eq!(told(&bench, from), [(1, Err(ErrorCode::Unavailable))], "nothing can be read first");
}
