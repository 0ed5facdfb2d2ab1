//! What becomes of hints at those they are for: whole clusters, with wires between them.

use std::ops::ControlFlow;

use ferrite_cluster::gossip::Verdict;
use ferrite_cluster::hints::{HintOptions, Ledger};
use ferrite_lsm::mem_disk::Fault;
use ferrite_lsm::{Direction, KeyRange, ScanLimits};
use ferrite_wire::Reply;

use super::cluster::Cluster;
use super::*;
use crate::shard::Route;
use crate::shard::record::engine_key;

/// Keys that the first core of the first node coordinates and keeps, and the third node is to keep, too.
fn keys_of_both(cluster: &Cluster, count: usize) -> Vec<[u8; 4]> {
    let shard = &cluster.place(0, 0).shard;
    let is_of_both = |key: &[u8; 4]| {
        let Ok(route) = shard.route(&Key::plain(key)) else { return false };
        let is_mine = route.hop.is_none() && route.position.is_some();
        is_mine && shard.ring.borrow().replicas(route.vnode).contains(&NodeId(3))
    };
    (0..100_000u32).map(u32::to_be_bytes).filter(is_of_both).take(count).collect()
}

fn route(cluster: &Cluster, key: &[u8]) -> Route {
    cluster.place(0, 0).shard.route(&Key::plain(key)).expect("it is a key of a table")
}

/// The core that owns a key at a node.
fn core_of(cluster: &Cluster, node: usize, key: &[u8]) -> usize {
    let vnode = route(cluster, key).vnode;
    let core = cluster.place(0, 0).shard.ring.borrow().core_of(NodeId(node as u16 + 1), vnode);
    usize::from(core.expect("it was learned").0)
}

/// What a node has of a key, on whatever core it lies.
fn stored(cluster: &Cluster, node: usize, key: &[u8]) -> Option<Vec<u8>> {
    let route = route(cluster, key);
    let engine = &cluster.place(node, core_of(cluster, node, key)).shard.engine;
    let found = block_on(engine.read(engine_key(&Key::plain(key), route.vnode, route.token)));
    found.expect("no faults").map(|found| found.record().value.to_vec())
}

/// Writes keys at QUORUM by the first core of the first node, each of which is done.
fn write_all(cluster: &mut Cluster, keys: &[[u8; 4]]) {
    let place = cluster.place(0, 0);
    let from = client(&place.bench, &place.shard);
    for (number, key) in keys.iter().enumerate() {
        receive(&place.shard, from, &request_frame(number as u64, &put(key, key, Level::Quorum)));
    }
    cluster.run_for(500);
    let answers = cluster.place(0, 0).bench.frames(from);
    let is_done = |(header, body): &(FrameHeader, Vec<u8>)| {
        matches!(Reply::decode(header.kind, body), Ok(Reply::Done { .. }))
    };
    assert_eq!((answers.len(), answers.iter().all(is_done)), (keys.len(), true));
}

fn owed(cluster: &Cluster) -> u64 {
    cluster.place(0, 0).shard.hints_owed()
}

/// The third of four nodes is cut off, and the others know it; these keys are written meanwhile. On which of its cores they are is another matter
/// than on which they are at the first.
fn missed_by_the_third(cores: usize) -> (Cluster, Vec<[u8; 4]>) {
    let mut cluster = Cluster::formed(4, cores);
    let keys = keys_of_both(&cluster, 120);
    for core in 0..cores {
        assert!(keys.iter().filter(|key| core_of(&cluster, 2, &key[..]) == core).count() >= 10);
    }
    cluster.set_cut_off(2, true);
    cluster.until(10_000, |cluster| cluster.verdict(0, 2) == Some(Verdict::Down));
    write_all(&mut cluster, &keys);
    cluster.until(5_000, |cluster| owed(cluster) == 120);
    (cluster, keys)
}

/// All hints for a node waited for the first that was for a core of it which stood still.
#[test]
fn a_core_that_stands_still_keeps_no_hints_from_the_other_cores_of_its_node() {
    let (mut cluster, keys) = missed_by_the_third(2);
    let is_for = |cluster: &Cluster, key: &[u8], core: usize| core_of(cluster, 2, key) == core;
    cluster.places[5].is_stalled = true;
    cluster.set_cut_off(2, false);
    let has_all = |cluster: &Cluster, core: usize| {
        let mut its = keys.iter().filter(|key| is_for(cluster, &key[..], core));
        its.all(|key| stored(cluster, 2, key).as_deref() == Some(&key[..]))
    };
    cluster.until(20_000, |cluster| has_all(cluster, 0));
    assert!(
        owed(&cluster) > 0
            && !keys.iter().any(|key| is_for(&cluster, key, 1) && stored(&cluster, 2, key).is_some())
    );
    let told = |cluster: &Cluster| cluster.place(0, 0).shard.hints_text(ferrite_wire::HintsAction::Tell);
    cluster.until(5_000, |cluster| told(cluster).contains("cores_behind=1"));
    cluster.places[5].is_stalled = false;
    cluster.until(20_000, |cluster| owed(cluster) == 0);
    assert!(has_all(&cluster, 0) && has_all(&cluster, 1));
}

