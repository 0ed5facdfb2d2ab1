//! What a shard keeps for replicas that miss writes, and how it delivers it.

use ferrite_cluster::hints::DropReason;
use ferrite_lsm::mem_disk::Fault;
use ferrite_wire::{ErrorCode, HintsAction, Mode, Reply, Table, TableId, Version, VersionFlags, WriteAnswer};

use super::tables::accepted_by;
use super::*;
use crate::shard::Absences;
use crate::shard::stop::LAST_HINTS_NS;

/// Settings of a node that cuts no silent peer.
pub(super) fn patient(nodes: u16) -> ShardSettings {
    let mut settings = settings(nodes, 1, 2);
    settings.peer_timeout_ns = 1_000_000 * MS;
    settings.ping_interval_ns = 1_000_000 * MS;
    settings
}

/// The link to a node comes up.
pub(super) fn comes(bench: &Bench, shard: &Shard<Bench>, node: u16) -> Connection {
    for _ in 0..3_000 {
        pass(bench, shard, 1);
        let link = shard
            .links
            .borrow()
            .iter()
            .find(|link| link.node == NodeId(node))
            .and_then(|link| link.connection());
        if let Some(connection) = link {
            shard.on_connected(connection);
            bench.frames(connection);
            receive(shard, connection, &accepted_by(NodeId(node), CoreId(0)));
            return connection;
        }
    }
    panic!("a link is tried again");
}

/// The writes that were sent over a link since the last call: number, value, version.
pub(super) fn writes(bench: &Bench, link: Connection) -> Vec<(u64, Vec<u8>, Version)> {
    let write = |(header, body): (FrameHeader, Vec<u8>)| match PeerMessage::decode(header.kind, &body) {
        Ok(PeerMessage::ReplicaWrite { version, value, .. }) => {
            Some((header.request.0, value.to_vec(), version))
        }
        _ => None,
    };
    bench.frames(link).into_iter().filter_map(write).collect()
}

pub(super) fn answer(
    bench: &Bench,
    shard: &Shard<Bench>,
    link: Connection,
    number: u64,
    answer: WriteAnswer,
) {
    receive(shard, link, &message_frame(number, 0, &PeerMessage::ReplicaWriteAnswer(answer)));
    shard.on_batch_end();
    bench.run();
}

/// Every write over the link is taken, until none comes.
pub(super) fn take_all(bench: &Bench, shard: &Shard<Bench>, link: Connection) -> Vec<(Vec<u8>, Version)> {
    let mut taken = Vec::new();
    for _ in 0..200 {
        for (number, value, version) in writes(bench, link) {
            taken.push((value, version));
            answer(bench, shard, link, number, WriteAnswer::Applied);
        }
        pass(bench, shard, 20);
    }
    taken
}

pub(super) fn write(
    bench: &Bench,
    shard: &Shard<Bench>,
    from: Connection,
    number: u64,
    request: &Request<'_>,
) {
    receive(shard, from, &request_frame(number, request));
    shard.on_batch_end();
    bench.run();
}

/// What a write was told: its version and whether it was sloppy, or the error.
type Told = Result<(Version, bool), ErrorCode>;

/// The answers a client has got, with the numbers of its requests.
pub(super) fn told(bench: &Bench, client: Connection) -> Vec<(u64, Told)> {
    let told = |(header, body): (FrameHeader, Vec<u8>)| match Reply::decode(header.kind, &body) {
        Ok(Reply::Done { version, sloppy, .. }) => (header.request.0, Ok((version, sloppy))),
        Ok(Reply::Error { code, .. }) => (header.request.0, Err(code)),
        other => panic!("{other:?} answers no write"),
    };
    bench.frames(client).into_iter().map(told).collect()
}

pub(super) fn drops(shard: &Shard<Bench>, reason: DropReason) -> u64 {
    shard.hints.borrow().drops().filter(|(_, at, _)| *at == reason).map(|(_, _, count)| count).sum()
}

