//! What a shard finds when it opens.

use ferrite_lsm::mem_disk::MemDisk;
use ferrite_wire::{Level, Reply, VnodeId};

use super::*;

/// With two cores, other `stores` deal the vnodes to other cores: data that core 0 holds would be looked for on core 1, and
/// acknowledged records would be gone from sight without a word.
#[test]
fn data_laid_out_for_another_number_of_stores_is_refused() {
    let bench = Bench::new(MemDisk::new());
    let shard = open(&bench, settings(1, 2, 4)).expect("an empty disk opens");
    drop(shard);
    let refused = open(&bench, settings(1, 2, 7)).expect_err("vnodes would be looked for elsewhere");
    assert!(matches!(refused, OpenError::MovedVnode(_)), "{refused}");
    open(&bench, settings(1, 2, 4)).expect("as it was");
}

/// Another member takes vnodes over in the configuration alone: nobody has moved their records.
#[test]
fn data_laid_out_for_other_members_is_refused() {
    let bench = Bench::new(MemDisk::new());
    drop(open(&bench, settings(3, 1, 2)).expect("an empty disk opens"));
    assert!(matches!(open(&bench, settings(5, 1, 2)), Err(OpenError::MovedVnode(_))));
    drop(open(&bench, settings(3, 1, 2)).expect("as it was"));
}

/// On one core more stores change nothing: vnodes stay in the stores they are in.
#[test]
fn stores_may_be_added_on_one_core() {
    let bench = Bench::new(MemDisk::new());
    let first = open(&bench, settings(1, 1, 2)).expect("an empty disk opens");
    let before: Vec<_> = (0..16).map(|vnode| first.engine.vnode_store(vnode)).collect();
    drop(first);
    let second = open(&bench, settings(1, 1, 4)).expect("more stores");
    assert_eq!((0..16).map(|vnode| second.engine.vnode_store(vnode)).collect::<Vec<_>>(), before);
    assert_eq!(second.settings.placement.core(VnodeId(3)), CoreId(0));
}

/// Settings of a core of a node alone, after its data was laid out for so many cores.
fn laid_out(bench: &Bench, cores: u16, core: u16) -> ShardSettings {
    laid_out_with(bench, settings(1, cores, 4), cores, core)
}

fn laid_out_with(bench: &Bench, settings: ShardSettings, cores: u16, core: u16) -> ShardSettings {
    laid_out_by(&settings.engine.clone(), bench, settings, (cores, 4), core)
}

/// The first start of a node was cut short when one of three cores had its vnodes. With another number of cores the data was refused for good, as if the
/// configuration had changed: what the other two had never had was missing from a catalog that was not empty.
#[test]
fn a_first_start_that_was_cut_short_is_ended_before_the_number_of_cores_changes() {
    let bench = Bench::new(MemDisk::new());
    let (before, after) = ((3, 1), (2, [0, 1]));
    let shard = open(&bench, laid_out(&bench, before.0, before.1)).expect("an empty disk opens");
    let kept: Vec<_> = (0..16).map(|vnode| shard.engine.vnode_store(vnode)).collect();
    assert!(kept.iter().any(Option::is_some) && kept.iter().any(Option::is_none));
    drop(shard);
    let shards =
        after.1.map(|core| open(&bench, laid_out(&bench, after.0, core)).expect("it has no data to miss"));
    for (vnode, kept) in (0..16).zip(kept) {
        let now: Vec<u16> = shards.iter().filter_map(|shard| shard.engine.vnode_store(vnode)).collect();
        assert_eq!(now.len(), 1, "vnode {vnode} lives once");
        assert!(kept.is_none_or(|store| now == [store]), "vnode {vnode} stays where it is");
    }
}

