//! What an operation that ended has changed, and whether it may have ended so.

use super::crash::{complete_reads, drive};
use super::history::{History, Judged, ROUNDS_MAX, Staged};
use super::model::{
    Applied, Content, Cut, KEYS, Places, Version, after_cut, cut, do_touch, is_in, join, seen, vnode_of,
};
use super::operation::{self, Kind, Operation, Outcome, Transfer, What};
use ferrite_lsm::{AssignError, Direction, Extent, IngestError, Seq};
use std::rc::Rc;

/// Exports that are kept to be taken in later.
const TRANSFERS_MAX: usize = 6;

impl History {
    /// An operation has ended; whether it did what it was called for.
    pub(super) fn ended(&mut self, op: Operation, outcome: Outcome, before: Places) -> Result<bool, String> {
        let failed = |error: String| Err(format!("it failed: {error}"));
        let place = |places: &Places, vnode: u16| places[usize::from(vnode)];
        match (op.what, outcome) {
            (What::Assign { vnode, store }, Outcome::Assigned(assigned)) => match assigned {
                Ok(()) if place(&self.places, vnode) == Some(store) => self.had_the_turn(vnode),
                Err(AssignError::Taken { .. }) if place(&self.places, vnode).is_none() => {
                    self.tally.refuse("Taken, assigned");
                    return Ok(false);
                }
                Err(AssignError::LivesElsewhere { store: present, .. })
                    if present != store && place(&self.places, vnode) == Some(present) =>
                {
                    self.tally.refuse("LivesElsewhere");
                    return Ok(false);
                }
                other => return failed(format!("{other:?}, vnodes live in {:?}", self.places)),
            },
            (What::DropVnode { vnode }, Outcome::Done(Ok(()))) => {
                if place(&self.places, vnode).is_some() {
                    return failed("the vnode lives on".to_owned());
                }
                self.had_the_turn(vnode);
                if place(&before, vnode).is_some() {
                    cut(&mut self.content, Extent::vnode(vnode));
                    self.staged.retain(|staged| vnode_of(staged.n) != vnode);
                    self.dropped(Extent::vnode(vnode), &[]);
                } else {
                    self.end_ingests(Extent::vnode(vnode));
                }
            }
            (What::DropTable(cut), Outcome::Done(Ok(()))) => match place(&self.places, cut.extent.vnode) {
                Some(_) => self.table_dropped(&cut)?,
                None => self.end_ingests(cut.extent),
            },
            (What::Move { vnode, store }, Outcome::Done(Ok(()))) => {
                if place(&self.places, vnode).is_some_and(|present| present != store) {
                    return failed(format!("the vnode lives in {:?}", place(&self.places, vnode)));
                }
                self.had_the_turn(vnode);
            }
            (What::Ingest { transfer, store, was_dropped, .. }, Outcome::Ingested(taken)) => {
                let vnode = transfer.extent.vnode;
                let lives_in = place(&before, vnode);
                let is_superseded = was_dropped || lives_in.is_some_and(|present| present != store);
                match taken {
                    Ok(None) => self.tally.refuse("ingest given up"),
                    Ok(Some(records)) if !is_superseded && records == transfer.records.len() as u64 => {
                        self.had_the_turn(vnode);
                        self.taken_in(&transfer);
                        return Ok(true);
                    }
                    Err(IngestError::Superseded) if is_superseded => self.tally.refuse("Superseded"),
                    Err(IngestError::Taken { .. }) if lives_in.is_none() => {
                        self.tally.refuse("Taken, ingested");
                    }
                    other => return failed(format!("{other:?}, superseded: {is_superseded}, {lives_in:?}")),
                }
                return Ok(false);
            }
            (What::Export(window), Outcome::Exported(Ok(chunks))) => {
                let transfer = Transfer::read(window.extent, chunks, (self.options)(9))?;
                window.judge(&transfer.records, false)?;
                self.transfers.truncate(TRANSFERS_MAX - 1);
                self.transfers.insert(0, Rc::new(transfer));
            }
            (What::Checkpoint { number, moments }, Outcome::Done(Ok(()))) => {
                self.judge_checkpoint(number, &moments)?;
                self.checkpoints.insert(number);
            }
            (What::Removal, Outcome::Done(Ok(()))) => {}
            (What::Read { n, expected }, Outcome::Found(Ok(found))) => {
                if seen(found) != expected {
                    return failed(format!("key {n} was read as {found:?}, not {expected:?}"));
                }
            }
            (What::Scan { window, direction }, Outcome::Shown(Ok(shown))) => {
                window.judge(&shown, direction == Direction::Reverse)?;
            }
            (What::Commit, Outcome::Committed(Ok(durable))) => self.committed(durable),
            (What::Job { .. }, Outcome::Done(Ok(()))) => {}
            (_, Outcome::Done(Err(error))) => return failed(error.to_string()),
            (_, Outcome::Exported(Err(error)) | Outcome::Found(Err(error)) | Outcome::Shown(Err(error))) => {
                return failed(error.to_string());
            }
            (_, Outcome::Committed(Err(error))) => return failed(error.to_string()),
            (what, _) => unreachable!("{:?} ended as another operation does", what.kind()),
        }
        Ok(true)
    }

