//! A host that writes numbered keys, commits and runs jobs, and knows what was acknowledged.

use crate::rig::{Model, Random, TestEngine, Write, apply, run_jobs, stage};
use ferrite_lsm::mem_disk::run::block_on;

/// Writes of a group.
const GROUP: usize = 5;

/// What a host writes, and when it runs jobs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// Keys, from 0 on.
    pub(crate) keys: u64,
    /// Values are shorter than this and what tells their version.
    pub(crate) bytes_max: u64,
    /// One write in so many comes late, by fewer orders than that.
    pub(crate) late: Option<(u64, u64)>,
    /// Groups after which jobs are run: one in so many, and when a write is refused; `None` = each, and none is refused.
    pub(crate) groups_per_jobs: Option<u64>,
}

pub(crate) struct Host {
    habits: Habits,
    pub(crate) random: Random,
    /// The order of its last write, but for what comes late.
    pub(crate) clock: u64,
    pub(crate) model: Model,
}

impl Host {
    pub(crate) fn new(seed: u64, habits: Habits) -> Host {
        Host { habits, random: Random::new(seed), clock: 0, model: Model::new() }
    }

    pub(crate) fn write(&mut self) -> Write {
        self.clock += 1;
        let (random, habits) = (&mut self.random, self.habits);
        let late = match habits.late {
            Some((one_in, orders)) if random.below(one_in) == 0 => random.below(orders),
            Some(_) | None => 0,
        };
        Write {
            key: random.below(habits.keys),
            order: self.clock.saturating_sub(late).max(1),
            actor: self.clock,
            bytes: random.below(habits.bytes_max) as usize,
            tombstone: random.below(12) == 0,
        }
    }

    /// Groups of writes, with jobs between them.
    pub(crate) fn go_on(&mut self, engine: &TestEngine, groups: u64) {
        for _ in 0..groups {
            let mut staged = Vec::new();
            for _ in 0..GROUP {
                let write = self.write();
                match stage(engine, &write) {
                    Ok(_) => staged.push(write),
                    Err(refusal) => {
                        assert!(self.habits.groups_per_jobs.is_some(), "jobs keep up: {refusal:?}");
                        block_on(run_jobs(engine)).expect("no faults");
                    }
                }
            }
            block_on(engine.commit()).expect("no faults");
            staged.into_iter().for_each(|write| apply(&mut self.model, write));
            if self.habits.groups_per_jobs.is_none_or(|one_in| self.random.below(one_in) == 0) {
                block_on(run_jobs(engine)).expect("no faults");
            }
        }
    }
}
