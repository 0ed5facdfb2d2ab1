//! Keys whose replicas are on both sides of a partition: what clients of both sides may write at once.

use ferrite_client::{Key, TableId, Topology};

/// Keys looked at for those.
const TRIES_MAX: u64 = 10_000;

/// A key, and the nodes that hold it.
pub(crate) struct Across {
    pub(crate) key: Vec<u8>,
    /// By place, not by number.
    pub(crate) replicas: Vec<usize>,
}

/// So many keys of a table with replicas on both sides. `name` tells them from all others.
pub(crate) fn keys_across(
    topology: &Topology,
    name: &str,
    table: TableId,
    count: usize,
    is_left: impl Fn(usize) -> bool,
) -> Vec<Across> {
    let replication = topology.tables.get(table).map_or(0, |table| usize::from(table.replication));
    let candidates = (0..TRIES_MAX).map(|number| {
        let key = format!("{name} {number}").into_bytes();
        let token = Key { table, partition: &key, sort: b"" }.token(topology.hash_seed);
        let nodes = topology.preference_list(token.vnode(topology.vnodes())).iter().take(replication);
        Across { replicas: nodes.map(|node| usize::from(node.0) - 1).collect(), key }
    });
    let is_across = |across: &Across| {
        let left = across.replicas.iter().filter(|node| is_left(**node)).count();
        (1..across.replicas.len()).contains(&left)
    };
    candidates.filter(is_across).take(count).collect()
}