/// Three nodes, of which this is one, the second is there, and the third is not.
pub(super) fn without_the_third(
    settings: ShardSettings,
) -> (Bench, Rc<Shard<Bench>>, Connection, Connection) {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings).expect("an empty disk opens");
    let second = comes(&bench, &shard, 2);
    let from = client(&bench, &shard);
    (bench, shard, second, from)
}

/// So many writes, numbered from 1, each of its number to its number, which the second node has.
pub(super) fn write_and_ack(
    bench: &Bench,
    shard: &Shard<Bench>,
    from: Connection,
    second: Connection,
    count: u64,
) {
    for number in 1..=count {
        let value = number.to_le_bytes();
        write(bench, shard, from, number, &put(&value, &value, Level::Quorum));
        let [(at, ..)] = writes(bench, second)[..] else { panic!("one write") };
        answer(bench, shard, second, at, WriteAnswer::Applied);
    }
}

#[test]
fn a_replica_that_was_away_gets_what_it_missed_as_it_was_and_in_order() {
    let (bench, shard, second, from) = without_the_third(patient(3));
    let mut given = Vec::new();
    for number in 1..=20u64 {
        let value = number.to_le_bytes();
        write(&bench, &shard, from, number, &put(&value, &value, Level::Quorum));
        let [(at, _, version)] = writes(&bench, second)[..] else { panic!("one write") };
        answer(&bench, &shard, second, at, WriteAnswer::Applied);
        assert_eq!(told(&bench, from), [(number, Ok((version, false)))]);
        given.push((value.to_vec(), version));
    }
    pass(&bench, &shard, 20);
    assert_eq!(shard.hints_owed(), 20);
    let third = comes(&bench, &shard, 3);
    let delivered = take_all(&bench, &shard, third);
    assert_eq!(delivered, given, "with their versions, in their order, each once");
    assert_eq!(shard.hints_owed(), 0);
    write(&bench, &shard, from, 99, &put(b"k", b"v", Level::Quorum));
    assert_eq!(writes(&bench, third).len(), 1, "it is asked like any other now");
}

/// Nobody has the write, and nobody must get it.
#[test]
fn a_write_that_is_not_applied_leaves_no_hint() {
    let (bench, shard, second, from) = without_the_third(patient(3));
    bench.0.disk.set_full(true);
    write(&bench, &shard, from, 1, &put(b"k", &[7; 100_000], Level::Quorum));
    for (number, ..) in writes(&bench, second) {
        answer(&bench, &shard, second, number, WriteAnswer::Refused(ErrorCode::DiskFull));
    }
    pass(&bench, &shard, 3_000);
    let told = told(&bench, from);
    assert!(matches!(told[..], [(1, Err(code))] if code.says_not_applied()), "{told:?}");
    bench.0.disk.set_full(false);
    let third = comes(&bench, &shard, 3);
    assert_eq!((take_all(&bench, &shard, third), shard.hints_owed()), (vec![], 0));
    assert_eq!(shard.hints.borrow().drops().next(), None, "none was wanted");
}

#[test]
fn refusals_losses_and_silence_are_made_up_for() {
    let (bench, shard, second, from) = without_the_third(patient(3));
    let third = comes(&bench, &shard, 3);
    write_and_ack(&bench, &shard, from, second, 3);
    let sent = writes(&bench, third);
    assert_eq!((sent.len(), told(&bench, from).len(), shard.debts.get()), (3, 3, 3));
    answer(&bench, &shard, third, sent[0].0, WriteAnswer::Refused(ErrorCode::Overloaded));
    // Twice, and for a write that has been made up for, it says nothing new.
    answer(&bench, &shard, third, sent[0].0, WriteAnswer::Refused(ErrorCode::Overloaded));
    assert_eq!((shard.hints_owed(), shard.debts.get()), (1, 2));
    answer(&bench, &shard, third, sent[1].0, WriteAnswer::Applied);
    assert_eq!((shard.hints_owed(), shard.debts.get()), (1, 1));
    shard.on_closed(third);
    bench.run();
    assert_eq!((shard.hints_owed(), shard.debts.get()), (2, 0));
    let third = comes(&bench, &shard, 3);
    let delivered: Vec<_> = take_all(&bench, &shard, third).into_iter().map(|(value, _)| value).collect();
    assert_eq!(delivered, [sent[0].1.clone(), sent[2].1.clone()]);
}

