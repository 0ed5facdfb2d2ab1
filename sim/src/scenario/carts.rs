//! What clients do with keys that have siblings: they read, merge and write, and some write blindly or on top of what they saw long ago.

use std::rc::Rc;

use ferrite_wire::{Level, OVERWRITE, Request, Siblings};

use super::Scenario;
use super::clients::{Expected, Pending};
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
        client: usize,
        key: u64,
        floor: &Expected,
        siblings: &Siblings<'_>,
        is_final: bool,
    ) {
        let found: Vec<_> = siblings.iter().map(|sibling| (id_of(sibling.value), sibling.version)).collect();
        let verdict = match floor {
            Expected::Set(floor) => self.sets.borrow_mut().saw(key, floor, &found),
            Expected::Last(_) => {
                Err(Violation { key, what: "siblings where the last write wins".to_owned() })
            }
        };
        let state = &mut self.clients.borrow_mut()[client];
        let shown = found.iter().filter_map(|(id, _)| *id).collect();
        state.contexts.insert(key, (siblings.context().to_vec(), shown));
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
        let is_delete =
            self.plan.deletes_one_in > 0 && self.draw(self.plan.deletes_one_in) == 0 && may_delete;
        let (context, shown) = context.unwrap_or_default();
        let saw = if overwrites { Saw::Anything } else { Saw::These(shown) };
        let id = self.sets.borrow_mut().begin(key, is_delete, saw, world.now_ns());
        let name = key.to_be_bytes();
        let (epoch, key_name) = (self.topology.epoch, self.key(key, &name));
        let value = value_of(id, self.draw(self.plan.value_bytes_max) as usize);
        let level = match self.draw(8) {
            0 => Level::All,
            1..=4 => Level::Quorum,
            _ => Level::Number(2),
        };
        let options = u8::from(overwrites) * OVERWRITE;
        let (key_of, context) = (key_name, &context[..]);
        let request = if is_delete {
            Request::Delete { epoch, level, options, key: key_of, context }
        } else {
            Request::Put { epoch, level, options, key: key_of, ttl_ms: 0, context, value: &value }
        };
        self.send(world, client, &request, Pending::WriteSet { key, id, is_delete });
    }
}
