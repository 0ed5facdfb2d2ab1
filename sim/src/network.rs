//! Connections: ordered byte streams that are late, arrive in pieces, stall in partitions, and break.
//!
//! As with TCP no byte is lost or reordered within a live connection (whole messages between nodes may be: `world/messages.rs`);
//! what a partition holds up arrives when it heals, or never if an end closes first. Sockets belong to a core of a process or to a simulated client.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ferrite_node::Connection;

use crate::executor::ProcessId;

/// Most bytes queued towards a receiver before its sender is told that the buffer is full.
pub(crate) const QUEUED_BYTES_MAX: usize = 1 << 20;

/// Whose socket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// A core of a process, which knows it under this connection.
    Core(ProcessId, u16, Connection),
    /// A client, by its number.
    Client(usize),
}

/// Names a socket; never reused.
pub(crate) type SocketId = u64;

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Whose it is.
    pub(crate) owner: Owner,
    /// The other end, while there is one.
    pub(crate) peer: Option<SocketId>,
    /// The node of the other end, once there was one and if it is on a node.
    pub(crate) remote: Option<usize>,
    /// This side has made the connection.
    pub(crate) is_made_here: bool,
    /// Bytes on their way to this end, with the time each piece arrives.
    pub(crate) arriving: VecDeque<(u64, Vec<u8>)>,
    /// The other end has closed; told when everything before it has arrived. The time it is known.
    pub(crate) closing: Option<u64>,
    /// Bytes that have arrived and were not consumed.
    pub(crate) inbox: Vec<u8>,
    /// Bytes written in the present batch.
    pub(crate) outbox: Vec<u8>,
}

/// All sockets, and which directions between nodes are cut.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// The sockets.
    pub(crate) sockets: BTreeMap<SocketId, Socket>,
    next: SocketId,
    by_core: BTreeMap<(ProcessId, u16, u32), SocketId>,
    next_connection: BTreeMap<(ProcessId, u16), u32>,
    /// Directed pairs of nodes between which nothing gets through.
    pub(crate) cut: BTreeSet<(usize, usize)>,
}

impl Network {
    /// A socket of a core; its connection is a new one.
    pub(crate) fn open_for_core(&mut self, process: ProcessId, core: u16) -> (SocketId, Connection) {
        let slot = self.next_connection.entry((process, core)).or_default();
        let connection = Connection { slot: *slot, generation: 1 };
        *slot += 1;
        let id = self.open(Owner::Core(process, core, connection));
        self.by_core.insert((process, core, connection.slot), id);
        (id, connection)
    }

    /// A socket of a client.
    pub(crate) fn open_for_client(&mut self, client: usize) -> SocketId {
        self.open(Owner::Client(client))
    }

    fn open(&mut self, owner: Owner) -> SocketId {
        let id = self.next;
        self.next += 1;
        let socket = Socket {
            owner,
            peer: None,
            remote: None,
            is_made_here: false,
            arriving: VecDeque::new(),
            closing: None,
            inbox: Vec::new(),
            outbox: Vec::new(),
        };
        self.sockets.insert(id, socket);
        id
    }

    /// The socket of a core's connection.
    pub(crate) fn of_core(&self, process: ProcessId, core: u16, connection: Connection) -> Option<SocketId> {
        self.by_core.get(&(process, core, connection.slot)).copied()
    }

    /// Makes two sockets the ends of one connection, which `one` has made.
    pub(crate) fn join(&mut self, one: SocketId, other: SocketId) {
        for (end, peer) in [(one, other), (other, one)] {
            let remote = self.sockets.get(&peer).and_then(|peer| Network::node_of(peer.owner));
            if let Some(socket) = self.sockets.get_mut(&end) {
                (socket.peer, socket.remote) = (Some(peer), remote);
                socket.is_made_here = end == one;
            }
        }
    }

    /// What a core has sent and has not arrived is lost if this is a link that it has made: that is reset when it closes. Says whether it is.
    pub(crate) fn lose_unless_arrived(&mut self, id: SocketId, now_ns: u64) -> bool {
        let Some(socket) = self.sockets.get(&id) else { return false };
        if !socket.is_made_here || Network::node_of(socket.owner).is_none() {
            return false;
        }
        if let Some(peer) = socket.peer {
            // What a partition holds up has not arrived, whenever it was due.
            let is_open = self.is_open(peer);
            if let Some(peer) = self.sockets.get_mut(&peer) {
                peer.arriving.retain(|(at, _)| is_open && *at <= now_ns);
            }
        }
        true
    }

    /// Closes an end. The other end learns of it at `known_ns`, or never (`None`: the machine vanished).
    pub(crate) fn close(&mut self, id: SocketId, known_ns: Option<u64>) -> Option<SocketId> {
        let socket = self.sockets.remove(&id)?;
        if let Owner::Core(process, core, connection) = socket.owner {
            self.by_core.remove(&(process, core, connection.slot));
        }
        let peer = socket.peer?;
        let other = self.sockets.get_mut(&peer)?;
        other.peer = None;
        other.closing = known_ns;
        Some(peer)
    }

    /// All sockets of a process.
    pub(crate) fn of_process(&self, process: ProcessId) -> Vec<SocketId> {
        let belongs = |owner: &Owner| matches!(owner, Owner::Core(of, ..) if *of == process);
        self.sockets.iter().filter(|(_, socket)| belongs(&socket.owner)).map(|(id, _)| *id).collect()
    }

    /// The node an owner is on; clients are on none, and nothing cuts them off.
    pub(crate) fn node_of(owner: Owner) -> Option<usize> {
        match owner {
            Owner::Core(process, ..) => Some(process.node),
            Owner::Client(_) => None,
        }
    }

    /// Whether bytes from the other end get through to this one at the moment.
    pub(crate) fn is_open(&self, id: SocketId) -> bool {
        let Some(socket) = self.sockets.get(&id) else { return false };
        match (socket.remote, Network::node_of(socket.owner)) {
            (Some(from), Some(to)) => !self.cut.contains(&(from, to)),
            _ => true,
        }
    }

    /// Bytes on their way to an end or waiting there.
    pub(crate) fn queued_bytes(&self, id: SocketId) -> usize {
        self.sockets.get(&id).map_or(0, |socket| {
            socket.inbox.len() + socket.arriving.iter().map(|(_, piece)| piece.len()).sum::<usize>()
        })
    }
}