/// A write at ONE was answered by another node before it was in the log here. What the third node was owed was made of the record that was there
/// before, or of none: a set without what was written, or nothing at all.
#[test]
fn what_is_owed_is_made_of_the_record_as_it_was_written_though_others_answer_before_the_log() {
    let carts = Table { id: TableId::of("carts"), name: "carts".to_owned(), ..Table::default_of(3) };
    let carts = Table { mode: Mode::Siblings, max_siblings: 8, ..carts };
    let tables = Tables::new(vec![Table::default_of(3), carts.clone()]).expect("a sound list");
    for table in [TableId::DEFAULT, carts.id] {
        let mut settings = patient(3);
        settings.topology = settings_with(3, 1, 2, tables.clone()).topology;
        let (bench, shard, second, from) = without_the_third(settings);
        let key = Key { table, partition: b"k", sort: b"" };
        let request = |level, value: &'static [u8]| Request::Put {
            epoch: Epoch(0),
            level,
            options: 0,
            key,
            ttl_ms: 0,
            context: b"",
            value,
        };
        write(&bench, &shard, from, 1, &request(Level::Quorum, b"before"));
        let [(at, ..)] = writes(&bench, second)[..] else { panic!("one write") };
        answer(&bench, &shard, second, at, WriteAnswer::Applied);
        pass(&bench, &shard, 20);
        assert_eq!((told(&bench, from).len(), shard.hints_owed()), (1, 1));
        bench.0.disk.defer();
        write(&bench, &shard, from, 2, &request(Level::One, b"written"));
        let [(at, ..)] = writes(&bench, second)[..] else { panic!("one write") };
        answer(&bench, &shard, second, at, WriteAnswer::Applied);
        assert!(matches!(told(&bench, from)[..], [(2, Ok(_))]), "the other node will do");
        assert_eq!((shard.hints_owed(), shard.debts.get()), (1, 1), "there is nothing to make it of yet");
        for _ in 0..ROUNDS {
            bench.run();
            bench.0.disk.complete_all();
        }
        assert_eq!((shard.hints_owed(), shard.debts.get()), (2, 0));
        assert_eq!(drops(&shard, DropReason::NoRecord), 0);
        let third = comes(&bench, &shard, 3);
        pass(&bench, &shard, 40);
        let sent = writes(&bench, third);
        assert_eq!(sent.len(), 2, "{table:?}");
        let has = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|at| at == part);
        assert!(has(&sent[0].1, b"before") && has(&sent[1].1, b"written"), "{table:?}");
    }
}

/// Every write that timed out at a replica that had too much to do gave it one more, as a hint.
#[test]
fn live_replicas_that_time_out_raise_no_storm_of_hints() {
    let mut settings = patient(3);
    settings.hints.storm_per_s = 5;
    let (bench, shard, second, from) = without_the_third(settings);
    let third = comes(&bench, &shard, 3);
    write_and_ack(&bench, &shard, from, second, 50);
    assert_eq!((told(&bench, from).len(), writes(&bench, third).len()), (50, 50));
    pass(&bench, &shard, 2_100);
    assert_eq!(shard.debts.get(), 0, "their time is up");
    let kept = 50 - drops(&shard, DropReason::Storm);
    assert!((5..=6).contains(&kept), "{kept}");
    let (written, ..) = shard.hints.borrow_mut().delivered(NodeId(3), 0);
    assert_eq!(written, kept);
}

