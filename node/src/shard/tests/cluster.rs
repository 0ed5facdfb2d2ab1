//! Several shards on one bench each, with wires between them: connections that deliver at the next step, ways that are cut, cores that
//! stand still. Nothing is random but what shards draw themselves.

use std::collections::{BTreeMap, BTreeSet};

use ferrite_cluster::gossip::{GossipOptions, Verdict};

use super::*;
use crate::shard::session::SessionKind;

/// Length of a step.
const STEP_MS: u64 = 5;

/// A core of a node.
pub(super) struct Place {
    pub(super) node: usize,
    pub(super) bench: Bench,
    pub(super) shard: Rc<Shard<Bench>>,
    /// Nothing is done and nothing taken.
    pub(super) is_stalled: bool,
    closed_seen: usize,
}

/// Nodes from 0, whose ids are one higher; each has the same number of cores.
pub(super) struct Cluster {
    /// So many nodes are members; those after them are joining, with these seeds, and are in nobody's configuration but their own.
    members: usize,
    seeds: Vec<Vec<String>>,
    pub(super) places: Vec<Place>,
    pub(super) cores: usize,
    /// From one node to another: nothing gets through.
    pub(super) cut: BTreeSet<(usize, usize)>,
    /// Nodes whose gossip gets nowhere, and whom none reaches.
    pub(super) gossip_cut: BTreeSet<usize>,
    /// The other end of a connection.
    other_end: BTreeMap<(usize, Connection), (usize, Connection)>,
    /// Bytes on their way to an end.
    wires: BTreeMap<(usize, Connection), Vec<u8>>,
    hops: Vec<(usize, usize, Hop)>,
}

/// Some times faster than a node's.
pub(super) fn fast() -> GossipOptions {
    GossipOptions {
        probe_period_ms: 200,
        probe_timeout_ms: 80,
        suspicion_ms: 600,
        gossip_period_ms: 50,
        join_period_ms: 200,
        announce_period_ms: 2_000,
        stall_ms: 1_000,
        digest_gap_ms: 100,
        digest_period_ms: 2_000,
        ..GossipOptions::default()
    }
}

/// A core of a node of a cluster of so many.
pub(super) fn settings_at(nodes: usize, cores: usize, node: usize, core: usize) -> ShardSettings {
    let at_first = settings(nodes as u16, cores as u16, 2);
    let id = NodeId(node as u16 + 1);
    let mut topology = at_first.topology;
    let placement = Placement::deal(&topology, id, 2, cores as u16);
    let entry = &mut topology.nodes[node];
    entry.endpoints = (1..=cores).map(|place| format!("10.0.0.{}:{}", id.0, 7000 + place)).collect();
    entry.core_of_vnode = placement.core_map();
    let mut engine = Options::new(core as u16, placement.stores_of(CoreId(core as u16)), 11);
    engine.log = at_first.engine.log;
    let core = CoreId(core as u16);
    let mut settings = ShardSettings::new(id, core, cores as u16, 5, topology, placement, engine);
    settings.gossip = fast();
    settings
}

impl Cluster {
    /// A cluster that was just started.
    pub(super) fn new(nodes: usize, cores: usize) -> Cluster {
        let mut places = Vec::new();
        for node in 0..nodes {
            for core in 0..cores {
                let bench = Bench::new(MemDisk::new());
                bench.0.random.set((1000 * node + core) as u64);
                let shard = open(&bench, settings_at(nodes, cores, node, core)).expect("an empty disk opens");
                places.push(Place { node, bench, shard, is_stalled: false, closed_seen: 0 });
            }
        }
        let (other_end, wires) = (BTreeMap::new(), BTreeMap::new());
        let (cut, gossip_cut) = (BTreeSet::new(), BTreeSet::new());
        let (members, seeds) = (nodes, Vec::new());
        Cluster { members, seeds, places, cores, cut, gossip_cut, other_end, wires, hops: Vec::new() }
    }

    /// Starts a node that nobody knows, and that asks these. Its number, from 0.
    pub(super) fn join(&mut self, seeds: &[&str]) -> usize {
        let node = self.places.len() / self.cores;
        self.seeds.push(seeds.iter().map(|seed| (*seed).to_owned()).collect());
        let before = self.places[0].bench.clone();
        for core in 0..self.cores {
            let bench = Bench::new(MemDisk::new());
            bench.0.now_ns.set(before.now_ns());
            bench.0.wall_ms.set(before.wall_ms());
            bench.0.random.set((1000 * node + core) as u64);
            let shard = open(&bench, self.settings(node, core)).expect("an empty disk opens");
            self.places.push(Place { node, bench, shard, is_stalled: false, closed_seen: 0 });
        }
        node
    }

