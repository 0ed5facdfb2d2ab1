//! Many memberships under one virtual clock: packets that are late or lost, nodes that die, stand still and come again.
//!
//! The same seed gives the same run. A step is a millisecond; a round is a probe period.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use ferrite_cluster::gossip::{
    CoreReport, CoreVerdict, Fence, Generation, GossipOptions, Identity, MemberView, Membership, Output,
    Scope, Start, TablesHash, Verdict,
};
use ferrite_wire::{ClusterId, CoreId, Epoch, NodeId};

/// How often a host reports its cores.
const REPORT_MS: u64 = 250;
/// How often a wait looks whether it is over.
const LOOK_MS: u64 = 20;
pub(crate) const CORES: usize = 4;
pub(crate) const SCOPE: Scope = Scope { cluster: ClusterId([7; 16]), tables: TablesHash(0x7ab1e5) };

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }
}

enum Event {
    Packet {
        to: usize,
        bytes: Vec<u8>,
    },
    /// Void if the node has asked for another time since.
    Wake {
        node: usize,
        life: u64,
        at_ms: u64,
    },
    Report {
        node: usize,
        life: u64,
    },
}

struct Process {
    membership: Membership,
    /// When it is woken next.
    wake_ms: u64,
    cores: [CoreReport; CORES],
    stalled: [bool; CORES],
    /// What comes to it meanwhile waits.
    is_paused: bool,
    waiting: Vec<Event>,
}

#[derive(Default)]
struct Node {
    process: Option<Process>,
    /// Which of its processes: events of an earlier one are void.
    life: u64,
    suspected_ms: Option<u64>,
}

/// What has happened since it was last set to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// Times that a node that lived came under suspicion, by however many.
    pub(crate) false_suspicions: u64,
    /// Verdicts of down on nodes that lived, of all observers.
    pub(crate) false_downs: u64,
    pub(crate) renewals: u64,
    pub(crate) faults: u64,
}

pub(crate) struct World {
    pub(crate) now_ms: u64,
    pub(crate) counts: Counts,
    pub(crate) loss_permille: u64,
    pub(crate) latency_ms: (u64, u64),
    /// Ways, from one node to another, on which everything is lost.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    options: GossipOptions,
    random: Random,
    nodes: Vec<Node>,
    events: BTreeMap<(u64, u64), Event>,
    number: u64,
}

pub(crate) fn node_id(node: usize) -> NodeId {
    NodeId(node as u16 + 1)
}

pub(crate) fn address(node: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + node as u32), 7_000))
}

impl World {
    /// A world with room for so many nodes, none of them started.
    pub(crate) fn new(seed: u64, nodes: usize, options: GossipOptions) -> World {
        World {
            now_ms: 1_000_000,
            counts: Counts::default(),
            loss_permille: 0,
            latency_ms: (1, 10),
            cut: BTreeSet::new(),
            options,
            random: Random(seed),
            nodes: (0..nodes).map(|_| Node::default()).collect(),
            events: BTreeMap::new(),
            number: 0,
        }
    }

    /// A cluster of so many nodes that all know each other, begun within five rounds.
    pub(crate) fn formed(seed: u64, nodes: usize, room: usize) -> World {
        let mut world = World::new(seed, room, GossipOptions::default());
        for node in 0..nodes {
            world.start(node);
            world.run_for(5_000 / nodes as u64);
        }
        let formed_ms = world.run_until(180_000, |world| world.all_hold_all(nodes));
        assert!(formed_ms.is_some(), "a cluster of {nodes} did not form within 180 rounds");
        world
    }

    pub(crate) fn all_hold_all(&self, nodes: usize) -> bool {
        (0..nodes).all(|node| self.members_up(node) == nodes - 1)
    }

    pub(crate) fn members_up(&self, node: usize) -> usize {
        let members = self.membership(node).members();
        members.filter(|member| member.verdict == Verdict::Up).count()
    }

    /// Starts a node's process. A node's lives are as old as the clock.
    pub(crate) fn start(&mut self, node: usize) {
        self.start_as(node, self.now_ms);
    }