/// A replica that was there and could write nothing, its disk full or its log broken, was spared hints as one that had too much to do: all but a thousand a
/// second of what it missed was lost to it until somebody read that.
#[test]
fn replicas_that_are_there_and_cannot_write_are_owed_all_of_it() {
    for (code, is_spared) in [
        (ErrorCode::DiskFull, false),
        (ErrorCode::Fenced, false),
        (ErrorCode::Stopping, false),
        (ErrorCode::Unknown, false),
        // It stood still, and does so no more.
        (ErrorCode::Expired, false),
        (ErrorCode::Overloaded, true),
    ] {
        let mut settings = patient(3);
        settings.hints.storm_per_s = 5;
        let (bench, shard, second, from) = without_the_third(settings);
        let third = comes(&bench, &shard, 3);
        write_and_ack(&bench, &shard, from, second, 50);
        for (number, ..) in writes(&bench, third) {
            answer(&bench, &shard, third, number, WriteAnswer::Refused(code));
        }
        assert_eq!((told(&bench, from).len(), shard.debts.get()), (50, 0), "{code:?}");
        assert!(shard.is_heard_of(NodeId(3)));
        pass(&bench, &shard, 20);
        let (written, ..) = shard.hints.borrow_mut().delivered(NodeId(3), 0);
        assert_eq!(written, if is_spared { 5 } else { 50 }, "{code:?}");
        assert_eq!(drops(&shard, DropReason::Storm), 50 - written, "{code:?}");
    }
}

/// Gossip held a node to be absent, and writes did not ask it: as it was heard of all the same, what they owed it was spared as well.
#[test]
fn replicas_that_are_not_asked_because_gossip_holds_them_absent_are_owed_all_of_it() {
    let mut settings = patient(3);
    settings.hints.storm_per_s = 5;
    let (bench, shard, second, from) = without_the_third(settings);
    comes(&bench, &shard, 3);
    shard.on_absences(Absences::of_nodes(vec![NodeId(3)]).into());
    write_and_ack(&bench, &shard, from, second, 50);
    assert_eq!((told(&bench, from).len(), shard.debts.get()), (50, 0), "nobody else is waited for");
    pass(&bench, &shard, 20);
    assert!(shard.is_heard_of(NodeId(3)));
    let (written, ..) = shard.hints.borrow_mut().delivered(NodeId(3), 0);
    assert_eq!((written, drops(&shard, DropReason::Storm)), (50, 0));
}

/// The places that are kept for writes that still owe were given to any operation: a core took thousands more than it may have in flight.
#[test]
fn writes_that_still_owe_take_no_place_from_others_and_give_them_none() {
    let mut settings = patient(3);
    settings.operations_max = 4;
    let (bench, shard, second, from) = without_the_third(settings);
    comes(&bench, &shard, 3);
    for number in 1..=10u64 {
        write(&bench, &shard, from, number, &put(b"k", b"v", Level::Quorum));
        let sent = writes(&bench, second);
        assert_eq!(sent.len(), 1, "write {number} has a place");
        if number <= 6 {
            answer(&bench, &shard, second, sent[0].0, WriteAnswer::Applied);
        }
    }
    assert_eq!((told(&bench, from).len(), shard.debts.get()), (6, 6));
    write(&bench, &shard, from, 11, &put(b"k", b"v", Level::Quorum));
    assert_eq!(
        (told(&bench, from), writes(&bench, second).len()),
        (vec![(11, Err(ErrorCode::Overloaded))], 0)
    );
}

/// When a connection broke, all that was in flight over it was owed at once: what did not fit into one group of the log was dropped.
#[test]
fn more_than_a_group_of_the_log_holds_may_be_owed_at_once() {
    let (bench, shard, second, from) = without_the_third(patient(3));
    let third = comes(&bench, &shard, 3);
    for number in 1..=100u64 {
        let value = [number as u8; 2_000];
        write(&bench, &shard, from, number, &put(&number.to_le_bytes(), &value, Level::Quorum));
        let [(at, ..)] = writes(&bench, second)[..] else { panic!("one write") };
        answer(&bench, &shard, second, at, WriteAnswer::Applied);
    }
    assert_eq!((told(&bench, from).len(), shard.debts.get()), (100, 100));
    shard.on_closed(third);
    assert_eq!(shard.debts.get(), 0);
    assert!(!shard.owed.borrow().is_empty(), "a group holds 64 KiB");
    pass(&bench, &shard, 100);
    assert_eq!((shard.hints_owed(), shard.owed.borrow().len(), shard.debts_held.bytes()), (100, 0, 0));
    assert_eq!(drops(&shard, DropReason::NotWritten) + drops(&shard, DropReason::Untracked), 0);
    let third = comes(&bench, &shard, 3);
    assert_eq!(take_all(&bench, &shard, third).len(), 100);
}

