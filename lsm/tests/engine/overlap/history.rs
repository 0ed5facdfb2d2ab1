//! One history: operations begun, polled, given up and ended by a seed, on a disk whose answers come in the seed's order, too.
//!
//! What the engine holds in memory changes for a reader in the poll in which an operation ends, and in no other; so between two polls
//! the model knows each answer. Only a drop of a table chooses for itself which of the writes that met it go ([`Cut`]): when it ends, the
//! engine is asked, and must say one of what it may say.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::crash::{contents, drive, places_of};
use super::model::{Content, Cut, KEYS, Moments, Places, TABLES, Version, Window, is_in, judge, key, seen};
use super::operation::{self, Doing, Kind, Operation, Outcome, Transfer, What};
use crate::rig::{Random, TestEngine, VNODES};
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::mem_disk::{MemDisk, MemPace};
use ferrite_lsm::{Direction, Engine, Extent, Key, KeyBuf, Options, Refusal, Seq};

/// Steps between two power cuts.
const STEPS: u64 = 2_500;
const LIVES: u64 = 3;
/// Operations under way at once, commits and jobs left out.
const PENDING_MAX: usize = 7;
/// Jobs under way at once: one that waits for its turn must not hold up flushes for long.
const JOBS_MAX: usize = 3;
/// Rounds of polls in which everything that is under way must end.
pub(super) const ROUNDS_MAX: usize = 5_000;
const STORES: [u16; 2] = [3, 5];

pub(super) type Judged = Result<(), String>;

/// What happened, over all histories.
#[derive(Default)]
pub(super) struct Tally {
    /// An operation of the first kind was done while one of the second, about the same vnode, was under way.
    pub(super) beside: BTreeMap<(Kind, Kind), u64>,
    pub(super) refused: BTreeMap<&'static str, u64>,
    pub(super) images: u64,
    pub(super) flushes: u64,
    pub(super) merges: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Tally) {
        for (pair, times) in other.beside {
            *self.beside.entry(pair).or_default() += times;
        }
        for (what, times) in other.refused {
            *self.refused.entry(what).or_default() += times;
        }
        self.images += other.images;
        self.flushes += other.flushes;
        self.merges += other.merges;
    }

    pub(super) fn refuse(&mut self, what: &'static str) {
        *self.refused.entry(what).or_default() += 1;
    }
}

pub(super) struct Staged {
    pub(super) seq: Seq,
    pub(super) n: u64,
    pub(super) version: Version,
}

pub(super) struct History {
    pub(super) options: fn(u128) -> Options,
    pub(super) opens: u128,
    pub(super) disk: MemDisk,
    pub(super) engine: TestEngine,
    pub(super) random: Random,
    /// Orders and actors up to here are given out.
    clock: u64,
    /// Nothing at or below it is staged or taken in any more.
    pub(super) floor: u64,
    /// Writes applied so far.
    pub(super) applied: u64,
    pub(super) places: Places,
    pub(super) content: Content,
    pub(super) staged: Vec<Staged>,
    pub(super) under_way: Vec<Operation>,
    pub(super) transfers: Vec<Rc<Transfer>>,
    pub(super) checkpoints: BTreeSet<u64>,
    next_checkpoint: u64,
    /// The vnode that most operations are about for a while.
    hot: u16,
    pub(super) tally: Tally,
}

/// Replays the history of a seed.
pub(super) fn run(seed: u64, options: fn(u128) -> Options) -> Result<Tally, String> {
    let mut history = History::new(seed, options);
    for life in 0..LIVES {
        history.live().map_err(|error| format!("seed {seed}, life {life}: {error}"))?;
        let ended = if life + 1 < LIVES { history.cut() } else { history.end() };
        ended.map_err(|error| format!("seed {seed}, end of life {life}: {error}"))?;
    }
    Ok(history.tally)
}

impl History {
    fn new(seed: u64, options: fn(u128) -> Options) -> History {
        let disk = MemDisk::new();
        let opened = block_on(Engine::open(disk.clone(), MemPace::yielding(3), options(1)));
        let (engine, _) = opened.expect("a fresh disk");
        let assigned: Vec<(u16, u16)> =
            (0..VNODES).map(|vnode| (vnode, STORES[usize::from(vnode % 2)])).collect();
        block_on(engine.assign(&assigned)).expect("no faults");
        disk.defer();
        History {
            options,
            opens: 1,
            places: places_of(&engine),
            disk,
            engine,
            random: Random::new(seed),
            clock: 100,
            floor: 0,
            applied: 0,
            content: Content::new(),
            staged: Vec::new(),
            under_way: Vec::new(),
            transfers: Vec::new(),
            checkpoints: BTreeSet::new(),
            next_checkpoint: 0,
            hot: 0,
            tally: Tally::default(),
        }
    }

