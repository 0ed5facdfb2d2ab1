//! Accepting connections: the handshake, and what a connection may send after it.
//!
//! | hello of | is accepted from |
//! |---|---|
//! | a client | anybody who does not name another cluster |
//! | a core of another node | members: nodes of the topology, with the same tables |
//! | the gossip of another node | any node of the cluster, with the same tables; of nodes that the configuration does not list one connection each, of [`UNLISTED_MAX`] at most |

use std::rc::Rc;

use ferrite_wire::{
    ClusterId, CoreId, DecodeError, ErrorCode, FRAME_HEADER_BYTES, Features, FrameFlags, FrameHeader,
    FrameKind, FrameView, Hello, HelloReply, NodeId, Order, Parsed, PeerPart, Reply, RequestId, Role,
    finish_frame, limits, parse_frame, start_frame,
};

use super::Shard;
use super::gossip_links::UNLISTED_MAX;
use super::requester::frame;
use super::session::SessionKind;
use crate::env::{Caller, Connection, Env};

/// Longest body of a frame from a connection that has not said who it is, in bytes.
const GREETING_BODY_BYTES_MAX: usize = 1024;
/// Longest body of the hello of a member of this cluster: it tells all tables.
const PEER_GREETING_BODY_BYTES_MAX: usize = Hello::HEAD_BYTES + limits::TABLES_BYTES_MAX;

