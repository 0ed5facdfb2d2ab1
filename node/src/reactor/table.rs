//! The connections of a core: a slab whose slots carry generations, so that a stale name finds nothing.

use std::cell::Cell;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::rc::Rc;

use super::buffers::{Input, Output};
use super::deferred::is_heavy;
use super::large::{Large, Rooms};
use super::options::ReactorOptions;
use super::unread::Unread;
use crate::env::{Caller, Connection};
use crate::ring::Token;

/// Generation that no connection ever has; the reactor's own tokens use it.
pub(super) const GENERATION_RESERVED: u32 = u32::MAX;

/// Deliveries of a connection that was accepted until it is known how much it asks for: its greeting, and what came behind it.
const NEW_DELIVERIES: u8 = 2;

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    /// This side connected: it asks, and what it receives are answers.
    pub(super) outgoing: bool,
    /// Who is at the other end of one that was accepted, once that has been said.
    caller: Option<Caller>,
    /// Absent while it is being connected.
    pub(super) stream: Option<Rc<TcpStream>>,
    /// While it is being connected: addresses not tried yet, the next one last.
    pub(super) candidates: Vec<SocketAddr>,
    pub(super) input: Input,
    pub(super) output: Output,
    /// What it has of the room for long frames, if it is a client's or a stranger's.
    pub(super) large: Option<Large>,
    /// Not read from, because there is no room for the frame that it sends.
    pub(super) waits_for_room: bool,
    /// Length of the frame that is not whole yet, from its first byte; 0 = unknown.
    pub(super) need: usize,
    /// Since when it is not read from, because its out-buffer is over its bound.
    pub(super) paused_ns: Option<u64>,
    /// Since when what it sent may lie in its socket.
    pub(super) unread: Unread,
    /// An answer to what was received last found no room beside those before it.
    pub(super) had_no_room: bool,
    /// What it sends waits for its share of a turn.
    pub(super) waits_for_share: bool,
    /// So many deliveries on, what it sends waits whatever it is.
    new_for: u8,
    /// To be closed once everything has left; the handler has no part in it any more.
    pub(super) closing: bool,
    /// On the list of connections to look at before the batch ends.
    pub(super) dirty: bool,
}

impl Link {
    /// A connection that a client, or a core of another node, has made.
    pub(super) fn accepted(
        stream: Rc<TcpStream>,
        receive_bytes: usize,
        unread: Rc<Cell<usize>>,
        large: Rc<Rooms>,
    ) -> Link {
        let mut link = Link::new(Some(stream), receive_bytes);
        link.output = Output::counted_in(unread);
        link.large = Some(Large::new(large));
        link.is_new();
        link
    }

    /// Nothing is known of it yet.
    fn is_new(&mut self) {
        (self.waits_for_share, self.new_for) = (true, NEW_DELIVERIES);
    }

    pub(super) fn new(stream: Option<Rc<TcpStream>>, receive_bytes: usize) -> Link {
        Link {
            outgoing: stream.is_none(),
            caller: None,
            stream,
            candidates: Vec::new(),
            input: Input::new(receive_bytes),
            output: Output::default(),
            large: None,
            waits_for_room: false,
            need: 0,
            paused_ns: None,
            unread: Unread::default(),
            had_no_room: false,
            waits_for_share: false,
            new_for: 0,
            closing: false,
            dirty: false,
        }
    }
}

impl Link {
    /// Something it sent was delivered, and so much of that used and answered at once: whether the next waits for its share. What other nodes send, and
    /// answer, does not: it is for many.
    pub(super) fn delivered(&mut self, used: usize, answered_bytes: usize) {
        self.new_for = match self.caller {
            Some(Caller::Peer) => 0,
            _ => self.new_for.saturating_sub(1),
        };
        let is_of_a_node = self.outgoing || self.caller == Some(Caller::Peer);
        self.waits_for_share = !is_of_a_node && (self.new_for > 0 || used == 0 || is_heavy(answered_bytes));
    }

    /// Whether it has room for a long frame that others want.
    pub(super) fn has_large(&self) -> bool {
        self.large.as_ref().is_some_and(|large| large.bytes() > 0)
    }