/// The same of its first core, which gossips for all of them: its node counted as down.
#[test]
fn a_first_core_that_stands_still_keeps_no_hints_from_the_other_cores_either() {
    let (mut cluster, keys) = missed_by_the_third(2);
    cluster.set_cut_off(2, false);
    cluster.until(20_000, |cluster| {
        let links = cluster.place(0, 0).shard.links.borrow();
        let up = links.iter().filter(|link| link.node == NodeId(3) && link.up().is_some()).count();
        up == 2
    });
    cluster.places[4].is_stalled = true;
    let of_second: Vec<_> = keys.iter().filter(|key| core_of(&cluster, 2, &key[..]) == 1).collect();
    cluster.until(20_000, |cluster| {
        of_second.iter().all(|key| stored(cluster, 2, &key[..]).as_deref() == Some(&key[..]))
    });
    cluster.until(10_000, |cluster| cluster.verdict(0, 2) == Some(Verdict::Down));
    // What is written from then on comes to it as well.
    let more = keys_of_both(&cluster, 160).split_off(120);
    write_all(&mut cluster, &more);
    let more: Vec<_> = more.iter().filter(|key| core_of(&cluster, 2, &key[..]) == 1).collect();
    assert!(!more.is_empty());
    cluster.until(20_000, |cluster| {
        more.iter().all(|key| stored(cluster, 2, &key[..]).as_deref() == Some(&key[..]))
    });
    cluster.places[4].is_stalled = false;
    cluster.until(20_000, |cluster| owed(cluster) == 0);
    assert!(keys.iter().all(|key| stored(&cluster, 2, key).is_some()));
}

/// The same of its first core, over whose link goes what is for cores that have none, when it is fenced: it is there, and refuses.
#[test]
fn a_first_core_that_is_fenced_keeps_no_hints_from_the_other_cores_either() {
    let (mut cluster, keys) = missed_by_the_third(2);
    let place = cluster.place(2, 0);
    let from = client(&place.bench, &place.shard);
    place.bench.0.disk.fail_at(0, Fault::Io);
    let its = keys.iter().find(|key| core_of(&cluster, 2, &key[..]) == 0).expect("asserted above");
    receive(&place.shard, from, &request_frame(1, &put(its, b"v", Level::One)));
    cluster.run_for(50);
    assert!(cluster.place(2, 0).shard.is_fenced());
    cluster.set_cut_off(2, false);
    let of_second: Vec<_> = keys.iter().filter(|key| core_of(&cluster, 2, &key[..]) == 1).collect();
    cluster.until(20_000, |cluster| {
        of_second.iter().all(|key| stored(cluster, 2, &key[..]).as_deref() == Some(&key[..]))
    });
    cluster.run_for(3_000);
    assert_eq!(owed(&cluster), (keys.len() - of_second.len()) as u64);
}

/// Where a group of the log had no room for all that was read to be written again, what had found room was written again each time that the rest was tried.
#[test]
fn what_is_owed_to_a_core_that_stays_away_is_written_again_once_whatever_room_the_log_has() {
    let mut cluster = Cluster::formed(4, 2);
    let options = HintOptions { pinned_bytes_max: 1_000, ..HintOptions::default() };
    *cluster.place(0, 0).shard.hints.borrow_mut() = Ledger::new(options, 0);
    let keys = keys_of_both(&cluster, 40);
    let of_second: Vec<_> = keys.iter().filter(|key| core_of(&cluster, 2, &key[..]) == 1).collect();
    cluster.set_cut_off(2, true);
    cluster.until(10_000, |cluster| cluster.verdict(0, 2) == Some(Verdict::Down));
    let place = cluster.place(0, 0);
    let from = client(&place.bench, &place.shard);
    for (number, key) in keys.iter().enumerate() {
        // A group takes 64 KiB.
        let value = [key[3]; 40_000];
        let place = cluster.place(0, 0);
        receive(&place.shard, from, &request_frame(number as u64, &put(key, &value, Level::Quorum)));
        cluster.run_for(10);
    }
    cluster.until(5_000, |cluster| owed(cluster) == 40);
    cluster.places[5].is_stalled = true;
    cluster.set_cut_off(2, false);
    cluster.until(20_000, |cluster| owed(cluster) == of_second.len() as u64);
    cluster.run_for(10_000);
    let mut copies = BTreeMap::<Vec<u8>, u32>::new();
    let visit = |key: ferrite_lsm::Key<'_>, _: ferrite_lsm::Record<'_>| {
        if key.prefix.token > 0 {
            *copies.entry(key.partition.to_vec()).or_default() += 1;
        }
        ControlFlow::Continue(())
    };
    let (engine, lane) = (&cluster.place(0, 0).shard.engine, KeyRange::table(0, 3, 1));
    let walked = block_on(engine.scan(
        &lane,
        Direction::Forward,
        ScanLimits { records: 1_000, bytes: usize::MAX },
        visit,
    ));
    assert!(walked.expect("no faults").is_none(), "all of it was seen");
    let most = copies.values().copied().max().expect("some are there");
    assert!(
        most == 2 && of_second.len() > 10,
        "each stands where it was, and once behind the others: {copies:?}"
    );
    cluster.places[5].is_stalled = false;
    cluster.until(60_000, |cluster| owed(cluster) == 0);
    assert!(keys.iter().all(|key| stored(&cluster, 2, key) == Some(vec![key[3]; 40_000])));
}

/// Whoever comes back without its data has another incarnation, and is owed the same.
#[test]
fn a_node_that_comes_back_with_a_wiped_directory_gets_its_hints() {
    let (mut cluster, keys) = missed_by_the_third(1);
    // The others find out that their connections are dead.
    cluster.run_for(2_000);
    cluster.wipe(2);
    assert!(!keys.iter().any(|key| stored(&cluster, 2, key).is_some()), "there is nothing left");
    cluster.set_cut_off(2, false);
    cluster.until(20_000, |cluster| owed(cluster) == 0);
    for key in &keys {
        assert_eq!(stored(&cluster, 2, key).as_deref(), Some(&key[..]));
    }
}
