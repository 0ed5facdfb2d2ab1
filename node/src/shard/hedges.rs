//! Asking one replica more for reads whose answers are slow to come.
//!
//! When, and whether at all, is decided by [`Hedging`](ferrite_cluster::Hedging). What is kept here is the queue of reads that wait for
//! their delay to be over. The delay is much the same for all, so the queue is in order of time as reads come; nearly all of them have ended by the
//! time they are at its front, and are passed over there without anybody waking up for it: a timer is asked for only when the read at the
//! front still waits. (The deadlines' wheel has a grain of milliseconds, and a finer one would wake a core with a lone client for nothing.)

use std::collections::VecDeque;
use std::rc::Rc;

use ferrite_cluster::{Hedging, ReplicaSet};
use ferrite_lsm::cover;
use ferrite_wire::{NodeId, limits::REPLICAS_MAX};

use super::slab::{OperationId, Slab};
use super::{Operation, Route, Shard};
use crate::env::Env;

/// Most reads in the queue: a delay's worth of them. Beyond it reads are not hedged.
const WAITING_MAX: usize = 1 << 16;

/// Reads that wait for their delay to be over, and what is known of how long that is.
#[derive(Debug, Default)]
pub(super) struct Hedges {
    pub(super) hedging: Hedging,
    /// By time; a read whose delay was shorter than that of the one before comes after it none the less.
    queue: VecDeque<(u64, OperationId)>,
}

impl Hedges {
    fn add(&mut self, at_ns: u64, read: OperationId) {
        if self.queue.len() < WAITING_MAX {
            let after = self.queue.back().map_or(0, |(last, _)| *last);
            self.queue.push_back((at_ns.max(after), read));
        }
    }

    /// When the first read that still waits is due; those that have ended are forgotten.
    fn next(&mut self, operations: &Slab<Operation>) -> Option<u64> {
        while let Some((at_ns, read)) = self.queue.front() {
            if operations.contains(*read) {
                return Some(*at_ns);
            }
            self.queue.pop_front();
        }
        None
    }
}

/// Which answers of a read tell how fast others are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timed {
    started_ns: u64,
    /// The replicas on other nodes that were asked at the start and have not answered.
    first: ReplicaSet,
    nodes: [NodeId; REPLICAS_MAX],
    /// The delay is over.
    overdue: bool,
    /// Who was asked in addition.
    hedge: Option<u8>,
}

impl<E: Env> Shard<E> {
    /// The nodes of a route's replicas, and those that are asked last.
    pub(super) fn laggards(&self, route: Route) -> ([NodeId; REPLICAS_MAX], ReplicaSet) {
        let (ring, hedges) = (self.ring.borrow(), self.hedges.borrow());
        let mut nodes = [NodeId(0); REPLICAS_MAX];
        let replicas = &ring.replicas(route.vnode)[..route.replicas];
        nodes[..replicas.len()].copy_from_slice(replicas);
        if hedges.hedging.laggards() == 0 {
            return (nodes, ReplicaSet::default());
        }
        let now_ns = self.env.now_ns();
        let comes_last = |at: &u8| hedges.hedging.comes_last(nodes[*at as usize], now_ns);
        (nodes, (0..replicas.len() as u8).filter(comes_last).collect())
    }

    /// A read begins that asks these replicas on other nodes.
    pub(super) fn timed(&self, first: ReplicaSet, nodes: [NodeId; REPLICAS_MAX]) -> Timed {
        let started_ns = self.env.now_ns();
        let hedging = &mut self.hedges.borrow_mut().hedging;
        if !first.is_empty() {
            hedging.on_read();
            self.counters.hedges.reads.set(self.counters.hedges.reads.get() + 1);
            first.iter().for_each(|replica| hedging.on_ask(nodes[replica as usize], started_ns));
        }
        Timed { started_ns, first, nodes, overdue: false, hedge: None }
    }

    /// A read waits for others.
    pub(super) fn hedge_later(&self, read: OperationId) {
        let mut hedges = self.hedges.borrow_mut();
        let at_ns = self.env.now_ns() + hedges.hedging.delay_ns();
        hedges.add(at_ns, read);
    }

    /// A replica has answered a read for the first time, and not with a refusal.
    pub(super) fn on_timed(&self, timed: &mut Timed, replica: u8) {
        if timed.first.contains(replica) {
            timed.first.remove(replica);
            let latency_ns = self.env.now_ns().saturating_sub(timed.started_ns);
            let node = timed.nodes[replica as usize];
            self.hedges.borrow_mut().hedging.on_answer(node, latency_ns, !timed.overdue);
        } else if timed.hedge == Some(replica) {
            timed.hedge = None;
            self.counters.hedges.won.set(self.counters.hedges.won.get() + 1);
        }
    }

    /// When the next read wants to ask another replica.
    pub(super) fn next_hedge(&self) -> Option<u64> {
        self.hedges.borrow_mut().next(&self.operations.borrow())
    }

    /// Lets the reads ask another replica whose delay is over.
    pub(super) fn hedge_due(self: &Rc<Self>, now_ns: u64) {
        loop {
            let due = {
                let mut hedges = self.hedges.borrow_mut();
                match hedges.next(&self.operations.borrow()) {
                    Some(at_ns) if at_ns <= now_ns => hedges.queue.pop_front(),
                    Some(_) | None => return,
                }
            };
            let (_, read) = due.expect("it is due");
            self.hedge(read, now_ns);
        }
    }

    fn hedge(self: &Rc<Self>, id: OperationId, now_ns: u64) {
        let ask = {
            let mut operations = self.operations.borrow_mut();
            let Some(Operation::Read(read)) = operations.get_mut(id) else { return };
            let hedging = &mut self.hedges.borrow_mut().hedging;
            let awaited = read.awaited();
            read.timed.overdue = true;
            for replica in read.timed.first.iter().filter(|replica| awaited.contains(*replica)) {
                hedging.on_silence(read.timed.nodes[replica as usize], now_ns);
            }
            let counters = &self.counters.hedges;
            if !read.may_hedge() {
                return;
            }
            if !hedging.take() {
                counters.refused.set(counters.refused.get() + 1);
                return;
            }
            counters.sent.set(counters.sent.get() + 1);
            let ask = read.hedge().expect("seen above");
            read.timed.hedge = Some(ask.replica);
            ask
        };
        cover::mark("read hedged");
        self.ask_again(id, ask);
    }
}
