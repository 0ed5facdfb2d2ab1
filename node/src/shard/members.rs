//! What the status says of members: the verdict on each node and each of its cores, how old it is, and what the node says of itself.
//!
//! ```text
//! member.2 up 12s generation 1700000000000
//! member.2.name n2
//! member.2.address 10.0.0.2:7100
//! member.2.cores 0:running:12s,1:stalled:3s
//! member.2.version 0.1.0
//! member.2.load_permille 12
//! member.3 unknown                                  never heard of since this node started
//! member.3.refused tables differ: …                 why it takes no gossip of this one; where no link for data says so
//! member.4.joining true                             it is no member of the topology: it owns nothing
//! members.left_out 0                                such nodes that are known and have no lines, for want of room
//! ```
//!
//! There are the members of the topology, nodes that the configuration lists as joining, and up to [`UNLISTED_MAX`] that gossip alone knows of.
//! The address of the last is where they say they are.
//!
//! The first core has them, this node among them; another core only the count of who is absent.

use std::collections::BTreeSet;

use ferrite_cluster::gossip::{CoreVerdict, MemberView};
use ferrite_wire::NodeId;

use super::Shard;
use super::gossip::{Gossip, OwnCore, core_verdict_word, verdict_word};
use super::gossip_links::UNLISTED_MAX;
use crate::env::Env;

const SECOND_NS: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

impl<E: Env> Shard<E> {
    /// Calls `line` for each line.
    pub(super) fn member_lines(&self, now_ns: u64, mut line: impl FnMut(&str, &dyn std::fmt::Display)) {
        line("absent", &self.liveness.absences().count());
        let gossip = self.gossip.borrow();
        let Some(gossip) = gossip.as_ref() else { return };
        let listed = self.settings.contacts().into_iter().map(|(node, _)| node);
        let unlisted = gossip.membership.members().map(|member| member.identity.node());
        let unlisted: Vec<NodeId> = unlisted.filter(|node| self.settings.listed(*node).is_none()).collect();
        line("members.left_out", &unlisted.len().saturating_sub(UNLISTED_MAX));
        let shown: BTreeSet<NodeId> = listed.chain(unlisted.into_iter().take(UNLISTED_MAX)).collect();
        for node in shown {
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
            line(&format!("{name}.name"), &self.name_of(node));
            match self.settings.listed(node) {
                Some((_, contact)) => line(&format!("{name}.address"), &contact),
                None => {
                    let member = gossip.membership.member(node).expect("it was found among them");
                    line(&format!("{name}.address"), &member.identity.address());
                }
            }
            if self.settings.topology.node(node).is_none() {
                line(&format!("{name}.joining"), &true);
            }
            let mut links = gossip.links.iter().filter(|link| link.link.node == node);
            if let Some(refusal) = links.find_map(|link| link.link.refusal.as_ref()) {
                line(&format!("{name}.refused"), refusal);
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
