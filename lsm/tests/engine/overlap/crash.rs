//! What is left after a power cut in the middle of it all, and what a checkpoint holds.
//!
//! Of the operations on vnodes that are under way at most one has written its change: they take turns. So what is found must be what
//! was acknowledged, or that and the effect of one of them; beside it any write that was staged and not answered yet.

use super::history::{History, Judged};
use super::model::{Content, KEYS, Moments, Places, Version, after_cut, cut, join, judge, seen, vnode_of};
use super::operation::{self, Kind, Outcome, What};
use crate::rig::{TestEngine, run_jobs};
use ferrite_lsm::mem_disk::run::{block_on, poll_once};
use ferrite_lsm::mem_disk::{CrashMode, MemDisk, MemPace, OpKind};
use ferrite_lsm::{Disk, Engine, Extent, Options};

/// Polls that what runs alone may take.
const POLLS_MAX: usize = 20_000;

/// Lets the disk do all reads that it has in hand.
pub(super) fn complete_reads(disk: &MemDisk) {
    let reads = disk.in_flight(None).into_iter().filter(|op| op.kind == OpKind::Read);
    reads.for_each(|op| assert!(disk.complete(op.id)));
}

/// Runs a future to its end that does nothing but read.
pub(super) fn drive<F: Future + Unpin>(disk: &MemDisk, mut future: F) -> Result<F::Output, String> {
    for _ in 0..POLLS_MAX {
        if let Some(done) = poll_once(std::pin::Pin::new(&mut future)) {
            return Ok(done);
        }
        complete_reads(disk);
    }
    Err("it does not end".to_owned())
}

pub(super) fn places_of(engine: &TestEngine) -> Places {
    std::array::from_fn(|vnode| engine.vnode_store(vnode as u16))
}

/// What an engine says of every key.
pub(super) fn contents(disk: &MemDisk, engine: &TestEngine) -> Result<Content, String> {
    let mut content = Content::new();
    for n in 0..KEYS {
        match drive(disk, operation::read(engine, n))? {
            Outcome::Found(Ok(found)) => content.extend(found.map(|version| (n, version))),
            Outcome::Found(Err(error)) => return Err(format!("key {n}: {error}")),
            _ => unreachable!("a read ends as one"),
        }
    }
    Ok(content)
}

/// What may be left.
struct Left {
    with: String,
    places: Places,
    content: Content,
    /// What was staged of this vnode is gone.
    gone: Option<u16>,
}

fn open(disk: &MemDisk, options: Options) -> Result<TestEngine, String> {
    let opened = block_on(Engine::open(disk.clone(), MemPace::yielding(3), options));
    let (engine, recovery) = opened.map_err(|error| format!("it does not open: {error}"))?;
    if !recovery.damage.is_empty() || !engine.quarantined().is_empty() {
        return Err(format!("a power cut is no damage: {recovery:?}"));
    }
    Ok(engine)
}

impl History {
    fn mode(&mut self) -> CrashMode {
        CrashMode::EVERY[self.random.below(CrashMode::EVERY.len() as u64) as usize]
    }

    /// What a power cut may leave at the moment.
    fn lefts(&self) -> Vec<Left> {
        let as_it_is = Left { content: self.content.clone(), ..left_at(self.places) };
        let mut lefts = vec![as_it_is];
        for op in &self.under_way {
            let Some(vnode) = op.what.vnode() else { continue };
            let mut left = Left {
                with: format!("{:?} of vnode {vnode}", op.what.kind()),
                places: self.places,
                content: self.content.clone(),
                gone: None,
            };
            let place = &mut left.places[usize::from(vnode)];
            match &op.what {
                What::Assign { store, .. } if place.is_none() => *place = Some(*store),
                What::Move { store, .. } if place.is_some() => *place = Some(*store),
                What::DropVnode { .. } => {
                    *place = None;
                    cut(&mut left.content, Extent::vnode(vnode));
                    left.gone = Some(vnode);
                }
                What::DropTable(dropped) if place.is_some() => {
                    let of = |applied| Left {
                        with: left.with.clone(),
                        content: after_cut(&self.content, dropped.extent, applied),
                        ..left_at(self.places)
                    };
                    lefts.extend(dropped.left().map(of));
                    continue;
                }
                What::Ingest { transfer, store, finishes, was_dropped: false }
                    if finishes.get() && place.is_none_or(|present| present == *store) =>
                {
                    *place = Some(*store);
                    transfer.records.iter().for_each(|&(n, version)| join(&mut left.content, n, version));
                }
                _ => continue,
            }
            lefts.push(left);
        }
        lefts
    }