    /// Takes the room that the next receive asks for; `others_wait`: for what is more than it has. False = there is none.
    pub(super) fn take_large(&mut self, options: &ReactorOptions, others_wait: bool) -> bool {
        let Some(large) = &mut self.large else { return true };
        let bytes_max = options.in_all_bytes_max;
        let of_large = |bytes| if bytes > options.receive_bytes { bytes } else { 0 };
        let wants = of_large(self.input.wants(self.need));
        if of_large(self.need) == 0 {
            // Nothing long is under way, and perhaps never will be again.
            large.resize(0, 0);
            if !large.resize_spare(wants, if others_wait { 0 } else { bytes_max }) {
                self.input.want_less(options.receive_bytes);
                large.resize_spare(0, 0);
            }
            return true;
        }
        large.resize_spare(0, 0);
        let mut takes = |bytes| (bytes <= large.bytes() || !others_wait) && large.resize(bytes, bytes_max);
        if takes(wants) {
            return true;
        }
        self.input.want_less(options.receive_bytes);
        if takes(self.need) {
            return true;
        }
        // What it has is of a frame that is whole by now, and shorter.
        self.input.keep_unread(options.receive_bytes);
        large.wait_with(of_large(self.input.unread().len()));
        false
    }

    /// Is not read from until some of its answers have left. A frame that has begun keeps its room: without, it would wait behind others for what it lacks, and
    /// keep from them what it has.
    pub(super) fn pause(&mut self, options: &ReactorOptions, now_ns: u64) {
        self.paused_ns.get_or_insert(now_ns);
        self.unread.begins(now_ns);
        self.input.keep_unread(options.receive_bytes);
        if let Some(large) = &mut self.large {
            large.shrink(if self.need > options.receive_bytes { self.need } else { 0 });
            large.resize_spare(0, 0);
        }
    }
}

#[cfg(test)]
impl Link {
    /// One that was accepted, without a socket.
    pub(super) fn stranger() -> Link {
        let mut link = Link::new(None, 4096);
        link.outgoing = false;
        link.is_new();
        link
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Operations in flight hold the socket too: ends them. It fails if the peer was faster, which is as well.
        if let Some(stream) = &self.stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    link: Option<Link>,
}

/// The connections of a core, by name.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    live: usize,
    /// Those of clients that have said that they are.
    clients: usize,
}

impl Table {
    /// Adds a connection.
    pub(super) fn insert(&mut self, link: Link) -> Connection {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u32::try_from(self.slots.len()).expect("fewer than 2^32 connections");
                self.slots.push(Slot { generation: 0, link: None });
                slot
            }
        };
        let entry = &mut self.slots[slot as usize];
        assert!(entry.link.is_none(), "a free slot holds no connection");
        entry.link = Some(link);
        self.live += 1;
        Connection { slot, generation: entry.generation }
    }

    pub(super) fn get(&mut self, connection: Connection) -> Option<&mut Link> {
        let slot = self.slots.get_mut(connection.slot as usize)?;
        if slot.generation != connection.generation {
            return None;
        }
        slot.link.as_mut()
    }

    /// Takes a connection out; its name is never given again.
    pub(super) fn remove(&mut self, connection: Connection) -> Option<Link> {
        let slot = self.slots.get_mut(connection.slot as usize)?;
        if slot.generation != connection.generation {
            return None;
        }
        let link = slot.link.take()?;
        self.live -= 1;
        self.clients -= usize::from(link.caller == Some(Caller::Client));
        slot.generation += 1;
        // A slot whose names are used up stays empty.
        if slot.generation != GENERATION_RESERVED {
            self.free.push(connection.slot);
        }
        Some(link)
    }

    /// An accepted connection has said who it is. False = there are so many clients already.
    pub(super) fn greeted(&mut self, connection: Connection, caller: Caller, clients_max: usize) -> bool {
        let is_client = caller == Caller::Client;
        if is_client && self.clients >= clients_max {
            return false;
        }
        let Some(link) = self.get(connection).filter(|link| link.caller.is_none()) else { return true };
        link.caller = Some(caller);
        if !is_client {
            // Other nodes do not wait behind clients; there are only so many of them.
            link.large = None;
        }
        self.clients += usize::from(is_client);
        true
    }

    /// Whether a connection was accepted and has not said who it is.
    pub(super) fn is_stranger(&mut self, connection: Connection) -> bool {
        self.get(connection).is_some_and(|link| !link.outgoing && link.caller.is_none())
    }

    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// Every connection there is.
    pub(super) fn names(&self) -> Vec<Connection> {
        let name = |(slot, entry): (usize, &Slot)| {
            let name = Connection { slot: slot as u32, generation: entry.generation };
            entry.link.is_some().then_some(name)
        };
        self.slots.iter().enumerate().filter_map(name).collect()
    }
}

