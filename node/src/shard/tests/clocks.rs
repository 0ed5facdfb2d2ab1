//! Wall clocks that are wrong: here, and on other nodes.

use ferrite_lsm::mem_disk::CrashMode;
use ferrite_lsm::{Record, RecordFlags};
use ferrite_wire::{Actor, ErrorCode, ReadWant, ReplicaAnswer, Reply, Version, WriteAnswer};

use super::cluster::Cluster;
use super::coordinator::{Coordinator, What};
use super::*;
use crate::shard::clock_bounds::{Bound, BoundKey};

const HOUR_MS: u64 = 3_600_000;

/// The version of a write through a node, or why it was refused.
fn write(cluster: &mut Cluster, node: usize, key: &[u8], level: Level) -> Result<Order, (ErrorCode, String)> {
    let place = cluster.place(node, 0);
    let connection = client(&place.bench, &place.shard);
    receive(&place.shard, connection, &request_frame(1, &put(key, b"v", level)));
    for _ in 0..100 {
        cluster.run_for(5);
        if let Some((header, body)) = cluster.place(node, 0).bench.frames(connection).pop() {
            return match Reply::decode(header.kind, &body).expect("a reply") {
                Reply::Done { version, .. } => Ok(version.order),
                Reply::Error { code, text } => Err((code, text.to_owned())),
                other => panic!("{other:?}"),
            };
        }
    }
    panic!("no answer within half a second");
}

fn set_ahead(cluster: &Cluster, node: usize, ms: i64) {
    let bench = &cluster.place(node, 0).bench;
    bench.0.wall_ms.set(bench.wall_ms().saturating_add_signed(ms));
}

fn line(shard: &Shard<Bench>, name: &str) -> String {
    let status = shard.status();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no line {name} in\n{status}")).to_owned()
}

/// One node whose clock was an hour ahead minted a version, and every node that heard of it refused all writes for an hour.
#[test]
fn a_node_whose_clock_is_ahead_of_most_mints_nothing_and_the_others_go_on() {
    let mut cluster = Cluster::formed(3, 1);
    for node in 0..3 {
        write(&mut cluster, node, b"before", Level::Quorum).expect("clocks are in step");
    }
    set_ahead(&cluster, 2, HOUR_MS as i64);
    // At once: it has heard nothing since.
    let (code, text) = write(&mut cluster, 2, b"k", Level::One).expect_err("its clock is ahead");
    assert_eq!(code, ErrorCode::ClockDrift);
    assert!(text.contains("ahead of most others'"), "{text}");
    cluster.run_for(2_000);
    let said = line(&cluster.place(2, 0).shard, "wall_clock");
    assert!(said.starts_with("ahead of most of 2 others by 3") && said.contains("set it right"), "{said}");
    for node in [0, 1] {
        let wall_ms = cluster.place(node, 0).bench.wall_ms();
        // The third takes part as a replica.
        let minted = write(&mut cluster, node, b"k", Level::All).expect("the others go on");
        assert!(minted.wall_ms() <= wall_ms + 500);
        assert_eq!(line(&cluster.place(node, 0).shard, "wall_clock"), "not ahead of most of 2 others");
    }
    set_ahead(&cluster, 2, -(HOUR_MS as i64));
    write(&mut cluster, 2, b"k", Level::Quorum).expect("it goes on by itself");
}

/// A node an hour behind minted below what the others had: they took its writes, told that they were done, and kept what they had.
#[test]
fn a_node_whose_clock_is_behind_most_mints_nothing_either() {
    let mut cluster = Cluster::formed(3, 1);
    for node in 0..3 {
        write(&mut cluster, node, b"before", Level::Quorum).expect("clocks are in step");
    }
    set_ahead(&cluster, 2, -(HOUR_MS as i64));
    let (code, text) = write(&mut cluster, 2, b"k", Level::One).expect_err("its clock is behind");
    assert_eq!(code, ErrorCode::ClockDrift);
    assert!(text.contains("behind most others'"), "{text}");
    let said = line(&cluster.place(2, 0).shard, "wall_clock");
    assert!(said.starts_with("behind most of 2 others by 3"), "{said}");
    write(&mut cluster, 0, b"k", Level::All).expect("the others go on");
    set_ahead(&cluster, 2, HOUR_MS as i64);
    write(&mut cluster, 2, b"k", Level::Quorum).expect("it goes on by itself");
}

