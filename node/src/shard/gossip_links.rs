//! The connections over which this node's packets of gossip leave: one to each other member, apart from those for data.
//!
//! A link is made when there is first something to send, goes to the contact address of its node, which that node's first core
//! serves, and greets as gossip. Packets go one way; the other node has a link of its own to this one. A `ping` goes along while none is
//! unanswered, so that a link that leads nowhere any more is noticed, and what is on its way is bounded.
//!
//! What cannot be sent at once or soon is dropped and counted: a packet is worth nothing later, and the protocol repeats what matters.
//!
//! How late a packet may be. The reactor has one loop for all connections of a core and no order among them, so a packet waits for the
//! turn at hand on either side: what each connection received at most once, and 512 messages of other cores. A turn of thousands of busy
//! connections takes some ten milliseconds; background tasks yield after 0.1 ms. The default probe timeout is 400 ms, and a late answer alone is no verdict: others
//! are asked, and a suspect has seconds to object. On its connection a packet waits for other packets alone.

use std::collections::VecDeque;

use ferrite_wire::NodeId;

use super::link::{Link, LinkState};
use crate::env::Connection;

/// Most packets that wait for a connection to be greeted.
pub(super) const PACKETS_WAITING_MAX: usize = 16;
/// Most bytes of packets on a connection that the other side has not shown to have taken: four of the longest.
pub(super) const UNHEARD_BYTES_MAX: usize = 4 * ferrite_wire::limits::GOSSIP_BYTES_MAX;

/// One link.
#[derive(Debug)]
pub(super) struct GossipLink {
    /// Where to, and how far it has come.
    pub(super) link: Link,
    /// The other node's process, as it was greeted.
    pub(super) incarnation: u64,
    /// Packets for when it is greeted.
    pub(super) waiting: VecDeque<Vec<u8>>,
    /// When the ping left that is not answered, in nanoseconds.
    pinged_ns: Option<u64>,
    /// Bytes sent since the last ping that was answered left, and since the one that is not.
    unheard_bytes: usize,
    since_ping_bytes: usize,
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Connect first: it waits.
    Connect,
    /// It waits.
    Wait,
    /// Send it; and a ping with it.
    Send(Connection, bool),
    /// There is no room, or it is not yet time to try again.
    Drop,
}

impl GossipLink {
    fn new(node: NodeId, address: &str, now_ns: u64) -> GossipLink {
        GossipLink {
            link: Link::new(node, ferrite_wire::CoreId(0), address.to_owned(), now_ns),
            incarnation: 0,
            waiting: VecDeque::new(),
            pinged_ns: None,
            unheard_bytes: 0,
            since_ping_bytes: 0,
        }
    }

    /// What to do with a packet of so many bytes; what is to be sent counts as sent.
    pub(super) fn take(&mut self, now_ns: u64, bytes: usize) -> Way {
        match self.link.state {
            LinkState::Resting(until_ns) if now_ns < until_ns => Way::Drop,
            LinkState::Resting(_) => Way::Connect,
            LinkState::Greeting(_) if self.waiting.len() < PACKETS_WAITING_MAX => Way::Wait,
            LinkState::Greeting(_) => Way::Drop,
            LinkState::Up(_) if self.unheard_bytes + bytes > UNHEARD_BYTES_MAX => Way::Drop,
            LinkState::Up(connection) => {
                self.unheard_bytes += bytes;
                self.since_ping_bytes += bytes;
                let pings = self.pinged_ns.is_none();
                if pings {
                    self.pinged_ns = Some(now_ns);
                    self.since_ping_bytes = 0;
                }
                Way::Send(connection, pings)
            }
        }
    }

    /// The ping was answered: what had been sent before it has arrived.
    pub(super) fn ponged(&mut self, now_ns: u64) {
        self.link.heard_ns = now_ns;
        self.pinged_ns = None;
        self.unheard_bytes = self.since_ping_bytes;
    }

