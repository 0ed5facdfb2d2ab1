//! The node's part in the gossip of its cluster: its first core holds the [`Membership`], drives it, and carries out what it asks for.
//!
//! ```text
//!   timer ─┐                           ┌─ packets → gossip links
//!   packet ┼→ Membership → outputs ────┼─ verdicts → log, and the list of absences → every core
//!   cores ─┘                           └─ a new life → the local space
//! ```
//!
//! Who is a member of the gossip is said by the gossip: a node of the same cluster, with the same tables, is found through its seeds by all, is spoken to and
//! shown, whether the configuration of the others lists it or not. Who owns what is said by the topology alone, and a node that is not in it owns
//! nothing: it has no connections for data, and refuses what clients ask of it.
//!
//! Packets find a node by its number, over the link to it ([`super::gossip_links`]).
//!
//! Invariant: the membership is never borrowed while its outputs are carried out.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::rc::Rc;

use ferrite_cluster::gossip::{
    CoreReport, CoreVerdict, Fault, Fence, Generation, Identity, Membership, Output, SEEDS_MAX, Scope, Start,
    TablesHash, Verdict,
};
use ferrite_lsm::cover;
use ferrite_wire::{
    CoreId, FrameHeader, FrameKind, FrameView, HelloReply, NodeId, Order, Reply, Request, RequestId,
    finish_frame, start_frame,
};

use super::gossip_links::{GossipLinks, Target, Way};
use super::link::LinkState;
use super::liveness::{PROGRESS_INTERVAL_NS, Progress};
use super::peers::OWN_REQUEST;
use super::session::SessionKind;
use super::{Shard, ShardSettings};
use crate::env::{Connection, Env};

const MS: u64 = 1_000_000;
/// A link that is asked and says nothing for so many probe periods is cut.
const SILENT_PERIODS: u64 = 2;
/// Where the stand-ins for addresses of seeds begin that are names: above those of nodes.
const SEED_NAMES: u128 = 1 << 16;
/// Least time between two lines in the log about packets that were refused, in nanoseconds.
const FAULT_PAUSE_NS: u64 = 10_000_000_000;

/// A core of this node, as its first core knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnCore {
    pub(super) progress: Progress,
    /// When it was last seen to have moved, in nanoseconds.
    pub(super) moved_ns: u64,
    /// Since when it runs, or is fenced, in nanoseconds.
    pub(super) since_ns: u64,
}

/// What was sent, taken and refused.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GossipCounts {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Not sent, for want of a connection or of room.
    pub(super) dropped: u64,
    /// Refused for what they said.
    pub(super) refused: u64,
    /// Verdicts of suspect that were come to, and of down.
    pub(super) suspicions: u64,
    pub(super) downs: u64,
}

/// A verdict as it was last told in the log.
#[derive(Clone, Copy, Debug)]
struct Told {
    verdict: Verdict,
    generation: Generation,
    at_ns: u64,
}

/// The first core's part.
pub(super) struct Gossip {
    pub(super) membership: Membership,
    pub(super) links: GossipLinks,
    pub(super) cores: Vec<OwnCore>,
    pub(super) counts: GossipCounts,
    /// Verdicts as they were last told in the log.
    told: BTreeMap<NodeId, Told>,
    reported_ns: Option<u64>,
    fault_told_ns: Option<u64>,
    faults_untold: u64,
    has_left: bool,
    /// How long a core may stand still.
    pub(super) stall_ns: u64,
}

impl Gossip {
    fn new<E: Env>(shard: &Shard<E>, generation: Generation) -> Gossip {
        let settings = &shard.settings;
        let (topology, node, now_ns) = (&settings.topology, settings.node, shard.env.now_ns());
        let contacts = settings.contacts();
        let (name, contact) = settings.listed(node).expect("a node's own configuration lists it");
        let said = if settings.is_joining() { settings.resolved } else { None };
        let mut links = GossipLinks::default();
        for (other, contact) in contacts.iter().filter(|(other, _)| *other != node) {
            links.add_listed(*other, contact, now_ns);
        }
        for (name, address) in seeds(settings, &contacts) {
            links.add_seed(name, address, now_ns);
        }
        let start = Start {
            me: Identity::new(node, generation, said.unwrap_or_else(|| address_of(node, contact))),
            scope: Scope { cluster: topology.cluster, tables: TablesHash::of(&topology.tables) },
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: name.to_owned(),
            seeds: links.seeds().collect(),
            random_seed: shard.env.random(),
            options: settings.gossip.clone(),
        };
        let core = OwnCore { progress: Progress::default(), moved_ns: now_ns, since_ns: now_ns };
        Gossip {
            membership: Membership::new(now_ns / MS, start),
            links,
            cores: vec![core; usize::from(settings.cores)],
            counts: GossipCounts::default(),
            told: BTreeMap::new(),
            reported_ns: None,
            fault_told_ns: None,
            faults_untold: 0,
            has_left: false,
            stall_ns: settings.gossip.stall_ms * MS,
        }
    }