    /// An operation on a vnode has ended that held off the others: those under way have not chosen their moment yet.
    fn had_the_turn(&mut self, vnode: u16) {
        for op in &mut self.under_way {
            if let What::DropTable(cut) = &mut op.what
                && cut.extent.vnode == vnode
            {
                cut.waits();
            }
        }
    }

    fn dropped(&mut self, extent: Extent, left: &[Applied]) {
        for op in &mut self.under_way {
            if let What::Checkpoint { moments, .. } = &mut op.what {
                moments.dropped(extent, left);
            }
        }
        self.end_ingests(extent);
        self.note();
    }

    fn end_ingests(&mut self, extent: Extent) {
        for op in &mut self.under_way {
            if let What::Ingest { transfer, was_dropped, .. } = &mut op.what {
                *was_dropped |= do_touch(transfer.extent, extent);
            }
        }
    }

    /// Asks the engine which of the writes that met the drop of a table went with it.
    fn table_dropped(&mut self, cut: &Cut) -> Judged {
        self.finish_reads()?;
        let mut found = Content::new();
        for n in (0..KEYS).filter(|&n| is_in(n, cut.extent)) {
            let read = drive(&self.disk, operation::read(&self.engine, n))?;
            let Outcome::Found(Ok(version)) = read else { return Err(format!("key {n} cannot be read")) };
            found.extend(version.map(|version| (n, version)));
        }
        // A deletion above the floor is purged by nobody: where there is none, it went with the drop, and older writes may be seen again.
        let lasts = |version: &Version| !version.tombstone || version.order > self.floor;
        let is_it = |left: &&[Applied]| {
            let mut after = after_cut(&self.content, cut.extent, left);
            after.retain(|&n, version| is_in(n, cut.extent) && (lasts(version) || found.contains_key(&n)));
            after == found
        };
        let Some(left) = cut.left().find(is_it) else {
            return Err(format!("of {:?} this is left: {found:?}", cut.extent));
        };
        self.content = after_cut(&self.content, cut.extent, left);
        self.had_the_turn(cut.extent.vnode);
        self.dropped(cut.extent, left);
        Ok(())
    }

    fn taken_in(&mut self, transfer: &Transfer) {
        transfer.records.iter().for_each(|&(n, version)| join(&mut self.content, n, version));
        for op in &mut self.under_way {
            if let What::Checkpoint { moments, .. } = &mut op.what {
                moments.taken_in(&transfer.records);
            }
        }
        self.note();
    }

    pub(super) fn committed(&mut self, durable: Seq) {
        let staged = std::mem::take(&mut self.staged);
        let (done, left): (Vec<Staged>, Vec<Staged>) =
            staged.into_iter().partition(|staged| staged.seq <= durable);
        self.staged = left;
        for Staged { n, version, .. } in done {
            self.applied += 1;
            let applied = Applied { at: self.applied, n, version };
            join(&mut self.content, n, version);
            for op in &mut self.under_way {
                match &mut op.what {
                    What::DropTable(cut) => cut.applied(applied),
                    What::Checkpoint { moments, .. } => moments.applied(applied),
                    _ => {}
                }
            }
            // Each state that a key was in may be shown, however short.
            self.note();
        }
    }

    /// What is there has changed.
    fn note(&mut self) {
        for op in &mut self.under_way {
            if let What::Export(window) | What::Scan { window, .. } = &mut op.what {
                window.note(&self.content);
            }
        }
    }

    /// Ends reads that are under way: whoever waits for the same block waits for them.
    fn finish_reads(&mut self) -> Judged {
        for _ in 0..ROUNDS_MAX {
            let Some(at) = self.under_way.iter().position(|op| op.what.kind() == Kind::Read) else {
                return Ok(());
            };
            complete_reads(&self.disk);
            // Another one may lead.
            (at..self.under_way.len()).rev().try_for_each(|at| match self.under_way.get(at) {
                Some(op) if op.what.kind() == Kind::Read => self.poll(at),
                Some(_) | None => Ok(()),
            })?;
        }
        Err("reads do not end".to_owned())
    }
}
