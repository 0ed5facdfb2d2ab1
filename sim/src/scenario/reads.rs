//! What clients read, and what was known when they asked.

use std::rc::Rc;

use ferrite_promises::Reading;
use ferrite_wire::{FrameKind, Key, Level, Request};

use super::clients::{Pending, Wall};
use super::{Scenario, Task};
use crate::world::World;

/// Most keys of a multi-get; some may come twice.
const MULTI_GET_KEYS: u64 = 6;

/// A read of one key.
#[derive(Clone, Debug)]
pub(super) struct Read {
    /// Which.
    pub(super) key: u64,
    /// Which writes it must know of.
    pub(super) reading: Reading,
    /// When it was sent, by the clock of its node.
    pub(super) wall: Wall,
}

impl Scenario {
    fn read_of(&self, world: &World, client: usize, key: u64, level: Level) -> Read {
        let needed = level.needed(self.replicas_of(key));
        Read { key, reading: Reading::new(world.now_ns(), needed), wall: self.wall(world, client) }
    }

    /// Reads a key; with a `task`, that is done when it is answered.
    pub(super) fn read(&self, world: &Rc<World>, client: usize, key: u64, level: Level, task: Option<Task>) {
        let read = self.read_of(world, client, key, level);
        let name = key.to_be_bytes();
        let epoch = self.shape.topology.epoch;
        let request = Request::Get { epoch, level, options: 0, key: self.shape.key(key, &name) };
        self.send(world, client, &request, Pending::Read { read, task });
    }

    /// Reads several keys at once.
    pub(super) fn read_many(&self, world: &Rc<World>, client: usize, first: u64) {
        let level = [Level::Quorum, Level::Quorum, Level::One, Level::All][self.draw(4) as usize];
        let count = self.plan.keys.min(MULTI_GET_KEYS);
        let keys: Vec<u64> = (0..count).map(|more| (first + more * more) % self.plan.keys).collect();
        let names: Vec<[u8; 8]> = keys.iter().map(|key| key.to_be_bytes()).collect();
        let asked: Vec<Key<'_>> =
            keys.iter().zip(&names).map(|(key, name)| self.shape.key(*key, name)).collect();
        let epoch = self.shape.topology.epoch;
        let reads = keys.iter().map(|key| self.read_of(world, client, *key, level)).collect();
        let encode = |out: &mut Vec<u8>| Request::encode_multi_get(epoch, level, &asked, out);
        self.send_body(world, client, FrameKind::MultiGet, encode, Pending::ReadMany(reads));
    }
}
