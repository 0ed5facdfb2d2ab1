//! Tables by their names. A name that the topology at hand does not have is looked for in a new one before its user is told that there
//! is no such table; but topologies are large and names may be wrong in a loop, so that all who ask within [`super::REFRESH_INTERVAL`] share one
//! fetch, and the client's own fetches count.

use super::{Completion, Operation, Pipeline};
use crate::outcome::{ReadError, no_table, table_in};
use ferrite_wire::{Table, Topology, limits};
use std::sync::Arc;
use std::time::Instant;

/// A call that waits for the topology that is being fetched.
#[derive(Debug)]
pub(super) struct Lookup {
    tag: u64,
    name: String,
}

impl Pipeline {
    /// The table of a name in the topology at hand: that needs nobody, and no room.
    pub(super) fn known_table(&self, operation: &Operation<'_>) -> Option<Table> {
        match operation {
            Operation::Table(name) => self.router.topology()?.tables.named(name).cloned(),
            _ => None,
        }
    }

    pub(super) fn accept_lookup(&mut self, now: Instant, tag: u64, name: &str) {
        let was_just_fetched = self.refresh.not_before.is_some_and(|at| at > now);
        let cannot_be = name.len() > limits::TABLE_NAME_BYTES_MAX;
        if cannot_be || (was_just_fetched && !self.refresh.is_running) {
            let error = match &self.refresh.failed {
                Some(error) if !cannot_be => error.clone(),
                Some(_) | None => no_table(name),
            };
            self.completions.push_back((tag, Completion::Table(Err(error))));
            return;
        }
        self.refresh.lookups.push(Lookup { tag, name: name.to_owned() });
        if !self.refresh.is_running {
            self.refresh_now(now);
        }
    }

    /// The topology that was being fetched is there, or will not come.
    pub(super) fn answer_lookups(&mut self, fetched: &Result<Arc<Topology>, ReadError>) {
        for Lookup { tag, name } in std::mem::take(&mut self.refresh.lookups) {
            let found = match fetched {
                Ok(fetched) => table_in(fetched, &name),
                Err(error) => Err(error.clone()),
            };
            self.completions.push_back((tag, Completion::Table(found)));
        }
    }
}