    fn live(&mut self) -> Judged {
        for step in 0..STEPS {
            if step % 200 == 0 {
                self.hot = self.random.below(u64::from(VNODES)) as u16;
            }
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Judged {
        match self.random.below(1000) {
            0..=89 => {
                for _ in 0..=self.random.below(4) {
                    self.stage()?;
                }
            }
            90..=209 => self.begin_upkeep(),
            210..=259 => self.begin()?,
            260..=549 => {
                for _ in 0..=self.random.below(6) {
                    self.complete();
                }
            }
            550..=949 => {
                for _ in 0..=self.random.below(6) {
                    self.poll_any()?;
                }
            }
            950..=969 => self.look()?,
            970..=984 => {
                self.floor = self.clock.saturating_sub(self.random.below(60)).max(self.floor);
                self.set_floors();
            }
            985..=994 => self.lose_interest(),
            _ => self.image()?,
        }
        Ok(())
    }

    pub(super) fn set_floors(&self) {
        for vnode in 0..VNODES {
            (0..TABLES).for_each(|table| self.engine.set_floor(vnode, table, self.floor));
        }
    }

    fn vnode(&mut self) -> u16 {
        if self.random.below(3) > 0 { self.hot } else { self.random.below(u64::from(VNODES)) as u16 }
    }

    fn key_of(&mut self, vnode: u16) -> u64 {
        self.random.below(KEYS / u64::from(VNODES)) * u64::from(VNODES) + u64::from(vnode)
    }

    fn extent(&mut self) -> Extent {
        let vnode = self.vnode();
        if self.random.below(2) == 0 { Extent::vnode(vnode) } else { self.table_of(vnode) }
    }

    fn table_of(&mut self, vnode: u16) -> Extent {
        Extent::table(vnode, self.random.below(u64::from(TABLES)) as u32)
    }

    /// A version that nobody has; as late as the floor allows.
    fn version(&mut self) -> Version {
        self.clock += 1;
        let order = match self.random.below(4) {
            0 => self.floor + 1 + self.random.below(self.clock - self.floor),
            _ => self.clock,
        };
        let tombstone = self.random.below(5) == 0;
        let bytes = match self.random.below(12) {
            0 => 1_000 + self.random.below(1_000),
            _ => self.random.below(400),
        };
        Version { order, actor: self.clock, bytes: if tombstone { 0 } else { bytes as usize }, tombstone }
    }

    fn stage(&mut self) -> Judged {
        let vnode = self.vnode();
        let (n, version) = (self.key_of(vnode), self.version());
        let is_placed = self.places[usize::from(vnode)].is_some();
        let is_dropped = |op: &Operation| op.what.kind() == Kind::DropVnode && op.what.vnode() == Some(vnode);
        match version.stage(n, &self.engine) {
            Ok(seq) if is_placed => self.staged.push(Staged { seq, n, version }),
            Err(Refusal::UnknownVnode) if !is_placed || self.under_way.iter().any(is_dropped) => {
                self.tally.refuse("UnknownVnode");
            }
            Err(Refusal::Overloaded) => self.tally.refuse("Overloaded"),
            other => return Err(format!("a write of vnode {vnode}, placed: {is_placed}: {other:?}")),
        }
        Ok(())
    }

    fn count(&self, kind: Kind) -> usize {
        self.under_way.iter().filter(|op| op.what.kind() == kind).count()
    }

    /// What the engine's host does: commits, and jobs.
    fn begin_upkeep(&mut self) {
        if self.random.below(2) == 0 {
            if self.engine.has_staged() && self.count(Kind::Commit) == 0 {
                let doing = operation::commit(&self.engine);
                self.under_way.push(Operation { what: What::Commit, doing });
            }
        } else if self.count(Kind::Merge) + self.count(Kind::Upkeep) < JOBS_MAX
            && let Some(job) = self.engine.next_job()
        {
            let doing = operation::job(&self.engine, job);
            self.under_way.push(Operation { what: What::Job { is_merge: job.is_compaction() }, doing });
        }
    }

    /// Begins an operation, and polls it once.
    fn begin(&mut self) -> Judged {
        let is_upkeep = |op: &&Operation| matches!(op.what.kind(), Kind::Commit | Kind::Merge | Kind::Upkeep);
        if self.under_way.len() - self.under_way.iter().filter(is_upkeep).count() >= PENDING_MAX {
            return Ok(());
        }
        let Some((what, doing)) = self.draw() else { return Ok(()) };
        self.under_way.push(Operation { what, doing });
        self.poll(self.under_way.len() - 1)
    }

    fn draw(&mut self) -> Option<(What, Doing)> {
        let (vnode, store) = (self.vnode(), STORES[self.random.below(2) as usize]);
        let lives_in = self.places[usize::from(vnode)];
        // What is homeless is not left so for long.
        let kind = if lives_in.is_none() && self.random.below(3) == 0 { 0 } else { self.random.below(100) };
        let drawn = match kind {
            0..=15 => {
                let store = lives_in.unwrap_or(store);
                (What::Assign { vnode, store }, operation::assign(&self.engine, vnode, store))
            }
            16..=21 => {
                let doing = operation::drop_extent(&self.engine, Extent::vnode(vnode));
                (What::DropVnode { vnode }, doing)
            }
            22..=29 => {
                let extent = self.table_of(vnode);
                (What::DropTable(Cut::new(extent)), operation::drop_extent(&self.engine, extent))
            }
            30..=41 => (What::Move { vnode, store }, operation::move_vnode(&self.engine, vnode, store)),
            42..=61 => self.draw_ingest(store),
            62..=69 => {
                let (extent, bytes_max) = (self.extent(), 200 + self.random.below(4_000) as usize);
                let doing = operation::export(&self.engine, extent, bytes_max, self.random.below(10));
                (What::Export(Window::new(extent, &self.content)), doing)
            }
            70..=78 if self.count(Kind::Checkpoint) < 2 => {
                self.next_checkpoint += 1;
                let number = self.next_checkpoint;
                let moments = Moments::new(self.applied, self.places, &self.content);
                (What::Checkpoint { number, moments }, operation::checkpoint(&self.engine, number))
            }
            79..=81 => {
                let number = self.checkpoints.pop_first()?;
                (What::Removal, operation::remove_checkpoint(&self.engine, number))
            }
            82..=88 => {
                let n = self.key_of(vnode);
                let expected = seen(self.content.get(&n).copied());
                (What::Read { n, expected }, operation::read(&self.engine, n))
            }
            _ => {
                let extent = self.extent();
                let direction = [Direction::Forward, Direction::Reverse][self.random.below(2) as usize];
                let at_once = [1, 3, 1000][self.random.below(3) as usize];
                let window = Window::new(extent, &self.content);
                let pause = self.random.below(4);
                let doing = operation::scan(&self.engine, extent, direction, (at_once, pause));
                (What::Scan { window, direction }, doing)
            }
        };
        Some(drawn)
    }

    /// An ingest of what was exported before, or of what another replica has: nothing of it at or below the floor, which says that nothing
    /// of that age comes any more.
    fn draw_ingest(&mut self, store: u16) -> (What, Doing) {
        let floor = self.floor;
        self.transfers.retain(|transfer| transfer.records.iter().all(|(_, version)| version.order > floor));
        let transfer = match self.transfers.pop() {
            Some(transfer) if self.random.below(2) == 0 => transfer,
            Some(_) | None => {
                let extent = self.extent();
                let mut records = Content::new();
                for n in (0..KEYS).filter(|&n| is_in(n, extent)) {
                    if self.random.below(2) == 0 {
                        records.insert(n, self.version());
                    }
                }
                let bytes_max = 500 + self.random.below(6_000) as usize;
                Rc::new(Transfer::of(extent, &records, bytes_max, (self.options)(9)))
            }
        };
        let store = self.places[usize::from(transfer.extent.vnode)].unwrap_or(store);
        let finishes = Rc::new(Cell::new(false));
        let gives_up = self.random.below(6) == 0;
        let told = (!gives_up).then(|| Rc::clone(&finishes));
        let pause = [0, 1, 4, 12][self.random.below(4) as usize];
        let doing = operation::ingest(&self.engine, (Rc::clone(&transfer), store), pause, told);
        (What::Ingest { transfer, store, finishes, was_dropped: false }, doing)
    }

    /// Lets one of the operations that the disk has in hand be done.
    fn complete(&mut self) {
        let in_flight = self.disk.in_flight(None);
        if !in_flight.is_empty() {
            let chosen = in_flight[self.random.below(in_flight.len() as u64) as usize].id;
            assert!(self.disk.complete(chosen));
        }
    }

    fn poll_any(&mut self) -> Judged {
        match self.under_way.len() as u64 {
            0 => Ok(()),
            len => {
                let at = self.random.below(len) as usize;
                self.poll(at)
            }
        }
    }

    pub(super) fn poll(&mut self, at: usize) -> Judged {
        match &mut self.under_way[at].what {
            What::DropTable(cut) => cut.polled(),
            What::Checkpoint { moments, .. } => moments.polled(),
            _ => {}
        }
        let before = self.places;
        let done = poll_once(self.under_way[at].doing.as_mut());
        self.follow(at)?;
        let Some(outcome) = done else {
            if self.under_way[at].what.kind() == Kind::Commit {
                self.committed(self.engine.stats().applied);
            }
            return Ok(());
        };
        let op = self.under_way.swap_remove(at);
        let (kind, vnode) = (op.what.kind(), op.what.vnode());
        if self.ended(op, outcome, before).map_err(|error| format!("after {kind:?} of {vnode:?}: {error}"))? {
            for other in &self.under_way {
                let are_beside = vnode.is_none() || other.what.vnode().is_none_or(|of| Some(of) == vnode);
                if are_beside {
                    *self.tally.beside.entry((kind, other.what.kind())).or_default() += 1;
                }
            }
        }
        Ok(())
    }

    /// Looks where vnodes live after a poll: only what it was of may have changed that.
    fn follow(&mut self, at: usize) -> Judged {
        let now = places_of(&self.engine);
        if now == self.places {
            return Ok(());
        }
        for vnode in 0..VNODES {
            let (was, is) = (self.places[usize::from(vnode)], now[usize::from(vnode)]);
            let what = &self.under_way[at].what;
            let is_its_own = what.vnode() == Some(vnode)
                && match what {
                    What::Assign { store, .. } | What::Ingest { store, .. } => {
                        was.is_none() && is == Some(*store)
                    }
                    What::Move { store, .. } => was.is_some() && is == Some(*store),
                    What::DropVnode { .. } => is.is_none(),
                    _ => false,
                };
            if was != is && !is_its_own {
                return Err(format!("{:?} took vnode {vnode} from {was:?} to {is:?}", what.kind()));
            }
        }
        self.places = now;
        for op in &mut self.under_way {
            if let What::Checkpoint { moments, .. } = &mut op.what {
                moments.placed(now);
            }
        }
        Ok(())
    }

    /// What is in memory, of every key.
    fn look(&self) -> Judged {
        let bufs: Vec<KeyBuf> = (0..KEYS).map(key).collect();
        let keys: Vec<Key<'_>> = bufs.iter().map(KeyBuf::as_key).collect();
        let mut wrong = None;
        let mut compare = |n: u64, found: Option<Version>| {
            let expected = self.content.get(&n).copied();
            if seen(found) != seen(expected) {
                wrong = Some(format!("key {n}: {found:?} is there, not {expected:?}"));
            }
        };
        for (n, key) in (0..KEYS).zip(&keys) {
            if let Ok(found) = self.engine.get(*key, |record| record.map(|record| Version::of(n, record))) {
                compare(n, found);
            }
        }
        self.engine.get_batch(&keys, |at, record| {
            if let Ok(record) = record {
                compare(at as u64, record.map(|record| Version::of(at as u64, record)));
            }
        });
        wrong.map_or(Ok(()), Err)
    }

    /// Drops the future of an operation for which nobody waits any more.
    fn lose_interest(&mut self) {
        if let Some(at) = self.under_way.iter().position(|op| op.what.may_be_dropped()) {
            self.under_way.swap_remove(at);
            self.tally.refuse("future dropped");
        }
    }

    /// Lets everything end that is under way, commits what is staged and does every job.
    pub(super) fn settle(&mut self) -> Judged {
        for _ in 0..ROUNDS_MAX {
            if self.under_way.is_empty() {
                if self.engine.has_staged() {
                    let doing = operation::commit(&self.engine);
                    self.under_way.push(Operation { what: What::Commit, doing });
                } else if let Some(job) = self.engine.next_job() {
                    let doing = operation::job(&self.engine, job);
                    let what = What::Job { is_merge: job.is_compaction() };
                    self.under_way.push(Operation { what, doing });
                } else {
                    return Ok(());
                }
            }
            self.disk.complete_all();
            for at in (0..self.under_way.len()).rev() {
                // One may have ended others.
                if at < self.under_way.len() {
                    self.poll(at)?;
                }
            }
        }
        let kinds: Vec<Kind> = self.under_way.iter().map(|op| op.what.kind()).collect();
        Err(format!("these do not end: {kinds:?}"))
    }

    /// Everything, by reads, in batches and by scans in both directions.
    pub(super) fn check(&mut self) -> Judged {
        self.look()?;
        let found = contents(&self.disk, &self.engine)?;
        judge((&self.places, &self.content), std::iter::empty(), (&self.places, &found))?;
        for vnode in 0..VNODES {
            let extent = Extent::vnode(vnode);
            for direction in [Direction::Forward, Direction::Reverse] {
                let scanned = drive(&self.disk, operation::scan(&self.engine, extent, direction, (5, 0)))?;
                let Outcome::Shown(Ok(shown)) = scanned else { return Err("a scan failed".to_owned()) };
                Window::new(extent, &self.content).judge(&shown, direction == Direction::Reverse)?;
            }
        }
        Ok(())
    }
}