/// The same while the node has come to hold vnodes that another member had: nothing is given to cores that have none, for that would be durable when the data is
/// refused, and putting the old values back would be of no use.
#[test]
fn a_first_start_that_was_cut_short_hides_no_change_of_the_configuration() {
    let bench = Bench::new(MemDisk::new());
    let with = |cores, of_others: std::ops::Range<usize>| {
        let mut settings = settings(1, cores, 4);
        settings.topology.replicas[of_others].fill(vec![NodeId(2)]);
        settings
    };
    drop(open(&bench, laid_out_with(&bench, with(3, 0..8), 3, 1)).expect("an empty disk opens"));
    let gained = laid_out_with(&bench, with(1, 0..0), 1, 0);
    let refused = open(&bench, gained).expect_err("the others may have data of what it has come to hold");
    assert!(matches!(refused, OpenError::MovedVnode(_)), "{refused}");
    for core in 0..3 {
        drop(open(&bench, laid_out_with(&bench, with(3, 0..8), 3, core)).expect("as it was"));
    }
}

/// Damage that recovery found used to be dropped on the way to the operator.
#[test]
fn damage_in_the_log_shows_in_the_status() {
    let (bench, shard) = alone();
    let connection = client(&bench, &shard);
    let mut segment = None;
    for number in 0..8 {
        receive(&shard, connection, &request_frame(number, &put(b"key", b"value", Level::One)));
        shard.on_batch_end();
        bench.run();
        segment = segment.or_else(|| {
            let files = bench.0.disk.list(ferrite_lsm::Directory::Core(0));
            files
                .into_iter()
                .map(|(name, _)| name)
                .find(|name| matches!(name, ferrite_lsm::FileName::Segment { .. }))
        });
    }
    // The third group; groups of one block each follow the segment's header.
    assert!(bench.0.disk.corrupt(segment.expect("a log has a segment"), 3 * 4096 + 100, 0xff));
    drop(shard);
    let shard = open(&bench, settings(1, 1, 2)).expect("damage is reported, not fatal");
    let connection = client(&bench, &shard);
    receive(&shard, connection, &request_frame(1, &Request::Status));
    let (header, body) = bench.frames(connection).remove(0);
    let Ok(Reply::Status(text)) = Reply::decode(header.kind, &body) else { panic!("a status") };
    assert!(text.contains("log_damage_found 1\n"), "{text}");
    assert!(text.contains("log_tail_was_cut false\n"), "{text}");
}

/// A block that nobody reads goes bad: scrubbing comes by, and the operator is shown which keys are concerned.
#[test]
fn what_scrubbing_finds_shows_in_the_status() {
    let bench = Bench::new(MemDisk::new());
    let small = || {
        let mut settings = settings(1, 1, 2);
        settings.engine.memtable_bytes = 128 << 10;
        settings.scrub_bytes_per_s = 8 << 20;
        settings
    };
    let shard = open(&bench, small()).expect("an empty disk opens");
    let connection = client(&bench, &shard);
    let tables = || {
        let files = [0, 1].map(|store| bench.0.disk.list(ferrite_lsm::Directory::Store(store))).concat();
        let names = files.into_iter().map(|(name, _)| name);
        names.filter(|name| matches!(name, ferrite_lsm::FileName::Table { .. })).collect::<Vec<_>>()
    };
    for number in 0..2_000u64 {
        receive(
            &shard,
            connection,
            &request_frame(number, &put(&number.to_be_bytes(), &[7; 400], Level::One)),
        );
        shard.on_batch_end();
        bench.run();
    }
    drop(shard);
    let table = *tables().last().expect("memtables were flushed");
    assert!(bench.0.disk.corrupt(table, 40, 0x10));
    let shard = open(&bench, small()).expect("nobody reads the block");
    assert!(!shard.status().contains("engine.quarantined.0"));
    while !shard.status().contains("engine.scrub_passes 1") {
        pass(&bench, &shard, 100);
    }
    let status = shard.status();
    assert!(status.contains("engine.quarantined.0 table "), "{status}");
    assert!(status.contains("engine.damaged_tables 1"), "{status}");
}