/// What writes still owed when their node stopped was owed by nobody after that; and what lay in its kernel for a replica that was slow went with the link.
#[test]
fn what_writes_owe_when_their_node_stops_is_kept_for_those_who_have_not_answered() {
    let mut settings = patient(3);
    settings.hints.storm_per_s = 5;
    let (bench, shard, second, from) = without_the_third(settings);
    let third = comes(&bench, &shard, 3);
    for number in 1..=100u64 {
        let value = [number as u8; 2_000];
        write(&bench, &shard, from, number, &put(&number.to_le_bytes(), &value, Level::Quorum));
        let [(at, ..)] = writes(&bench, second)[..] else { panic!("one write") };
        answer(&bench, &shard, second, at, WriteAnswer::Applied);
    }
    answer(&bench, &shard, third, writes(&bench, third)[0].0, WriteAnswer::Applied);
    assert_eq!((told(&bench, from).len(), shard.debts.get()), (100, 99), "the third is silent but for one");
    shard.on_stop();
    let is_drained = |_: u64| {
        pass(&bench, &shard, 1);
        shard.is_drained()
    };
    assert!((0..100).any(is_drained), "nobody is waited for");
    drop(shard);
    let shard = open(&bench, patient(3)).expect("the same data");
    assert_eq!(shard.hints_owed(), 99);
    let third = comes(&bench, &shard, 3);
    assert_eq!(take_all(&bench, &shard, third).len(), 99);
}

/// A stop has its time. With long values and a slow disk what was owed took longer, and the log was not closed in order.
#[test]
fn a_stop_ends_in_order_though_more_is_owed_than_it_has_time_for() {
    let (bench, shard, second, from) = without_the_third(patient(3));
    comes(&bench, &shard, 3);
    for number in 1..=100u64 {
        let value = [number as u8; 2_000];
        write(&bench, &shard, from, number, &put(&number.to_le_bytes(), &value, Level::Quorum));
        let [(at, ..)] = writes(&bench, second)[..] else { panic!("one write") };
        answer(&bench, &shard, second, at, WriteAnswer::Applied);
    }
    shard.on_stop();
    bench.0.disk.defer();
    assert!(!shard.is_drained());
    bench.run();
    bench.0.now_ns.set(bench.now_ns() + LAST_HINTS_NS);
    let is_drained = |_: usize| {
        bench.0.disk.complete_all();
        bench.run();
        shard.is_drained()
    };
    assert!((0..100).any(is_drained));
    let left = drops(&shard, DropReason::NotWritten);
    assert!((1..100).contains(&left), "{left}: some were made, and what was not is told");
    assert_eq!(shard.hints_owed(), 100 - left);
}

/// The time for the last hints began with the order to stop. Where an operation took longer than that, all that was owed was dropped, though the log did nothing meanwhile.
#[test]
fn the_last_hints_have_their_time_once_they_can_be_made() {
    const OPERATION_NS: u64 = LAST_HINTS_NS + 500 * MS;
    let (bench, shard, second, from) = without_the_third(patient(3));
    comes(&bench, &shard, 3);
    write_and_ack(&bench, &shard, from, second, 20);
    let open = put(b"open", b"value", Level::All);
    let open = frame_of(open.kind(), 21, (OPERATION_NS / 1_000) as u32, |out| open.encode(out));
    receive(&shard, from, &open);
    shard.on_stop();
    let began_ns = bench.now_ns();
    let is_drained = |_: u64| {
        pass(&bench, &shard, 1);
        shard.is_drained()
    };
    assert!((0..OPERATION_NS / MS + 100).any(is_drained));
    assert!(bench.now_ns() - began_ns >= OPERATION_NS, "it was waited for");
    assert_eq!(told(&bench, from).last(), Some(&(21, Err(ErrorCode::Unknown))));
    assert_eq!(drops(&shard, DropReason::NotWritten), 0);
    assert_eq!(shard.hints_owed(), 22, "the third has none, and the second lacks the last");
}

