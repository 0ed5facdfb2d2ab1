//! The fault schedule: what breaks at each tick, and what comes back.

use std::rc::Rc;

use ferrite_lsm::mem_disk::{CrashMode, MemDisk};
use ferrite_node::shard::DRAIN_MS;
use ferrite_promises::Violation;

use super::Scenario;
use super::plan::FaultKind;
use super::shape::CORES_MAX;
use super::{MS, SECOND};
use crate::world::{Death, World};

/// Farthest that a wall clock jumps, in milliseconds; more than any bound on drift.
const CLOCK_JUMP_MS_MAX: u64 = 5_000;
/// Longest pause of a process, in milliseconds; longer than peers wait for one another.
const PAUSE_MS_MAX: u64 = 3_000;
/// How much longer a core stands still, at least and at most, than it may before it counts as absent, in milliseconds.
const CORE_STALL_MS: (u64, u64) = (200, 3_000);
/// A node that was asked to stop and has not drained after one of these times is killed: by somebody in a hurry, or when it would have given up by itself.
const STOP_PATIENCE_NS: [u64; 2] = [5 * SECOND, DRAIN_MS * MS];

/// A copy of a node's data directory.
#[derive(Debug)]
pub(super) struct Copy {
    node: usize,
    disk: MemDisk,
    taken_ns: u64,
}

impl Scenario {
    /// One tick: a fault of one of the run's kinds, and some repairs.
    pub(super) fn inject(&self, world: &Rc<World>) {
        if let Some(stalled) = self.stalled.take()
            && world.is_running(stalled)
        {
            // What stood still is lost, and the machine is back before anybody has told it of what it had told them.
            world.stop(stalled, Death::PowerCut(CrashMode::None));
            self.start(world, stalled);
        }
        let nodes = self.shape.nodes;
        let node = self.draw(nodes as u64) as usize;
        let other = (node + 1 + self.draw((nodes as u64 - 1).max(1)) as usize) % nodes;
        match self.next_kind() {
            FaultKind::PowerCut => {
                if world.is_running(node) {
                    world.count("power cut");
                    self.cut_power(world, node);
                }
            }
            FaultKind::PowerCutOfAll => {
                world.count("power cut of all");
                (0..nodes).for_each(|node| self.cut_power(world, node));
            }
            FaultKind::Kill => {
                if world.is_running(node) {
                    world.count("kill");
                    world.stop(node, Death::Kill);
                }
            }
            FaultKind::Stop => {
                if world.ask_to_stop(node) {
                    world.count("orderly stop");
                    let patience_ns = STOP_PATIENCE_NS[self.draw(2) as usize];
                    self.stopping.borrow_mut().push((node, world.now_ns() + patience_ns));
                }
            }
            FaultKind::Pause => {
                world.count("pause");
                world.pause(node, (10 + self.draw(PAUSE_MS_MAX)) * MS);
            }
            FaultKind::StalledCore => {
                let core = self.draw(u64::from(self.shape.cores_of(node))) as u16;
                let (shortest, longest) = CORE_STALL_MS;
                let stall_ms = self.shape.options.stall_ms() + shortest + self.draw(longest - shortest);
                if world.stall_core(node, core, stall_ms * MS) {
                    world.count("core stalled");
                }
            }
            FaultKind::Partition if nodes > 1 => {
                world.count("partition");
                world.set_cut(node, other, true);
                world.set_cut(other, node, true);
            }
            FaultKind::OneWayPartition if nodes > 1 => {
                world.count("one-way partition");
                world.set_cut(node, other, true);
            }
            FaultKind::Partition | FaultKind::OneWayPartition => {}
            FaultKind::Reset => {
                if world.reset_any() {
                    world.count("connection reset");
                }
            }
            FaultKind::ClockJump => {
                world.count("clock jump");
                self.set_clock_off(world, node);
            }
            FaultKind::ClockRate => {
                world.count("clock runs fast or slow");
                // A tenth fast or slow: a hundred times what a quartz may be off by.
                let rate_permille = 900 + self.draw(201);
                self.note_clock(world, node);
                world.set_wall_rate_permille(node, rate_permille);
            }
            FaultKind::FullDisk => {
                world.count("full disk");
                world.set_full(node, true);
            }
            FaultKind::StalledDisk => {
                if world.is_running(node) {
                    world.count("disk stalled");
                    world.stall_disk(node);
                    self.stalled.set(Some(node));
                }
            }
            FaultKind::WipedDirectory => {
                if self.may_forget() {
                    world.count("directory wiped");
                    world.stop(node, Death::Kill);
                    world.replace_disk(node, None);
                    self.forgot(world, node, 0);
                }
            }
            FaultKind::RestoredCopy => self.copy_or_restore(world, node),
        }
        self.repair(world);
    }