    fn take_progress(&mut self, now_ns: u64, core: CoreId, progress: Progress) {
        let Some(held) = self.cores.get_mut(usize::from(core.0)) else { return };
        if held.progress.turns != progress.turns {
            if now_ns.saturating_sub(held.moved_ns) >= self.stall_ns {
                held.since_ns = now_ns;
            }
            held.moved_ns = now_ns;
        }
        if held.progress.is_fenced != progress.is_fenced {
            held.since_ns = now_ns;
        }
        held.progress = progress;
    }
}

/// Where to ask first, and by which name the membership knows each: the seeds that are configured, or all other nodes that are listed, from the next one on,
/// so that of many nodes not all look for the same ones. This node itself is none of them.
fn seeds<'s>(settings: &'s ShardSettings, contacts: &[(NodeId, &'s str)]) -> Vec<(SocketAddr, &'s str)> {
    let others = contacts.iter().copied().filter(|(node, _)| *node != settings.node);
    if settings.seeds.is_empty() {
        let (before, after): (Vec<_>, Vec<_>) = others.partition(|(node, _)| *node < settings.node);
        let turned = after.into_iter().chain(before).take(SEEDS_MAX);
        return turned.map(|(node, contact)| (address_of(node, contact), contact)).collect();
    }
    let named = |(at, seed): (usize, &'s String)| match contacts.iter().find(|(_, contact)| contact == seed) {
        Some((node, _)) if *node == settings.node => None,
        Some((node, contact)) => Some((address_of(*node, contact), *contact)),
        None => Some((seed.parse().unwrap_or_else(|_| stand_in(SEED_NAMES + at as u128)), seed.as_str())),
    };
    settings.seeds.iter().take(SEEDS_MAX).enumerate().filter_map(named).collect()
}

/// Where a listed node says it is. A name stands for itself as an address that is nobody's: packets travel by node.
fn address_of(node: NodeId, contact: &str) -> SocketAddr {
    contact.parse().unwrap_or_else(|_| stand_in(node.0.into()))
}

fn stand_in(number: u128) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::from(number), 0))
}

impl<E: Env> Shard<E> {
    /// Begins to take part, on the first core.
    pub(super) fn start_gossip(&self, generation: Generation) {
        let gossip = Gossip::new(self, generation);
        *self.gossip.borrow_mut() = Some(gossip);
    }

    /// When [`Shard::tick_gossip`] is wanted next.
    pub(super) fn next_gossip_ns(&self) -> Option<u64> {
        let gossip = self.gossip.borrow();
        let gossip = gossip.as_ref().filter(|gossip| !gossip.has_left)?;
        Some(gossip.membership.next_tick_ms().saturating_mul(MS))
    }

    /// Does what the membership has due.
    pub(super) fn tick_gossip(self: &Rc<Self>, now_ns: u64) {
        if self.next_gossip_ns().is_some_and(|due_ns| due_ns <= now_ns) {
            self.with_membership(|membership, out| membership.tick(now_ns / MS, out));
        }
    }

    /// The membership's regular needs: reports of the cores, and links that have fallen silent.
    pub(super) fn tend_gossip(self: &Rc<Self>, now_ns: u64) {
        let (silent, forgotten) = {
            let mut gossip = self.gossip.borrow_mut();
            let Some(gossip) = gossip.as_mut().filter(|gossip| !gossip.has_left) else { return };
            gossip.take_progress(now_ns, self.settings.core, self.progress());
            if gossip.reported_ns.is_none_or(|at| now_ns >= at + PROGRESS_INTERVAL_NS) {
                gossip.reported_ns = Some(now_ns);
                let load_permille = gossip.cores.iter().map(|core| core.progress.load_permille).max();
                let report = |core: &OwnCore| CoreReport {
                    progress: core.progress.turns,
                    fence: if core.progress.is_fenced { Fence::Fenced } else { Fence::Open },
                };
                let cores: Vec<CoreReport> = gossip.cores.iter().map(report).collect();
                let epoch = self.ring.borrow().epoch();
                gossip.membership.report(now_ns / MS, load_permille.unwrap_or(0), epoch, &cores);
            }
            let silence_ns = SILENT_PERIODS * self.settings.gossip.probe_period_ms * MS;
            let silent = gossip.links.iter().filter(|link| link.is_silent(now_ns, silence_ns));
            let silent: Vec<Connection> = silent.filter_map(|link| link.link.connection()).collect();
            let membership = &gossip.membership;
            (silent, gossip.links.forget(now_ns, |node| membership.member(node).is_some()))
        };
        for connection in silent {
            cover::mark("silent gossip link cut");
            self.drop_connection(connection);
        }
        forgotten.into_iter().for_each(|connection| self.drop_connection(connection));
        self.close_vanished_gossip(now_ns);
    }

