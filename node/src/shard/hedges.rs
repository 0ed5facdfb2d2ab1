//! Asking one replica more for reads whose answers are slow to come.
//!
//! When, and whether at all, is decided by [`Hedging`](ferrite_cluster::Hedging). What is kept here is the queue of reads that wait for
//! their delay to be over. The delay is much the same for all, so the queue is in order of time as reads come; nearly all of them have ended by the
//! time they are at its front, and are passed over there without anybody waking up for it: a timer is asked for only when the read at the
//! front still waits. (The deadlines' wheel has a grain of milliseconds, and a finer one would wake a core with a lone client for nothing.)
//!
//! Reads whose answers wait for replicas to be brought up to what they found have a queue of their own, for what they wait for takes longer. Such a
//! read asks one replica more as well, out of the same budget; where that is spent it waits for as long again and then tries again.

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
/// How many times as long as for an answer a read waits for a replica that it has written to: that is synced first.
pub(super) const REPAIR_DELAYS: u64 = 8;

/// Reads that wait for their delay to be over, and what is known of how long that is.
#[derive(Debug, Default)]
pub(super) struct Hedges {
    pub(super) hedging: Hedging,
    /// Those that wait for answers.
    reads: Queue,
    /// Those that wait for replicas that they have written to.
    repairs: Queue,
}

/// By time; a read whose delay was shorter than that of the one before comes after it none the less.
#[derive(Debug, Default)]
struct Queue(VecDeque<(u64, OperationId)>);

impl Queue {
    fn add(&mut self, at_ns: u64, read: OperationId) {
        if self.0.len() < WAITING_MAX {
            let after = self.0.back().map_or(0, |(last, _)| *last);
            self.0.push_back((at_ns.max(after), read));
        }
    }

    /// When the first read that still waits is due; those that have ended are forgotten.
    fn next(&mut self, operations: &Slab<Operation>) -> Option<u64> {
        while let Some((at_ns, read)) = self.0.front() {
            if operations.contains(*read) {
                return Some(*at_ns);
            }
            self.0.pop_front();
        }
        None
    }

    /// The first that is due.
    fn take(&mut self, now_ns: u64, operations: &Slab<Operation>) -> Option<OperationId> {
        let is_due = self.next(operations)? <= now_ns;
        if is_due { self.0.pop_front().map(|(_, read)| read) } else { None }
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
        hedges.reads.add(at_ns, read);
    }

    /// A read waits for replicas that it has written to.
    pub(super) fn hedge_repair_later(&self, read: OperationId) {
        let mut hedges = self.hedges.borrow_mut();
        let at_ns = self.env.now_ns() + REPAIR_DELAYS * hedges.hedging.delay_ns();
        hedges.repairs.add(at_ns, read);
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
        let (mut hedges, operations) = (self.hedges.borrow_mut(), self.operations.borrow());
        let next = [hedges.reads.next(&operations), hedges.repairs.next(&operations)];
        next.into_iter().flatten().min()
    }

    /// Lets the reads ask another replica whose delay is over.
    pub(super) fn hedge_due(self: &Rc<Self>, now_ns: u64) {
        let next_read = || self.hedges.borrow_mut().reads.take(now_ns, &self.operations.borrow());
        while let Some(read) = next_read() {
            self.hedge(read, now_ns);
        }
        // What finds no budget is due again later.
        let next_repair = || self.hedges.borrow_mut().repairs.take(now_ns, &self.operations.borrow());
        while let Some(read) = next_repair() {
            self.hedge_repair(read);
        }
    }

    fn hedge_repair(self: &Rc<Self>, id: OperationId) {
        let is_slow = match self.operations.borrow_mut().get_mut(id) {
            Some(Operation::Read(read)) => read.is_repairing() && read.may_hedge(),
            _ => false,
        };
        if !is_slow {
            return;
        }
        let counters = &self.counters.hedges;
        if !self.hedges.borrow_mut().hedging.take() {
            counters.refused.set(counters.refused.get() + 1);
            return self.hedge_repair_later(id);
        }
        counters.sent.set(counters.sent.get() + 1);
        let ask = match self.operations.borrow_mut().get_mut(id) {
            Some(Operation::Read(read)) => read.hedge(),
            _ => None,
        };
        cover::mark("repair hedged");
        self.ask_again(id, ask.expect("seen above"));
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
            if !read.may_hedge() || read.is_repairing() {
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
