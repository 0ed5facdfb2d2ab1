//! Which tables there are, and what a key's table says of it.

use ferrite_cluster::Ring;
use ferrite_wire::{ErrorCode, NodeEntry, Reply, TTL_NEVER, Table, TableId, TableList};

use super::Shard;
use super::requester::Requester;
use crate::env::Env;

/// Why a key cannot be read or written, whichever it is, in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableRefusal {
    /// There is no such table.
    Unknown,
}

impl TableRefusal {
    /// The code that answers it.
    pub(super) fn code(self) -> ErrorCode {
        match self {
            TableRefusal::Unknown => ErrorCode::NoTable,
        }
    }

    /// The same in words.
    fn text(self) -> &'static str {
        match self {
            TableRefusal::Unknown => "this node knows no table of that number",
        }
    }
}

/// The table of a number, if there is one.
#[inline]
pub(super) fn usable(ring: &Ring, id: TableId) -> Result<&Table, TableRefusal> {
    ring.table(id).ok_or(TableRefusal::Unknown)
}

impl<E: Env> Shard<E> {
    /// How a peer's tables differ from this node's, in words that are right on both. The log is told when it is news, however often the
    /// peer tries again.
    pub(super) fn tables_difference(&self, peer: &NodeEntry, theirs: TableList<'_>) -> Option<String> {
        let mut differing = self.differing.borrow_mut();
        if theirs.as_bytes() == self.tables {
            differing.remove(&peer.id);
            return None;
        }
        let here =
            self.settings.topology.node(self.settings.node).map_or("this node", |entry| entry.name.as_str());
        let ring = self.ring.borrow();
        let difference = ring.tables().difference(here, &theirs.tables(), &peer.name);
        let text = difference.expect("lists of other bytes are other lists");
        if differing.get(&peer.id) != Some(&text) {
            let (core, peer_node) = (self.settings.core.0, peer.id.0);
            tracing::error!(
                core,
                peer_node,
                difference = text,
                "a peer with other tables is refused: all nodes must declare the same"
            );
            differing.insert(peer.id, text.clone());
        }
        Some(text)
    }

    /// The time to live of a put that asked for `ttl_ms`, 0 = what its table says; 0 = for ever.
    pub(super) fn ttl_ms(&self, table: TableId, ttl_ms: u64) -> u64 {
        match ttl_ms {
            0 => self.ring.borrow().table(table).map_or(0, |table| table.ttl_ms),
            TTL_NEVER => 0,
            asked => asked,
        }
    }

    /// Answers that a key's table refuses it.
    pub(super) fn answer_table_refusal(&self, requester: Requester, refusal: TableRefusal) {
        self.counters.count_error(refusal.code());
        self.answer(requester, &Reply::Error { code: refusal.code(), text: refusal.text() });
    }
}
