//! Connections over which other nodes' gossip comes in, and how those end whose nodes have vanished.
//!
//! A node whose power goes, or whose way here is cut, says no goodbye: its connections stand here until something is sent over them, and over these nothing is, for
//! they are the other's to speak. So this node ends them by itself.
//!
//! | a connection that has been silent for [`SILENT_PERIODS`] probe periods, of a node | is |
//! |---|---|
//! | that gossip holds to be up or suspect, and that has no other | kept: of a thousand nodes each has little to say to each |
//! | the same, with another that was heard of later | closed: its former one |
//! | that gossip holds to be down, or knows nothing of | closed |
//!
//! A node that was there all the while connects anew when it has something to say.

use std::collections::BTreeMap;

use ferrite_cluster::gossip::Verdict;
use ferrite_lsm::cover;
use ferrite_wire::NodeId;

use super::Shard;
use crate::env::{Connection, Env};

const MS: u64 = 1_000_000;
/// After so many probe periods without a word a connection may be closed: twice what it takes to call a node down.
const SILENT_PERIODS: u64 = 20;

impl<E: Env> Shard<E> {
    /// A connection of another node's gossip has said something.
    pub(super) fn hear_gossip(&self, connection: Connection) {
        if let Some(session) = self.sessions.borrow_mut().get_mut(connection) {
            session.heard_ns = self.env.now_ns();
        }
    }

    /// Closes those whose nodes have vanished.
    pub(super) fn close_vanished_gossip(&self, now_ns: u64) {
        let silence_ns = SILENT_PERIODS * self.settings.gossip.probe_period_ms * MS;
        let is_silent = |heard_ns: u64| now_ns.saturating_sub(heard_ns) > silence_ns;
        let vanished: Vec<Connection> = {
            let sessions = self.sessions.borrow();
            if !sessions.gossip().any(|(_, _, heard_ns)| is_silent(heard_ns)) {
                return;
            }
            let mut latest = BTreeMap::<NodeId, u64>::new();
            for (_, node, heard_ns) in sessions.gossip() {
                let latest = latest.entry(node).or_default();
                *latest = heard_ns.max(*latest);
            }
            let gossip = self.gossip.borrow();
            let is_there = |node: NodeId| {
                let member = gossip.as_ref().and_then(|gossip| gossip.membership.member(node));
                member.is_some_and(|member| member.verdict != Verdict::Down)
            };
            let silent = sessions.gossip().filter(|(_, _, heard_ns)| is_silent(*heard_ns));
            let ended = silent.filter(|(_, node, heard_ns)| !is_there(*node) || latest[node] > *heard_ns);
            ended.map(|(connection, ..)| connection).collect()
        };
        for connection in vanished {
            cover::mark("gossip connection of a vanished node closed");
            self.drop_connection(connection);
        }
    }
}
