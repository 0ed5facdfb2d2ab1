//! This core's own connections to the cores of other nodes.
//!
//! A link goes through: idle → connecting → greeting → up → (cut) → resting → connecting …
//! The first link to a node goes to its contact address, which its core 0 serves; the topology fetched over it names the
//! endpoints of the other cores. Requests for a core whose own link is not up go over link 0 and hop on the other side.

use std::collections::VecDeque;

use ferrite_wire::{CoreId, Fault, NodeId, RequestId};

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
    /// The questions that are answered with the other's wall clock and have not been, the hello, then pings: their numbers, and when they left, in
    /// nanoseconds.
    asked: VecDeque<(RequestId, u64)>,
    /// How many pings it has had.
    pings: u64,
    /// The next pause, in nanoseconds; doubles with each failure.
    pub(super) pause_ns: u64,
    /// Since when the link has been up or down, in nanoseconds.
    pub(super) since_ns: u64,
    /// Why the other side refused this node last, until it accepts.
    pub(super) refusal: Option<Fault>,
}

const PAUSE_FIRST_NS: u64 = 20_000_000;
/// Number of a link's own questions but pings.
pub(super) const OWN_REQUEST: RequestId = RequestId(u64::MAX);
/// Pings have numbers of their own, from here on. The highest byte of an operation's is a replica's place, which never is as much.
const PING_REQUESTS: u64 = 0xFE << 56;
/// Most questions of a link that have not been answered.
const PINGS_OPEN_MAX: usize = 16;

impl Link {
    pub(super) fn new(node: NodeId, core: CoreId, address: String, now_ns: u64) -> Link {
        Link {
            node,
            core,
            address,
            state: LinkState::Resting(now_ns),
            heard_ns: now_ns,
            pinged_ns: now_ns,
            asked: VecDeque::new(),
            pings: 0,
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

    /// Whether a number is that of a question of a link's own, or of none, and not an operation's.
    pub(super) fn is_own(request: RequestId) -> bool {
        request == RequestId(0) || request.0 >= PING_REQUESTS
    }

    /// A greeting leaves.
    pub(super) fn greets(&mut self, now_ns: u64) {
        self.asked = [(OWN_REQUEST, now_ns)].into();
    }

    /// A ping leaves, with this number. `None` = too many are unanswered.
    pub(super) fn pings(&mut self, now_ns: u64) -> Option<RequestId> {
        if self.asked.len() >= PINGS_OPEN_MAX {
            return None;
        }
        self.pings += 1;
        let request = RequestId(PING_REQUESTS | self.pings);
        self.asked.push_back((request, now_ns));
        self.pinged_ns = now_ns;
        Some(request)
    }

    /// When the question of this number left, unless it was answered before. What left before it is not waited for any more.
    pub(super) fn answered(&mut self, request: RequestId) -> Option<u64> {
        let at = self.asked.iter().position(|(asked, _)| *asked == request)?;
        self.asked.drain(..=at).next_back().map(|(_, left_ns)| left_ns)
    }

    /// The connection is gone: rest, longer each time. `jitter` is random and keeps nodes from retrying in step.
    pub(super) fn cut(&mut self, now_ns: u64, pause_max_ns: u64, jitter: u64) {
        if self.up().is_some() {
            self.since_ns = now_ns;
        }
        self.asked.clear();
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

    /// Answers were taken in the order of the questions. One that came twice was taken for that to the next, which had left later: the other's
    /// wall clock looked as much behind, and this node's own ahead.
    #[test]
    fn an_answer_that_comes_twice_or_late_answers_no_other_question() {
        let mut link = Link::new(NodeId(2), CoreId(0), "a:1".to_owned(), 0);
        link.greets(5);
        assert_eq!([link.answered(OWN_REQUEST), link.answered(OWN_REQUEST)], [Some(5), None]);
        let asked = [10, 20, 30].map(|now_ns| link.pings(now_ns).expect("few are open"));
        assert_eq!(link.answered(asked[0]), Some(10));
        assert_eq!(link.answered(asked[0]), None, "twice");
        assert_eq!(link.answered(asked[2]), Some(30), "the one before is lost");
        assert_eq!(link.answered(asked[1]), None, "or late");
        assert_eq!((0..20).filter_map(|now_ns| link.pings(now_ns)).count(), PINGS_OPEN_MAX);
        assert!(asked.iter().all(|request| Link::is_own(*request)));
        assert!(Link::is_own(OWN_REQUEST) && Link::is_own(RequestId(0)) && !Link::is_own(RequestId(1)));
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
