//! What a write still owes when it has ended: replicas that were not asked, refused, were lost, or have not answered.
//!
//! A write is answered when its level is met, and stays an operation while replicas are to answer: until then, its deadline or the end
//! of a connection. It keeps the key in mind, and the record only at a coordinator that is no replica or has asked stand-ins; else that is read again from the
//! engine where a hint is made, which most writes never need. By then the key may have a newer record: that one is owed just as well.
//! While this node's own copy is on its way to the log, which a write that others have answered does not wait for, there is nothing to read: what is
//! owed until then is owed when it is there. Refused, it leaves nothing to make a hint of where the record is not in mind, which is counted.
//!
//! Hints take what room the log has left over. What finds none is kept in mind in a queue, within the same bound as all that writes may owe, and a
//! few are made after each group, before what waits for room comes in: else none would ever be made while clients write as fast as they can, which is
//! when most is owed.
//!
//! | a replica | owes a hint |
//! |---|---|
//! | was away at the start | when the write has ended as done or unknown |
//! | refused, or its connection broke | then, or at once |
//! | is silent at the deadline | then |
//! | was heard of lately, and was silent at the deadline or answered that it has too much to do | as far as [`Ledger::may_hint_live`](ferrite_cluster::hints::Ledger::may_hint_live) allows: a storm of hints would be more load for who has too much |
//! | has a stand-in that acknowledged | none: the stand-in delivers |
//! | has not answered when this node stops | then, however many: what is on its way to it may be lost with the link, and nobody is left who knows of it |
//! | refused for good (`too large`, `malformed`, `clock drift`) | none: it would again |

use std::cell::Cell;
use std::rc::Rc;

use ferrite_cluster::hints::DropReason;
use ferrite_cluster::{ReplicaSet, WriteOutcome};
use ferrite_lsm::cover;
use ferrite_wire::{ErrorCode, Key, NodeId, TableId, Version, WriteAnswer};

use super::expiry::NEVER_NS;
use super::held::{Held, Holding};
use super::record::version_of;
use super::slab::OperationId;
use super::writes::{Own, Write, WriteOperation};
use super::{Operation, Route, Shard};
use crate::env::Env;

/// Most writes that have ended and are kept in mind for replicas that have not answered, on a core.
pub(super) const DEBTS_MAX: usize = 32_768;

/// Most hints that are made between two groups.
pub(super) const HINTS_AT_ONCE: usize = 32;
/// Bytes of them, from which no more are.
const HINT_BYTES_AT_ONCE: usize = 64 << 10;

/// A hint that is yet to be made.
#[derive(Debug)]
pub(super) struct Owed {
    target: NodeId,
    subject: Rc<Subject>,
}

/// The record that a write is about.
#[derive(Debug)]
pub(super) struct Subject {
    route: Route,
    table: TableId,
    /// Partition key, then sort key.
    key: Box<[u8]>,
    partition_len: usize,
    /// As it was sent.
    version: Version,
    /// The payload, at a coordinator that has no copy of its own, or has asked stand-ins.
    payload: Option<Box<[u8]>>,
    /// Given back when this is dropped.
    _holding: Holding,
}

impl Subject {
    /// What a write of this record is about; `None` = there is no room to keep it in mind.
    pub(super) fn new(held: &Held, write: &Write<'_>, has_stand_ins: bool) -> Option<Rc<Subject>> {
        let Write { route, key, version, value, .. } = *write;
        let payload = (route.position.is_none() || has_stand_ins).then_some(value);
        let kept = payload.map_or(0, <[u8]>::len);
        let holding = held.hold(size_of::<Subject>() + key.partition.len() + key.sort.len() + kept)?;
        Some(Rc::new(Subject {
            route,
            table: key.table,
            key: [key.partition, key.sort].concat().into(),
            partition_len: key.partition.len(),
            version,
            payload: payload.map(Into::into),
            _holding: holding,
        }))
    }