    /// Takes a copy of a node that runs, or of what it left, and puts it back later.
    fn copy_or_restore(&self, world: &Rc<World>, node: usize) {
        let copy = self.copy.borrow_mut().take();
        match copy {
            None => {
                let (disk, taken_ns) = (world.copy_disk(node), world.now_ns());
                *self.copy.borrow_mut() = Some(Copy { node, disk, taken_ns });
            }
            Some(Copy { node, disk, taken_ns }) if self.may_forget() => {
                world.count("copy restored");
                // It may hold damage, too.
                let is_untrusted = self.plan.untrusted.is_some_and(|disk| disk.node == node);
                self.is_damaged.set(self.is_damaged.get() || is_untrusted);
                world.stop(node, Death::Kill);
                world.replace_disk(node, Some(disk));
                self.forgot(world, node, taken_ns);
            }
            Some(_) => {}
        }
    }

    /// What the disk that cannot be trusted has damaged may be anything that its node had.
    pub(super) fn note_damage(&self, world: &World) {
        let Some(disk) = self.plan.untrusted else { return };
        if world.take_damage() {
            self.is_damaged.set(true);
            self.facts.borrow_mut().lost(disk.node, 0, world.now_ns());
        }
    }

    /// Whether a node's disk holds damage.
    pub(super) fn is_damaged(&self, node: usize) -> bool {
        self.is_damaged.get() && self.plan.untrusted.is_some_and(|disk| disk.node == node)
    }

    /// A node comes back.
    pub(super) fn start(&self, world: &Rc<World>, node: usize) {
        if self.is_damaged(node) {
            // What it finds damaged when it opens may be anything, also what it had in memory until then and has shown.
            self.facts.borrow_mut().lost(node, 0, world.now_ns());
        }
        self.shape.start(world, node);
    }

    /// A node gets an empty disk in place of one that is damaged.
    pub(super) fn replace_disk(&self, world: &Rc<World>, node: usize) {
        world.stop(node, Death::Kill);
        world.replace_disk(node, None);
        if self.is_damaged(node) {
            // It was that one, and not another whose reads went wrong.
            self.is_damaged.set(false);
        }
        self.facts.borrow_mut().lost(node, 0, world.now_ns());
    }

    fn may_forget(&self) -> bool {
        self.losses.get() < self.plan.losses_max
    }

    fn forgot(&self, world: &World, node: usize, since_ns: u64) {
        self.losses.set(self.losses.get() + 1);
        self.facts.borrow_mut().lost(node, since_ns, world.now_ns());
    }

    /// All kinds of the run in a random order, then all again: each run meets each of its kinds.
    fn next_kind(&self) -> FaultKind {
        let mut deck = self.deck.borrow_mut();
        if deck.is_empty() {
            deck.extend_from_slice(&self.plan.kinds);
        }
        let at = self.draw(deck.len() as u64) as usize;
        deck.swap_remove(at)
    }

    fn cut_power(&self, world: &Rc<World>, node: usize) {
        let mode = CrashMode::EVERY[self.draw(CrashMode::EVERY.len() as u64) as usize];
        world.stop(node, Death::PowerCut(mode));
    }

    /// Off by more than the bound on drift, or by less.
    fn set_clock_off(&self, world: &World, node: usize) {
        match self.draw(2) {
            0 => self.set_clock_within(world, node, CLOCK_JUMP_MS_MAX),
            _ => self.set_clock_within(world, node, self.shape.options.drift_max_ms() * 4 / 5),
        }
    }

