//! Looking first at what is there, while a core keeps a record from afar in mind.

use ferrite_lsm::{Directory, FileName};
use ferrite_wire::{Actor, ErrorCode, Version, WriteAnswer};

use super::clocks::{own_write, replica_write_of};
use super::*;
use crate::shard::record::{engine_key, version_of};

const HOUR_MS: u64 = 3_600_000;
const KEYS: u64 = 200;

/// A replica with so many keys, all of which lie on its disk.
fn with_keys_on_disk() -> (Bench, Rc<Shard<Bench>>) {
    let bench = Bench::new(MemDisk::new());
    let mut settings = settings(2, 1, 2);
    (settings.engine.memtable_bytes, settings.engine.cache_bytes) = (32 * 1024, 0);
    let shard = open(&bench, settings).expect("an empty disk opens");
    let client = client(&bench, &shard);
    // What is written again and again at last has all else in tables.
    for number in (0..KEYS).chain([KEYS; 40]) {
        receive(&shard, client, &request_frame(1, &put(&number.to_le_bytes(), &[7; 1_000], Level::One)));
        pass(&bench, &shard, 1);
    }
    pass(&bench, &shard, 100);
    (bench, shard)
}

/// The version of a key's record; `Err` = it cannot be read.
fn stored(shard: &Shard<Bench>, name: &[u8]) -> Result<Version, ferrite_lsm::ReadError> {
    let key = Key::plain(name);
    let route = shard.route(&key).expect("a table");
    let found = block_on(shard.engine.read(engine_key(&key, route.vnode, route.token)))?;
    Ok(version_of(&found.expect("written").record()))
}

/// Some other key has a record from afar.
fn keep_in_mind(bench: &Bench, shard: &Shard<Bench>) {
    shard.afar.raise(Order::from_wall_ms(bench.wall_ms() + HOUR_MS));
}

/// What was found lay beneath what was sent, and was from afar by a clock that had been set back while it was read: a hint was refused for it, and counted as
/// delivered.
#[test]
fn what_lies_beneath_a_share_is_not_in_its_way_though_the_clock_is_set_back_while_it_is_looked_for() {
    let (bench, shard) = with_keys_on_disk();
    keep_in_mind(&bench, &shard);
    let from = peer(&bench, &shard);
    let names = [0, 1].map(u64::to_le_bytes);
    let [beneath, above] = [0, 1].map(|at| stored(&shard, &names[at]).expect("a sound disk").order.0);
    bench.0.disk.defer();
    for (number, order) in [(0, beneath + 1), (1, above - 1)] {
        let version = Version { order: Order(order), actor: Actor(3), ..Version::default() };
        let (vnode_epoch, key) = (Epoch(1), Key::plain(&names[number]));
        let share = PeerMessage::ReplicaWrite { vnode_epoch, key, version, value: b"theirs" };
        receive(&shard, from, &message_frame(number as u64, 1_000_000, &share));
    }
    bench.run();
    assert_eq!(shard.disk_reads.get(), 2, "both are looked for");
    bench.0.wall_ms.set(bench.wall_ms() - HOUR_MS);
    for _ in 0..ROUNDS {
        bench.0.disk.complete_all();
        shard.on_batch_end();
        bench.run();
    }
    let mut answers = bench.frames(from);
    answers.sort_by_key(|(header, _)| header.request.0);
    let answers: Vec<_> =
        answers.iter().map(|(header, body)| PeerMessage::decode(header.kind, body)).collect();
    let expected = [WriteAnswer::Applied, WriteAnswer::Refused(ErrorCode::ClockDrift)];
    assert_eq!(answers, expected.map(|answer| Ok(PeerMessage::ReplicaWriteAnswer(answer))));
}

/// A key of this store whose place on the disk is damaged.
fn damage_one(bench: &Bench, shard: &Shard<Bench>, store: u16) -> [u8; 8] {
    let files = bench.0.disk.list(Directory::Store(store));
    let tables = files.into_iter().filter(|(name, _)| matches!(name, FileName::Table { .. }));
    let (table, bytes) = tables.max_by_key(|(_, bytes)| *bytes).expect("memtables were flushed");
    // Behind the hints.
    assert!(bench.0.disk.corrupt(table, bytes / 4 * 3, 0x10));
    let mut names = (0..KEYS).map(u64::to_le_bytes);
    names.find(|name| stored(shard, name).is_err()).expect("some key was there")
}

/// What a peer sends heals a key whose place is damaged. Where it was to be looked at first it was refused for the damage as long as some other record from afar
/// was kept in mind, and no hint behind it was delivered. In the store that has the hints, whose times were of another scale than orders and above all of them, nobody could
/// tell what is newer than what was lost, and the key stayed as it was.
#[test]
fn what_a_peer_sends_heals_a_damaged_key_though_a_record_from_afar_is_kept_in_mind() {
    for store in [0, 1] {
        let (bench, shard) = with_keys_on_disk();
        assert!(shard.hints_owed() > KEYS / 2, "the other node is away");
        let name = damage_one(&bench, &shard, store);
        keep_in_mind(&bench, &shard);
        let (from, order) = (peer(&bench, &shard), Order::from_wall_ms(bench.wall_ms()));
        assert_eq!(replica_write_of(&bench, &shard, from, &name, order, b"theirs"), WriteAnswer::Applied);
        assert_eq!(stored(&shard, &name).map(|version| version.order), Ok(order), "store {store}");
    }
}

/// A client was told the code for the damage, which leaves a write in doubt, though nothing had been minted or sent: it did not go on to another node, where the
/// write could have been done.
#[test]
fn a_write_is_not_applied_where_a_damaged_key_cannot_be_looked_at() {
    let (bench, shard) = with_keys_on_disk();
    let name = damage_one(&bench, &shard, 1);
    keep_in_mind(&bench, &shard);
    assert_eq!(own_write(&bench, &shard, &name), Err(ErrorCode::Unavailable));
    assert!(ErrorCode::Unavailable.says_not_applied() && !ErrorCode::Damaged.says_not_applied());
    assert!(!shard.engine.has_staged());
}