    fn settings(&self, node: usize, core: usize) -> ShardSettings {
        if node < self.members {
            return settings_at(self.members, self.cores, node, core);
        }
        let at_first = settings_at(self.members, self.cores, 0, 0);
        let id = NodeId(node as u16 + 1);
        let mut topology = at_first.topology;
        topology.nodes[0].endpoints.clear();
        topology.nodes[0].core_of_vnode.clear();
        let placement = Placement::deal(&topology, id, 2, self.cores as u16);
        let mut engine = Options::new(core as u16, placement.stores_of(CoreId(core as u16)), 11);
        engine.log = at_first.engine.log;
        let core = CoreId(core as u16);
        let mut settings = ShardSettings::new(id, core, self.cores as u16, 5, topology, placement, engine);
        settings.gossip = fast();
        settings.seeds = self.seeds[node - self.members].clone();
        let (name, contact) = (format!("n{}", id.0), format!("10.0.0.{}:7000", id.0));
        settings.joining = vec![Joining { node: id, name, contact }];
        settings
    }

    /// A node starts anew with nothing on its disks. Nobody has a connection to it any more.
    pub(super) fn wipe(&mut self, node: usize) {
        self.restart_on(node, (0..self.cores).map(|_| MemDisk::new()).collect());
    }

    /// A node starts anew with these disks, one for each core.
    pub(super) fn restart_on(&mut self, node: usize, disks: Vec<MemDisk>) {
        assert_eq!(disks.len(), self.cores, "each core has a disk");
        for (core, disk) in disks.into_iter().enumerate() {
            let at = node * self.cores + core;
            let before = &self.places[at].bench;
            let bench = Bench::new(disk);
            bench.0.now_ns.set(before.now_ns());
            bench.0.wall_ms.set(before.wall_ms());
            bench.0.random.set(before.random() + 7_000);
            // Connections of before are nobody's.
            bench.0.connections.set(before.0.connections.get());
            self.other_end.retain(|end, other| end.0 != at && other.0 != at);
            self.wires.retain(|end, _| end.0 != at);
            let mut settings = self.settings(node, core);
            settings.incarnation += 1;
            let shard = open(&bench, settings).expect("a sound disk opens");
            // Opening takes no time here.
            bench.0.wall_ms.set(self.places[at].bench.wall_ms());
            self.places[at] = Place { node, bench, shard, is_stalled: false, closed_seen: 0 };
        }
    }

    /// The same, once all know each other.
    pub(super) fn formed(nodes: usize, cores: usize) -> Cluster {
        let mut cluster = Cluster::new(nodes, cores);
        let all = |cluster: &Cluster| {
            let knows = |at: usize, of: usize| {
                at == of
                    || cluster.verdict(at, of) == Some(Verdict::Up) && cluster.told_cores(at, of) == cores
            };
            let linked = cluster.places.iter().all(|place| {
                place.shard.links.borrow().iter().filter(|link| link.up().is_some()).count()
                    == (nodes - 1) * cores
            });
            linked && (0..nodes).all(|at| (0..nodes).all(|of| knows(at, of)))
        };
        cluster.until(10_000, all);
        cluster
    }

    pub(super) fn place(&self, node: usize, core: usize) -> &Place {
        &self.places[node * self.cores + core]
    }

    /// What a node holds of another.
    pub(super) fn verdict(&self, at: usize, of: usize) -> Option<Verdict> {
        let gossip = self.place(at, 0).shard.gossip.borrow();
        let membership = &gossip.as_ref().expect("a first core gossips").membership;
        membership.member(NodeId(of as u16 + 1)).map(|member| member.verdict)
    }

    /// Of how many cores of another node it has heard.
    fn told_cores(&self, at: usize, of: usize) -> usize {
        let gossip = self.place(at, 0).shard.gossip.borrow();
        let membership = &gossip.as_ref().expect("a first core gossips").membership;
        membership.member(NodeId(of as u16 + 1)).map_or(0, |member| member.cores.len())
    }

    /// Whether every core of a node does without a core of another.
    pub(super) fn is_absent(&self, at: usize, of: usize, core: usize) -> bool {
        let (node, core) = (NodeId(of as u16 + 1), Some(CoreId(core as u16)));
        let answers: Vec<bool> =
            (0..self.cores).map(|on| self.place(at, on).shard.counts_absent(node, core)).collect();
        answers.iter().all(|absent| *absent)
    }

    /// Whether none of them does.
    pub(super) fn is_present(&self, at: usize, of: usize, core: usize) -> bool {
        let (node, core) = (NodeId(of as u16 + 1), Some(CoreId(core as u16)));
        !(0..self.cores).any(|on| self.place(at, on).shard.counts_absent(node, core))
    }

    /// Cuts a node off from all others, or lets it back.
    pub(super) fn set_cut_off(&mut self, node: usize, is_cut: bool) {
        let nodes = self.places.len() / self.cores;
        for other in (0..nodes).filter(|other| *other != node) {
            for way in [(node, other), (other, node)] {
                if is_cut {
                    self.cut.insert(way)
                } else {
                    self.cut.remove(&way)
                };
            }
        }
    }