/// It may have been right, and the others wrong.
#[test]
fn a_node_goes_on_when_the_others_have_been_set_to_its_time() {
    let mut cluster = Cluster::formed(3, 1);
    set_ahead(&cluster, 2, HOUR_MS as i64);
    write(&mut cluster, 2, b"k", Level::One).expect_err("its clock is ahead");
    set_ahead(&cluster, 0, HOUR_MS as i64);
    set_ahead(&cluster, 1, HOUR_MS as i64);
    cluster.run_for(1_000);
    write(&mut cluster, 2, b"k", Level::One).expect("the next pings have told");
}

/// Nobody can tell which of two is wrong. The one that is ahead goes on, and pushes nothing but the keys that it writes.
#[test]
fn of_two_nodes_both_go_on_but_for_the_keys_that_the_one_ahead_has_written() {
    let mut cluster = Cluster::formed(2, 1);
    set_ahead(&cluster, 1, HOUR_MS as i64);
    // Its bound follows.
    cluster.run_for(100);
    let far = write(&mut cluster, 1, b"k", Level::All).expect("of two none is ahead");
    let wall_ms = cluster.place(0, 0).bench.wall_ms();
    assert!(far.wall_ms() >= wall_ms + HOUR_MS - 1_000);
    cluster.run_for(1_000);
    let minted = write(&mut cluster, 0, b"another", Level::One).expect("its clock has not followed");
    assert!(minted.wall_ms() < wall_ms + 10_000);
    write(&mut cluster, 0, b"another", Level::All).expect("the one ahead takes it");
    let (code, text) = write(&mut cluster, 0, b"k", Level::One).expect_err("it would lose to what is there");
    assert_eq!(code, ErrorCode::ClockDrift);
    assert!(text.contains("the key holds"), "{text}");
    assert_ne!(line(&cluster.place(0, 0).shard, "wall_clock.records_afar_until_ms"), "0");
    set_ahead(&cluster, 0, HOUR_MS as i64);
    cluster.run_for(100);
    assert!(write(&mut cluster, 0, b"k", Level::All).expect("its time has come") > far);
}

fn replica_write(
    bench: &Bench,
    shard: &Shard<Bench>,
    from: Connection,
    key: &[u8],
    order: Order,
) -> WriteAnswer {
    replica_write_of(bench, shard, from, key, order, b"theirs")
}

pub(super) fn replica_write_of(
    bench: &Bench,
    shard: &Shard<Bench>,
    from: Connection,
    key: &[u8],
    order: Order,
    value: &[u8],
) -> WriteAnswer {
    let version = Version { order, actor: Actor(3), ..Version::default() };
    let (vnode_epoch, key) = (Epoch(0), Key::plain(key));
    let message = PeerMessage::ReplicaWrite { vnode_epoch, key, version, value };
    receive(shard, from, &message_frame(1, 0, &message));
    pass(bench, shard, 1);
    let (header, body) = bench.frames(from).pop().expect("an answer");
    match PeerMessage::decode(header.kind, &body) {
        Ok(PeerMessage::ReplicaWriteAnswer(answer)) => answer,
        other => panic!("{other:?}"),
    }
}

/// The order of a write at ONE, of which this node is a replica.
pub(super) fn own_write(bench: &Bench, shard: &Shard<Bench>, key: &[u8]) -> Result<Order, ErrorCode> {
    let connection = client(bench, shard);
    receive(shard, connection, &request_frame(1, &put(key, b"ours", Level::One)));
    pass(bench, shard, 1);
    let (header, body) = bench.frames(connection).pop().expect("an answer");
    match Reply::decode(header.kind, &body).expect("a reply") {
        Reply::Done { version, .. } => Ok(version.order),
        Reply::Error { code, .. } => Err(code),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_record_from_afar_is_applied_and_its_key_alone_takes_no_writes_after_a_restart_too() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(2, 1, 2)).expect("an empty disk opens");
    let far = Order::from_wall_ms(bench.wall_ms() + HOUR_MS);
    let near = || Order::from_wall_ms(bench.wall_ms());
    let from = peer(&bench, &shard);
    assert_eq!(replica_write(&bench, &shard, from, b"k", near()), WriteAnswer::Applied);
    assert_eq!(replica_write(&bench, &shard, from, b"k", far), WriteAnswer::Applied);
    assert_eq!(shard.clock.borrow().latest().wall_ms(), bench.wall_ms() - 2, "the clock has not followed");
    let check = |shard: &Shard<Bench>| {
        let from = peer(&bench, shard);
        let refused = WriteAnswer::Refused(ErrorCode::ClockDrift);
        assert_eq!(replica_write(&bench, shard, from, b"k", near()), refused);
        assert_eq!(own_write(&bench, shard, b"k"), Err(ErrorCode::ClockDrift));
        assert_eq!(replica_write(&bench, shard, from, b"another", near()), WriteAnswer::Applied);
        assert!(
            own_write(&bench, shard, b"another").expect("not that key").wall_ms() < far.wall_ms() - 1_000_000
        );
        // What is further ahead still is data like the first.
        assert_eq!(replica_write(&bench, shard, from, b"k", Order(far.0 + 1)), WriteAnswer::Applied);
    };
    check(&shard);
    drop(shard);
    let shard = open(&bench, settings(2, 1, 2)).expect("the same data");
    check(&shard);
    bench.0.wall_ms.set(far.wall_ms());
    pass(&bench, &shard, 100);
    assert!(own_write(&bench, &shard, b"k").expect("its time has come") > far);
}

