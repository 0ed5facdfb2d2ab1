//! Acknowledgements wait for syncs: counted, not timed.

use ferrite_client::{BlockingClient, Key, WriteOptions};

use crate::cluster::{Cluster, Wanted};

const WRITES: u64 = 200;

fn put(client: &mut BlockingClient, at: u64) {
    let outcome = client.put(Key::plain(&at.to_le_bytes()), b"value", WriteOptions::default());
    assert!(outcome.is_done(), "{outcome}");
}

/// Writes one after the other, each when the one before it was acknowledged; the groups and syncs that took.
fn groups_and_syncs_of_single_writes(server: &str) -> (u64, u64) {
    let cluster = Cluster::start(Wanted { nodes: 1, cores: 1, server });
    let mut client = cluster.client();
    put(&mut client, WRITES);
    let before = cluster.status(&mut client, 0);
    (0..WRITES).for_each(|at| put(&mut client, at));
    let after = cluster.status(&mut client, 0);
    let grown = |name| after.number(name) - before.number(name);
    assert!(grown("engine.log_records") >= WRITES);
    (grown("engine.log_groups"), grown("engine.log_syncs"))
}

#[test]
fn in_batch_mode_every_acknowledgement_has_waited_for_a_sync() {
    let (groups, syncs) = groups_and_syncs_of_single_writes("commitlog_sync = \"batch\"");
    println!("{WRITES} acknowledged writes, one at a time: {groups} groups, {syncs} syncs");
    assert!(groups >= WRITES, "no two of these can have shared a group");
    assert_eq!(syncs, groups, "every group is synced before its writes are acknowledged");
}

#[test]
fn in_periodic_mode_acknowledgements_do_not_wait() {
    let (groups, syncs) = groups_and_syncs_of_single_writes("commitlog_sync = \"periodic:1h\"");
    println!("{WRITES} acknowledged writes, one at a time, periodic: {groups} groups, {syncs} syncs");
    assert!(groups >= WRITES);
    assert!(syncs < WRITES / 4, "then the count above would prove nothing: {syncs}");
}