/// While clients wrote as fast as the log could take it, something always waited for room, and every hint of an outage was dropped.
#[test]
fn hints_are_made_while_writes_wait_for_room_in_the_log() {
    let (bench, shard, second, from) = without_the_third(patient(3));
    bench.0.disk.defer();
    for number in 1..=200u64 {
        let value = [number as u8; 2_000];
        receive(&shard, from, &request_frame(number, &put(&number.to_le_bytes(), &value, Level::Quorum)));
        let [(at, ..)] = writes(&bench, second)[..] else { panic!("one write") };
        let applied = PeerMessage::ReplicaWriteAnswer(WriteAnswer::Applied);
        receive(&shard, second, &message_frame(at, 0, &applied));
    }
    shard.on_batch_end();
    bench.run();
    while shard.hints_owed() == 0 {
        assert!(bench.0.disk.complete_all() > 0, "something is on its way to the disk");
        bench.run();
    }
    assert!(!shard.waiting.borrow().is_empty(), "they are made between groups");
    for _ in 0..10 * ROUNDS {
        bench.0.disk.complete_all();
        bench.run();
    }
    pass(&bench, &shard, 20);
    assert_eq!((told(&bench, from).len(), shard.hints_owed()), (200, 200));
    assert_eq!(drops(&shard, DropReason::NotWritten) + drops(&shard, DropReason::Untracked), 0);
}

/// While clients wrote as fast as the log could take it, something always waited for room, and who had come back got nothing of what it had missed.
#[test]
fn hints_are_delivered_while_writes_wait_for_room_in_the_log() {
    let (bench, shard, second, from) = without_the_third(patient(3));
    write_and_ack(&bench, &shard, from, second, 30);
    pass(&bench, &shard, 20);
    assert_eq!(shard.hints_owed(), 30);
    bench.0.disk.defer();
    for number in 101..=200u64 {
        let value = [number as u8; 2_000];
        receive(&shard, from, &request_frame(number, &put(&number.to_le_bytes(), &value, Level::Quorum)));
    }
    shard.on_batch_end();
    let third = comes(&bench, &shard, 3);
    let mut taken = 0;
    for _ in 0..100 {
        pass(&bench, &shard, 10);
        assert!(!shard.waiting.borrow().is_empty());
        let sent: Vec<_> =
            writes(&bench, third).into_iter().filter(|(_, value, _)| value.len() == 8).collect();
        taken += sent.len();
        sent.iter().for_each(|(number, ..)| answer(&bench, &shard, third, *number, WriteAnswer::Applied));
    }
    assert_eq!(taken, 30);
}

/// A disk became full while others acknowledged a write at ONE. The write had ended by the time that its coordinator's own log refused it, so nobody was
/// told, and nothing counted, that this replica lacks it.
#[test]
fn an_own_copy_that_is_refused_after_its_write_has_ended_is_counted() {
    let (bench, shard, second, from) = without_the_third(patient(3));
    let third = comes(&bench, &shard, 3);
    bench.0.disk.defer();
    write(&bench, &shard, from, 1, &put(b"k", b"v", Level::One));
    for other in [second, third] {
        let [(at, ..)] = writes(&bench, other)[..] else { panic!("one write") };
        answer(&bench, &shard, other, at, WriteAnswer::Applied);
    }
    assert_eq!((told(&bench, from).len(), shard.operations.borrow().len()), (1, 0));
    assert_eq!(drops(&shard, DropReason::NotWritten), 0);
    let [own] = bench.0.disk.in_flight(None)[..] else { panic!("the group with the record") };
    assert!(bench.0.disk.fail(own.id, Fault::NoSpace));
    for _ in 0..ROUNDS {
        bench.run();
        bench.0.disk.complete_all();
    }
    assert_eq!(drops(&shard, DropReason::NotWritten), 1);
    assert!(!shard.hint_counts().is_complete());
}