    /// Steps until something is so.
    pub(super) fn until(&mut self, within_ms: u64, is_so: impl Fn(&Cluster) -> bool) {
        for _ in 0..within_ms / STEP_MS {
            if is_so(self) {
                return;
            }
            self.step();
        }
        panic!("not so within {within_ms} ms; the first node says:\n{}", self.place(0, 0).shard.status());
    }

    pub(super) fn run_for(&mut self, ms: u64) {
        (0..ms / STEP_MS).for_each(|_| self.step());
    }

    fn step(&mut self) {
        for place in &self.places {
            let bench = &place.bench;
            bench.0.now_ns.set(bench.now_ns() + STEP_MS * MS);
            bench.0.wall_ms.set(bench.wall_ms() + STEP_MS);
            if place.is_stalled {
                continue;
            }
            if place.shard.next_timer().is_some_and(|at| at <= bench.now_ns()) {
                place.shard.on_timer(bench.now_ns());
            }
        }
        self.connect();
        self.deliver();
        self.hop();
        for place in self.places.iter().filter(|place| !place.is_stalled) {
            place.shard.on_batch_end();
            place.bench.run();
        }
        self.collect();
    }

    fn is_open(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(self.places[from].node, self.places[to].node))
    }

    fn connect(&mut self) {
        for from in 0..self.places.len() {
            let attempts = std::mem::take(&mut *self.places[from].bench.0.attempts.borrow_mut());
            for (connection, address) in attempts {
                let (host, port) = address.split_once(':').expect("a host and a port");
                let node = host.rsplit('.').next().and_then(|id| id.parse().ok()).unwrap_or(1usize) - 1;
                let place = port.parse::<usize>().expect("a port") - 7000;
                let to = node * self.cores + place.saturating_sub(1);
                // Where the way is cut nobody answers.
                if self.is_open(from, to) && self.is_open(to, from) {
                    let accepted = self.places[to].bench.new_connection();
                    self.places[to].shard.on_accepted(accepted);
                    self.other_end.insert((from, connection), (to, accepted));
                    self.other_end.insert((to, accepted), (from, connection));
                    self.places[from].shard.on_connected(connection);
                }
            }
        }
    }

    /// Takes what was sent, asked of other cores, and closed.
    fn collect(&mut self) {
        for from in 0..self.places.len() {
            let place = &mut self.places[from];
            let sent = std::mem::take(&mut *place.bench.0.sent.borrow_mut());
            let mut closed: Vec<Connection> = place.bench.0.closed.borrow()[place.closed_seen..].to_vec();
            place.closed_seen += closed.len();
            for (core, hop) in place.bench.0.hops.borrow_mut().drain(..) {
                self.hops.push((from, place.node * self.cores + usize::from(core.0), hop));
            }
            for (connection, bytes) in sent {
                match self.other_end.get(&(from, connection)) {
                    Some(end) => self.wires.entry(*end).or_default().extend(bytes),
                    // A test's own client.
                    None => drop(place.bench.0.sent.borrow_mut().insert(connection, bytes)),
                }
            }
            closed.dedup();
            closed.into_iter().for_each(|connection| self.close(from, connection));
        }
    }

    /// The other end is told, unless the way is cut: then it finds out by itself.
    fn close(&mut self, from: usize, connection: Connection) {
        let Some((to, other)) = self.other_end.remove(&(from, connection)) else { return };
        self.other_end.remove(&(to, other));
        self.wires.remove(&(from, connection));
        if self.is_open(from, to) {
            self.places[to].shard.on_closed(other);
        }
    }

    fn deliver(&mut self) {
        let ends: Vec<(usize, Connection)> = self.wires.keys().copied().collect();
        for (to, connection) in ends {
            let Some((from, _)) = self.other_end.get(&(to, connection)).copied() else { continue };
            if !self.is_open(from, to) || self.places[to].is_stalled {
                continue;
            }
            let kind = self.places[to].shard.sessions.borrow().kind(connection);
            let is_gossip = matches!(kind, Some(SessionKind::Gossip(_) | SessionKind::GossipLink(_)));
            let ends = [self.places[from].node, self.places[to].node];
            if is_gossip && ends.iter().any(|node| self.gossip_cut.contains(node)) {
                continue;
            }
            let bytes = self.wires.remove(&(to, connection)).expect("listed");
            match self.places[to].shard.on_received(connection, &bytes) {
                Received::Consumed { used, .. } if used == bytes.len() => {}
                Received::Consumed { used, .. } => {
                    self.wires.insert((to, connection), bytes[used..].to_vec());
                }
                Received::Close => self.close(to, connection),
            }
        }
    }

    fn hop(&mut self) {
        for (from, to, hop) in std::mem::take(&mut self.hops) {
            if self.places[to].is_stalled {
                self.hops.push((from, to, hop));
            } else {
                self.places[to].shard.on_hop(CoreId((from % self.cores) as u16), hop);
            }
        }
    }
}
