//! Which store, and so which core, of this node holds a vnode.
//!
//! Vnodes that this node replicates are dealt to its stores in turn, in the order of the vnode numbers that are *its own*.
//! Rejected: `vnode mod stores`. The claim hands out vnodes in regular strides, so the remainder would follow the placement
//! and leave some cores idle.

use ferrite_wire::{CoreId, NodeId, Topology, VnodeId};

/// The node's map from vnodes to stores and cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    stores: u16,
    cores: u16,
    /// Per vnode: its store if this node is a replica of it.
    store_of_vnode: Vec<Option<u16>>,
}

impl Placement {
    /// Deals the vnodes that `node` replicates to `stores` stores on `cores` cores. There are at least as many stores as cores.
    pub fn deal(topology: &Topology, node: NodeId, stores: u16, cores: u16) -> Placement {
        Placement::keep(topology, node, stores, cores, std::iter::empty())
    }

    /// As [`Placement::deal`], but for the vnodes that have their store already: `(vnode, store)`.
    pub fn keep(
        topology: &Topology,
        node: NodeId,
        stores: u16,
        cores: u16,
        kept: impl Iterator<Item = (u16, u16)>,
    ) -> Placement {
        assert!(cores >= 1 && stores >= cores, "each core owns at least one store");
        let mut dealt = 0u32;
        let store_of_vnode = topology
            .replicas
            .iter()
            .map(|list| {
                list.contains(&node).then(|| {
                    let store = (dealt % u32::from(stores)) as u16;
                    dealt += 1;
                    store
                })
            })
            .collect();
        let mut placement = Placement { stores, cores, store_of_vnode };
        for (vnode, store) in kept {
            assert!(store < stores, "stores are never fewer than there were");
            // What does not belong to this node any more is the engine's to refuse.
            if let Some(Some(place)) = placement.store_of_vnode.get_mut(usize::from(vnode)) {
                *place = store;
            }
        }
        placement
    }

    /// The core that owns a store.
    pub fn core_of_store(&self, store: u16) -> CoreId {
        CoreId(store % self.cores)
    }

    /// The store of a vnode, if this node is a replica of it.
    pub fn store(&self, vnode: VnodeId) -> Option<u16> {
        self.store_of_vnode[vnode.0 as usize]
    }

    /// The core that serves a vnode here. A vnode this node does not replicate is coordinated by any core: they are spread.
    pub fn core(&self, vnode: VnodeId) -> CoreId {
        match self.store(vnode) {
            Some(store) => self.core_of_store(store),
            None => CoreId(vnode.0 % self.cores),
        }
    }

    /// The stores of a core.
    pub fn stores_of(&self, core: CoreId) -> Vec<u16> {
        (0..self.stores).filter(|store| self.core_of_store(*store) == core).collect()
    }

    /// The vnodes of a core with their stores.
    pub fn vnodes_of(&self, core: CoreId) -> Vec<(u16, u16)> {
        let stored = |(vnode, store): (usize, &Option<u16>)| store.map(|store| (vnode as u16, store));
        self.store_of_vnode
            .iter()
            .enumerate()
            .filter_map(stored)
            .filter(|(_, store)| self.core_of_store(*store) == core)
            .collect()
    }

    /// The owning core of every vnode, as the topology publishes it.
    pub fn core_map(&self) -> Vec<CoreId> {
        (0..self.store_of_vnode.len()).map(|vnode| self.core(VnodeId(vnode as u16))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrite_wire::{ClusterId, Epoch, HashSeed, Tables};

    fn topology(vnodes: usize, mine: impl Fn(usize) -> bool) -> Topology {
        let list = |vnode| if mine(vnode) { vec![NodeId(1)] } else { vec![NodeId(2)] };
        Topology {
            epoch: Epoch(1),
            cluster: ClusterId([7; 16]),
            hash_seed: HashSeed(0),
            nodes: Vec::new(),
            tables: Tables::only_default(1),
            replicas: (0..vnodes).map(list).collect(),
            vnode_epochs: vec![Epoch(1); vnodes],
        }
    }

    #[test]
    fn strided_ownership_leaves_no_core_idle() {
        // Every fourth vnode is this node's: with `vnode mod stores` all of them would land on one core of four.
        let placement = Placement::deal(&topology(256, |vnode| vnode % 4 == 0), NodeId(1), 16, 4);
        for core in 0..4 {
            assert_eq!(placement.vnodes_of(CoreId(core)).len(), 16);
        }
    }

    #[test]
    fn what_has_a_store_keeps_it_with_any_number_of_cores_and_more_stores() {
        let topology = topology(64, |vnode| vnode % 3 != 1);
        let old = Placement::deal(&topology, NodeId(1), 5, 2);
        let kept = || (0..2).flat_map(|core| old.vnodes_of(CoreId(core)));
        for cores in [1, 2, 3, 7] {
            let new = Placement::keep(&topology, NodeId(1), 7, cores, kept());
            for (vnode, store) in kept() {
                assert_eq!(new.store(VnodeId(vnode)), Some(store));
                assert_eq!(new.core(VnodeId(vnode)), CoreId(store % cores));
            }
        }
    }

    #[test]
    fn cores_and_stores_partition_the_vnodes() {
        let placement = Placement::deal(&topology(64, |vnode| vnode % 3 != 1), NodeId(1), 5, 2);
        let mut seen: Vec<u16> = (0..2)
            .flat_map(|core| placement.vnodes_of(CoreId(core)))
            .map(|(vnode, store)| {
                assert_eq!(placement.store(VnodeId(vnode)), Some(store));
                vnode
            })
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..64).filter(|vnode| vnode % 3 != 1).collect::<Vec<u16>>());
        let mut stores: Vec<u16> = (0..2).flat_map(|core| placement.stores_of(CoreId(core))).collect();
        stores.sort_unstable();
        assert_eq!(stores, [0, 1, 2, 3, 4]);
        assert!(placement.core_map().iter().all(|core| core.0 < 2));
    }
}