impl<E: Env> Shard<E> {
    /// Looks for the first frame of an accepted connection. More than [`GREETING_BODY_BYTES_MAX`] is waited for only once its
    /// beginning names this cluster, and a member of it or, where gossip goes, the gossip of some node.
    pub(super) fn parse_greeting<'b>(&self, bytes: &'b [u8]) -> Result<Parsed<'b>, DecodeError> {
        let mut body_bytes_max = GREETING_BODY_BYTES_MAX;
        let may_be_longer = bytes.first_chunk::<FRAME_HEADER_BYTES>().is_some_and(|head| {
            let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
            let longer = GREETING_BODY_BYTES_MAX + 1..=PEER_GREETING_BODY_BYTES_MAX;
            head[8] == FrameKind::Hello as u8 && longer.contains(&len)
        });
        if may_be_longer {
            let Some(begun) = bytes[FRAME_HEADER_BYTES..].first_chunk() else {
                return Ok(Parsed::Need { bytes: FRAME_HEADER_BYTES + Hello::HEAD_BYTES });
            };
            let topology = &self.settings.topology;
            if let Some((cluster, node, part)) = Hello::peer_of(begun) {
                let may_be = match part {
                    PeerPart::Core => topology.node(node).is_some(),
                    PeerPart::Gossip => topology.node(node).is_some() || self.settings.core == CoreId(0),
                };
                if may_be && cluster == topology.cluster {
                    body_bytes_max = PEER_GREETING_BODY_BYTES_MAX;
                }
            }
        }
        parse_frame(bytes, body_bytes_max)
    }

    /// The first frame of an accepted connection. False = the connection closes.
    pub(super) fn greet(self: &Rc<Self>, connection: Connection, frame: &FrameView<'_>) -> bool {
        if frame.header.kind != FrameKind::Hello {
            return self.refuse(
                connection,
                frame.header.request,
                ErrorCode::Malformed,
                "the first frame is a hello",
            );
        }
        let hello = match Hello::decode(frame.body) {
            Ok(hello) => hello,
            Err(error) => return self.refuse_bytes(connection, frame.header.request, error),
        };
        let own = self.settings.topology.cluster;
        let any = hello.role == Role::Client && hello.cluster == ClusterId([0; 16]);
        if !any && hello.cluster != own {
            let text = format!("this node belongs to cluster {own}, not to {}", hello.cluster);
            return self.refuse(connection, frame.header.request, ErrorCode::ForeignCluster, &text);
        }
        let kind = match hello.role {
            Role::Client => SessionKind::Client,
            Role::Gossip { .. } if self.settings.core != CoreId(0) => {
                let text = "gossip goes to a node's first core";
                return self.refuse(connection, frame.header.request, ErrorCode::Unsupported, text);
            }
            Role::Peer { node, tables, .. } | Role::Gossip { node, tables, .. } => {
                let is_gossip = matches!(hello.role, Role::Gossip { .. });
                // There is no node 0.
                if node == NodeId(0) || !is_gossip && self.settings.topology.node(node).is_none() {
                    let text = format!("node {} is not a member of this cluster", node.0);
                    return self.refuse(connection, frame.header.request, ErrorCode::ForeignCluster, &text);
                }
                if let Some(text) = self.tables_difference(node, tables) {
                    return self.refuse(connection, frame.header.request, ErrorCode::TablesDiffer, &text);
                }
                if is_gossip && self.settings.listed(node).is_none() && !self.make_room_for_gossip_of(node) {
                    let text = "this node has connections for gossip from as many nodes that it does not list as it takes";
                    return self.refuse(connection, frame.header.request, ErrorCode::Overloaded, text);
                }
                if is_gossip { SessionKind::Gossip(node) } else { SessionKind::Peer }
            }
        };
        let caller = if kind == SessionKind::Client { Caller::Client } else { Caller::Peer };
        if !self.env.greeted(connection, caller) {
            let text = "this core has as many clients as it takes";
            return self.refuse(connection, frame.header.request, ErrorCode::Overloaded, text);
        }
        if let Some(session) = self.sessions.borrow_mut().get_mut(connection) {
            session.kind = kind;
            session.half_sent = None;
        }
        if let Role::Gossip { node, incarnation, .. } = hello.role {
            self.on_gossip_greeted(node, incarnation);
        }
        let reply = HelloReply {
            version: hello.version_in_common().expect("checked when it was decoded"),
            features: Features(0),
            cluster: own,
            node: self.settings.node,
            core: self.settings.core,
            cores: self.settings.cores,
            incarnation: self.settings.incarnation,
            epoch: self.ring.borrow().epoch(),
            body_bytes_max: limits::BODY_BYTES_MAX as u32,
        };
        self.env.send(connection, |out| {
            let start = start_frame(out);
            reply.encode(out);
            let header = FrameHeader {
                kind: FrameKind::HelloReply,
                flags: FrameFlags(0),
                deadline_us: 0,
                request: frame.header.request,
                // A node compares its wall clock with this one's.
                time: match kind {
                    SessionKind::Peer => Order::from_wall_ms(self.env.wall_ms()),
                    _ => self.clock.borrow().latest(),
                },
            };
            finish_frame(out, start, &header);
        });
        true
    }

    /// Sees to it that a node that is not listed has one connection for gossip to this one, the newest. False = there are too many of such nodes.
    fn make_room_for_gossip_of(&self, node: NodeId) -> bool {
        let unlisted: Vec<(Connection, NodeId)> = {
            let sessions = self.sessions.borrow();
            let all = sessions.gossip().map(|(connection, from, _)| (connection, from));
            all.filter(|(_, from)| self.settings.listed(*from).is_none()).collect()
        };
        let (former, others): (Vec<_>, Vec<_>) = unlisted.into_iter().partition(|(_, from)| *from == node);
        if others.len() >= UNLISTED_MAX {
            return false;
        }
        former.into_iter().for_each(|(connection, _)| self.drop_connection(connection));
        true
    }

    /// Says why in a typed error; the connection closes after it. Always false.
    pub(super) fn refuse(
        &self,
        connection: Connection,
        request: RequestId,
        code: ErrorCode,
        text: &str,
    ) -> bool {
        self.counters.count_error(code);
        self.env.send(connection, |out| frame(&Reply::Error { code, text }, request, false, Order(0), out));
        false
    }

    /// Refuses bytes that do not decode. Always false.
    pub(super) fn refuse_bytes(
        &self,
        connection: Connection,
        request: RequestId,
        error: DecodeError,
    ) -> bool {
        self.refuse(connection, request, error.code(), &error.to_string())
    }
}