    pub(super) fn key(&self) -> Key<'_> {
        let (partition, sort) = self.key.split_at(self.partition_len);
        Key { table: self.table, partition, sort }
    }

    /// As it was sent, if that is kept in mind.
    pub(super) fn record(&self) -> Option<(Version, &[u8])> {
        Some((self.version, self.payload.as_deref()?))
    }

    pub(super) fn route(&self) -> Route {
        self.route
    }
}

/// Whether a replica that refused with this code would take the record another time.
pub(super) fn may_take_it_later(code: ErrorCode) -> bool {
    !matches!(
        code,
        ErrorCode::TooLarge
            | ErrorCode::Malformed
            | ErrorCode::NoTable
            | ErrorCode::BadContext
            | ErrorCode::TooManySiblings
            // It has a record from afar there.
            | ErrorCode::ClockDrift
    )
}

impl<E: Env> Shard<E> {
    /// A write has ended and was answered: what it owes is made up for, and what may come yet is kept in mind.
    pub(super) fn settle_debts(self: &Rc<Self>, id: OperationId, outcome: &WriteOutcome) {
        let Some((missed, waits, subject)) = ({
            let mut operations = self.operations.borrow_mut();
            let Some(Operation::Write(write)) = operations.get_mut(id) else { return };
            write.ended = true;
            write.owed = write.missed();
            let missed = write.take_owed();
            let waits = !write.is_settled();
            let owes = !matches!(outcome, WriteOutcome::NotApplied(_));
            owes.then(|| (missed, waits, write.subject_if(!missed.is_empty())))
        }) else {
            self.operations.borrow_mut().remove(id);
            return;
        };
        missed.iter().for_each(|replica| self.owe(subject.as_ref(), replica, id));
        if waits && self.debts.get() < DEBTS_MAX {
            self.debts.set(self.debts.get() + 1);
            return;
        }
        let ended = self.operations.borrow_mut().remove(id);
        if let Some(Operation::Write(write)) = ended
            && waits
        {
            let open: ReplicaSet = write.still_asked().iter().chain(write.owed.iter()).collect();
            open.iter().for_each(|replica| self.count_untracked(write.route, replica));
        }
    }

    /// A replica of a write that has ended answered or was lost. `missed`: it has not got the record, or may not.
    pub(super) fn follow_debt(self: &Rc<Self>, id: OperationId, replica: u8, missed: bool) {
        let (subject, missed, is_over) = {
            let mut operations = self.operations.borrow_mut();
            let Some(Operation::Write(write)) = operations.get_mut(id) else { return };
            if !write.ended {
                return;
            }
            match missed {
                true => write.owed.insert(replica),
                false => write.owed.remove(replica),
            }
            let missed = write.take_owed();
            (write.subject_if(!missed.is_empty()), missed, write.is_settled())
        };
        missed.iter().for_each(|replica| self.owe(subject.as_ref(), replica, id));
        if is_over {
            self.end_debt(id);
        }
    }

    /// The deadline of a write that has ended: whoever is silent has missed it.
    pub(super) fn foreclose(self: &Rc<Self>, id: OperationId) -> bool {
        let (subject, silent, is_over) = {
            let mut operations = self.operations.borrow_mut();
            let Some(Operation::Write(write)) = operations.get_mut(id) else { return false };
            if !write.ended {
                return false;
            }
            write.foreclosed = true;
            write.give_up_silent();
            write.owed = write.owed.iter().chain(write.still_asked().iter()).collect();
            let silent = write.take_owed();
            (write.subject_if(!silent.is_empty()), silent, write.is_settled())
        };
        silent.iter().for_each(|replica| self.owe(subject.as_ref(), replica, id));
        if is_over {
            self.end_debt(id);
        }
        true
    }