    /// A core of this node has said how it is.
    pub(super) fn on_progress(&self, from: CoreId, progress: Progress) {
        if let Some(gossip) = self.gossip.borrow_mut().as_mut() {
            gossip.take_progress(self.env.now_ns(), from, progress);
        }
        if progress.seen != self.progress().seen {
            self.tell_absences(from);
        }
    }

    /// The node stops: some others are told, so that nobody needs to find out.
    pub(super) fn leave_gossip(self: &Rc<Self>) {
        let now_ms = self.env.now_ns() / MS;
        self.with_membership(|membership, out| membership.leave(now_ms, out));
        if let Some(gossip) = self.gossip.borrow_mut().as_mut() {
            gossip.has_left = true;
        }
    }

    /// A frame of another node's gossip. False = the connection closes.
    pub(super) fn on_gossip_frame(
        self: &Rc<Self>,
        connection: Connection,
        node: NodeId,
        frame: &FrameView<'_>,
    ) -> bool {
        let id = frame.header.request;
        self.hear_gossip(connection);
        match frame.header.kind {
            FrameKind::Ping => {
                self.send_frame(connection, FrameKind::Pong, id, |out| Reply::Pong.encode(out));
                true
            }
            FrameKind::Gossip => {
                let now_ns = self.env.now_ns();
                if let Some(gossip) = self.gossip.borrow_mut().as_mut() {
                    gossip.counts.received += 1;
                }
                let taken = self
                    .with_membership(|membership, out| membership.on_message(now_ns / MS, frame.body, out));
                match taken {
                    None | Some(Ok(())) => true,
                    Some(Err(fault)) => {
                        self.tell_fault(now_ns, node, &fault);
                        match fault {
                            Fault::Malformed(error) => self.refuse_bytes(connection, id, error),
                            _ => true,
                        }
                    }
                }
            }
            _ => self.refuse(connection, id, ferrite_wire::ErrorCode::Unsupported, "not gossip"),
        }
    }

    /// Another node has greeted as gossip: it is there, and whoever it was before is not.
    pub(super) fn on_gossip_greeted(&self, node: NodeId, incarnation: u64) {
        let now_ns = self.env.now_ns();
        let stale = {
            let mut gossip = self.gossip.borrow_mut();
            let Some(gossip) = gossip.as_mut() else { return };
            let Some(number) = gossip.links.to(node) else { return };
            let Some(link) = gossip.links.get_mut(number) else { return };
            match link.link.state {
                LinkState::Resting(_) => {
                    link.link.state = LinkState::Resting(now_ns);
                    None
                }
                LinkState::Up(connection) if link.incarnation != incarnation => Some(connection),
                LinkState::Greeting(_) | LinkState::Up(_) => None,
            }
        };
        if let Some(connection) = stale {
            self.drop_connection(connection);
        }
    }

    /// A frame came in over a gossip link. False = the link is cut.
    pub(super) fn on_gossip_link_frame(
        &self,
        number: u32,
        connection: Connection,
        frame: &FrameView<'_>,
    ) -> bool {
        let now_ns = self.env.now_ns();
        let mut gossip = self.gossip.borrow_mut();
        let Some(gossip) = gossip.as_mut() else { return false };
        let Some(link) = gossip.links.get_mut(number) else { return false };
        let is_up = link.link.up() == Some(connection);
        match frame.header.kind {
            FrameKind::HelloReply if !is_up => {
                let Ok(reply) = HelloReply::decode(frame.body) else { return false };
                let is_right = match link.target {
                    Target::Seed => {
                        reply.cluster == self.settings.topology.cluster && reply.core == CoreId(0)
                    }
                    Target::Listed | Target::Learned(_) => self.is_expected(&link.link, &reply),
                };
                if !is_right {
                    return false;
                }
                link.link.node = reply.node;
                link.greeted(connection, reply.incarnation, now_ns);
                for packet in std::mem::take(&mut link.waiting) {
                    let sent = match link.take(now_ns, packet.len()) {
                        Way::Send(connection, pings) => self.send_packet(connection, &packet, pings),
                        Way::Connect | Way::Wait | Way::Drop => false,
                    };
                    *if sent { &mut gossip.counts.sent } else { &mut gossip.counts.dropped } += 1;
                }
                true
            }
            FrameKind::Pong if is_up => {
                link.ponged(now_ns);
                true
            }
            FrameKind::Error => {
                // Where there is a link for data, that is refused for the same reason, and tells of it.
                if self.is_joining || link.target != Target::Listed {
                    self.take_refusal(&mut link.link, frame);
                }
                false
            }
            _ => false,
        }
    }