    /// The other side has accepted; what waits is to be sent.
    pub(super) fn greeted(&mut self, connection: Connection, incarnation: u64, now_ns: u64) {
        self.link.greeted(connection, now_ns);
        self.incarnation = incarnation;
        (self.pinged_ns, self.unheard_bytes, self.since_ping_bytes) = (None, 0, 0);
    }

    /// Whether nothing was heard of it for so long although something was asked.
    pub(super) fn is_silent(&self, now_ns: u64, silence_ns: u64) -> bool {
        let asked_ns = match self.link.state {
            LinkState::Resting(_) => return false,
            LinkState::Greeting(_) => Some(self.link.heard_ns),
            LinkState::Up(_) => self.pinged_ns,
        };
        asked_ns.is_some_and(|asked| now_ns.saturating_sub(asked) > silence_ns)
    }
}

/// The links of the node.
#[derive(Debug, Default)]
pub(super) struct GossipLinks {
    /// By node, ascending.
    all: Vec<GossipLink>,
}

impl GossipLinks {
    /// A link to each of these nodes; none connects before there is something to send.
    pub(super) fn new<'a>(nodes: impl Iterator<Item = (NodeId, &'a str)>, now_ns: u64) -> GossipLinks {
        let mut all: Vec<GossipLink> =
            nodes.map(|(node, address)| GossipLink::new(node, address, now_ns)).collect();
        all.sort_unstable_by_key(|link| link.link.node);
        GossipLinks { all }
    }

    /// The number of the link to a node.
    pub(super) fn to(&self, node: NodeId) -> Option<u32> {
        self.all.binary_search_by_key(&node, |link| link.link.node).ok().map(|at| at as u32)
    }

    /// A link by its number.
    pub(super) fn get_mut(&mut self, number: u32) -> &mut GossipLink {
        &mut self.all[number as usize]
    }

    /// All links.
    pub(super) fn iter(&self) -> impl Iterator<Item = &GossipLink> {
        self.all.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTION: Connection = Connection { slot: 1, generation: 1 };

    #[test]
    fn packets_wait_for_the_greeting_up_to_a_bound_and_then_go_while_they_are_taken() {
        let mut link = GossipLink::new(NodeId(2), "a:1", 0);
        assert_eq!(link.take(0, 100), Way::Connect);
        link.link.state = LinkState::Greeting(CONNECTION);
        for _ in 0..PACKETS_WAITING_MAX {
            assert_eq!(link.take(0, 100), Way::Wait);
            link.waiting.push_back(vec![0; 100]);
        }
        assert_eq!(link.take(0, 100), Way::Drop);
        link.greeted(CONNECTION, 7, 5);
        assert_eq!(link.take(6, UNHEARD_BYTES_MAX / 2), Way::Send(CONNECTION, true));
        assert_eq!(link.take(6, UNHEARD_BYTES_MAX / 2), Way::Send(CONNECTION, false));
        assert_eq!(link.take(6, 1), Way::Drop, "as much as may be is on its way");
        link.ponged(7);
        assert_eq!(link.take(8, UNHEARD_BYTES_MAX / 2), Way::Send(CONNECTION, true));
        assert_eq!(link.take(8, 1), Way::Drop, "the pong speaks for what was sent before its ping");
    }

    #[test]
    fn a_link_is_silent_only_if_something_was_asked_over_it() {
        let mut link = GossipLink::new(NodeId(2), "a:1", 0);
        assert!(!link.is_silent(1_000, 100), "it rests");
        link.link.state = LinkState::Greeting(CONNECTION);
        assert!(!link.is_silent(100, 100) && link.is_silent(101, 100));
        link.greeted(CONNECTION, 7, 200);
        assert!(!link.is_silent(10_000, 100), "nothing was asked");
        link.take(10_000, 1);
        assert!(!link.is_silent(10_100, 100) && link.is_silent(10_101, 100));
        link.ponged(10_102);
        assert!(!link.is_silent(20_000, 100));
    }
}