    /// This node stops, and waits for nothing else any more: whoever has not answered has missed the write, and hints are made, as many as the log takes. True = some
    /// are on their way to it. What is left after [`LAST_HINTS_NS`](super::stop::LAST_HINTS_NS) is counted as dropped: a stop has its time, and beyond it the log is not closed in order.
    pub(super) fn settle_before_end(self: &Rc<Self>) -> bool {
        self.begin_last_hints();
        let has_ended = |operation: &Operation| matches!(operation, Operation::Write(write) if write.ended);
        let ended = self.operations.borrow().ids_where(has_ended);
        for id in ended {
            self.foreclose(id);
        }
        loop {
            if self.engine.has_staged() || self.disk_reads.get() > 0 {
                self.start_pump();
                return true;
            }
            let before = self.owed.borrow().len();
            self.make_hints(HINTS_AT_ONCE);
            let is_on_its_way = self.engine.has_staged() || self.disk_reads.get() > 0;
            if !is_on_its_way && self.owed.borrow().len() == before {
                return false;
            }
        }
    }

    /// Counts what is owed and will not be written.
    pub(super) fn drop_owed(&self) {
        for owed in self.owed.take() {
            self.hints.borrow_mut().count_drop(owed.target, DropReason::NotWritten);
        }
    }

    /// This node's log has refused its own copy of a write, or lost it. A write that was answered by others and owes nobody else is no operation any more by
    /// then: that this node lacks it is counted none the less.
    pub(super) fn refuse_own(self: &Rc<Self>, id: OperationId, replica: u8, code: ErrorCode) {
        let is_over = !self.operations.borrow().contains(id);
        if is_over {
            cover::mark("own copy refused after its write had ended");
            return self.hints.borrow_mut().count_drop(self.settings.node, DropReason::NotWritten);
        }
        self.on_write_answer(id, replica, WriteAnswer::Refused(code));
    }

    fn end_debt(&self, id: OperationId) {
        let ended = self.operations.borrow_mut().remove(id);
        assert!(ended.is_some(), "found by the caller");
        self.debts.set(self.debts.get() - 1);
    }

    fn count_untracked(&self, route: Route, replica: u8) {
        let target = self.ring.borrow().replicas(route.vnode)[replica as usize];
        if target != self.settings.node {
            self.hints.borrow_mut().count_drop(target, DropReason::Untracked);
        }
    }

    /// Keeps the record of a write for a replica that missed it.
    fn owe(self: &Rc<Self>, subject: Option<&Rc<Subject>>, replica: u8, id: OperationId) {
        let Some(subject) = subject else {
            let route = match self.operations.borrow_mut().get_mut(id) {
                Some(Operation::Write(write)) => write.route,
                _ => unreachable!("found by the caller"),
            };
            return self.count_untracked(route, replica);
        };
        let target = self.ring.borrow().replicas(subject.route.vnode)[replica as usize];
        if target == self.settings.node {
            // Nobody keeps a hint for this node: what its log refused it gets when it is read, or not at all.
            return self.hints.borrow_mut().count_drop(target, DropReason::NotWritten);
        }
        let is_pressed = self.with_write(id, |write| Some(write.pressed.contains(replica))) == Some(true);
        let is_spared = is_pressed && self.is_heard_of(target) && !self.stopping.get();
        if is_spared && !self.hints.borrow_mut().may_hint_live(target, self.env.now_ns()) {
            return;
        }
        let is_nowhere = self.with_write(id, |write| Some(write.own == Own::Refused)) == Some(true)
            && subject.payload.is_none();
        if is_nowhere {
            return self.hints.borrow_mut().count_drop(target, DropReason::NoRecord);
        }
        let is_next = self.owed.borrow().is_empty() && self.waiting.borrow().is_empty();
        self.owed.borrow_mut().push_back(Owed { target, subject: subject.clone() });
        if is_next {
            self.make_hints(1);
        }
    }

    /// Makes so many of the hints that are owed, as far as the log has room at this moment.
    pub(super) fn make_hints(self: &Rc<Self>, most: usize) {
        if self.owed.borrow().is_empty() {
            return;
        }
        if self.last_hints_ns.get().is_some_and(|until_ns| self.env.now_ns() >= until_ns) {
            return self.drop_owed();
        }
        // What may still be written. Shared with reads of the disk that are on their way.
        let room = Rc::new(Cell::new(HINT_BYTES_AT_ONCE));
        for _ in 0..most {
            let next = if room.get() > 0 { self.owed.borrow_mut().pop_front() } else { None };
            let Some(owed) = next else { return };
            self.make_hint(owed, &room);
        }
    }

