//! Judging what clients are answered.

use ferrite_promises::{Answer, Reading, Told, Violation};
use ferrite_wire::{ErrorCode, Item, Order, Outcome, Reply, Siblings, Version};

use super::Scenario;
use super::clients::Pending;
use super::reads::Read;
use super::value::id_of;
use super::writes::Write;
use crate::world::World;

/// The mark of reads that found more siblings than a replica takes.
const SET_TOO_LONG: &str = "set too long to be repaired";

impl Scenario {
    /// An answer has come; `time` is the highest order that it tells its client of.
    pub(super) fn on_reply(
        &self,
        world: &World,
        client: usize,
        request: u64,
        time: Order,
        reply: &Reply<'_>,
    ) {
        let pending = {
            let mut clients = self.clients.borrow_mut();
            let state = &mut clients[client];
            match state.pending.take_if(|(waited, ..)| *waited == request) {
                Some((_, pending, _)) => pending,
                None => return,
            }
        };
        (0..self.shape.nodes).for_each(|node| self.facts.borrow_mut().saw_wall(world.wall_ms(node)));
        if ferrite_lsm::cover::was_taken(SET_TOO_LONG) {
            self.facts.borrow_mut().sets_are_too_long();
        }
        if let Reply::Error { code, .. } = reply {
            self.count_error(*code);
            self.left.borrow_mut().extend(pending.task());
        }
        match (pending, reply) {
            (Pending::Write { write, is_final }, Reply::Done { version, answered, sloppy }) => {
                let outcome = Outcome::Done { version: *version, answered: *answered, sloppy: *sloppy };
                self.on_outcome(world, client, &write, time, outcome);
                self.done(is_final);
            }
            (Pending::Write { write, .. }, Reply::Error { code, .. }) => {
                self.on_outcome(world, client, &write, time, Outcome::Error(*code));
            }
            (Pending::WriteMany(writes), Reply::Outcomes(outcomes)) if outcomes.len() == writes.len() => {
                self.count("multi-puts answered");
                for (write, outcome) in writes.iter().zip(outcomes.iter()) {
                    if let Outcome::Error(code) = outcome {
                        self.count_error(code);
                    }
                    self.on_outcome(world, client, write, time, outcome);
                }
            }
            (Pending::WriteMany(writes), Reply::Error { code, .. }) => {
                let refused =
                    |write: &Write| self.on_outcome(world, client, write, time, Outcome::Error(*code));
                writes.iter().for_each(refused);
            }
            (Pending::Read { read, task }, Reply::Value { version, answered, value }) => {
                let read = self.answered_by(read, *answered);
                self.on_value(world, client, &read, time, *version, value);
                self.done(task.is_some());
            }
            (Pending::Read { read, task }, Reply::Siblings { answered, siblings }) => {
                let read = self.answered_by(read, *answered);
                self.on_siblings(world, client, &read, time, siblings);
                self.done(task.is_some());
            }
            (Pending::Read { read, task }, Reply::Absent { answered }) => {
                let read = self.answered_by(read, *answered);
                self.on_absent(world, &read);
                self.done(task.is_some());
            }
            (Pending::Read { .. } | Pending::ReadMany(_), Reply::Error { .. }) => {}
            (Pending::ReadMany(reads), Reply::Values(items)) if items.len() == reads.len() => {
                self.count("multi-gets answered");
                for (read, item) in reads.into_iter().zip(items.iter()) {
                    match item {
                        Item::Value { version, answered, value } => {
                            let read = self.answered_by(read, answered);
                            self.on_value(world, client, &read, time, version, value);
                        }
                        Item::Siblings { answered, siblings } => {
                            let read = self.answered_by(read, answered);
                            self.on_siblings(world, client, &read, time, &siblings);
                        }
                        Item::Absent { answered } => {
                            let read = self.answered_by(read, answered);
                            self.on_absent(world, &read);
                        }
                        Item::Error(code) => self.count_error(code),
                    }
                }
            }
            (pending, reply) => {
                let what = format!("{pending:?} was answered by {reply:?}");
                self.judge(Err(Violation { key: pending.key(), what }));
            }
        }
    }

    /// A write is done, or is not.
    fn on_outcome(&self, world: &World, client: usize, write: &Write, time: Order, outcome: Outcome) {
        let (told, acknowledged) = match outcome {
            Outcome::Done { version, answered, sloppy } => {
                self.judge_answered(write.key, answered, write.needed);
                self.judge_expiry(world, client, write, &version);
                let told = if sloppy { Told::Sloppy(version) } else { Told::Acknowledged(version) };
                (told, usize::from(answered))
            }
            Outcome::Error(code) if code.says_not_applied() => (Told::NotApplied, 0),
            Outcome::Error(_) => (Told::InDoubt, 0),
        };
        if told == Told::NotApplied && self.plan.messages.repeated_percent > 0 {
            // Whoever has refused it may be sent it once more, and take it: as if no answer had come.
            return;
        }
        let answer = Answer { told, acknowledged, time, at_ns: world.now_ns() };
        let facts = self.facts.borrow();
        let verdict = match self.has_siblings(write.key) {
            true => self.sets.borrow_mut().told(write.key, write.id, answer, &facts),
            false => self.history.borrow_mut().told(write.key, write.id, answer),
        };
        self.judge(verdict);
    }