/// The log had no room for it, and it counted as written: the record came again and was taken without one. After a restart nobody looked, and what was written
/// to its key was acknowledged and hidden.
#[test]
fn a_mark_of_a_record_from_afar_that_the_log_refused_is_written_with_the_next() {
    // As many writes as fit into the log of a full disk, so that it is the commit that finds no room.
    let at_the_edge = (0..40u8).find_map(|fits| {
        let bench = Bench::new(MemDisk::new());
        let shard = open(&bench, settings(2, 1, 2)).expect("an empty disk opens");
        let from = peer(&bench, &shard);
        bench.0.disk.set_full(true);
        for number in 0..fits {
            let order = Order::from_wall_ms(bench.wall_ms());
            let answer = replica_write_of(&bench, &shard, from, &[number], order, &[7; 20_000]);
            assert_eq!(answer, WriteAnswer::Applied);
        }
        let far = Order::from_wall_ms(bench.wall_ms() + HOUR_MS);
        let answer = replica_write_of(&bench, &shard, from, b"k", far, &[7; 50_000]);
        (answer == WriteAnswer::Refused(ErrorCode::DiskFull)).then_some((bench, shard, from, far))
    });
    let (bench, shard, from, far) = at_the_edge.expect("the disk is full");
    assert!(shard.afar.mark() > far, "the mark was staged");
    bench.0.disk.set_full(false);
    pass(&bench, &shard, 2_000);
    assert_eq!(replica_write(&bench, &shard, from, b"k", far), WriteAnswer::Applied);
    drop(shard);
    let shard = open(&bench, settings(2, 1, 2)).expect("the same data");
    assert_eq!(own_write(&bench, &shard, b"k"), Err(ErrorCode::ClockDrift));
}

#[test]
fn a_frame_from_afar_moves_no_clock() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(2, 1, 2)).expect("an empty disk opens");
    let from = peer(&bench, &shard);
    let key = Key::plain(b"k");
    let message = PeerMessage::ReplicaRead { want: ReadWant::Digest, vnode_epoch: Epoch(0), key };
    let mut frame = Vec::new();
    let start = start_frame(&mut frame);
    message.encode(&mut frame);
    let time = Order::from_wall_ms(bench.wall_ms() + HOUR_MS);
    let header = FrameHeader {
        kind: message.kind(),
        flags: FrameFlags(0),
        deadline_us: 0,
        request: RequestId(1),
        time,
    };
    finish_frame(&mut frame, start, &header);
    receive(&shard, from, &frame);
    let wall_ms = bench.wall_ms();
    let minted = own_write(&bench, &shard, b"k").expect("a peer's time is not believed");
    assert_eq!(minted.wall_ms(), wall_ms);
}

/// It would have been sent again and again, and the read would have failed.
#[test]
fn a_repair_beneath_a_record_from_afar_is_done_with() {
    let mut node = Coordinator::new(3, 3);
    let name = node.key(true);
    let key = Key::plain(&name);
    let version = |order| Version { order: Order(order), actor: Actor(3), ..Version::default() };
    node.store(key, version(8), b"new");
    node.get(key, Level::Quorum);
    let other = node.only_asked();
    node.answer_read(&other, ReplicaAnswer::Digest { version: version(7) });
    let repair = node.only_asked();
    assert!(matches!(repair.what, What::Write(..)));
    node.answer_write(&repair, WriteAnswer::Refused(ErrorCode::ClockDrift));
    assert_eq!(node.told(), [Ok(Some(b"new".to_vec()))]);
}