    fn make_hint(self: &Rc<Self>, owed: Owed, room: &Rc<Cell<usize>>) {
        let subject = &owed.subject;
        if let Some(payload) = &subject.payload {
            let made = self.keep_strict(owed.target, &subject.key(), &subject.version, payload);
            room.set(if made { room.get().saturating_sub(payload.len()) } else { 0 });
            if !made {
                self.owed.borrow_mut().push_front(owed);
            }
            return;
        }
        let (subject, room) = (owed.subject.clone(), room.clone());
        self.local_copy(subject.route, &subject.key(), NEVER_NS, move |shard, found| {
            let record = match &found {
                Ok(Some(record)) => Some(record.as_record()),
                Err(ErrorCode::Overloaded) => {
                    // Too much is being read already.
                    room.set(0);
                    return shard.owed.borrow_mut().push_front(owed);
                }
                Ok(None) | Err(_) => None,
            };
            let subject = &owed.subject;
            // Of sets the local one has what was sent in it; of records the local one is that, or one that beat it.
            let is_older =
                |version: &Version| !subject.route.has_siblings() && subject.version.beats(version);
            match record.map(|record| (version_of(&record), record.value)) {
                Some((version, value)) if !is_older(&version) => {
                    cover::mark("hint made of the local record");
                    let made = shard.keep_strict(owed.target, &subject.key(), &version, value);
                    room.set(if made { room.get().saturating_sub(value.len()) } else { 0 });
                    if !made {
                        shard.owed.borrow_mut().push_front(owed);
                    }
                }
                Some(_) | None => shard.hints.borrow_mut().count_drop(owed.target, DropReason::NoRecord),
            }
        });
    }
}

impl WriteOperation {
    /// Replicas that certainly or perhaps lack the record, and could take it later.
    fn missed(&self) -> ReplicaSet {
        let (acked, waiting) = (self.quorum.acked(), self.quorum.waiting());
        self.wanted.without(acked).without(waiting).without(self.refused_for_good)
    }

    /// Other nodes that were asked and have not answered.
    pub(super) fn still_asked(&self) -> ReplicaSet {
        let here: ReplicaSet = self.route.position.map(|at| at as u8).into_iter().collect();
        self.quorum.waiting().without(here)
    }

    /// Takes out what is owed, if there is something to make it of.
    fn take_owed(&mut self) -> ReplicaSet {
        if self.own == Own::Coming {
            if !self.owed.is_empty() {
                cover::mark("debt waited for the local record");
            }
            return ReplicaSet::default();
        }
        std::mem::take(&mut self.owed)
    }

    /// Whether nothing more is to come of it, once it has ended.
    fn is_settled(&self) -> bool {
        let is_heard = self.foreclosed || self.still_asked().is_empty();
        is_heard && (self.own != Own::Coming || self.owed.is_empty())
    }

    fn subject_if(&self, wanted: bool) -> Option<Rc<Subject>> {
        self.subject.as_ref().filter(|_| wanted).cloned()
    }

    /// Takes note of a refusal that would be repeated, and of one that asks to be spared.
    pub(super) fn refused(&mut self, replica: u8, code: ErrorCode) {
        if !may_take_it_later(code) {
            self.refused_for_good.insert(replica);
        }
        if code == ErrorCode::Overloaded && !self.stood_in.contains(replica) {
            self.pressed.insert(replica);
        }
    }

    /// The deadline: whoever was asked and is silent has too much to do.
    pub(super) fn give_up_silent(&mut self) {
        let silent = self.still_asked().without(self.stood_in);
        self.pressed = self.pressed.iter().chain(silent.iter()).collect();
    }

    /// Whether a replica refused for good.
    pub(super) fn has_refused_for_good(&self, replica: u8) -> bool {
        self.refused_for_good.contains(replica)
    }
}
