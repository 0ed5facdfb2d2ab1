//! One get: the level's number of replicas is asked, one for the record and the others for its digest.
//!
//! ```text
//!             reachable < needed
//!   start ─────────────────────► Unavailable
//!     │ one full (this node if it is a replica), the rest digests
//!     ▼
//!   waiting ──(one fails)──► another live one is asked in its place; none left ──► Failed
//!     │ needed have answered
//!     ├── nobody has a record ───────────────────────────────────────────────────► Absent
//!     ├── no digest is newer than the full record in hand ──(repairs: `repair.rs`)─► Found
//!     ▼ a digest is newer
//!   asking its holder for the record ──(it comes)──► the same questions again
//!     └──(it fails)──► another holder of that version; none ──► the holder is out, and another takes its place
//! ```
//!
//! The answer is the newest record by `(order, actor)` among at least `needed` replicas, so it overlaps with every write
//! whose level, added to this one, exceeds the number of replicas. Only the holder of the newest version is asked again:
//! last write wins needs one copy of it.
//!
//! Sets of siblings ([`Reading::Joined`]) are joined instead, and for that one copy of each version that anybody has is fetched, one after
//! the other; the answer is what they say together. A replica's set only grows: one that comes with a later version than its digest had
//! says all that the digest's did. What version they have together only the host can tell ([`ReadStep::settle`]).
//!
//! A holder that cannot give its record stays counted while another has the same version to give. Otherwise it leaves, with
//! its version, and the quorum is formed without it: that quorum overlaps as well as the first.
//!
//! The state machine keeps versions; the host keeps the bytes of the newest full record ([`ReadStep::keep`]), and decides
//! what a tombstone or an expired record means to the client: the version says so.
//!
//! While the first answers are out, one replica more may be asked ([`ReadQuorum::hedge`]): whichever comes first counts. The same once more while
//! replicas are repaired: see `repair.rs`.
//!
//! Bound: a replica is asked at most twice, once for its digest and once for its record, and written to at most once.

mod candidates;
mod repair;
#[cfg(test)]
mod tests;

use std::ops::Deref;

use ferrite_wire::limits::REPLICAS_MAX;
use ferrite_wire::{Actor, ErrorCode, Order, ReadWant, Version, WriteAnswer};

use self::repair::{Progress, Repairs};
use crate::{ReplicaSet, Unavailable, planted};

pub use candidates::Candidates;
pub use repair::Repairing;

/// What a read makes of records that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The newest is the answer.
    Newest,
    /// All of them together are: sets of siblings.
    Joined,
}

/// A question to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Its place in the preference list.
    pub replica: u8,
    /// What to ask for.
    pub want: ReadWant,
}

/// The first questions of a read, to be asked at once; the one for the record comes first.
#[derive(Clone, Copy, Debug)]
pub struct Asks {
    asks: [Ask; REPLICAS_MAX],
    len: u8,
}

impl Asks {
    fn push(&mut self, ask: Ask) {
        self.asks[self.len as usize] = ask;
        self.len += 1;
    }
}

impl Deref for Asks {
    type Target = [Ask];

    fn deref(&self) -> &[Ask] {
        &self.asks[..self.len as usize]
    }
}

/// A replica's answer, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadAnswer {
    /// It has no record.
    Absent,
    /// Its record came, with this version.
    Full(Version),
    /// Its record has this version.
    Digest(Version),
    /// It could not read, or will not answer.
    Failed(ErrorCode),
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The newest record is the one the host was last told to keep; of sets, the join of all that it was told to keep.
    Found {
        /// Its version; of sets, that of the join.
        version: Version,
        /// How many replicas answered.
        answered: u8,
    },
    /// No replica that answered has a record.
    Absent {
        /// How many replicas answered.
        answered: u8,
    },
    /// Too few replicas answered.
    Failed(ErrorCode),
}

/// What the host does after an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadStep {
    /// The bytes that came with the answer are the newest record so far: keep them in place of what was kept. Sets are joined with it.
    pub keep: bool,
    /// Ask this.
    pub ask: Option<Ask>,
    /// All sets are joined and they differed: tell [`ReadQuorum::on_settled`] what version the join has.
    pub settle: bool,
    /// Write what is kept to these, with its version as it is. With an outcome nobody waits for their answers, else
    /// [`ReadQuorum::on_repaired`] does.
    pub repair: ReplicaSet,
    /// The read has ended.
    pub outcome: Option<ReadOutcome>,
}

/// What last write wins goes by.
type Stamp = (Order, Actor);

const NO_STAMP: Stamp = (Order(0), Actor(0));

