//! The connections over which this node's packets of gossip leave: one to each other member, apart from those for data.
//!
//! | link | leads to | is there |
//! |---|---|---|
//! | listed | the contact address that the configuration gives its node | always |
//! | seed | a seed that is no listed node's address, whoever answers there | always |
//! | learned | where a node says it is that the configuration does not list | from when there is first something to send to it until it is no member |
//!
//! What a listed node says of its own address is nothing that this one must be able to reach, for instance behind a translating router: the
//! configuration wins. A node that is not listed may not have a listed one's address, and there are links to [`UNLISTED_MAX`] of them.
//!
//! A link connects when there is first something to send, to what the other node's first core serves, and greets as gossip. Packets go one way; the other node has a link of its own to this one. A `ping` goes along while none is
//! unanswered, so that a link that leads nowhere any more is noticed, and what is on its way is bounded.
//!
//! What cannot be sent at once or soon is dropped and counted: a packet is worth nothing later, and the protocol repeats what matters.
//!
//! How late a packet may be. The reactor has one loop for all connections of a core and no order among them, so a packet waits for the
//! turn at hand on either side: what each connection received at most once, and 512 messages of other cores. A turn of thousands of busy
//! connections takes some ten milliseconds; background tasks yield after 0.1 ms. The default probe timeout is 400 ms, and a late answer alone is no verdict: others
//! are asked, and a suspect has seconds to object. On its connection a packet waits for other packets alone.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use ferrite_wire::NodeId;

use super::link::{Link, LinkState};
use crate::env::Connection;

/// Most packets that wait for a connection to be greeted.
pub(super) const PACKETS_WAITING_MAX: usize = 16;
/// Most bytes of packets on a connection that the other side has not shown to have taken: four of the longest.
pub(super) const UNHEARD_BYTES_MAX: usize = 4 * ferrite_wire::limits::GOSSIP_BYTES_MAX;

/// Most nodes that the configuration does not list and that this one has links to, and most that may have a connection for gossip to it.
pub const UNLISTED_MAX: usize = 128;
/// How long a link to a node that is not listed may stand before that is a member, in nanoseconds.
const ACQUAINTED_NS: u64 = 30_000_000_000;
/// Whoever answers at a seed's address, before somebody has: there is no node 0.
const ANY: NodeId = NodeId(0);

/// What a link leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A node that the configuration lists.
    Listed,
    /// Whoever answers.
    Seed,
    /// A node that it does not list, and since when, in nanoseconds.
    Learned(u64),
}