    pub(crate) fn start_as(&mut self, node: usize, generation: u64) {
        let start = Start {
            me: Identity::new(node_id(node), Generation(generation), address(node)),
            scope: SCOPE,
            version: "1.2.3".to_owned(),
            name: format!("node-{node}"),
            seeds: (0..3).map(address).collect(),
            random_seed: self.random.bits(),
            options: self.options.clone(),
        };
        let membership = Membership::new(self.now_ms, start);
        let life = self.nodes[node].life + 1;
        let open = CoreReport { progress: 0, fence: Fence::Open };
        let process = Process {
            membership,
            wake_ms: u64::MAX,
            cores: [open; CORES],
            stalled: [false; CORES],
            is_paused: false,
            waiting: Vec::new(),
        };
        self.nodes[node] = Node { process: Some(process), life, suspected_ms: None };
        self.put(self.now_ms, Event::Report { node, life });
        self.settle(node, Vec::new());
    }

    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].process = None;
        self.nodes[node].life += 1;
    }

    /// The process stands still: nothing of it runs, what comes to it waits.
    pub(crate) fn pause(&mut self, node: usize) {
        self.process(node).is_paused = true;
    }

    pub(crate) fn go_on(&mut self, node: usize) {
        self.process(node).is_paused = false;
        for event in std::mem::take(&mut self.process(node).waiting) {
            self.put(self.now_ms, event);
        }
    }

    pub(crate) fn stall(&mut self, node: usize, core: usize, is_stalled: bool) {
        self.process(node).stalled[core] = is_stalled;
    }

    pub(crate) fn fence(&mut self, node: usize, core: usize) {
        self.process(node).cores[core].fence = Fence::Fenced;
    }

    pub(crate) fn leave(&mut self, node: usize) {
        let now_ms = self.now_ms;
        let mut out = Vec::new();
        self.process(node).membership.leave(now_ms, &mut out);
        self.settle(node, out);
    }

    pub(crate) fn forget(&mut self, node: usize, member: usize) {
        self.process(node).membership.forget(node_id(member));
    }

    pub(crate) fn membership(&self, node: usize) -> &Membership {
        &self.nodes[node].process.as_ref().expect("it lives").membership
    }

    fn process(&mut self, node: usize) -> &mut Process {
        self.nodes[node].process.as_mut().expect("it lives")
    }

    /// What an observer holds of a node.
    pub(crate) fn held(&self, observer: usize, of: usize) -> Option<&MemberView> {
        self.membership(observer).member(node_id(of))
    }

    /// Whether all that live, but for the node itself, hold this of it.
    pub(crate) fn all_hold(&self, of: usize, verdict: Verdict) -> bool {
        self.all_others(of, |membership| {
            membership.member(node_id(of)).is_some_and(|member| member.verdict == verdict)
        })
    }

    /// Whether all others hold a node to be up, in the life it has.
    pub(crate) fn all_hold_this_life(&self, of: usize) -> bool {
        let me = self.membership(of).me();
        self.all_others(of, |membership| {
            membership.member(me.node()).is_some_and(|member| {
                member.verdict == Verdict::Up && member.identity.generation() == me.generation()
            })
        })
    }

    pub(crate) fn all_hold_core(&self, of: usize, core: usize, verdict: CoreVerdict) -> bool {
        self.all_others(of, |membership| {
            let held = membership.core(node_id(of), CoreId(core as u16));
            held.is_some_and(|held| held.verdict == verdict)
        })
    }

    pub(crate) fn all_others(&self, but: usize, holds: impl Fn(&Membership) -> bool) -> bool {
        let others = self.nodes.iter().enumerate().filter(|(node, _)| *node != but);
        others.filter_map(|(_, node)| node.process.as_ref()).all(|process| holds(&process.membership))
    }

    pub(crate) fn run_for(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        while let Some(first) = self.events.first_entry()
            && first.key().0 <= until_ms
        {
            let ((at_ms, _), event) = first.remove_entry();
            self.now_ms = self.now_ms.max(at_ms);
            self.happen(event);
        }
        self.now_ms = until_ms;
    }

    /// Runs until something holds; says how long it took, or nothing if it took longer than it may.
    pub(crate) fn run_until(&mut self, max_ms: u64, is_so: impl Fn(&World) -> bool) -> Option<u64> {
        let from_ms = self.now_ms;
        while !is_so(self) {
            if self.now_ms - from_ms >= max_ms {
                return None;
            }
            self.run_for(LOOK_MS);
        }
        Some(self.now_ms - from_ms)
    }

    fn put(&mut self, at_ms: u64, event: Event) {
        self.number += 1;
        self.events.insert((at_ms, self.number), event);
    }

    fn happen(&mut self, event: Event) {
        let (node, life) = match event {
            Event::Packet { to, .. } => (to, self.nodes[to].life),
            Event::Wake { node, life, .. } | Event::Report { node, life } => (node, life),
        };
        let now_ms = self.now_ms;
        if life != self.nodes[node].life {
            return;
        }
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        if process.is_paused {
            process.waiting.push(event);
            return;
        }
        let mut out = Vec::new();
        match event {
            Event::Packet { bytes, .. } => {
                let result = process.membership.on_message(now_ms, &bytes, &mut out);
                self.counts.faults += u64::from(result.is_err());
            }
            Event::Wake { at_ms, .. } if at_ms != process.wake_ms => return,
            Event::Wake { .. } => {
                process.wake_ms = u64::MAX;
                process.membership.tick(now_ms, &mut out);
            }
            Event::Report { .. } => {
                for (core, is_stalled) in process.cores.iter_mut().zip(process.stalled) {
                    core.progress = core.progress.wrapping_add(u32::from(!is_stalled));
                }
                process.membership.report(now_ms, 100, Epoch(3), &process.cores);
                self.put(now_ms + REPORT_MS, Event::Report { node, life });
            }
        }
        self.settle(node, out);
    }

    /// Carries out what a node asks for, and has it woken when it wants to.
    fn settle(&mut self, node: usize, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send { to, bytes, .. } => self.send(node, to, bytes),
                Output::Verdict { identity, verdict } => {
                    self.judge(usize::from(identity.node().0) - 1, identity.generation(), verdict);
                }
                Output::Core { .. } => {}
                Output::Renewed { .. } => self.counts.renewals += 1,
            }
        }
        let (now_ms, life) = (self.now_ms, self.nodes[node].life);
        let process = self.process(node);
        let next_ms = process.membership.next_tick_ms().max(now_ms);
        if next_ms < process.wake_ms {
            process.wake_ms = next_ms;
            self.put(next_ms, Event::Wake { node, life, at_ms: next_ms });
        }
    }

    fn send(&mut self, from: usize, to: SocketAddr, bytes: Vec<u8>) {
        self.counts.packets += 1;
        self.counts.bytes += bytes.len() as u64;
        let SocketAddr::V4(to) = to else { panic!("every node here has an IPv4 address") };
        let to = (u32::from(*to.ip()) - 0x0a00_0000) as usize;
        if self.cut.contains(&(from, to)) || self.random.below(1_000) < self.loss_permille {
            return;
        }
        let (least, most) = self.latency_ms;
        let at_ms = self.now_ms + least + self.random.below(most - least + 1);
        self.put(at_ms, Event::Packet { to, bytes });
    }

    fn judge(&mut self, of: usize, generation: Generation, verdict: Verdict) {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[of];
        let lives = |process: &Process| process.membership.me().generation() == generation;
        if !node.process.as_ref().is_some_and(lives) {
            return;
        }
        match verdict {
            Verdict::Up => {}
            Verdict::Suspect => {
                // News of one suspicion comes to all within a few rounds.
                let is_new = node.suspected_ms.is_none_or(|at_ms| now_ms > at_ms + 4_000);
                node.suspected_ms = Some(now_ms);
                self.counts.false_suspicions += u64::from(is_new);
            }
            Verdict::Down => self.counts.false_downs += 1,
        }
    }
}
