//! What clients do with keys that have siblings: they read, merge and write, and some write blindly or on top of what they saw long ago.

use std::rc::Rc;

use ferrite_wire::{Level, OVERWRITE, Request, Siblings};

use super::Scenario;
use super::clients::{Pending, Read};
use super::value::{id_of, value_of};
use crate::history::Violation;
use crate::set_history::Saw;
use crate::world::World;

/// One write of a key with siblings in so many overwrites what is there.
const OVERWRITES_ONE_IN: u64 = 24;
/// One in so many bears no context although there is one.
const BLIND_ONE_IN: u64 = 3;
/// A context is used again once in so many writes: such a client writes on top of what it saw long ago.
const REUSED_ONE_IN: u64 = 4;

impl Scenario {
    /// Judges what a read showed, and keeps its context.
    pub(super) fn on_siblings(
        &self,
        world: &World,
        client: usize,
        read: &Read,
        siblings: &Siblings<'_>,
        is_final: bool,
    ) {
        let key = read.key;
        if !self.has_siblings(key) {
            let what = "siblings where the last write wins".to_owned();
            return self.judge(Err(Violation { key, what }));
        }
        for sibling in siblings.iter() {
            self.judge_shown(world, client, read, &sibling.version);
        }
        let found: Vec<_> = siblings.iter().map(|sibling| (id_of(sibling.value), sibling.version)).collect();
        let verdict =
            self.sets.borrow_mut().saw(key, (read.reading, world.now_ns()), &self.facts.borrow(), &found);
        let shown = found.iter().filter_map(|(id, _)| *id).collect();
        self.clients.borrow_mut()[client].contexts.insert(key, (siblings.context().to_vec(), shown));
        self.answered(verdict, is_final);
    }

    /// Writes on top of what the client has read, or of nothing.
    pub(super) fn write_set(&self, world: &Rc<World>, client: usize, key: u64) {
        let overwrites = self.draw(OVERWRITES_ONE_IN) == 0;
        let is_blind = self.draw(BLIND_ONE_IN) == 0;
        let context = match self.draw(REUSED_ONE_IN) {
            _ if is_blind => None,
            0 => self.clients.borrow()[client].contexts.get(&key).cloned(),
            _ => self.clients.borrow_mut()[client].contexts.remove(&key),
        };
        let may_delete = context.is_some() || overwrites;
        let is_delete = self.draws_delete() && may_delete;
        let (context, shown) = context.unwrap_or_default();
        let saw = if overwrites { Saw::ItsOwnRead } else { Saw::These(shown) };
        let level = self.draw_write_level(key);
        self.send_set_write(world, client, SetWrite { key, is_delete, saw, context, level, is_final: false });
    }

    /// Writes over whatever is there, at ALL.
    pub(super) fn overwrite_set(&self, world: &Rc<World>, client: usize, key: u64) {
        let (saw, context, level) = (Saw::ItsOwnRead, Vec::new(), Level::All);
        self.send_set_write(
            world,
            client,
            SetWrite { key, is_delete: false, saw, context, level, is_final: true },
        );
    }

    fn send_set_write(&self, world: &Rc<World>, client: usize, write: SetWrite) {
        let SetWrite { key, is_delete, saw, context, level, is_final } = write;
        let ttl_ms = if is_delete || is_final { 0 } else { self.draw_ttl_ms() };
        let intent = self.intent(world, client, key, is_delete, ttl_ms, level);
        let id = self.sets.borrow_mut().begin(intent, &saw);
        let name = key.to_be_bytes();
        let (epoch, key_name) = (self.shape.topology.epoch, self.shape.key(key, &name));
        let value = value_of(id, self.draw(self.shape.value_bytes_max) as usize);
        let options = u8::from(saw == Saw::ItsOwnRead) * OVERWRITE;
        let request = match is_delete {
            true => Request::Delete { epoch, level, options, key: key_name, context: &context },
            false => Request::Put {
                epoch,
                level,
                options,
                key: key_name,
                ttl_ms,
                context: &context,
                value: &value,
            },
        };
        self.send(world, client, &request, Pending::WriteSet { key, id, is_delete, is_final });
    }
}

/// A write of a key with siblings.
struct SetWrite {
    key: u64,
    is_delete: bool,
    saw: Saw,
    context: Vec<u8>,
    level: Level,
    is_final: bool,
}
