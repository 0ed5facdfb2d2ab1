//! Which tables there are, and what a key's table says of it.

use ferrite_cluster::Ring;
use ferrite_wire::{ErrorCode, NodeId, Reply, TTL_NEVER, Table, TableId, TableList};

use super::Shard;
use super::requester::Requester;
use crate::env::Env;

/// So many peers with other tables are told of in the log, beside those that the configuration lists.
const DIFFERING_TOLD_MAX: usize = 64;

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
    pub(super) fn tables_difference(&self, peer: NodeId, theirs: TableList<'_>) -> Option<String> {
        if theirs.as_bytes() == self.tables {
            self.differing.borrow_mut().remove(&peer);
            return None;
        }
        let (here, there) = (self.settings.own_name(), self.name_of(peer));
        let ring = self.ring.borrow();
        let difference = ring.tables().difference(here, &theirs.tables(), &there);
        let text = difference.expect("lists of other bytes are other lists");
        let mut differing = self.differing.borrow_mut();
        let is_news = differing.get(&peer) != Some(&text);
        // Anybody may claim to be a node that is not listed, with any tables.
        let is_told = self.settings.listed(peer).is_some() || differing.len() < DIFFERING_TOLD_MAX;
        if is_news && is_told {
            let (core, peer_node) = (self.settings.core.0, peer.0);
            tracing::error!(
                core,
                peer_node,
                difference = text,
                "a peer with other tables is refused: all nodes must declare the same"
            );
            differing.insert(peer, text.clone());
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