/// A node that was gone, and not yet missed, was spared hints as one that had too much to do.
#[test]
fn hints_for_a_node_that_has_said_nothing_lately_are_no_storm() {
    let mut settings = patient(3);
    settings.hints.storm_per_s = 5;
    settings.ping_interval_ns = 100 * MS;
    let (bench, shard, second, from) = without_the_third(settings);
    let third = comes(&bench, &shard, 3);
    write_and_ack(&bench, &shard, from, second, 50);
    assert_eq!((told(&bench, from).len(), writes(&bench, third).len()), (50, 50));
    pass(&bench, &shard, 2_100);
    assert!(shard.is_there(NodeId(3)) && !shard.is_heard_of(NodeId(3)));
    let (written, ..) = shard.hints.borrow_mut().delivered(NodeId(3), 0);
    assert_eq!((written, drops(&shard, DropReason::Storm)), (50, 0));
}

/// Hints for a node that never came back filled what there was, and then nobody could write.
#[test]
fn writes_go_on_when_hints_are_full() {
    let mut settings = patient(3);
    settings.hints.strict_bytes_max = 1_000;
    let (bench, shard, second, from) = without_the_third(settings);
    for number in 1..=40u64 {
        let value = [number as u8; 100];
        write(&bench, &shard, from, number, &put(&value, &value, Level::Quorum));
        let [(at, ..)] = writes(&bench, second)[..] else { panic!("one write") };
        answer(&bench, &shard, second, at, WriteAnswer::Applied);
        assert!(matches!(told(&bench, from)[..], [(_, Ok(_))]), "write {number}");
    }
    let owed = shard.hints_owed();
    assert!((3..=9).contains(&owed), "{owed}");
    assert_eq!(drops(&shard, DropReason::Full), 40 - owed);
    let lines = shard.hints_text(HintsAction::Tell);
    assert!(lines.contains(&format!("hints.dropped.n3.full {}", 40 - owed)), "{lines}");
}

/// A delivery that the target refused was counted as done, and its hint was gone.
#[test]
fn a_delivery_that_is_refused_is_not_done() {
    let (bench, shard, second, from) = without_the_third(patient(3));
    write_and_ack(&bench, &shard, from, second, 6);
    pass(&bench, &shard, 20);
    let third = comes(&bench, &shard, 3);
    pass(&bench, &shard, 40);
    let sent = writes(&bench, third);
    assert_eq!(sent.len(), 6);
    answer(&bench, &shard, third, sent[5].0, WriteAnswer::Applied);
    answer(&bench, &shard, third, sent[0].0, WriteAnswer::Applied);
    answer(&bench, &shard, third, sent[1].0, WriteAnswer::Refused(ErrorCode::DiskFull));
    assert_eq!(shard.hints_owed(), 5, "all that comes behind the refused one, too");
    let lines = shard.hints_text(HintsAction::Tell);
    assert!(lines.contains("hints.for.n3 throttled count=5"), "{lines}");
    // A late answer to what was sent before says nothing of what is sent again.
    answer(&bench, &shard, third, sent[2].0, WriteAnswer::Applied);
    assert_eq!(shard.hints_owed(), 5);
    let values: Vec<_> = take_all(&bench, &shard, third).into_iter().map(|(value, _)| value).collect();
    assert_eq!(values, sent[1..].iter().map(|(_, value, _)| value.clone()).collect::<Vec<_>>());
    assert_eq!(shard.hints_owed(), 0);
}