/// One link.
#[derive(Debug)]
pub(super) struct GossipLink {
    /// What it leads to.
    pub(super) target: Target,
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
    fn new(target: Target, node: NodeId, address: &str, now_ns: u64) -> GossipLink {
        GossipLink {
            target,
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

    /// Its node says that it is there; whether that is elsewhere than before. The pause before it connects is that of before: two that claim one number do
    /// not make this node connect as fast as it can.
    fn move_to(&mut self, address: SocketAddr) -> bool {
        let address = address.to_string();
        let is_elsewhere = self.link.address != address;
        self.link.address = address;
        is_elsewhere
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
    /// By number. The place of one that is gone is another's later.
    all: Vec<Option<GossipLink>>,
    /// Those whose node is known.
    by_node: BTreeMap<NodeId, u32>,
    /// Contact addresses of listed nodes.
    taken: Vec<SocketAddr>,
    /// Which link leads to a seed.
    seeds: BTreeMap<SocketAddr, u32>,
}

/// The way to a node that may have said that it is elsewhere than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WayTo {
    /// Its link.
    pub(super) number: u32,
    /// A connection that leads where it no longer is: to be closed.
    pub(super) stale: Option<Connection>,
}

impl GossipLinks {
    /// Adds a link to a node that the configuration lists.
    pub(super) fn add_listed(&mut self, node: NodeId, address: &str, now_ns: u64) {
        self.taken.extend(address.parse::<SocketAddr>());
        let number = self.add(GossipLink::new(Target::Listed, node, address, now_ns));
        self.by_node.insert(node, number);
    }

    /// Adds a seed, which the membership knows by `name`: a link of its own, unless it is a listed node's address.
    pub(super) fn add_seed(&mut self, name: SocketAddr, address: &str, now_ns: u64) {
        let there = self.numbered().find(|(_, link)| link.link.address == address).map(|(number, _)| number);
        let number = match there {
            Some(number) => number,
            None => self.add(GossipLink::new(Target::Seed, ANY, address, now_ns)),
        };
        self.seeds.insert(name, number);
    }

    fn add(&mut self, link: GossipLink) -> u32 {
        let free = self.all.iter().position(Option::is_none);
        let number = free.unwrap_or(self.all.len());
        match free {
            Some(at) => self.all[at] = Some(link),
            None => self.all.push(Some(link)),
        }
        number as u32
    }

    /// The names of the seeds.
    pub(super) fn seeds(&self) -> impl Iterator<Item = SocketAddr> {
        self.seeds.keys().copied()
    }

    /// The link to a node, if there is one.
    pub(super) fn to(&self, node: NodeId) -> Option<u32> {
        self.by_node.get(&node).copied()
    }

    /// The way to a seed: the link to the node that has answered there, while that is up, as a node keeps one connection of each that it does not
    /// list; else the seed's own.
    pub(super) fn to_seed(&self, name: SocketAddr) -> Option<u32> {
        let own = *self.seeds.get(&name)?;
        let node = self.get(own)?.link.node;
        let of_node =
            self.to(node).filter(|number| self.get(*number).is_some_and(|link| link.link.up().is_some()));
        Some(of_node.unwrap_or(own))
    }

    /// The link to a node that says it is at an address; one that is not listed gets one if need be. `None` = it has none, and there is no room
    /// for one, or its address is nobody's, or a listed node's.
    pub(super) fn way_to(&mut self, node: NodeId, address: SocketAddr, now_ns: u64) -> Option<WayTo> {
        let is_free = is_somebodys(address) && !self.taken.contains(&address);
        if let Some(number) = self.to(node) {
            let link = self.get_mut(number).expect("those by node are there");
            let may_move = is_free && matches!(link.target, Target::Learned(_));
            if !may_move || !link.move_to(address) {
                return Some(WayTo { number, stale: None });
            }
            let stale = link.link.connection();
            self.has_left_seeds(node);
            return Some(WayTo { number, stale });
        }
        if !is_free || self.learned().count() >= UNLISTED_MAX {
            return None;
        }
        let link = GossipLink::new(Target::Learned(now_ns), node, &address.to_string(), now_ns);
        let number = self.add(link);
        self.by_node.insert(node, number);
        Some(WayTo { number, stale: None })
    }

    /// A node is not where it was: who answers at a seed's address where it has answered is to be seen anew.
    fn has_left_seeds(&mut self, node: NodeId) {
        let of_node = |link: &&mut GossipLink| link.target == Target::Seed && link.link.node == node;
        self.all.iter_mut().flatten().filter(of_node).for_each(|link| link.link.node = ANY);
    }

    fn learned(&self) -> impl Iterator<Item = (u32, NodeId, u64)> {
        self.numbered().filter_map(|(number, link)| match link.target {
            Target::Learned(since_ns) => Some((number, link.link.node, since_ns)),
            Target::Listed | Target::Seed => None,
        })
    }

    /// Does away with links to nodes that are not listed and are no members, or not any more. The connections that are to be closed.
    pub(super) fn forget(&mut self, now_ns: u64, is_member: impl Fn(NodeId) -> bool) -> Vec<Connection> {
        let is_gone = |(_, node, since_ns): &(u32, NodeId, u64)| {
            !is_member(*node) && now_ns.saturating_sub(*since_ns) > ACQUAINTED_NS
        };
        let gone: Vec<(u32, NodeId, u64)> = self.learned().filter(is_gone).collect();
        let mut connections = Vec::new();
        for (number, node, _) in gone {
            self.by_node.remove(&node);
            self.has_left_seeds(node);
            let link = self.all[number as usize].take().expect("it was just seen");
            connections.extend(link.link.connection());
        }
        connections
    }

    fn get(&self, number: u32) -> Option<&GossipLink> {
        self.all.get(number as usize)?.as_ref()
    }

    /// A link by its number.
    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut GossipLink> {
        self.all.get_mut(number as usize)?.as_mut()
    }

    fn numbered(&self) -> impl Iterator<Item = (u32, &GossipLink)> {
        self.all.iter().enumerate().filter_map(|(at, link)| Some((at as u32, link.as_ref()?)))
    }

    /// All links.
    pub(super) fn iter(&self) -> impl Iterator<Item = &GossipLink> {
        self.all.iter().flatten()
    }
}

/// Whether somebody may be there.
fn is_somebodys(address: SocketAddr) -> bool {
    address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTION: Connection = Connection { slot: 1, generation: 1 };

    #[test]
    fn packets_wait_for_the_greeting_up_to_a_bound_and_then_go_while_they_are_taken() {
        let mut link = GossipLink::new(Target::Listed, NodeId(2), "a:1", 0);
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
        let mut link = GossipLink::new(Target::Listed, NodeId(2), "a:1", 0);
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
    fn address(node: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, node as u8], 7_000))
    }

    fn links() -> GossipLinks {
        let mut links = GossipLinks::default();
        links.add_listed(NodeId(1), "10.0.0.1:7000", 0);
        links.add_listed(NodeId(2), "db-2:7000", 0);
        links
    }