#[test]
fn a_record_from_afar_that_a_read_repairs_here_is_kept_in_mind() {
    let mut node = Coordinator::new(3, 3);
    let name = node.key(true);
    let key = Key::plain(&name);
    let far = Order::from_wall_ms(node.bench.wall_ms() + HOUR_MS);
    let version = Version { order: far, actor: Actor(3), ..Version::default() };
    node.get(key, Level::Quorum);
    let other = node.only_asked();
    node.answer_read(&other, ReplicaAnswer::Digest { version });
    let other = node.only_asked();
    node.answer_read(&other, ReplicaAnswer::Full { version, value: b"far" });
    node.settle();
    assert_eq!(node.told(), [Ok(Some(b"far".to_vec()))]);
    assert_eq!(own_write(&node.bench, &node.shard, &name), Err(ErrorCode::ClockDrift));
}

/// A hint would be refused as the write was, and the write has lost there already.
#[test]
fn a_replica_that_refuses_beneath_a_record_from_afar_is_owed_no_hint() {
    let node = Coordinator::new(3, 3);
    let name = node.key(true);
    receive(&node.shard, node.client, &request_frame(1, &put(&name, b"v", Level::One)));
    let asked = node.asked();
    assert_eq!(asked.len(), 2);
    node.answer_write(&asked[0], WriteAnswer::Refused(ErrorCode::ClockDrift));
    node.settle();
    node.answer_write(&asked[1], WriteAnswer::Refused(ErrorCode::DiskFull));
    node.settle();
    assert_eq!(node.shard.hints_owed(), 1, "to the other one");
}

/// The clock was set right before anything was written; the next start waited for the hour that it had been ahead.
#[test]
fn a_node_that_was_started_with_its_clock_ahead_does_not_wait_once_it_is_set_right() {
    let bench = Bench::new(MemDisk::new());
    let right_ms = bench.wall_ms();
    bench.0.wall_ms.set(right_ms + HOUR_MS);
    let shard = open(&bench, settings(1, 1, 2)).expect("an empty disk opens");
    bench.0.wall_ms.set(right_ms);
    pass(&bench, &shard, 100);
    drop(shard);
    let shard = open(&bench, settings(1, 1, 2)).expect("the same data");
    let minted = own_write(&bench, &shard, b"k").expect("nothing was minted ahead");
    assert!(minted.wall_ms() < right_ms + 10_000);
}

/// Its bound would have followed its clock, and with that set right the next start would have waited.
#[test]
fn the_bound_of_a_node_that_is_ahead_goes_by_the_others() {
    let mut cluster = Cluster::formed(3, 1);
    set_ahead(&cluster, 2, HOUR_MS as i64);
    cluster.run_for(5_000);
    let clock = cluster.place(2, 0).shard.clock.borrow().clone();
    let right_ms = cluster.place(2, 0).bench.wall_ms() - HOUR_MS;
    let mut right = clock;
    assert!(right.mint(right_ms, Order(0)).is_ok());
    assert!(right.mint(right_ms + 2_000, Order(0)).is_err(), "the bound is near");
}

#[test]
fn nothing_expires_by_a_clock_that_is_ahead_of_most_or_was_not_compared() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(3, 1, 2)).expect("an empty disk opens");
    assert_eq!(shard.expired_ms(bench.now_ns()), None, "its clock may be an hour ahead");
    let (now_ms, others_ms) = (bench.now_ns() / MS, bench.wall_ms() - HOUR_MS);
    for node in [2, 3] {
        shard.walls.borrow_mut().tell(now_ms, NodeId(node), now_ms, others_ms);
    }
    assert_eq!(shard.expired_ms(bench.now_ns()), Some(others_ms - 500));
    for node in [2, 3] {
        shard.walls.borrow_mut().tell(now_ms, NodeId(node), now_ms, bench.wall_ms() + 100);
    }
    // A clock that is believed again is not further ahead than most.
    assert!(shard.expired_ms(bench.now_ns()).is_some_and(|ms| ms < bench.wall_ms()));
}

