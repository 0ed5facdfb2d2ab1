//! The topology a cluster begins with: its members as they are configured, and their first claim.
//!
//! Each node computes it for itself, from the same configuration, to the same bytes. Nothing about a member that only its
//! own machine knows may enter: endpoints and core maps are empty until the member tells them.

use ferrite_wire::{ClusterId, Epoch, HashSeed, NodeEntry, Tables, Topology};

use crate::{Member, claim};

/// The topology of a new cluster, at epoch 1. `vnodes` is a power of two; ids are distinct, in any order. Each vnode is on as
/// many members as the largest replication of any table says; with fewer members, on all of them.
pub fn initial_topology(
    cluster: ClusterId,
    hash_seed: HashSeed,
    vnodes: u32,
    members: &[Member],
    tables: Tables,
) -> Topology {
    assert!(vnodes.is_power_of_two(), "the number of vnodes is a power of two");
    let replicas = claim(vnodes, members, tables.replication_max());
    let mut nodes: Vec<NodeEntry> = members.iter().map(entry).collect();
    nodes.sort_by_key(|node| node.id);
    let vnode_epochs = vec![Epoch(1); replicas.len()];
    Topology { epoch: Epoch(1), cluster, hash_seed, nodes, tables, replicas, vnode_epochs }
}

fn entry(member: &Member) -> NodeEntry {
    NodeEntry {
        id: member.id,
        incarnation: 0,
        name: member.name.clone(),
        rack: member.rack.clone(),
        datacenter: member.datacenter.clone(),
        contact: member.contact.clone(),
        endpoints: Vec::new(),
        core_of_vnode: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrite_wire::{NodeId, Table, TableId};

    fn member(id: u16) -> Member {
        Member {
            id: NodeId(id),
            name: format!("n{id}"),
            rack: "r1".to_owned(),
            datacenter: "dc1".to_owned(),
            contact: format!("127.0.0.1:{}", 7000 + id),
            weight: 1,
        }
    }

    fn bytes(members: &[Member]) -> Vec<u8> {
        let topology =
            initial_topology(ClusterId([1; 16]), HashSeed(7), 64, members, Tables::only_default(3));
        let mut bytes = Vec::new();
        topology.encode(&mut bytes);
        bytes
    }

    #[test]
    fn all_nodes_come_to_the_same_bytes_whatever_the_order_of_members() {
        let members: Vec<Member> = [3, 1, 9, 4, 7].map(member).into();
        let mut turned = members.clone();
        for _ in 0..members.len() {
            turned.rotate_left(1);
            assert_eq!(bytes(&members), bytes(&turned));
        }
    }

    #[test]
    fn it_is_whole_and_keeps_every_limit() {
        for count in 0..6 {
            let members: Vec<Member> = (1..=count).map(member).collect();
            let tables = Tables::only_default(3);
            let topology = initial_topology(ClusterId([1; 16]), HashSeed(7), 64, &members, tables);
            assert_eq!(topology.check(), Ok(()));
            assert_eq!(Topology::decode(&bytes(&members)), Ok(topology.clone()));
            assert!(topology.replicas.iter().all(|list| list.len() == 3.min(count as usize)));
        }
    }

    #[test]
    fn lists_are_as_long_as_the_widest_table_asks_for() {
        let members: Vec<Member> = (1..=5).map(member).collect();
        let wide = Table {
            id: TableId::of("wide"),
            name: "wide".to_owned(),
            replication: 4,
            ..Table::default_of(2)
        };
        let tables = Tables::new(vec![Table::default_of(2), wide]).expect("a sound list");
        let topology = initial_topology(ClusterId([1; 16]), HashSeed(7), 64, &members, tables);
        assert!(topology.replicas.iter().all(|list| list.len() == 4));
    }
}