    fn judge_left(&self, places: &Places, found: &Content) -> Judged {
        let is_committing = self.under_way.iter().any(|op| op.what.kind() == Kind::Commit);
        let (mut first, mut names) = (None, Vec::new());
        for left in self.lefts() {
            let may_be_there = |vnode: u16| is_committing && left.gone != Some(vnode);
            let staged = self.staged.iter().filter(|staged| may_be_there(vnode_of(staged.n)));
            let staged = staged.map(|staged| (staged.n, staged.version));
            match judge((&left.places, &left.content), staged, (places, found)) {
                Ok(()) => return Ok(()),
                Err(error) if first.is_none() => first = Some(error),
                Err(_) => {}
            }
            names.push(left.with);
        }
        let first = first.unwrap_or_default();
        Err(format!("it is not what there was with any of {names:?}; with the first: {first}"))
    }

    /// What a power cut would leave now, while the history goes on.
    pub(super) fn image(&mut self) -> Judged {
        let mode = self.mode();
        let disk = self.disk.image(mode, &mut || self.random.next());
        self.tally.images += 1;
        let engine = open(&disk, (self.options)(1_000))?;
        let found = contents(&disk, &engine)?;
        let judged = self.judge_left(&places_of(&engine), &found);
        judged.map_err(|error| format!("after a power cut, {mode:?}: {error}"))
    }

    /// Cuts the power, and goes on with what is left.
    pub(super) fn cut(&mut self) -> Judged {
        let mode = self.mode();
        let disk = self.disk.crash(mode, &mut || self.random.next());
        self.tally.images += 1;
        self.opens += 1;
        let engine = open(&disk, (self.options)(self.opens))?;
        let (places, found) = (places_of(&engine), contents(&disk, &engine)?);
        let judged = self.judge_left(&places, &found);
        judged.map_err(|error| format!("after a power cut, {mode:?}: {error}"))?;
        let stats = self.engine.stats();
        self.tally.flushes += stats.flushes;
        self.tally.merges += stats.compactions;
        self.under_way.clear();
        self.staged.clear();
        (self.places, self.content) = (places, found);
        (self.disk, self.engine) = (disk, engine);
        self.disk.defer();
        self.set_floors();
        Ok(())
    }

    /// Lets everything end, and compares: as it is, after the process was started anew, and after a power cut.
    pub(super) fn end(&mut self) -> Judged {
        self.settle()?;
        self.check()?;
        let stats = self.engine.stats();
        self.tally.flushes += stats.flushes;
        self.tally.merges += stats.compactions;
        let killed = self.disk.kill(&mut || 0);
        for disk in [killed.image(CrashMode::None, &mut || 0), killed] {
            self.opens += 1;
            self.engine = open(&disk, (self.options)(self.opens))?;
            self.disk = disk;
            if places_of(&self.engine) != self.places {
                return Err(format!("vnodes lived in {:?}", self.places));
            }
            self.check()?;
        }
        Ok(())
    }

    /// A checkpoint that was made is there after any power cut, and opens by itself.
    pub(super) fn judge_checkpoint(&mut self, number: u64, moments: &Moments) -> Judged {
        let mode = self.mode();
        let left = self.disk.image(mode, &mut || self.random.next());
        let inside = left.checkpoint(number);
        let engine = open(&inside, (self.options)(2_000))?;
        let found = contents(&inside, &engine)?;
        moments.judge(places_of(&engine), &found)?;
        block_on(run_jobs(&engine)).map_err(|error| format!("in a checkpoint: {error}"))?;
        let after = contents(&inside, &engine)?;
        let visible = |content: &Content| -> Vec<Option<Version>> {
            (0..KEYS).map(|n| seen(content.get(&n).copied())).collect()
        };
        if visible(&found) != visible(&after) {
            return Err("jobs changed what a checkpoint answers".to_owned());
        }
        Ok(())
    }
}

fn left_at(places: Places) -> Left {
    Left { with: "nothing".to_owned(), places, content: Content::new(), gone: None }
}