/// It minted by its own clock until two others had answered, which nobody could beat for as long as that was ahead.
#[test]
fn a_node_that_starts_with_its_clock_ahead_mints_nothing_before_it_was_compared() {
    let mut cluster = Cluster::new(3, 1);
    set_ahead(&cluster, 2, HOUR_MS as i64);
    cluster.set_cut_off(2, true);
    let (code, text) = write(&mut cluster, 2, b"k", Level::One).expect_err("nobody has told it the time");
    assert_eq!(code, ErrorCode::ClockDrift);
    assert!(text.contains("just started"), "{text}");
    assert!(line(&cluster.place(2, 0).shard, "wall_clock").contains("no writes are coordinated yet"));
    cluster.set_cut_off(2, false);
    cluster.until(1_500, |cluster| {
        line(&cluster.place(2, 0).shard, "wall_clock").starts_with("ahead of most of 2 others")
    });
    let (_, text) = write(&mut cluster, 2, b"k", Level::One).expect_err("its clock is ahead");
    assert!(text.contains("ahead of most others'"), "{text}");
    cluster.run_for(5_000);
    write(&mut cluster, 2, b"k", Level::One).expect_err("however long it waits");
    write(&mut cluster, 0, b"k", Level::All).expect("the others go on");
}

/// Of three the two that agree are believed: nobody has to wait for a third that is away.
#[test]
fn a_node_that_starts_beside_one_that_is_in_step_mints_after_the_first_handshake() {
    let mut cluster = Cluster::new(3, 1);
    cluster.set_cut_off(2, true);
    cluster.until(100, |cluster| cluster.place(0, 0).shard.walls.borrow().others() == 1);
    write(&mut cluster, 0, b"k", Level::Quorum).expect("the two of them are in step");
}

#[test]
fn a_node_that_starts_while_all_others_are_away_serves_its_own_copies_after_a_moment() {
    let mut cluster = Cluster::new(3, 1);
    cluster.set_cut_off(0, true);
    write(&mut cluster, 0, b"k", Level::One).expect_err("they may tell it the time yet");
    cluster.run_for(2_000);
    write(&mut cluster, 0, b"k", Level::One).expect("nobody has");
}

/// A core of a node of so many, of data that is laid out for so many cores.
fn laid_out(bench: &Bench, nodes: u16, cores: u16, core: u16) -> ShardSettings {
    let settings = settings(nodes, cores, 2);
    laid_out_by(&settings.engine.clone(), bench, settings, (cores, 2), core)
}

/// What a process leaves that is killed, with the clock going on.
fn killed(bench: &Bench) -> Bench {
    let later = Bench::new(bench.0.disk.crash(CrashMode::All, &mut || 1));
    bench.0.tasks.borrow_mut().clear();
    later.0.wall_ms.set(bench.wall_ms());
    later
}

/// All cores had one record for their clocks. When the number of cores changed, that of the core that had raised it most often stayed, which need not be the
/// highest one: the first write after that lost to an earlier one, though it was acknowledged.
#[test]
fn after_a_change_of_the_core_count_the_clock_goes_on_above_those_of_all_cores() {
    let tolerant = |bench: &Bench, cores, core| {
        let mut settings = laid_out(bench, 1, cores, core);
        settings.clock_drift_max_ms = 4 * HOUR_MS;
        settings
    };
    let disk = MemDisk::new();
    let [first, second] = [0, 1].map(|_| Bench::new(disk.clone()));
    let second_shard = open(&second, tolerant(&second, 2, 1)).expect("laid out for it");
    // The one that comes last, and raises its bound again and again.
    pass(&second, &second_shard, 10_000);
    first.0.wall_ms.set(first.wall_ms() + 2 * HOUR_MS);
    let first_shard = open(&first, tolerant(&first, 2, 0)).expect("laid out for it");
    let is_here =
        |name: &[u8; 1]| first_shard.route(&Key::plain(name)).is_ok_and(|route| route.hop.is_none());
    let name = (0..u8::MAX).map(|letter| [letter]).find(is_here).expect("this core has some key");
    pass(&first, &first_shard, 10);
    let far = own_write(&first, &first_shard, &name).expect("within the drift");
    assert!(far.wall_ms() > second.wall_ms() + HOUR_MS);
    let bench = killed(&second);
    drop((first_shard, second_shard));
    let shard = open(&bench, tolerant(&bench, 1, 0)).expect("laid out for it");
    pass(&bench, &shard, 10);
    let next = own_write(&bench, &shard, &name).expect("within the drift");
    assert!(next > far, "{next:?} loses to {far:?}");
    // The same where it changes again before anything was written.
    let bench = killed(&bench);
    for (cores, core) in [(2, 1), (1, 0)] {
        let shard = open(&bench, tolerant(&bench, cores, core)).expect("laid out for it");
        assert!(shard.clock.borrow().clone().mint(bench.wall_ms(), Order(0)).is_ok_and(|order| order > next));
    }
}