/// A read in flight.
#[derive(Clone, Debug)]
pub struct ReadQuorum {
    reading: Reading,
    repairing: Repairing,
    /// Nothing is repaired: what is kept is longer than a replica takes, or not all.
    is_too_long: bool,
    needed: u8,
    candidates: Candidates,
    /// Those that were never asked.
    spare: ReplicaSet,
    /// Asked for the first time and not answered.
    asked: ReplicaSet,
    /// Have said what they hold, and count.
    answered: ReplicaSet,
    /// Those of `answered` that hold a record; their stamps are in `stamps`.
    holding: ReplicaSet,
    /// Those of `holding` that failed to give their record.
    unable: ReplicaSet,
    /// Of sets: those of `holding` of whose version one has come.
    joined: ReplicaSet,
    stamps: [Stamp; REPLICAS_MAX],
    /// Asked for their record and not answered: one at a time, but for a hedge.
    full_from: ReplicaSet,
    /// The version of the record the host keeps. Invariant: nobody has given a newer one.
    kept: Option<Version>,
    /// Why the first replica that failed did.
    failure: Option<ErrorCode>,
    /// What has been found, while replicas are brought up to it.
    repairs: Option<Repairs>,
    ended: bool,
}

impl ReadQuorum {
    /// Begins a read of the candidates, of which `needed` must answer. The first is asked for the record.
    pub fn start(
        reading: Reading,
        repairing: Repairing,
        candidates: Candidates,
        needed: u8,
    ) -> Result<(ReadQuorum, Asks), Unavailable> {
        let needed = Unavailable::check(candidates.replicas, candidates.all(), needed)?;
        let mut read = ReadQuorum {
            reading,
            repairing,
            is_too_long: false,
            needed,
            candidates,
            spare: candidates.all(),
            asked: ReplicaSet::default(),
            answered: ReplicaSet::default(),
            holding: ReplicaSet::default(),
            unable: ReplicaSet::default(),
            joined: ReplicaSet::default(),
            stamps: [NO_STAMP; REPLICAS_MAX],
            full_from: ReplicaSet::default(),
            kept: None,
            failure: None,
            repairs: None,
            ended: false,
        };
        let local = candidates.local.filter(|local| candidates.live.contains(*local));
        let first = local.or(read.next_spare()).expect("as many can be reached as are needed");
        let first = read.ask_first(first, ReadWant::Full);
        let mut asks = Asks { asks: [first; REPLICAS_MAX], len: 1 };
        while asks.len() < needed as usize {
            let next = read.next_spare().expect("as many can be reached as are needed");
            asks.push(read.ask_first(next, ReadWant::Digest));
        }
        Ok((read, asks))
    }

    /// A replica has answered. Answers that come twice, unasked or after the end are ignored.
    pub fn on_answer(&mut self, replica: u8, answer: ReadAnswer) -> ReadStep {
        let gives_full = self.full_from.contains(replica);
        if self.ended || !gives_full && !self.asked.contains(replica) {
            return ReadStep::default();
        }
        self.asked.remove(replica);
        self.full_from.remove(replica);
        if self.repairs.is_some() {
            return self.on_late(replica, answer);
        }
        let mut keep = false;
        match answer {
            ReadAnswer::Failed(code) => self.fail(replica, code),
            // Whoever answers a question with less than it asked for would be asked for ever.
            ReadAnswer::Digest(_) if gives_full => self.fail(replica, ErrorCode::Malformed),
            ReadAnswer::Digest(version) => self.note(replica, &version),
            ReadAnswer::Full(version) => {
                if self.reading == Reading::Joined {
                    self.note_joined(replica, &version);
                }
                self.note(replica, &version);
                let is_newest = self.kept.is_none_or(|kept| version.beats(&kept));
                if is_newest {
                    self.kept = Some(version);
                }
                keep = is_newest || self.joins();
            }
            ReadAnswer::Absent => {
                self.answered.insert(replica);
                self.holding.remove(replica);
                self.joined.remove(replica);
            }
        }
        self.next(keep)
    }

    /// Answers are slow to come: asks one replica more, if the read still waits for first answers, or for replicas that it has written to, and
    /// there is one. The record, if that has not come yet. Once while replicas are written to.
    pub fn hedge(&mut self) -> Option<Ask> {
        if !self.may_hedge() {
            return None;
        }
        let spare = self.next_spare()?;
        if let Some(repairs) = &mut self.repairs {
            repairs.hurry();
        }
        let want = if self.kept.is_some() { ReadWant::Digest } else { ReadWant::Full };
        Some(self.ask_first(spare, want))
    }

