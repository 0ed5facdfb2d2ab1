//! One get: the level's number of replicas is asked, one for the record and the others for its digest.
//!
//! ```text
//!   start ─► first round: one full, the rest digests ──(answers agree)──► Answer
//!                 │ a replica fails: another live one is asked in its place, or Fail
//!                 └─(answers differ)─► second round: the record from whoever holds a newer one ─► Answer
//! ```
//!
//! The answer is the newest record by `(order, actor)` among at least `needed` replicas. Only a replica whose digest names a
//! version newer than every full record in hand is asked again: one question more is enough when writes are rare.
//!
//! The state machine keeps versions; the host keeps the bytes of the newest full record it was told to [`ReadStep::keep`].

use ferrite_wire::{ErrorCode, ReadWant, Version};

use crate::{ReplicaSet, Unavailable, planted};

/// A question to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Its place in the preference list.
    pub replica: u8,
    /// What to ask for.
    pub want: ReadWant,
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
    /// The newest record is the one the host was last told to keep.
    Found {
        /// Its version.
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
    /// The bytes that came with the answer are the newest record so far: keep them in place of what was kept.
    pub keep: bool,
    /// Ask this.
    pub ask: Option<Ask>,
    /// The read has ended.
    pub outcome: Option<ReadOutcome>,
}

/// A read in flight.
#[derive(Clone, Debug)]
pub struct ReadQuorum {
    needed: u8,
    /// Replicas that can still be asked.
    spare: ReplicaSet,
    /// Replicas that have been asked and have not answered.
    waiting: ReplicaSet,
    /// Replicas that have answered.
    answered: ReplicaSet,
    /// Replicas whose record, as they answered, is older than the newest or missing.
    versions: [Option<Version>; ferrite_wire::limits::REPLICAS_MAX],
    /// The newest version anybody named, and who.
    newest: Option<(Version, u8)>,
    /// The version of the record the host keeps.
    kept: Option<Version>,
    failure: Option<ErrorCode>,
    /// A replica has been asked for its full record and has not answered.
    full_asked: Option<u8>,
}

impl ReadQuorum {
    /// Begins a read. `local` is this node's own place, asked first. The questions are to be asked at once.
    pub fn start(
        replicas: u8,
        live: ReplicaSet,
        local: Option<u8>,
        needed: u8,
    ) -> Result<(ReadQuorum, Vec<Ask>), Unavailable> {
        assert!(needed >= 1, "a level needs at least one replica");
        let needed = if planted::active(planted::Bug::QuorumOffByOne) { (needed - 1).max(1) } else { needed };
        if needed > replicas || live.len() < needed {
            return Err(Unavailable { live: live.len(), needed });
        }
        let mut read = ReadQuorum {
            needed,
            spare: live,
            waiting: ReplicaSet::default(),
            answered: ReplicaSet::default(),
            versions: [None; ferrite_wire::limits::REPLICAS_MAX],
            newest: None,
            kept: None,
            failure: None,
            full_asked: None,
        };
        let mut asks = Vec::with_capacity(needed as usize);
        let first = local.filter(|local| live.contains(*local)).or(live.first()).expect("live is not empty");
        asks.push(read.ask(first, ReadWant::Full));
        while asks.len() < needed as usize {
            let next = read.spare.first().expect("as many are live as are needed");
            asks.push(read.ask(next, ReadWant::Digest));
        }
        Ok((read, asks))
    }

    /// A replica has answered. Answers that come twice or unasked are ignored.
    pub fn on_answer(&mut self, replica: u8, answer: ReadAnswer) -> ReadStep {
        if !self.waiting.contains(replica) {
            return ReadStep::default();
        }
        self.waiting.remove(replica);
        let full_was_asked = self.full_asked == Some(replica);
        if full_was_asked {
            self.full_asked = None;
        }
        match answer {
            ReadAnswer::Failed(code) => {
                self.failure = Some(self.failure.unwrap_or(code));
                self.answered.remove(replica);
                if self.newest.is_some_and(|(_, holder)| holder == replica) {
                    self.forget_newest(replica);
                }
                self.next(false)
            }
            ReadAnswer::Absent => {
                self.answered.insert(replica);
                if self.newest.is_some_and(|(_, holder)| holder == replica) {
                    self.forget_newest(replica);
                }
                self.next(false)
            }
            ReadAnswer::Digest(version) => {
                self.note(replica, version);
                self.next(false)
            }
            ReadAnswer::Full(version) => {
                self.note(replica, version);
                let keep = self.kept.is_none_or(|kept| version.beats(&kept));
                if keep {
                    self.kept = Some(version);
                }
                self.next(keep)
            }
        }
    }

    /// Time is up.
    pub fn on_deadline(&mut self) -> ReadOutcome {
        ReadOutcome::Failed(ErrorCode::Timeout)
    }

    /// After the end: replicas that answered with an older record than the newest, or none. They want repair.
    pub fn stale(&self) -> ReplicaSet {
        let behind = |replica: &u8| match (self.newest, self.versions[*replica as usize]) {
            (Some((newest, _)), Some(version)) => newest.beats(&version),
            (Some(_), None) => true,
            (None, _) => false,
        };
        self.answered.iter().filter(behind).collect()
    }

    fn ask(&mut self, replica: u8, want: ReadWant) -> Ask {
        self.spare.remove(replica);
        self.waiting.insert(replica);
        if want == ReadWant::Full {
            self.full_asked = Some(replica);
        }
        Ask { replica, want }
    }

    fn note(&mut self, replica: u8, version: Version) {
        self.answered.insert(replica);
        self.versions[replica as usize] = Some(version);
        let newer = self.newest.is_none_or(|(newest, holder)| version.beats(&newest) || holder == replica);
        if newer {
            self.newest = Some((version, replica));
        }
    }

    /// The holder of the newest version no longer has it to give: the newest of the others takes its place.
    fn forget_newest(&mut self, holder: u8) {
        self.versions[holder as usize] = None;
        self.newest = None;
        for replica in self.answered.iter() {
            if let Some(version) = self.versions[replica as usize]
                && self.newest.is_none_or(|(newest, _)| version.beats(&newest))
            {
                self.newest = Some((version, replica));
            }
        }
    }

    fn next(&mut self, keep: bool) -> ReadStep {
        let mut step = ReadStep { keep, ..ReadStep::default() };
        if self.answered.len() + self.waiting.without(self.answered).len() < self.needed {
            // Somebody failed: ask another, for the record if nobody is about to send one.
            match self.spare.first() {
                Some(spare) => {
                    let full = self.full_asked.is_none() && self.kept.is_none();
                    step.ask = Some(self.ask(spare, if full { ReadWant::Full } else { ReadWant::Digest }));
                }
                None => {
                    step.outcome = Some(ReadOutcome::Failed(self.failure.unwrap_or(ErrorCode::Unavailable)));
                }
            }
            return step;
        }
        if self.answered.len() < self.needed {
            return step;
        }
        let answered = self.answered.len();
        match (self.newest, self.kept) {
            (None, _) => step.outcome = Some(ReadOutcome::Absent { answered }),
            (Some((newest, _)), Some(kept)) if !newest.beats(&kept) => {
                step.outcome = Some(ReadOutcome::Found { version: kept, answered });
            }
            (Some((_, holder)), _) => {
                if self.full_asked.is_none() {
                    step.ask = Some(self.ask(holder, ReadWant::Full));
                }
            }
        }
        step
    }
}