/// It began by its wall clock, as if it had never minted anything.
#[test]
fn where_it_is_not_known_what_was_minted_before_others_are_asked_and_the_clock_begins_above_it() {
    for (nodes, is_own) in [(3, true), (3, false), (1, true)] {
        let bench = Bench::new(MemDisk::new());
        let both =
            [0, 1].map(|core| open(&bench, laid_out(&bench, nodes, 2, core)).expect("laid out for it"));
        let write = |shard: &Shard<Bench>, value: &[u8]| {
            let key = BoundKey::of(&shard.settings);
            let record = Record { order: 5, actor: 0, flags: RecordFlags(0), expiry_ms: 0, value };
            shard.engine.stage(key.key(), record, 0).expect("taken");
            block_on(shard.engine.commit()).expect("a sound disk");
        };
        // As if there had been a third core, and its record had been passed over for damage.
        write(&both[0], &Bound { bound: Order(1), cores: 3, is_known: true }.encode());
        drop(both);
        let bench = killed(&bench);
        let mut shard = open(&bench, laid_out(&bench, nodes, 1, 0)).expect("laid out for it");
        if is_own {
            // From here on that of this layout would count; but it is none.
            write(&shard, b"x");
            drop(shard);
            shard = open(&bench, laid_out(&bench, nodes, 1, 0)).expect("laid out for it");
        }
        if nodes > 2 {
            pass(&bench, &shard, 100);
            assert_eq!(own_write(&bench, &shard, b"k"), Err(ErrorCode::ClockDrift));
            assert!(shard.drift_text().contains("cannot be read"));
            let (now_ms, wall_ms) = (bench.now_ns() / MS, bench.wall_ms());
            shard.walls.borrow_mut().tell(now_ms, NodeId(2), now_ms, wall_ms);
        }
        let judged_ms = bench.wall_ms();
        pass(&bench, &shard, 900);
        assert_eq!(
            own_write(&bench, &shard, b"k"),
            Err(ErrorCode::ClockDrift),
            "a clock behind this may come"
        );
        pass(&bench, &shard, 200);
        let minted = own_write(&bench, &shard, b"k").expect("and goes on by itself");
        assert!(minted.wall_ms() >= judged_ms + 1_500);
        drop(shard);
        let shard = open(&bench, laid_out(&bench, nodes, 1, 0)).expect("laid out for it");
        assert!(shard.is_bound_known, "its own record is there now");
    }
}

/// A node that does not know what it minted in an earlier life, and is to be one of three, of one core.
fn not_knowing() -> Bench {
    let bench = Bench::new(MemDisk::new());
    let both = [0, 1].map(|core| open(&bench, laid_out(&bench, 3, 2, core)).expect("laid out for it"));
    // One core of two did not know, and was started as one of another number before it did.
    let value = Bound { bound: Order(1), cores: 2, is_known: false }.encode();
    let record = Record { order: 5, actor: 0, flags: RecordFlags(0), expiry_ms: 0, value: &value };
    both[0].engine.stage(BoundKey::of(&both[0].settings).key(), record, 0).expect("taken");
    block_on(both[0].engine.commit()).expect("a sound disk");
    drop(both);
    killed(&bench)
}

/// A node that did not know how far it had come wrote its first bound at once, as if it knew: started again before the others had told it the time, it minted
/// by its own clock, below what it had minted before.
#[test]
fn what_is_not_known_of_a_clock_stays_so_over_restarts_until_others_have_told_the_time() {
    let mut bench = not_knowing();
    // Some lives are long enough for bounds to be raised.
    for life_ms in [10, 5_000, 10] {
        let shard = open(&bench, laid_out(&bench, 3, 1, 0)).expect("laid out for it");
        pass(&bench, &shard, life_ms);
        assert!(!shard.is_bound_known);
        assert_eq!(shard.mint(Order(0)), Err(ErrorCode::ClockDrift), "nobody has told it the time");
        drop(shard);
        bench = killed(&bench);
    }
    let shard = open(&bench, laid_out(&bench, 3, 1, 0)).expect("laid out for it");
    let (now_ms, wall_ms) = (bench.now_ns() / MS, bench.wall_ms());
    shard.walls.borrow_mut().tell(now_ms, NodeId(2), now_ms, wall_ms);
    pass(&bench, &shard, 1_100);
    let minted = shard.mint(Order(0)).expect("it was told");
    assert!(minted.wall_ms() >= wall_ms + 1_500, "above all that it may have minted before");
    drop(shard);
    let bench = killed(&bench);
    let shard = open(&bench, laid_out(&bench, 3, 1, 0)).expect("laid out for it");
    assert!(shard.is_bound_known, "once is enough");
}