    /// A gossip link's connection is gone; what waited for it is worth nothing later.
    pub(super) fn on_gossip_link_cut(&self, number: u32, connection: Connection) {
        let (now_ns, random) = (self.env.now_ns(), self.env.random());
        let mut gossip = self.gossip.borrow_mut();
        let Some(gossip) = gossip.as_mut() else { return };
        let Some(link) = gossip.links.get_mut(number) else { return };
        if link.link.connection() == Some(connection) {
            link.link.cut(now_ns, self.settings.reconnect_pause_max_ns, random);
            gossip.counts.dropped += link.waiting.len() as u64;
            link.waiting.clear();
        }
    }

    /// Lets the membership do something, then carries out what it asks for. `None` = it is another core that has it.
    fn with_membership<R>(
        self: &Rc<Self>,
        act: impl FnOnce(&mut Membership, &mut Vec<Output>) -> R,
    ) -> Option<R> {
        let mut out = Vec::new();
        let result = {
            let mut gossip = self.gossip.borrow_mut();
            act(&mut gossip.as_mut()?.membership, &mut out)
        };
        let mut has_changed = false;
        for output in out {
            match output {
                Output::Send { to, node, bytes } => self.send_gossip(to, node, bytes),
                Output::Verdict { identity, verdict } => {
                    has_changed = true;
                    self.tell_verdict(identity, verdict);
                }
                Output::Core { node, core, verdict } => {
                    has_changed = true;
                    self.tell_core_verdict(node, core, verdict);
                }
                Output::Renewed { generation } => {
                    cover::mark("life renewed");
                    tracing::warn!(
                        generation = generation.0,
                        "the cluster held this node to be down, or has seen a later life of it: it goes on under a new one"
                    );
                    self.keep_generation(generation);
                }
            }
        }
        if has_changed && let Some(gossip) = self.gossip.borrow().as_ref() {
            self.spread_absences(&gossip.membership);
        }
        Some(result)
    }

    /// Sends a packet, or lets it wait for its connection, or drops it.
    fn send_gossip(&self, to: SocketAddr, node: Option<NodeId>, bytes: Vec<u8>) {
        let now_ns = self.env.now_ns();
        let number = self.way_of_gossip(now_ns, to, node);
        let mut gossip = self.gossip.borrow_mut();
        let Some(gossip) = gossip.as_mut() else { return };
        let Some(link) = number.and_then(|number| gossip.links.get_mut(number)) else {
            gossip.counts.dropped += 1;
            return;
        };
        let is_sent = match link.take(now_ns, bytes.len()) {
            Way::Drop => false,
            Way::Send(connection, pings) => self.send_packet(connection, &bytes, pings),
            way @ (Way::Connect | Way::Wait) => {
                if way == Way::Connect {
                    let connection = self.env.connect(&link.link.address);
                    (link.link.state, link.link.heard_ns) = (LinkState::Greeting(connection), now_ns);
                    let number = number.expect("the link was found by it");
                    self.sessions.borrow_mut().open(connection, SessionKind::GossipLink(number), now_ns);
                }
                link.waiting.push_back(bytes);
                return;
            }
        };
        *if is_sent { &mut gossip.counts.sent } else { &mut gossip.counts.dropped } += 1;
    }

    /// The number of the link to a node that says it is there, or to a seed.
    fn way_of_gossip(&self, now_ns: u64, to: SocketAddr, node: Option<NodeId>) -> Option<u32> {
        let way = {
            let mut gossip = self.gossip.borrow_mut();
            let links = &mut gossip.as_mut()?.links;
            match node {
                Some(node) => links.way_to(node, to, now_ns)?,
                None => return links.to_seed(to),
            }
        };
        if let Some(connection) = way.stale {
            self.drop_connection(connection);
        }
        Some(way.number)
    }