    #[test]
    fn the_configured_address_wins_and_is_nobody_elses() {
        let mut links = links();
        for said in [address(1), address(9), SocketAddr::from(([0, 0, 0, 0], 0))] {
            let way = links.way_to(NodeId(1), said, 5).expect("it is listed");
            assert_eq!(
                (way, links.get_mut(way.number).unwrap().link.address.as_str()),
                (WayTo { number: 0, stale: None }, "10.0.0.1:7000")
            );
        }
        for nobodys in
            [address(1), SocketAddr::from(([10, 0, 0, 3], 0)), SocketAddr::from(([0, 0, 0, 0], 7_000))]
        {
            assert_eq!(links.way_to(NodeId(3), nobodys, 5), None, "{nobodys}");
        }
        // Nor does one that is known already move there.
        let way = links.way_to(NodeId(3), address(3), 5).expect("there is room");
        assert_eq!(links.way_to(NodeId(3), address(1), 5), Some(way));
        assert_eq!(links.get_mut(way.number).unwrap().link.address, "10.0.0.3:7000");
    }

    #[test]
    fn a_node_that_is_elsewhere_than_before_is_looked_for_there() {
        let mut links = links();
        let way = links.way_to(NodeId(3), address(3), 0).expect("there is room");
        links.get_mut(way.number).unwrap().greeted(CONNECTION, 7, 1);
        assert_eq!(links.way_to(NodeId(3), address(3), 2).unwrap().stale, None);
        let moved = links.way_to(NodeId(3), address(4), 2).expect("it has a link");
        assert_eq!(moved, WayTo { number: way.number, stale: Some(CONNECTION) });
        assert_eq!(links.get_mut(way.number).unwrap().link.address, "10.0.0.4:7000");
    }

    #[test]
    fn links_to_nodes_that_are_not_listed_are_bounded_and_go_with_them() {
        let mut links = links();
        for node in 100..100 + UNLISTED_MAX as u16 {
            assert!(links.way_to(NodeId(node), address(node), 0).is_some(), "{node}");
        }
        assert_eq!(links.way_to(NodeId(99), address(99), 0), None, "there are as many as may be");
        let known = links.way_to(NodeId(100), address(100), 0).expect("it has one");
        links.get_mut(known.number).unwrap().greeted(CONNECTION, 7, 1);
        assert_eq!(links.forget(ACQUAINTED_NS, |_| false), [], "they may become members yet");
        assert_eq!(links.forget(ACQUAINTED_NS + 1, |node| node != NodeId(100)), [CONNECTION]);
        assert_eq!(links.to(NodeId(100)), None);
        let again = links.way_to(NodeId(99), address(99), 0).expect("there is room again");
        assert_eq!(again.number, known.number, "numbers are used again");
        links.forget(ACQUAINTED_NS + 1, |_| false);
        assert_eq!(links.iter().count(), 2, "those that are listed stay");
    }

    #[test]
    fn a_seed_at_a_listed_nodes_address_is_that_node() {
        let mut links = links();
        let name = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 2], 0));
        links.add_seed(name, "db-2:7000", 0);
        links.add_seed(address(8), "10.0.0.8:7000", 0);
        assert_eq!(links.to_seed(name), links.to(NodeId(2)));
        let number = links.to_seed(address(8)).expect("it was added");
        let seed = links.get_mut(number).unwrap();
        assert_eq!((seed.target, seed.link.node), (Target::Seed, ANY));
        assert_eq!(links.seeds().count(), 2);
        // Once it has answered as a node that there is a link to, it is asked over that while it is up.
        let node = links.way_to(NodeId(8), address(9), 0).expect("there is room").number;
        links.get_mut(number).unwrap().link.node = NodeId(8);
        assert_eq!(links.to_seed(address(8)), Some(number));
        links.get_mut(node).unwrap().greeted(CONNECTION, 7, 1);
        assert_eq!(links.to_seed(address(8)), Some(node));
    }

    /// A node had answered at a seed's address and then moved. As long as there was a link to it all that was asked of the seed went there, and whoever was at the
    /// seed's address by then was not found.
    #[test]
    fn a_seed_whose_node_has_moved_is_asked_at_its_address() {
        let mut links = links();
        links.add_seed(address(8), "10.0.0.8:7000", 0);
        let seed = links.to_seed(address(8)).expect("it was added");
        let node = links.way_to(NodeId(8), address(8), 0).expect("there is room").number;
        links.get_mut(node).unwrap().greeted(CONNECTION, 7, 1);
        links.get_mut(seed).unwrap().link.node = NodeId(8);
        links.way_to(NodeId(8), address(8), 2);
        assert_eq!(links.to_seed(address(8)), Some(node));
        let moved = links.way_to(NodeId(8), address(9), 2).expect("it has a link");
        assert_eq!((moved.number, links.to_seed(address(8))), (node, Some(seed)));
        // Nor does what was known of it outlive the link to it.
        links.get_mut(seed).unwrap().link.node = NodeId(8);
        links.forget(ACQUAINTED_NS + 1, |_| false);
        assert_eq!(links.get_mut(seed).unwrap().link.node, ANY);
    }
}
