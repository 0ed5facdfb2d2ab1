//! This core's own connections to the cores of other nodes.
//!
//! A link goes through: idle → connecting → greeting → up → (cut) → resting → connecting …
//! The first link to a node goes to its contact address, which its core 0 serves; the topology fetched over it names the
//! endpoints of the other cores. Requests for a core whose own link is not up go over link 0 and hop on the other side.

use std::collections::VecDeque;

use ferrite_wire::{CoreId, Fault, NodeId};

use crate::env::Connection;

/// How far a link has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    /// Waits until this time, in nanoseconds, before it tries again.
    Resting(u64),
    /// Connecting, or waiting for the answer to its hello.
    Greeting(Connection),
    /// Usable.
    Up(Connection),
}

/// One link.
#[derive(Clone, Debug)]
pub(super) struct Link {
    /// The other node.
    pub(super) node: NodeId,
    /// The core on the other side.
    pub(super) core: CoreId,
    /// `host:port`.
    pub(super) address: String,
    /// How far it has come.
    pub(super) state: LinkState,
    /// When anything was last heard on it, in nanoseconds.
    pub(super) heard_ns: u64,
    /// When it was last pinged, in nanoseconds.
    pub(super) pinged_ns: u64,
    /// When each question left, in nanoseconds, that is answered with the other's wall clock and has not been: the hello, then pings.
    pub(super) asked_ns: VecDeque<u64>,
    /// The next pause, in nanoseconds; doubles with each failure.
    pub(super) pause_ns: u64,
    /// Since when the link has been up or down, in nanoseconds.
    pub(super) since_ns: u64,
    /// Why the other side refused this node last, until it accepts.
    pub(super) refusal: Option<Fault>,
}

const PAUSE_FIRST_NS: u64 = 20_000_000;
/// Most pings of a link that have not been answered.
pub(super) const PINGS_OPEN_MAX: usize = 16;

impl Link {
    pub(super) fn new(node: NodeId, core: CoreId, address: String, now_ns: u64) -> Link {
        Link {
            node,
            core,
            address,
            state: LinkState::Resting(now_ns),
            heard_ns: now_ns,
            pinged_ns: now_ns,
            asked_ns: VecDeque::new(),
            pause_ns: PAUSE_FIRST_NS,
            since_ns: now_ns,
            refusal: None,
        }
    }

    /// The connection, if the link is usable.
    pub(super) fn up(&self) -> Option<Connection> {
        match self.state {
            LinkState::Up(connection) => Some(connection),
            LinkState::Resting(_) | LinkState::Greeting(_) => None,
        }
    }

    /// The connection, usable or not.
    pub(super) fn connection(&self) -> Option<Connection> {
        match self.state {
            LinkState::Up(connection) | LinkState::Greeting(connection) => Some(connection),
            LinkState::Resting(_) => None,
        }
    }

    /// The other side accepted: requests may go.
    pub(super) fn greeted(&mut self, connection: Connection, now_ns: u64) {
        self.state = LinkState::Up(connection);
        (self.heard_ns, self.since_ns, self.pause_ns) = (now_ns, now_ns, PAUSE_FIRST_NS);
        self.refusal = None;
    }

    /// The connection is gone: rest, longer each time. `jitter` is random and keeps nodes from retrying in step.
    pub(super) fn cut(&mut self, now_ns: u64, pause_max_ns: u64, jitter: u64) {
        if self.up().is_some() {
            self.since_ns = now_ns;
        }
        self.asked_ns.clear();
        self.state = LinkState::Resting(now_ns + self.pause_ns / 2 + jitter % (self.pause_ns / 2 + 1));
        self.pause_ns = (self.pause_ns * 2).min(pause_max_ns);
    }
}

/// The links of a core, and which serves which core of which node.
#[derive(Debug, Default)]
pub(super) struct Links {
    all: Vec<Link>,
    /// Per other node, its links by core.
    nodes: Vec<(NodeId, Vec<Option<u32>>)>,
}

impl Links {
    /// Adds a link, once; later addresses of the same core replace the earlier.
    pub(super) fn add(&mut self, node: NodeId, core: CoreId, address: &str, now_ns: u64) {
        let at = match self.nodes.binary_search_by_key(&node, |(node, _)| *node) {
            Ok(at) => at,
            Err(at) => {
                self.nodes.insert(at, (node, Vec::new()));
                at
            }
        };
        let cores = &mut self.nodes[at].1;
        let core_at = core.0 as usize;
        if core_at >= cores.len() {
            cores.resize(core_at + 1, None);
        }
        match cores[core_at] {
            Some(link) if core_at > 0 => self.all[link as usize].address = address.to_owned(),
            Some(_) => {} // Core 0 stays reachable by the contact address, which does not change.
            None => {
                cores[core_at] = Some(self.all.len() as u32);
                self.all.push(Link::new(node, core, address.to_owned(), now_ns));
            }
        }
    }