/// A hint that was sent counted as delivered.
#[test]
fn a_node_that_is_gone_again_before_it_answers_gets_its_hints_once_more() {
    let (bench, shard, second, from) = without_the_third(patient(3));
    write(&bench, &shard, from, 1, &put(b"k", b"v", Level::Quorum));
    let [(at, ..)] = writes(&bench, second)[..] else { panic!("one write") };
    answer(&bench, &shard, second, at, WriteAnswer::Applied);
    pass(&bench, &shard, 20);
    // It comes, gets the hint, and is gone before it has it on its disk.
    let third = comes(&bench, &shard, 3);
    pass(&bench, &shard, 40);
    assert_eq!(writes(&bench, third).len(), 1);
    shard.on_closed(third);
    pass(&bench, &shard, 20);
    assert_eq!(shard.hints_owed(), 1);
    let third = comes(&bench, &shard, 3);
    assert_eq!(take_all(&bench, &shard, third).len(), 1);
    assert_eq!(shard.hints_owed(), 0);
}

/// A hint was delivered with the time to live that its write had asked for, counted from the delivery.
#[test]
fn a_record_that_expires_before_its_hint_is_delivered_stays_invisible() {
    let (bench, shard, second, from) = without_the_third(patient(3));
    let expiring = Request::Put {
        epoch: Epoch(0),
        level: Level::Quorum,
        options: 0,
        key: Key::plain(b"k"),
        ttl_ms: 1_000,
        context: b"",
        value: b"v",
    };
    write(&bench, &shard, from, 1, &expiring);
    let [(at, _, version)] = writes(&bench, second)[..] else { panic!("one write") };
    answer(&bench, &shard, second, at, WriteAnswer::Applied);
    pass(&bench, &shard, 1_500);
    let third = comes(&bench, &shard, 3);
    let delivered = take_all(&bench, &shard, third);
    assert_eq!(delivered, [(b"v".to_vec(), version)]);
    assert!(version.flags.0 & VersionFlags::EXPIRES != 0 && version.expiry_ms < bench.wall_ms());
    // The replica that gets it takes it, and shows it to nobody.
    let target = open(&bench, patient(3)).expect("the same disk will do");
    let coordinator = peer(&bench, &target);
    let message =
        PeerMessage::ReplicaWrite { vnode_epoch: Epoch(1), key: Key::plain(b"k"), version, value: b"v" };
    receive(&target, coordinator, &message_frame(5, 0, &message));
    target.on_batch_end();
    bench.run();
    bench.frames(coordinator);
    let reader = client(&bench, &target);
    receive(&target, reader, &request_frame(6, &get(b"k", Level::One)));
    bench.run();
    let (header, _) = bench.frames(reader).remove(0);
    assert_eq!(header.kind, FrameKind::Absent);
}

#[test]
fn delivery_is_paused_and_resumed_by_request() {
    let (bench, shard, second, from) = without_the_third(patient(3));
    write(&bench, &shard, from, 1, &put(b"k", b"v", Level::Quorum));
    let [(at, ..)] = writes(&bench, second)[..] else { panic!("one write") };
    answer(&bench, &shard, second, at, WriteAnswer::Applied);
    bench.frames(from);
    let ask = |action| {
        receive(&shard, from, &request_frame(7, &Request::Hints(action)));
        let (header, body) = bench.frames(from).remove(0);
        match Reply::decode(header.kind, &body) {
            Ok(Reply::Status(text)) => text.to_owned(),
            other => panic!("{other:?} tells nothing of hints"),
        }
    };
    assert!(ask(HintsAction::Tell).contains("hints.for.n3 waiting count=1"));
    assert!(ask(HintsAction::Pause).contains("hints.paused true"));
    let third = comes(&bench, &shard, 3);
    assert_eq!(take_all(&bench, &shard, third), []);
    assert!(ask(HintsAction::Tell).contains("hints.for.n3 paused count=1"));
    assert!(ask(HintsAction::Resume).contains("hints.paused false"));
    assert_eq!(take_all(&bench, &shard, third).len(), 1);
    assert!(ask(HintsAction::Tell).contains("hints.for.n3 empty count=0 bytes=0"));
}