    /// Puts a packet on its connection, and a ping behind it. False = it has no room, or is gone.
    fn send_packet(&self, connection: Connection, packet: &[u8], pings: bool) -> bool {
        let is_sent = self.send_frame(connection, FrameKind::Gossip, OWN_REQUEST, |out| {
            out.extend_from_slice(packet);
        });
        if pings {
            self.send_frame(connection, FrameKind::Ping, OWN_REQUEST, |out| Request::Ping.encode(out));
        }
        is_sent
    }

    fn send_frame(
        &self,
        connection: Connection,
        kind: FrameKind,
        request: RequestId,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        let sent = self.env.send(connection, |out| {
            let start = start_frame(out);
            encode(out);
            // Gossip orders nothing: clocks are the business of data.
            let flags = ferrite_wire::FrameFlags(0);
            let header = FrameHeader { kind, flags, deadline_us: 0, request, time: Order(0) };
            finish_frame(out, start, &header);
        });
        sent == crate::env::Sent::Queued
    }

    fn tell_verdict(&self, identity: Identity, verdict: Verdict) {
        let (node, generation, at_ns) = (identity.node(), identity.generation(), self.env.now_ns());
        let name = self.name_of(node);
        let mut gossip = self.gossip.borrow_mut();
        let Some(gossip) = gossip.as_mut() else { return };
        match verdict {
            Verdict::Up => {}
            Verdict::Suspect => gossip.counts.suspicions += 1,
            Verdict::Down => gossip.counts.downs += 1,
        }
        let before = gossip.told.insert(node, Told { verdict, generation, at_ns });
        let from = before.map_or("unknown", |before| verdict_word(before.verdict));
        let after_ms = before.map_or(0, |before| at_ns.saturating_sub(before.at_ns) / MS);
        // A process that was started anew is up as its former self may have been.
        let is_new_life = before.is_some_and(|before| before.generation != generation);
        let (node, name, to, generation) = (node.0, name.as_str(), verdict_word(verdict), generation.0);
        if verdict == Verdict::Up {
            tracing::info!(node, name, from, to, after_ms, generation, is_new_life, "verdict on a node");
        } else {
            tracing::warn!(node, name, from, to, after_ms, generation, is_new_life, "verdict on a node");
        }
    }

    fn tell_core_verdict(&self, node: NodeId, core: CoreId, verdict: CoreVerdict) {
        let name = self.name_of(node);
        let (node, core, to) = (node.0, core.0, core_verdict_word(verdict));
        if verdict == CoreVerdict::Live {
            tracing::info!(node, name = name.as_str(), core, to, "verdict on a core of another node");
        } else {
            tracing::warn!(node, name = name.as_str(), core, to, "verdict on a core of another node");
        }
    }

    /// What a node is called: by the configuration, or by itself where that does not list it.
    pub(super) fn name_of(&self, node: NodeId) -> String {
        if let Some((name, _)) = self.settings.listed(node) {
            return name.to_owned();
        }
        let gossip = self.gossip.borrow();
        let said = gossip.as_ref().and_then(|gossip| gossip.membership.digest(node));
        match said.map(|digest| digest.name.as_str()) {
            None | Some("") => format!("node-{}", node.0),
            Some(name) => name.to_owned(),
        }
    }

    /// Tells of a packet that was refused, not more often than once in [`FAULT_PAUSE_NS`].
    fn tell_fault(&self, now_ns: u64, node: NodeId, fault: &Fault) {
        let mut gossip = self.gossip.borrow_mut();
        let Some(gossip) = gossip.as_mut() else { return };
        gossip.counts.refused += 1;
        if gossip.fault_told_ns.is_some_and(|at| now_ns < at + FAULT_PAUSE_NS) {
            gossip.faults_untold += 1;
            return;
        }
        gossip.fault_told_ns = Some(now_ns);
        let (from, untold) = (node.0, std::mem::take(&mut gossip.faults_untold));
        tracing::warn!(from, untold, %fault, "a packet of gossip was refused");
    }
}

/// A verdict in the log and in the status.
pub(super) fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Up => "up",
        Verdict::Suspect => "suspect",
        Verdict::Down => "down",
    }
}

/// The same of a core.
pub(super) fn core_verdict_word(verdict: CoreVerdict) -> &'static str {
    match verdict {
        CoreVerdict::Live => "running",
        CoreVerdict::Stalled => "stalled",
        CoreVerdict::Fenced => "fenced",
    }
}