    /// A link by its number.
    pub(super) fn get_mut(&mut self, link: u32) -> &mut Link {
        &mut self.all[link as usize]
    }

    /// All links with their numbers.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Link)> {
        self.all.iter_mut().enumerate().map(|(at, link)| (at as u32, link))
    }

    /// All links.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.all.iter()
    }

    /// When anything was last heard on a usable link to a node.
    pub(super) fn heard_ns(&self, node: NodeId) -> Option<u64> {
        let up = self.all.iter().filter(|link| link.node == node && link.up().is_some());
        up.map(|link| link.heard_ns).max()
    }

    /// The best way to a core of a node: its own link, else the link to core 0; `None` = the node is down as seen from here.
    #[inline]
    pub(super) fn route(&self, node: NodeId, core: Option<CoreId>) -> Option<Connection> {
        let at = self.nodes.binary_search_by_key(&node, |(node, _)| *node).ok()?;
        let cores = &self.nodes[at].1;
        let own = core.and_then(|core| *cores.get(core.0 as usize)?);
        let first = cores.first().copied().flatten();
        [own, first].into_iter().flatten().find_map(|link| self.all[link as usize].up())
    }

    /// The link to a core itself, if anything was heard on it since then; where it is not known which core, that to core 0.
    pub(super) fn heard_since(
        &self,
        since_ns: u64,
        node: NodeId,
        core: Option<CoreId>,
    ) -> Option<Connection> {
        let at = self.nodes.binary_search_by_key(&node, |(node, _)| *node).ok()?;
        let link = (*self.nodes[at].1.get(core.unwrap_or(CoreId(0)).0 as usize)?)?;
        let link = &self.all[link as usize];
        link.up().filter(|_| link.heard_ns >= since_ns)
    }

    /// The ways to a node for what any of its cores takes, with the core that each leads to: the link to this core, then that to core 0.
    pub(super) fn ways(&self, node: NodeId, core: CoreId) -> impl Iterator<Item = (CoreId, Connection)> {
        let at = self.nodes.binary_search_by_key(&node, |(node, _)| *node).ok();
        [core, CoreId(0)].into_iter().filter_map(move |core| {
            let link = (*self.nodes[at?].1.get(core.0 as usize)?)?;
            Some((core, self.all[link as usize].up()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Connection = Connection { slot: 1, generation: 1 };
    const SECOND: Connection = Connection { slot: 2, generation: 1 };

    #[test]
    fn requests_fall_back_to_core_zero_and_then_to_nothing() {
        let node = NodeId(2);
        let mut links = Links::default();
        links.add(node, CoreId(0), "a:1", 0);
        links.add(node, CoreId(1), "a:3", 0);
        assert_eq!(links.route(node, Some(CoreId(1))), None);
        links.get_mut(0).greeted(FIRST, 5);
        assert_eq!(links.route(node, Some(CoreId(1))), Some(FIRST));
        assert_eq!(links.route(node, None), Some(FIRST));
        links.get_mut(1).greeted(SECOND, 5);
        assert_eq!(links.route(node, Some(CoreId(1))), Some(SECOND));
        let ways = |core| links.ways(node, CoreId(core)).collect::<Vec<_>>();
        assert_eq!(ways(1), [(CoreId(1), SECOND), (CoreId(0), FIRST)]);
        assert_eq!(ways(2), [(CoreId(0), FIRST)]);
        let heard = |core| links.heard_since(5, node, core);
        assert_eq!([None, Some(CoreId(1))].map(heard), [Some(FIRST), Some(SECOND)]);
        assert_eq!(links.heard_since(6, node, None), None, "it has been silent since");
        links.get_mut(1).cut(9, 1_000, 0);
        assert_eq!(links.route(node, Some(CoreId(1))), Some(FIRST));
        assert_eq!(links.heard_since(0, node, Some(CoreId(1))), None, "the first core's is not its own");
        links.get_mut(0).cut(9, 1_000, 0);
        assert_eq!(links.route(node, Some(CoreId(0))), None);
        assert_eq!(links.heard_ns(node), None);
        links.get_mut(1).greeted(SECOND, 9);
        assert_eq!(
            (links.heard_ns(node), links.route(node, None)),
            (Some(9), None),
            "a core that is not the first"
        );
        assert_eq!(links.route(NodeId(7), None), None);
    }

    #[test]
    fn pauses_grow_to_their_bound_and_shrink_after_success() {
        let mut links = Links::default();
        links.add(NodeId(2), CoreId(0), "a:1", 0);
        let link = links.get_mut(0);
        for _ in 0..20 {
            link.cut(0, 1_000_000_000, u64::MAX);
        }
        assert_eq!(link.pause_ns, 1_000_000_000);
        link.greeted(FIRST, 1);
        assert_eq!(link.pause_ns, PAUSE_FIRST_NS);
    }
}
