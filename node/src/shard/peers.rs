//! Keeping this core's links to the cores of other nodes: connecting, greeting, pinging, cutting.

use std::rc::Rc;

use ferrite_cluster::planted;
use ferrite_wire::{
    CoreId, Epoch, Fault, Features, FrameFlags, FrameHeader, FrameKind, FrameView, Hello, HelloReply,
    PROTOCOL_MAX, PROTOCOL_MIN, PeerMessage, Reply, Request, RequestId, Role, TableList, Topology,
    finish_frame, limits, start_frame,
};

use super::Shard;
use super::link::{Link, LinkState};
use super::session::SessionKind;
use super::slab::OperationId;
use crate::env::{Connection, Env, Sent};

pub(super) use super::link::OWN_REQUEST;

impl<E: Env> Shard<E> {
    /// Adds a link to core 0 of every other member; they connect at the next tick. A node that is joining has no business with them.
    pub(super) fn add_contact_links(&self) {
        if self.is_joining {
            return;
        }
        let now_ns = self.env.now_ns();
        let mut links = self.links.borrow_mut();
        for node in self.settings.topology.nodes.iter().filter(|node| node.id != self.settings.node) {
            links.add(node.id, CoreId(0), &node.contact, now_ns);
        }
    }

    /// Connects what has rested, pings what is up, cuts what is silent.
    pub(super) fn tend_links(self: &Rc<Self>, now_ns: u64) {
        let mut cut = Vec::new();
        let mut pings = Vec::new();
        {
            let mut links = self.links.borrow_mut();
            for (number, link) in links.iter_mut() {
                match link.state {
                    LinkState::Resting(until) if now_ns >= until => {
                        let connection = self.env.connect(&link.address);
                        (link.state, link.heard_ns) = (LinkState::Greeting(connection), now_ns);
                        link.greets(now_ns);
                        self.sessions.borrow_mut().open(connection, SessionKind::Link(number), now_ns);
                    }
                    LinkState::Resting(_) => {}
                    LinkState::Greeting(connection) | LinkState::Up(connection) => {
                        if now_ns.saturating_sub(link.heard_ns) > self.settings.peer_timeout_ns {
                            cut.push(connection);
                        } else if link.up().is_some()
                            && now_ns.saturating_sub(link.pinged_ns) >= self.settings.ping_interval_ns
                            && let Some(number) = link.pings(now_ns)
                        {
                            pings.push((connection, number));
                        }
                    }
                }
            }
        }
        for (connection, number) in pings {
            self.ask(connection, number, &Request::Ping);
        }
        for connection in cut {
            ferrite_lsm::cover::mark("silent peer cut");
            self.drop_connection(connection);
        }
    }

    /// An outgoing connection stands: say who we are.
    pub(super) fn hello(&self, connection: Connection) {
        let settings = &self.settings;
        let (node, core, incarnation) = (settings.node, settings.core, settings.incarnation);
        let tables = TableList::new(&self.tables).expect("this node encoded them");
        let role = match self.sessions.borrow().kind(connection) {
            Some(SessionKind::GossipLink(_)) => Role::Gossip { node, incarnation, tables },
            _ => Role::Peer { node, core, incarnation, tables },
        };
        let hello = Hello {
            min: PROTOCOL_MIN,
            max: PROTOCOL_MAX,
            features: Features(0),
            cluster: settings.topology.cluster,
            role,
        };
        self.env.send(connection, |out| {
            let start = start_frame(out);
            hello.encode(out);
            finish_frame(out, start, &self.question(FrameKind::Hello, OWN_REQUEST, 0));
        });
    }

    fn ask(&self, connection: Connection, number: RequestId, request: &Request<'_>) {
        self.env.send(connection, |out| {
            let start = start_frame(out);
            request.encode(out);
            finish_frame(out, start, &self.question(request.kind(), number, 0));
        });
    }

    fn question(&self, kind: FrameKind, request: RequestId, deadline_us: u32) -> FrameHeader {
        FrameHeader { kind, flags: FrameFlags(0), deadline_us, request, time: self.clock.borrow().latest() }
    }

    /// Sends an operation's message to a replica. False = it certainly did not leave.
    pub(super) fn ask_replica(
        &self,
        connection: Connection,
        operation: OperationId,
        replica: u8,
        left_ns: u64,
        message: &PeerMessage<'_>,
    ) -> bool {
        let deadline_us = (left_ns / 1_000).clamp(1, u64::from(u32::MAX)) as u32;
        let sent = self.env.send(connection, |out| {
            let start = start_frame(out);
            message.encode(out);
            let request = RequestId(operation.to_request(replica));
            finish_frame(out, start, &self.question(message.kind(), request, deadline_us));
        });
        sent == Sent::Queued
    }