    /// Off by so little that no two nodes are further apart than the bound on drift.
    pub(super) fn set_clock_near(&self, world: &World, node: usize) {
        self.set_clock_within(world, node, self.shape.options.drift_max_ms() * 2 / 5);
    }

    fn set_clock_within(&self, world: &World, node: usize, far_ms: u64) {
        let offset_ms = self.draw(2 * far_ms) as i64 - far_ms as i64;
        self.set_clock(world, node, offset_ms);
    }

    /// Sets a wall clock, and takes note of how far it and it alone has been.
    pub(super) fn set_clock(&self, world: &World, node: usize, offset_ms: i64) {
        self.note_clock(world, node);
        world.set_wall_offset_ms(node, offset_ms);
        self.note_clock(world, node);
        self.jumps.borrow_mut()[node] += 1;
    }

    /// Takes note of how far a clock is off by now, and of what it shows.
    pub(super) fn note_clock(&self, world: &World, node: usize) {
        self.facts.borrow_mut().saw_wall(world.wall_ms(node));
        let (low_ms, high_ms) = world.wall_offsets_ms(node);
        let (lowest_ms, highest_ms) = self.offsets_ms.get();
        self.offsets_ms.set((lowest_ms.min(low_ms), highest_ms.max(high_ms)));
    }

    /// A node that comes back may have another number of cores, whatever had stopped it.
    fn deal_cores(&self, world: &World, node: usize) {
        if !self.plan.changes_cores || self.draw(2) > 0 {
            return;
        }
        let cores = 1 + self.draw(u64::from(CORES_MAX)) as u16;
        if cores != self.shape.cores_of(node) {
            world.count("restart with other cores");
            self.shape.set_cores(node, cores);
        }
    }

    /// Lets nodes that were asked to stop do so in the time that they have.
    pub(super) fn await_stops(&self, world: &Rc<World>) {
        for node in 0..self.shape.nodes {
            let left_ns = (DRAIN_MS * MS).saturating_sub(world.stopping_for_ns(node));
            if world.is_stopping(node) {
                self.run_until(world, world.now_ns() + left_ns, || !world.is_stopping(node));
            }
            self.judge_stop(world, node);
        }
    }

    /// Judges a node that does not end though its time to stop is over.
    fn judge_stop(&self, world: &World, node: usize) {
        let is_late = world.stopping_for_ns(node) >= DRAIN_MS * MS;
        if is_late && self.nothing_holds_up_a_stop() {
            let what = format!("node {} was asked to stop, and did not end in its time", node + 1);
            self.judge(Err(Violation { key: 0, what }));
        }
    }

    /// Whether no fault of this run takes the time from a node that it has for its stop.
    fn nothing_holds_up_a_stop(&self) -> bool {
        let kinds = [FaultKind::Pause, FaultKind::StalledCore, FaultKind::FullDisk, FaultKind::StalledDisk];
        let plan = &self.plan;
        plan.disk.are_sound()
            && plan.untrusted.is_none()
            && kinds.iter().all(|kind| !plan.kinds.contains(kind))
    }

    /// What is down comes back sooner or later; a fenced node is restarted as an operator would.
    fn repair(&self, world: &Rc<World>) {
        if self.draw(3) == 0 {
            world.heal();
        }
        self.stopping.borrow_mut().retain(|(node, until_ns)| {
            let is_over = world.is_stopping(*node) && world.now_ns() >= *until_ns;
            if is_over {
                self.judge_stop(world, *node);
                world.count("killed while stopping");
                world.stop(*node, Death::Kill);
            }
            world.is_stopping(*node)
        });
        for node in 0..self.shape.nodes {
            if self.draw(3) == 0 {
                world.set_full(node, false);
            }
            if world.is_fenced(node) && self.draw(3) == 0 {
                world.stop(node, Death::Kill);
            }
            if !world.is_running(node) && self.draw(4) > 0 {
                // A machine that was off may come back with any clock.
                if self.plan.kinds.contains(&FaultKind::ClockJump) && self.draw(2) == 0 {
                    world.count("restart with another clock");
                    self.set_clock_off(world, node);
                }
                self.deal_cores(world, node);
                self.start(world, node);
            }
        }
    }
}
