//! What the status says of members: the verdict on each node and each of its cores, how old it is, and what the node says of itself.
//!
//! ```text
//! member.2 up 12s generation 1700000000000
//! member.2.cores 0:running:12s,1:stalled:3s
//! member.2.version 0.1.0
//! member.2.load_permille 12
//! member.3 unknown                                  never heard of since this node started
//! ```
//!
//! The first core has them, this node among them; another core only the count of who is absent.

use ferrite_cluster::gossip::{CoreVerdict, MemberView};
use ferrite_wire::NodeId;

use super::Shard;
use super::gossip::{Gossip, OwnCore, core_verdict_word, verdict_word};
use crate::env::Env;

const SECOND_NS: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

impl<E: Env> Shard<E> {
    /// Calls `line` for each line.
    pub(super) fn member_lines(&self, now_ns: u64, mut line: impl FnMut(&str, &dyn std::fmt::Display)) {
        line("absent", &self.liveness.absences().count());
        let gossip = self.gossip.borrow();
        let Some(gossip) = gossip.as_ref() else { return };
        for entry in &self.settings.topology.nodes {
            let node = entry.id;
            let name = format!("member.{}", node.0);
            if node == self.settings.node {
                let (age_s, life) = (self.age_s(now_ns), gossip.membership.me().generation());
                line(&name, &format_args!("up {age_s}s generation {life}"));
                line(&format!("{name}.cores"), &own_cores(gossip, now_ns));
            } else if let Some(member) = gossip.membership.member(node) {
                let (verdict, life) = (verdict_word(member.verdict), member.identity.generation());
                let age_s = (now_ns / MS).saturating_sub(member.since_ms) / 1_000;
                line(&name, &format_args!("{verdict} {age_s}s generation {life}"));
                if !member.cores.is_empty() {
                    line(&format!("{name}.cores"), &cores(member, now_ns));
                }
            } else {
                line(&name, &"unknown");
            }
            said(gossip, node, |field, value| line(&format!("{name}.{field}"), value));
        }
        let counts = gossip.counts;
        for (name, value) in [
            ("sent", counts.sent),
            ("received", counts.received),
            ("dropped", counts.dropped),
            ("refused", counts.refused),
            ("suspicions", counts.suspicions),
            ("downs", counts.downs),
        ] {
            line(&format!("gossip.{name}"), &value);
        }
    }

    fn age_s(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.opened_ns) / SECOND_NS
    }
}

/// What a node said of itself last.
fn said(gossip: &Gossip, node: NodeId, mut line: impl FnMut(&str, &dyn std::fmt::Display)) {
    if let Some(digest) = gossip.membership.digest(node) {
        line("version", &digest.version);
        line("load_permille", &digest.load_permille);
    }
}

fn cores(member: &MemberView, now_ns: u64) -> String {
    let one = |(core, view): (usize, &ferrite_cluster::gossip::CoreView)| {
        let age_s = (now_ns / MS).saturating_sub(view.since_ms) / 1_000;
        format!("{core}:{}:{age_s}s", core_verdict_word(view.verdict))
    };
    member.cores.iter().enumerate().map(one).collect::<Vec<_>>().join(",")
}

fn own_cores(gossip: &Gossip, now_ns: u64) -> String {
    let one = |(number, core): (usize, &OwnCore)| {
        let still_ns = now_ns.saturating_sub(core.moved_ns);
        let (verdict, since_ns) = match core.progress.is_fenced {
            _ if still_ns >= gossip.stall_ns => (CoreVerdict::Stalled, core.moved_ns),
            true => (CoreVerdict::Fenced, core.since_ns),
            false => (CoreVerdict::Live, core.since_ns),
        };
        let age_s = now_ns.saturating_sub(since_ns) / SECOND_NS;
        format!("{number}:{}:{age_s}s", core_verdict_word(verdict))
    };
    gossip.cores.iter().enumerate().map(one).collect::<Vec<_>>().join(",")
}