    /// A frame came in over a link. False = the other side broke the protocol and the link is cut.
    pub(super) fn on_link_frame(
        self: &Rc<Self>,
        number: u32,
        connection: Connection,
        frame: &FrameView<'_>,
    ) -> bool {
        let now_ns = self.env.now_ns();
        let mut links = self.links.borrow_mut();
        let link = links.get_mut(number);
        link.heard_ns = now_ns;
        let up = link.up() == Some(connection);
        match frame.header.kind {
            FrameKind::HelloReply if !up => {
                let accepted =
                    HelloReply::decode(frame.body).is_ok_and(|reply| self.is_expected(link, &reply));
                if !accepted {
                    return false;
                }
                link.greeted(connection, now_ns);
                let target = link.node;
                self.compare_wall(target, link.answered(frame.header.request), frame.header.time);
                let (node, core) = (link.node.0, link.core.0);
                drop(links);
                self.hints.borrow_mut().is_back(target);
                tracing::info!(core = self.settings.core.0, peer_node = node, peer_core = core, "peer is up");
                if core == 0 {
                    self.ask(connection, OWN_REQUEST, &Request::Topology { have: Epoch(0) });
                }
                true
            }
            FrameKind::Pong => {
                self.compare_wall(link.node, link.answered(frame.header.request), frame.header.time);
                up
            }
            FrameKind::TopologyReply if up => {
                let node = link.node;
                drop(links);
                match Topology::decode(frame.body) {
                    Ok(topology) => self.learn(node, &topology),
                    Err(_) => return false,
                }
                true
            }
            FrameKind::ReplicaWriteAnswer | FrameKind::ReplicaReadAnswer if up => {
                drop(links);
                self.observe(frame.header.time);
                let (mut operation, replica) = OperationId::from_request(frame.header.request.0);
                if planted::active(planted::Bug::RecycledAnswerTaken) {
                    operation = self.operations.borrow().in_place_of(operation);
                }
                if usize::from(replica) >= limits::REPLICAS_MAX {
                    // A number that this node never gave.
                    return false;
                }
                match PeerMessage::decode(frame.header.kind, frame.body) {
                    Ok(PeerMessage::ReplicaWriteAnswer(answer)) => {
                        self.on_wrote(operation, replica, answer);
                    }
                    Ok(PeerMessage::ReplicaReadAnswer(answer)) => {
                        self.on_read_answer(operation, replica, &answer);
                    }
                    Ok(
                        PeerMessage::ReplicaWrite { .. }
                        | PeerMessage::HintedWrite { .. }
                        | PeerMessage::ReplicaRead { .. },
                    )
                    | Err(_) => {
                        return false;
                    }
                }
                true
            }
            // The answer to a write that was handed on. One that comes late answers nothing; and a peer that found fault with this
            // node's bytes says so under their number, too, and closes.
            FrameKind::Done | FrameKind::Error if up && !Link::is_own(frame.header.request) => {
                drop(links);
                self.observe(frame.header.time);
                match Reply::decode(frame.header.kind, frame.body) {
                    Ok(reply) => self.on_forward_answer(&frame.header, &reply),
                    Err(_) => return false,
                }
                true
            }
            FrameKind::Error => {
                self.take_refusal(link, frame);
                false
            }
            _ => false,
        }
    }

    /// The other side says why it refuses this node.
    pub(super) fn take_refusal(&self, link: &mut Link, frame: &FrameView<'_>) {
        let Ok(Reply::Error { code, text }) = Reply::decode(frame.header.kind, frame.body) else { return };
        // It is shown in lines, and nothing in it is to end one.
        let refusal = Fault { code, text: text.replace(char::is_control, " ") };
        // Tried again and again, it is told once.
        if link.refusal.as_ref() != Some(&refusal) {
            let (core, node, address) = (self.settings.core.0, link.node.0, &link.address);
            tracing::warn!(core, peer_node = node, address, %refusal, "a peer refused this node");
            link.refusal = Some(refusal);
        }
    }

    pub(super) fn is_expected(&self, link: &Link, reply: &HelloReply) -> bool {
        let expected = (self.settings.topology.cluster, link.node, link.core);
        let found = (reply.cluster, reply.node, reply.core);
        if expected != found {
            tracing::warn!(
                address = link.address,
                expected_node = expected.1.0,
                found_node = found.1.0,
                "another node or core answers at a peer's address"
            );
        }
        expected == found
    }

    /// Takes over what a node says of its own endpoints and cores, and links to each of its cores.
    fn learn(&self, node: ferrite_wire::NodeId, topology: &Topology) {
        let Some(entry) = topology.node(node) else { return };
        if topology.cluster != self.settings.topology.cluster || entry.endpoints.is_empty() {
            return;
        }
        let has_changed = {
            let mut ring = self.ring.borrow_mut();
            let cores = |ring: &ferrite_cluster::Ring| {
                ring.topology().node(node).map(|known| known.core_of_vnode.clone())
            };
            let before = cores(&ring);
            ring.learn(entry);
            before != cores(&ring)
        };
        if has_changed {
            self.hints.borrow_mut().cores_changed(node);
        }
        let now_ns = self.env.now_ns();
        let mut links = self.links.borrow_mut();
        for (core, endpoint) in entry.endpoints.iter().enumerate() {
            links.add(node, CoreId(core as u16), endpoint, now_ns);
        }
    }

    /// A link's connection is gone: rest before the next attempt, and tell the operations that waited for it.
    pub(super) fn on_link_cut(self: &Rc<Self>, number: u32, connection: Connection) {
        let now_ns = self.env.now_ns();
        {
            let mut links = self.links.borrow_mut();
            let link = links.get_mut(number);
            if link.connection() != Some(connection) {
                return;
            }
            if link.up().is_some() {
                tracing::warn!(
                    core = self.settings.core.0,
                    peer_node = link.node.0,
                    peer_core = link.core.0,
                    "peer is down"
                );
            }
            link.cut(now_ns, self.settings.reconnect_pause_max_ns, self.env.random());
        }
        self.on_replica_connection_lost(connection);
    }
}