    /// Whether [`ReadQuorum::hedge`] would ask anybody.
    pub fn may_hedge(&self) -> bool {
        let waits = match &self.repairs {
            None => self.answered.len() < self.needed,
            Some(repairs) => !repairs.is_hurried(),
        };
        waits && !self.ended && !self.spare.is_empty()
    }

    /// Those that were asked and have not said what they hold.
    pub fn awaited(&self) -> ReplicaSet {
        self.asked
    }

    /// What the host has joined has this version.
    pub fn on_settled(&mut self, version: Version) -> ReadStep {
        assert!(!self.ended && self.repairs.is_none(), "asked for once, when all is joined");
        self.complete(ReadStep::default(), version)
    }

    /// Whether what the host keeps, or is about to, cannot be written to replicas: those that lack it then stay as they are. Said last counts.
    pub fn set_too_long(&mut self, is_too_long: bool) {
        self.is_too_long = is_too_long;
    }

    /// The version that replicas are, or were, brought up to before the answer.
    pub fn repaired_to(&self) -> Option<Version> {
        self.repairs.map(|repairs| repairs.version)
    }

    /// A replica that was written to has answered, or is lost. Answers that come twice, unasked or after the end are ignored.
    pub fn on_repaired(&mut self, replica: u8, answer: WriteAnswer) -> ReadStep {
        let Some(repairs) = self.repairs.as_mut().filter(|_| !self.ended) else { return ReadStep::default() };
        if repairs.on_answer(replica, answer) { self.next_repair() } else { ReadStep::default() }
    }

    /// Time is up.
    pub fn on_deadline(&mut self) -> ReadOutcome {
        self.ended = true;
        ReadOutcome::Failed(ErrorCode::Timeout)
    }

    fn ask_first(&mut self, replica: u8, want: ReadWant) -> Ask {
        self.spare.remove(replica);
        self.asked.insert(replica);
        self.ask(replica, want)
    }

    fn ask(&mut self, replica: u8, want: ReadWant) -> Ask {
        if want == ReadWant::Full {
            self.full_from.insert(replica);
        }
        Ask { replica, want }
    }

    fn next_spare(&self) -> Option<u8> {
        self.candidates.next(self.spare)
    }

    fn note(&mut self, replica: u8, version: &Version) {
        self.answered.insert(replica);
        self.holding.insert(replica);
        self.stamps[replica as usize] = stamp(version);
        if self.joined.iter().any(|joined| self.stamps[joined as usize] == stamp(version)) {
            self.joined.insert(replica);
        }
    }

    /// A replica's set has come: whoever has that version has said all, and so has whoever has the one that its digest had.
    fn note_joined(&mut self, replica: u8, version: &Version) {
        let mut same = self.holders(stamp(version));
        if self.holding.contains(replica) {
            same = same.iter().chain(self.holders(self.stamps[replica as usize]).iter()).collect();
        }
        self.joined = self.joined.iter().chain(same.iter()).collect();
        self.joined.insert(replica);
    }

    /// Whether the host joins what it is told to keep with what it has.
    pub fn joins(&self) -> bool {
        self.reading == Reading::Joined && !planted::active(planted::Bug::ReadKeepsNewest)
    }

    fn fail(&mut self, replica: u8, code: ErrorCode) {
        self.failure.get_or_insert(code);
        if self.holding.contains(replica) {
            self.unable.insert(replica);
        }
    }

    fn newest(&self) -> Option<Stamp> {
        self.holding.iter().map(|replica| self.stamps[replica as usize]).max()
    }

    fn holders(&self, stamp: Stamp) -> ReplicaSet {
        self.holding.iter().filter(|replica| self.stamps[*replica as usize] == stamp).collect()
    }

    /// The newest version, if its record is not in hand, and who can give it. Versions that nobody can give leave with
    /// their holders.
    fn wanted(&mut self) -> Option<u8> {
        if self.joins() {
            return self.wanted_to_join();
        }
        loop {
            let newest = self.newest()?;
            if self.kept.is_some_and(|kept| stamp(&kept) >= newest) {
                return None;
            }
            let holders = self.holders(newest);
            if let Some(holder) = holders.without(self.unable).first() {
                return Some(holder);
            }
            self.answered = self.answered.without(holders);
            self.holding = self.holding.without(holders);
        }
    }

    /// The same of sets: any version that has not been joined.
    fn wanted_to_join(&mut self) -> Option<u8> {
        loop {
            let missing = self.holding.without(self.joined).first()?;
            let holders = self.holders(self.stamps[missing as usize]);
            if let Some(holder) = holders.without(self.unable).first() {
                return Some(holder);
            }
            self.answered = self.answered.without(holders);
            self.holding = self.holding.without(holders);
        }
    }

