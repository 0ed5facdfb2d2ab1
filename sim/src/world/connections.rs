//! Connections: who is reached at an address, when bytes arrive, and who is told that an end is gone.

use std::rc::Rc;

use ferrite_node::{Connection, Handler, Hop, Received, Sent};
use ferrite_wire::CoreId;

use super::{Director, Event, World};
use crate::executor::ProcessId;
use crate::network::{Network, Owner, QUEUED_BYTES_MAX, Socket, SocketId};

/// How connections fail by themselves, in percent, with all that was on its way. What becomes of single messages is said in
/// [`super::messages`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConnectionFaults {
    /// So many attempts are refused.
    pub(crate) refused_percent: u64,
    /// So many connections break within [`DOOM_NS_MAX`].
    pub(crate) doomed_percent: u64,
}

/// A doomed connection does not stand longer.
const DOOM_NS_MAX: u64 = 3_000_000_000;
/// Most hops that wait for a core.
const HOPS_MAX: usize = 64;

impl World {
    /// Lets a core write to a connection.
    pub(crate) fn send(
        &self,
        process: ProcessId,
        core: u16,
        connection: Connection,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Sent {
        let mut network = self.network.borrow_mut();
        let Some(id) = network.of_core(process, core, connection) else { return Sent::Gone };
        let peer = network.sockets.get(&id).and_then(|socket| socket.peer);
        if peer.is_some_and(|peer| network.queued_bytes(peer) > QUEUED_BYTES_MAX) {
            return Sent::Full;
        }
        let Some(socket) = network.sockets.get_mut(&id) else { return Sent::Gone };
        let mut outbox = std::mem::take(&mut socket.outbox);
        drop(network);
        encode(&mut outbox);
        if let Some(socket) = self.network.borrow_mut().sockets.get_mut(&id) {
            socket.outbox = outbox;
        }
        self.dirty.borrow_mut().push(id);
        Sent::Queued
    }

    /// Lets a client write.
    pub(crate) fn client_send(&self, socket: SocketId, bytes: &[u8]) {
        if let Some(socket) = self.network.borrow_mut().sockets.get_mut(&socket) {
            socket.outbox.extend_from_slice(bytes);
        }
        self.dirty.borrow_mut().push(socket);
    }

    pub(super) fn flush_sockets(&self) {
        let dirty = std::mem::take(&mut *self.dirty.borrow_mut());
        dirty.into_iter().for_each(|id| self.flush_socket(id));
    }

    /// Sends what a socket has queued.
    fn flush_socket(&self, id: SocketId) {
        let (bytes, is_between_nodes) = {
            let mut network = self.network.borrow_mut();
            let Some(socket) = network.sockets.get_mut(&id) else { return };
            let is_between_nodes = socket.remote.is_some() && Network::node_of(socket.owner).is_some();
            (std::mem::take(&mut socket.outbox), is_between_nodes)
        };
        if !bytes.is_empty() {
            self.trace.borrow_mut().note_bytes(&bytes);
            let bytes = if is_between_nodes { self.pass(id, bytes) } else { bytes };
            self.carry(id, bytes);
        }
    }

    /// Carries bytes to the other end, in pieces, each later than the last.
    pub(super) fn carry(&self, id: SocketId, mut bytes: Vec<u8>) {
        let mut network = self.network.borrow_mut();
        let Some(socket) = network.sockets.get_mut(&id) else { return };
        let Some(peer) = socket.peer else {
            let lost = socket.remote.filter(|_| socket.closing.is_none());
            let known_ns = self.now_ns() + self.between(50_000, 500_000);
            // The machine behind it vanished. Once it is up again it says that it knows nothing of the connection.
            if let Some(remote) = lost
                && self.nodes.borrow()[remote].process.is_some()
            {
                socket.closing = Some(known_ns);
                drop(network);
                self.at(known_ns, Event::Arrival(id));
            }
            return;
        };
        let mut arrivals = Vec::new();
        if let Some(target) = network.sockets.get_mut(&peer) {
            let mut time_ns = target.arriving.back().map_or(0, |(at, _)| *at).max(self.now_ns());
            while !bytes.is_empty() {
                let mut random = self.random.borrow_mut();
                let cut = if random.one_in(8) {
                    random.between(1, bytes.len() as u64) as usize
                } else {
                    bytes.len()
                };
                time_ns += if random.one_in(50) {
                    random.between(1_000_000, 20_000_000)
                } else {
                    random.between(10_000, 300_000)
                };
                let rest = bytes.split_off(cut);
                target.arriving.push_back((time_ns, bytes));
                arrivals.push(time_ns);
                bytes = rest;
            }
        }
        drop(network);
        arrivals.into_iter().for_each(|time_ns| self.at(time_ns, Event::Arrival(peer)));
    }

    /// A core starts to connect.
    pub(crate) fn connect(&self, process: ProcessId, core: u16, address: &str) -> Connection {
        let (id, connection) = self.network.borrow_mut().open_for_core(process, core);
        let latency_ns = self.between(20_000, 500_000);
        self.after(latency_ns, Event::Connect(id, address.to_owned()));
        connection
    }

    /// A client starts to connect.
    pub(crate) fn client_connect(&self, client: usize, address: &str) -> SocketId {
        let id = self.network.borrow_mut().open_for_client(client);
        let latency_ns = self.between(20_000, 500_000);
        self.after(latency_ns, Event::Connect(id, address.to_owned()));
        id
    }

    /// An attempt reaches its address: somebody listens there, or not.
    pub(super) fn reach(&self, id: SocketId, address: &str) {
        let Some(owner) = self.network.borrow().sockets.get(&id).map(|socket| socket.owner) else { return };
        let listener = {
            let nodes = self.nodes.borrow();
            nodes.iter().enumerate().find_map(|(node, at)| {
                let place = at.addresses.iter().position(|known| known == address)?;
                // The contact address comes first and is served by core 0.
                Some((node, at.process.as_ref().map(|process| process.id), place.saturating_sub(1) as u16))
            })
        };
        let Some((node, process, core)) = listener else {
            return self.after(1_000, Event::Connected(id, false));
        };
        if let Some(process) = process
            && self.postpone(process, Some(core), || Event::Connect(id, address.to_owned()))
        {
            return;
        }
        let from = Network::node_of(owner);
        let cut = from.is_some_and(|from| {
            let network = self.network.borrow();
            network.cut.contains(&(from, node)) || network.cut.contains(&(node, from))
        });
        if cut {
            // Nobody answers; the attempt hangs until it is given up.
            return;
        }
        let faults = self.connections.get();
        let chance = |percent| percent > 0 && self.between(1, 100) <= percent;
        let accepting = process.and_then(|process| self.shard(process, core).map(|shard| (process, shard)));
        match accepting {
            Some(_) if chance(faults.refused_percent) => {
                self.count("connection refused");
                self.after(10_000, Event::Connected(id, false));
            }
            Some((process, shard)) => {
                let (other, connection) = self.network.borrow_mut().open_for_core(process, core);
                self.network.borrow_mut().join(id, other);
                shard.on_accepted(connection);
                self.after(10_000, Event::Connected(id, true));
                if chance(faults.doomed_percent) {
                    self.after(self.between(10_000, DOOM_NS_MAX), Event::Break(id));
                }
            }
            None => self.after(10_000, Event::Connected(id, false)),
        }
    }

    pub(super) fn connected(self: &Rc<World>, id: SocketId, stands: bool, director: &dyn Director) {
        let Some(owner) = self.network.borrow().sockets.get(&id).map(|socket| socket.owner) else { return };
        if let Owner::Core(process, core, _) = owner
            && self.postpone(process, Some(core), || Event::Connected(id, stands))
        {
            return;
        }
        self.note(2, [id, u64::from(stands), 0]);
        if !stands {
            self.network.borrow_mut().close(id, None);
        }
        match owner {
            Owner::Client(client) => director.on_client_connected(self, client, id, stands),
            Owner::Core(process, core, connection) => {
                if let Some(shard) = self.shard(process, core) {
                    if stands { shard.on_connected(connection) } else { shard.on_closed(connection) }
                }
            }
        }
    }

    pub(super) fn arrive(self: &Rc<World>, id: SocketId, director: &dyn Director) {
        let Some(owner) = self.network.borrow().sockets.get(&id).map(|socket| socket.owner) else { return };
        if let Owner::Core(process, core, _) = owner
            && self.postpone(process, Some(core), || Event::Arrival(id))
        {
            return;
        }
        if !self.network.borrow().is_open(id) {
            return self.after(5_000_000, Event::Arrival(id));
        }
        let now_ns = self.now_ns();
        let (inbox, closed) = {
            let mut network = self.network.borrow_mut();
            let Some(socket) = network.sockets.get_mut(&id) else { return };
            let mut arrived = false;
            while socket.arriving.front().is_some_and(|(at, _)| *at <= now_ns) {
                let (_, piece) = socket.arriving.pop_front().expect("just seen");
                socket.inbox.extend_from_slice(&piece);
                arrived = true;
            }
            let closed = socket.arriving.is_empty() && socket.closing.is_some_and(|at| at <= now_ns);
            (arrived.then(|| std::mem::take(&mut socket.inbox)), closed)
        };
        if let Some(inbox) = inbox {
            self.note(1, [id, inbox.len() as u64, 0]);
            let used = match owner {
                Owner::Client(client) => Some(director.on_client_bytes(self, client, id, &inbox)),
                Owner::Core(process, core, connection) => match self.shard(process, core) {
                    Some(shard) => match shard.on_received(connection, &inbox) {
                        Received::Consumed { used, .. } => Some(used),
                        Received::Close => None,
                    },
                    None => None,
                },
            };
            match used {
                Some(used) => {
                    if let Some(socket) = self.network.borrow_mut().sockets.get_mut(&id) {
                        socket.inbox = inbox[used..].to_vec();
                    }
                }
                None => self.shut(id),
            }
        }
        if closed && self.network.borrow_mut().close(id, None).is_none() {
            self.note(3, [id, 0, 0]);
            match owner {
                Owner::Client(client) => director.on_client_closed(self, client, id),
                Owner::Core(process, core, connection) => {
                    if let Some(shard) = self.shard(process, core) {
                        shard.on_closed(connection);
                    }
                }
            }
        }
    }

    /// A core closes a connection.
    pub(crate) fn close(&self, process: ProcessId, core: u16, connection: Connection) {
        let id = self.network.borrow().of_core(process, core, connection);
        if let Some(id) = id {
            self.shut(id);
        }
    }

    /// Closes a socket from its own side: what is queued leaves first, unless it is a link that a core has made.
    pub(crate) fn shut(&self, id: SocketId) {
        let is_reset = self.network.borrow_mut().lose_unless_arrived(id, self.now_ns());
        if !is_reset {
            self.flush_socket(id);
        }
        let known_ns = self.now_ns() + self.between(20_000, 1_000_000);
        let peer = self.network.borrow_mut().close(id, Some(known_ns));
        if let Some(peer) = peer {
            let last_ns = self.network.borrow().sockets[&peer].arriving.back().map_or(0, |(at, _)| *at);
            self.at(known_ns.max(last_ns), Event::Arrival(peer));
        }
    }

    /// A core sends to another of its process.
    pub(crate) fn hop(&self, process: ProcessId, from: u16, to: CoreId, message: Hop) -> Result<(), Hop> {
        if self.has_ended(process, to) {
            return Err(message);
        }
        let room = self.core_mut(process, to.0, |core| {
            let room = core.hops_waiting < HOPS_MAX;
            core.hops_waiting += usize::from(room);
            room
        });
        if room != Some(true) {
            return Err(message);
        }
        let latency_ns = self.between(1_000, 50_000);
        self.after(latency_ns, Event::Hop(process, to.0, CoreId(from), message));
        Ok(())
    }

    /// Breaks one of the connections between nodes, chosen at random; both ends are told. False if there is none.
    pub(crate) fn reset_any(&self) -> bool {
        let standing: Vec<SocketId> = {
            let network = self.network.borrow();
            let between_nodes =
                |socket: &Socket| socket.peer.is_some() && Network::node_of(socket.owner).is_some();
            let standing = network.sockets.iter().filter(|(_, at)| between_nodes(at) && at.remote.is_some());
            standing.map(|(id, _)| *id).collect()
        };
        if standing.is_empty() {
            return false;
        }
        let one = standing[self.between(0, standing.len() as u64 - 1) as usize];
        self.reset(one);
        true
    }

    /// Breaks a connection; both ends are told, and what was on its way is lost.
    fn reset(&self, one: SocketId) {
        let other = self.network.borrow().sockets.get(&one).and_then(|socket| socket.peer);
        for end in [Some(one), other].into_iter().flatten() {
            let known_ns = self.now_ns() + self.between(10_000, 500_000);
            if let Some(socket) = self.network.borrow_mut().sockets.get_mut(&end) {
                socket.peer = None;
                socket.arriving.clear();
                socket.closing = Some(known_ns);
            }
            self.at(known_ns, Event::Arrival(end));
        }
    }

    /// A doomed connection's time has come, if it still stands.
    pub(super) fn break_connection(&self, id: SocketId) {
        let stands = self.network.borrow().sockets.get(&id).is_some_and(|socket| socket.peer.is_some());
        if stands {
            self.count("connection lost");
            self.reset(id);
        }
    }

    /// Sets how connections fail from now on; those that are doomed already are not saved.
    pub(crate) fn set_connection_faults(&self, faults: ConnectionFaults) {
        self.connections.set(faults);
    }

    /// Cuts or heals the direction from one node to another.
    pub(crate) fn set_cut(&self, from: usize, to: usize, is_cut: bool) {
        let mut network = self.network.borrow_mut();
        if is_cut {
            network.cut.insert((from, to))
        } else {
            network.cut.remove(&(from, to))
        };
    }

    /// Heals everything.
    pub(crate) fn heal(&self) {
        self.network.borrow_mut().cut.clear();
    }
}
