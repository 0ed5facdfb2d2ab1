//! The fault schedule: what breaks at each tick, and what comes back.

use std::rc::Rc;

use ferrite_lsm::mem_disk::CrashMode;

use super::plan::FaultKind;
use super::{MS, NODES, Scenario};
use crate::world::{Death, World};

/// Farthest that a wall clock jumps, in milliseconds; more than the server's bound on drift.
const CLOCK_JUMP_MS_MAX: u64 = 5_000;
/// Farthest that a wall clock is off when it is off by little: within the server's bound on drift.
const CLOCK_SKEW_MS_MAX: u64 = 400;
/// Longest pause of a process, in milliseconds; longer than peers wait for one another.
const PAUSE_MS_MAX: u64 = 3_000;

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
        let node = self.draw(NODES as u64) as usize;
        let other = (node + 1 + self.draw(NODES as u64 - 1) as usize) % NODES;
        match self.next_kind() {
            FaultKind::PowerCut => {
                if world.is_running(node) {
                    world.count("power cut");
                    self.cut_power(world, node);
                }
            }
            FaultKind::PowerCutOfAll => {
                world.count("power cut of all");
                (0..NODES).for_each(|node| self.cut_power(world, node));
            }
            FaultKind::Kill => {
                if world.is_running(node) {
                    world.count("kill");
                    world.stop(node, Death::Kill);
                }
            }
            FaultKind::Pause => {
                world.count("pause");
                world.pause(node, (10 + self.draw(PAUSE_MS_MAX)) * MS);
            }
            FaultKind::Partition => {
                world.count("partition");
                world.set_cut(node, other, true);
                world.set_cut(other, node, true);
            }
            FaultKind::OneWayPartition => {
                world.count("one-way partition");
                world.set_cut(node, other, true);
            }
            FaultKind::Reset => {
                if world.reset_any() {
                    world.count("connection reset");
                }
            }
            FaultKind::ClockJump => {
                world.count("clock jump");
                self.set_clock_off(world, node);
            }
            FaultKind::FullDisk => {
                world.count("full disk");
                world.disk(node).set_full(true);
            }
            FaultKind::StalledDisk => {
                if world.is_running(node) {
                    world.count("disk stalled");
                    world.stall_disk(node);
                    self.stalled.set(Some(node));
                }
            }
        }
        self.repair(world);
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

    fn set_clock_off(&self, world: &World, node: usize) {
        let far_ms = if self.draw(2) == 0 { CLOCK_JUMP_MS_MAX } else { CLOCK_SKEW_MS_MAX };
        let offset_ms = self.draw(2 * far_ms) as i64 - far_ms as i64;
        world.set_wall_offset_ms(node, offset_ms);
    }

    /// What is down comes back sooner or later; a fenced node is restarted as an operator would.
    fn repair(&self, world: &Rc<World>) {
        if self.draw(3) == 0 {
            world.heal();
        }
        for node in 0..NODES {
            if self.draw(3) == 0 {
                world.disk(node).set_full(false);
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
                self.start(world, node);
            }
        }
    }
}