    fn next(&mut self, keep: bool) -> ReadStep {
        let mut step = ReadStep { keep, ..ReadStep::default() };
        let wanted = self.wanted();
        let expected = self.answered.len() + self.asked.len();
        if expected + self.spare.len() < self.needed {
            let code = self.failure.expect("enough were live, so some have failed");
            step.outcome = Some(ReadOutcome::Failed(code));
        } else if expected < self.needed {
            // Somebody failed: another is asked in its place, for the record if nobody has sent or is about to send one.
            let spare = self.next_spare().expect("counted above");
            let in_hand = !self.full_from.is_empty() || self.kept.is_some();
            let want = if in_hand { ReadWant::Digest } else { ReadWant::Full };
            step.ask = Some(self.ask_first(spare, want));
        } else if self.answered.len() >= self.needed {
            let answered = self.answered.len();
            match (wanted, self.kept) {
                // A first question for the record that is still out has been hedged: nobody waits for it.
                (Some(holder), _) if self.full_from.without(self.asked).is_empty() => {
                    step.ask = Some(self.ask(holder, ReadWant::Full));
                }
                (Some(_), _) => {}
                (None, Some(_)) if self.joins() && self.differ() => step.settle = true,
                (None, Some(version)) => return self.complete(step, version),
                (None, None) => step.outcome = Some(ReadOutcome::Absent { answered }),
            }
        }
        self.ended = step.outcome.is_some();
        step
    }
}

impl ReadQuorum {
    /// Whether those that hold sets hold different ones.
    fn differ(&self) -> bool {
        let mut stamps = self.holding.iter().map(|replica| self.stamps[replica as usize]);
        let first = stamps.next();
        stamps.any(|stamp| Some(stamp) != first)
    }

    /// The answer is known, and so is who lacks it.
    fn complete(&mut self, mut step: ReadStep, version: Version) -> ReadStep {
        let holding = self.holders(stamp(&version));
        let behind = self.answered.without(holding);
        let repairing = if self.is_too_long { Repairing::Never } else { self.repairing };
        let waits = match repairing {
            Repairing::Before => !planted::active(planted::Bug::RepairUnawaited),
            Repairing::After | Repairing::Never => false,
        };
        if waits && holding.len() < self.needed {
            self.repairs = Some(Repairs::new(version, holding, behind));
            step.repair = behind;
            return step;
        }
        if repairing != Repairing::Never {
            step.repair = behind;
        }
        self.ended = true;
        step.outcome = Some(ReadOutcome::Found { version, answered: self.answered.len() });
        step
    }

    /// An answer to the read itself that comes while others are written to: it may spare one of them.
    fn on_late(&mut self, replica: u8, answer: ReadAnswer) -> ReadStep {
        let repairs = self.repairs.as_mut().expect("called while replicas are repaired");
        let (found, target) = (
            match answer {
                ReadAnswer::Digest(version) | ReadAnswer::Full(version) => Some(stamp(&version)),
                ReadAnswer::Absent => None,
                ReadAnswer::Failed(_) => return self.next_repair(),
            },
            stamp(&repairs.version),
        );
        // What another set holds is not in its version.
        let holds = found == Some(target) || self.reading == Reading::Newest && found > Some(target);
        if holds {
            repairs.holds(replica);
        } else if !repairs.has_written_to(replica) && repairs.is_hurried() {
            // Those that were written to are slow, and this one is known to lack it.
            repairs.write_to(replica);
            let mut step = self.next_repair();
            if step.outcome.is_none() {
                step.repair.insert(replica);
            }
            return step;
        } else if !repairs.has_written_to(replica) {
            self.spare.insert(replica);
        }
        self.next_repair()
    }

    fn next_repair(&mut self) -> ReadStep {
        let (needed, answered, spare) = (self.needed, self.answered.len(), self.next_spare());
        let repairs = self.repairs.as_mut().expect("called while replicas are repaired");
        let mut step = ReadStep::default();
        match (repairs.progress(needed), spare) {
            (Progress::Waits, _) => return step,
            (Progress::Held, _) => {
                step.outcome = Some(ReadOutcome::Found { version: repairs.version, answered });
            }
            (Progress::Short, Some(spare)) => {
                self.spare.remove(spare);
                repairs.write_to(spare);
                step.repair.insert(spare);
            }
            // Somebody who was asked may still say that it holds it, or can be written to.
            (Progress::Short, None) if !self.asked.is_empty() => return step,
            (Progress::Short, None) => step.outcome = Some(ReadOutcome::Failed(repairs.code())),
        }
        self.ended = step.outcome.is_some();
        step
    }
}

fn stamp(version: &Version) -> Stamp {
    (version.order, version.actor)
}
