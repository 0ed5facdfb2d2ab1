//! What a history is made of, drawn from a seed: it knows nothing of options.

use crate::rig::{Random, TestEngine, VNODES};
use ferrite_lsm::mem_disk::CrashMode;
use ferrite_lsm::{Direction, KeyBuf, KeyRange, Prefix, Record, RecordFlags, Refusal};

pub(super) const STEPS: usize = 450;
pub(super) const KEYS: u64 = 240;
/// Sort keys of a partition.
pub(super) const SORTS: u64 = 12;
pub(super) const TABLES: u32 = 2;
pub(super) const TOKEN_SEED: u64 = 77;

/// Few partitions with many sort keys; the tokens of half of them follow from the partition.
pub(super) fn key(n: u64) -> KeyBuf {
    let number = n / SORTS;
    let partition = format!("partition {number}").into_bytes();
    let token = match number % 2 {
        0 => xxhash_rust::xxh3::xxh3_64_with_seed(&partition, TOKEN_SEED),
        _ => number % 3,
    };
    let vnode = (number % u64::from(VNODES)) as u16;
    let table = (number / u64::from(VNODES)) as u32 % TABLES;
    let sort = n % SORTS;
    let sort = if sort == 0 { Box::default() } else { sort.to_be_bytes()[(sort % 8) as usize..].into() };
    KeyBuf { prefix: Prefix { space: 1, vnode, table, token }, partition: partition.into(), sort }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Write {
    pub(super) key: u64,
    pub(super) order: u64,
    /// Unique, so that no two versions tie.
    pub(super) actor: u64,
    pub(super) bytes: usize,
    pub(super) tombstone: bool,
    /// 0 = never.
    pub(super) expiry_ms: u64,
}

impl Write {
    pub(super) fn value(&self) -> Vec<u8> {
        if self.tombstone {
            return Vec::new();
        }
        // Half of it compresses.
        let mut random = Random::new(self.actor);
        (0..self.bytes).map(|at| if at % 2 == 0 { self.order as u8 } else { random.next() as u8 }).collect()
    }

    pub(super) fn stage(&self, engine: &TestEngine) -> Result<(), Refusal> {
        let flags = match (self.tombstone, self.expiry_ms) {
            (true, _) => RecordFlags::TOMBSTONE,
            (false, 0) => 0,
            (false, _) => RecordFlags::EXPIRES,
        };
        let (key, value) = (key(self.key), self.value());
        let flags = RecordFlags(flags);
        let record =
            Record { order: self.order, actor: self.actor, flags, expiry_ms: self.expiry_ms, value: &value };
        engine.stage(key.as_key(), record, 1).map(drop)
    }
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// One group.
    Write(Vec<Write>),
    /// So many polls of a job of each core; what follows overtakes it.
    Slices(u64),
    /// Every job that is due.
    RunOut,
    /// A power cut; what was staged and not committed is gone. `again` = another, so many steps into the next open.
    Cut {
        staged: Vec<Write>,
        mode: CrashMode,
        again: Option<u64>,
    },
    /// A power cut so many steps into background work.
    CutJobs {
        steps: u64,
        mode: CrashMode,
    },
    Close,
    /// Compactions are stopped after so many polls, and the engine is closed.
    Abandon(u64),
    /// Nothing comes at or below `floor` any more; what expires until `passed_ms` has expired.
    Raise {
        floor: u64,
        passed_ms: u64,
    },
    Mark,
    Scrub(u64),
    /// Of each key by itself.
    Gets,
    Batch(Vec<u64>),
    /// In pieces of so many records, with slices of background work between them.
    Walk {
        range: KeyRange,
        direction: Direction,
        records: usize,
    },
}

/// Draws a history.
pub(super) struct Source {
    pub(super) random: Random,
    pub(super) clock: u64,
    pub(super) actor: u64,
    pub(super) floor: u64,
    pub(super) passed_ms: u64,
}

impl Source {
    pub(super) fn write(&mut self) -> Write {
        self.clock += 1 + self.random.below(2);
        self.actor += 1;
        let order = match self.random.below(5) {
            // As late as the floor allows.
            0 => self.floor + 1 + self.random.below(self.clock - self.floor),
            _ => self.clock,
        };
        let bytes = match self.random.below(14) {
            0 => 2_000 + self.random.below(5_000),
            1 | 2 => 0,
            _ => self.random.below(300),
        } as usize;
        let tombstone = self.random.below(7) == 0;
        let expires = !tombstone && self.random.below(6) == 0;
        let expiry_ms = if expires { self.clock + self.random.below(300) } else { 0 };
        Write { key: self.random.below(KEYS), order, actor: self.actor, bytes, tombstone, expiry_ms }
    }

    pub(super) fn writes(&mut self, most: u64) -> Vec<Write> {
        (0..=self.random.below(most)).map(|_| self.write()).collect()
    }

    pub(super) fn mode(&mut self) -> CrashMode {
        CrashMode::EVERY[self.random.below(CrashMode::EVERY.len() as u64) as usize]
    }

    pub(super) fn range(&mut self) -> KeyRange {
        let some = key(self.random.below(KEYS));
        let Prefix { vnode, table, .. } = some.prefix;
        match self.random.below(5) {
            0 => KeyRange::vnode(1, vnode),
            1 => KeyRange::table(1, vnode, table),
            2 => KeyRange::partition(some.prefix, &some.partition),
            3 => KeyRange::vnode(1, vnode).after(&some.as_key()),
            _ => KeyRange::table(1, vnode, table).before(&some.as_key()),
        }
    }

    pub(super) fn step(&mut self) -> Step {
        match self.random.below(100) {
            0..=49 => Step::Write(self.writes(20)),
            50..=64 => Step::Slices(1 + self.random.below(40)),
            65..=67 => Step::RunOut,
            68..=70 => {
                let again = (self.random.below(2) == 0).then(|| self.random.below(30));
                Step::Cut { staged: self.writes(6), mode: self.mode(), again }
            }
            71 | 72 => Step::CutJobs { steps: self.random.below(60), mode: self.mode() },
            73 => Step::Close,
            74 => Step::Abandon(self.random.below(60)),
            75..=78 => {
                self.floor = self.floor.max(self.clock.saturating_sub(self.random.below(300)));
                self.passed_ms = self.passed_ms.max(self.clock.saturating_sub(self.random.below(300)));
                Step::Raise { floor: self.floor, passed_ms: self.passed_ms }
            }
            79 => Step::Mark,
            80 => Step::Scrub(1 << 14),
            81..=84 => Step::Gets,
            85..=91 => Step::Batch((0..self.random.below(50)).map(|_| self.random.below(KEYS)).collect()),
            _ => {
                let direction =
                    if self.random.below(2) == 0 { Direction::Forward } else { Direction::Reverse };
                let records = [1, 3, 10, 70, 1_000][self.random.below(5) as usize];
                Step::Walk { range: self.range(), direction, records }
            }
        }
    }
}

pub(super) fn draw(seed: u64) -> Vec<Step> {
    let mut source = Source { random: Random::new(seed), clock: 1_000, actor: 0, floor: 0, passed_ms: 0 };
    (0..STEPS)
        .map(|_| source.step())
        .chain([Step::Gets, Step::RunOut, Step::Gets, Step::Close, Step::Gets])
        .collect()
}