    fn on_value(
        &self,
        world: &World,
        client: usize,
        read: &Read,
        time: Order,
        version: Version,
        value: &[u8],
    ) {
        let key = read.key;
        if self.has_siblings(key) {
            let what = format!("a value that is no sibling, as {version:?}");
            return self.judge(Err(Violation { key, what }));
        }
        self.judge_shown(world, client, read, time, &version);
        let facts = self.facts.borrow();
        let found = (read.reading, world.now_ns());
        let verdict = self.history.borrow_mut().saw_value(key, found, &facts, id_of(value), version);
        self.answered(verdict);
    }

    /// Judges what a read of siblings showed, and keeps its context.
    fn on_siblings(&self, world: &World, client: usize, read: &Read, time: Order, siblings: &Siblings<'_>) {
        let key = read.key;
        if !self.has_siblings(key) {
            let what = "siblings where the last write wins".to_owned();
            return self.judge(Err(Violation { key, what }));
        }
        for sibling in siblings.iter() {
            self.judge_shown(world, client, read, time, &sibling.version);
        }
        let found: Vec<_> = siblings.iter().map(|sibling| (id_of(sibling.value), sibling.version)).collect();
        let verdict =
            self.sets.borrow_mut().saw(key, (read.reading, world.now_ns()), &self.facts.borrow(), &found);
        let shown = found.iter().filter_map(|(id, _)| *id).collect();
        self.clients.borrow_mut()[client].contexts.insert(key, (siblings.context().to_vec(), shown));
        self.answered(verdict);
    }

    fn on_absent(&self, world: &World, read: &Read) {
        let (key, facts) = (read.key, self.facts.borrow());
        let verdict = match self.has_siblings(key) {
            false => self.history.borrow_mut().saw_nothing(key, (read.reading, world.now_ns()), &facts),
            true => self.sets.borrow_mut().saw(key, (read.reading, world.now_ns()), &facts, &[]),
        };
        self.answered(verdict);
    }

    /// No level is met by fewer than it asks for, and no more answer than there are.
    fn judge_answered(&self, key: u64, answered: u8, needed: usize) {
        let (answered, replicas) = (usize::from(answered), self.replicas_of(key));
        if answered < needed || answered > replicas {
            let what = format!("{answered} answered of {replicas}, and {needed} had to");
            self.judge(Err(Violation { key, what }));
        }
    }

    /// A read that so many replicas have answered must know of what any of them knew.
    fn answered_by(&self, read: Read, answered: u8) -> Read {
        self.judge_answered(read.key, answered, read.reading.needed);
        Read { reading: Reading { answered: usize::from(answered), ..read.reading }, ..read }
    }

    /// No node shows what had expired by its own clock, or by most others' if that is wrong, when it was asked, nor anything without telling its client of its order.
    fn judge_shown(&self, world: &World, client: usize, read: &Read, time: Order, version: &Version) {
        let was_set = self.wall(world, client).jumps != read.wall.jumps;
        if version.expiry_ms != 0 && version.expiry_ms <= read.wall.earliest_ms && !was_set {
            let what = format!(
                "{version:?} was shown, which had expired when it was asked for, at {} ms",
                read.wall.earliest_ms
            );
            self.judge(Err(Violation { key: read.key, what }));
        }
        if version.order > time {
            let what = format!("{version:?} was shown to a client that was told of {time:?} only");
            self.judge(Err(Violation { key: read.key, what }));
        }
    }

    /// What a put lives is counted once, from when its node got it, by that node's clock.
    fn judge_expiry(&self, world: &World, client: usize, write: &Write, version: &Version) {
        let Write { key, ttl_ms, wall: sent, .. } = *write;
        let now = self.wall(world, client);
        let right = sent.ms + ttl_ms..=now.ms + ttl_ms;
        if ttl_ms > 0 && now.jumps == sent.jumps && !right.contains(&version.expiry_ms) {
            let what =
                format!("a put that lives {ttl_ms} ms expires at {} ms, not in {right:?}", version.expiry_ms);
            self.judge(Err(Violation { key, what }));
        }
    }

    fn count_error(&self, code: ErrorCode) {
        *self.errors.borrow_mut().entry(code.name()).or_default() += 1;
    }

    fn done(&self, is_task: bool) {
        if is_task {
            self.outstanding.set(self.outstanding.get() - 1);
        }
    }

    fn answered(&self, verdict: Result<(), Violation>) {
        self.reads.set(self.reads.get() + 1);
        self.judge(verdict);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_mark_of_sets_that_are_too_long_is_one() {
        assert!(crate::MARKS.contains(&super::SET_TOO_LONG));
    }
}