/// The ring's name for a connection.
pub(super) fn token(connection: Connection) -> Token {
    Token(u64::from(connection.generation) << 32 | u64::from(connection.slot))
}

/// The connection behind a ring's name.
pub(super) fn connection(token: Token) -> Connection {
    Connection { slot: token.0 as u32, generation: (token.0 >> 32) as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        Link::new(None, 4096)
    }

    /// Thousands of new connections that ask for much were each served at once, for nothing was known of them.
    #[test]
    fn new_ones_and_those_that_ask_for_much_or_send_nothing_whole_wait_for_their_share() {
        let mut link = Link::stranger();
        assert!(link.waits_for_share, "nothing is known of it");
        link.delivered(40, 60);
        assert!(link.waits_for_share, "it has greeted");
        link.delivered(40, 60);
        assert!(!link.waits_for_share, "it has asked for little");
        link.delivered(40, 1 << 20);
        assert!(link.waits_for_share, "it has asked for much");
        link.delivered(40, 60);
        link.delivered(0, 0);
        assert!(link.waits_for_share, "it sends a few bytes at a time");
        let mut peer = Link::stranger();
        peer.caller = Some(Caller::Peer);
        peer.delivered(40, 60);
        assert!(!peer.waits_for_share, "other nodes are known");
        peer.delivered(0, 1 << 20);
        assert!(
            !peer.waits_for_share,
            "and wait neither with parts of long frames nor for what many ask through them"
        );
        let mut out = Link::new(None, 4096);
        out.delivered(0, 0);
        assert!(!out.waits_for_share, "so is whom we have asked");
    }

    #[test]
    fn a_slot_is_reused_under_another_name() {
        let mut table = Table::default();
        let first = table.insert(link());
        let second = table.insert(link());
        assert_ne!(first.slot, second.slot);
        assert!(table.remove(first).is_some());
        assert!(table.get(first).is_none() && table.remove(first).is_none());
        let third = table.insert(link());
        assert_eq!(third.slot, first.slot);
        assert_ne!(third, first);
        assert!(table.get(first).is_none() && table.get(third).is_some());
        assert_eq!(table.len(), 2);
        assert_eq!(table.names(), vec![third, second]);
    }

    #[test]
    fn a_slot_out_of_generations_is_retired() {
        let mut table = Table::default();
        let first = table.insert(link());
        table.slots[first.slot as usize].generation = GENERATION_RESERVED - 1;
        let last = Connection { slot: first.slot, generation: GENERATION_RESERVED - 1 };
        assert!(table.remove(last).is_some());
        assert_ne!(table.insert(link()).slot, first.slot);
    }

    #[test]
    fn clients_are_counted_until_they_have_gone() {
        let mut table = Table::default();
        let names: Vec<Connection> = (0..4).map(|_| table.insert(link())).collect();
        let mut greeted = |at: usize, caller| table.greeted(names[at], caller, 2);
        assert!(greeted(0, Caller::Client) && greeted(1, Caller::Client));
        assert!(!greeted(3, Caller::Client) && greeted(2, Caller::Peer));
        table.remove(names[0]);
        table.remove(names[2]);
        assert_eq!(table.clients, 1);
        assert!(table.greeted(names[3], Caller::Client, 2));
        assert!(table.greeted(names[0], Caller::Peer, 2), "it has gone");
        assert_eq!(table.clients, 2);
    }

    #[test]
    fn tokens_read_back() {
        let name = Connection { slot: 7, generation: 0xdead_beef };
        assert_eq!(connection(token(name)), name);
    }
}