/// As soon as others had told it the time, it wrote that it knew, with the bound that its own clock had come to. That lies below what it began above where the
/// tolerated drift is long, and the next life went by it: it minted below what the node had minted before its bound was lost.
#[test]
fn a_bound_is_not_told_as_known_while_it_lies_below_what_may_have_been_minted() {
    const DRIFT_MS: u64 = 5_000;
    let tolerant = |bench: &Bench| {
        let mut settings = laid_out(bench, 3, 1, 0);
        settings.clock_drift_max_ms = DRIFT_MS;
        open(bench, settings).expect("laid out for it")
    };
    let tell = |bench: &Bench, shard: &Shard<Bench>| {
        let (now_ms, wall_ms) = (bench.now_ns() / MS, bench.wall_ms());
        shard.walls.borrow_mut().tell(now_ms, NodeId(2), now_ms, wall_ms);
    };
    let mut bench = not_knowing();
    // Minted by the life whose bound is lost: its clock was ahead as far as is tolerated, and followed one that was, too.
    let lost = Order::from_wall_ms(bench.wall_ms() + 2 * DRIFT_MS);
    for life_ms in [10, 1_100, 3_000] {
        let shard = tolerant(&bench);
        tell(&bench, &shard);
        pass(&bench, &shard, life_ms);
        assert!(!shard.is_bound_known, "it has not come so far yet");
        assert_eq!(shard.mint(Order(0)), Err(ErrorCode::ClockDrift));
        drop(shard);
        bench = killed(&bench);
    }
    let shard = tolerant(&bench);
    tell(&bench, &shard);
    pass(&bench, &shard, 2 * DRIFT_MS + 1_000);
    assert!(shard.mint(Order(0)).expect("its time has come") > lost);
    drop(shard);
    bench = killed(&bench);
    let shard = tolerant(&bench);
    assert!(shard.is_bound_known, "and it is told then");
    pass(&bench, &shard, 1_100);
    assert!(shard.mint(Order(0)).expect("at once") > lost);
}

/// Minted by nobody's wrong clock, an expiry was judged by one: a node that was set back showed again for an hour what had expired everywhere, and one
/// that was set ahead had lost what lives.
#[test]
fn a_node_whose_clock_is_wrong_shows_nothing_again_that_has_expired_and_hides_nothing_that_lives() {
    let mut cluster = Cluster::formed(3, 1);
    let place = cluster.place(0, 0);
    let connection = client(&place.bench, &place.shard);
    for (number, key, ttl_ms) in [(1, &b"short"[..], 1_000), (2, b"long", 10 * 60_000)] {
        let (epoch, level, options) = (Epoch(0), Level::All, 0);
        let put =
            Request::Put { epoch, level, options, key: Key::plain(key), ttl_ms, context: b"", value: b"v" };
        receive(&cluster.place(0, 0).shard, connection, &request_frame(number, &put));
        cluster.run_for(50);
    }
    cluster.run_for(2_000);
    let kinds = |cluster: &Cluster| {
        let place = cluster.place(2, 0);
        let connection = client(&place.bench, &place.shard);
        [&b"short"[..], b"long"].map(|key| {
            receive(&place.shard, connection, &request_frame(9, &get(key, Level::One)));
            place.bench.frames(connection)[0].0.kind
        })
    };
    assert_eq!(kinds(&cluster), [FrameKind::Absent, FrameKind::Value]);
    set_ahead(&cluster, 2, -(HOUR_MS as i64));
    assert_eq!(kinds(&cluster), [FrameKind::Absent, FrameKind::Value], "an hour behind");
    set_ahead(&cluster, 2, 2 * HOUR_MS as i64);
    assert_eq!(kinds(&cluster), [FrameKind::Absent, FrameKind::Value], "an hour ahead");
}
