//! Coordinating writes of keys with siblings.
//!
//! ```text
//! no replica of the key here ──► handed on to one (`forward`), or apart from all of them (`apart`)
//! overwrite ──► read at the level ──┐ what it saw
//!                                   ▼
//! context ────────────────────► latch ──► local set ──► mint, put or delete ──► log ──► other replicas
//!                                 ▲                                              │
//!                                 └──────── let go when the log has it ◄─────────┘
//! ```
//!
//! What is sent is the whole set, as it is here with the write in it, never the write alone. It is staged here first: what the log
//! refuses at once has reached nobody. A set that was sent and is refused after that (a disk that turns out to be full) is with others
//! and not here, and so the dots to come are of another actor ([`super::dots`]).

use std::rc::Rc;

use ferrite_cluster::{CausalClock, Context, Dot, Full, SetLimits, Sibling, SiblingSet, planted};
use ferrite_lsm::{RecordBuf, cover};
use ferrite_wire::{
    Actor, ErrorCode, Key, Level, OVERWRITE, Order, Reply, Request, SLOPPY, TableId, Version, VersionFlags,
    WriteAnswer,
};

use super::expiry::Waited;
use super::held::Holding;
use super::latches::{Entered, LatchId};
use super::log_pump::Ack;
use super::record::{engine_key, record_of};
use super::requester::Requester;
use super::sets::set_of;
use super::writes::Write;
use super::{Operation, Route, Shard};
use crate::env::Env;

/// A put or delete of a key with siblings, on its way through its latch.
#[derive(Debug)]
pub(super) struct SetWrite {
    requester: Requester,
    route: Route,
    /// The highest order that its client has seen.
    time: Order,
    level: Level,
    table: TableId,
    /// Partition key, then sort key.
    key: Box<[u8]>,
    partition_len: usize,
    /// The value to put, with its expiry; `None` = a delete.
    value: Option<(Box<[u8]>, u64)>,
    /// What it replaces.
    seen: CausalClock,
    /// Others may stand in for replicas that are away.
    sloppy: bool,
    deadline_ns: u64,
    /// What it keeps while it waits for a read, a latch or its local set.
    _holding: Holding,
}

impl SetWrite {
    /// What its latch goes by.
    pub(super) fn latch_key(&self) -> (u32, Box<[u8]>, usize) {
        (self.table.0, self.key.clone(), self.partition_len)
    }

    /// Bytes that it takes while it waits.
    pub(super) fn bytes(&self) -> usize {
        let value = self.value.as_ref().map_or(0, |(value, _)| value.len());
        SetWrite::bytes_of(self.key.len(), value, &self.seen)
    }

    fn bytes_of(key_bytes: usize, value_bytes: usize, seen: &CausalClock) -> usize {
        size_of::<SetWrite>() + key_bytes + value_bytes + size_of_val(seen.dots())
    }

    fn key(&self) -> Key<'_> {
        let (partition, sort) = self.key.split_at(self.partition_len);
        Key { table: self.table, partition, sort }
    }

    /// As a record that is sent, and what its client is told.
    fn with<'w>(&self, key: Key<'w>, version: Version, value: &'w [u8], given: Version) -> Write<'w> {
        let SetWrite { requester, route, level, sloppy, deadline_ns, .. } = *self;
        Write { requester, route, level, sloppy, key, version, value, given, deadline_ns }
    }

    /// Who waits for it.
    pub(super) fn requester(&self) -> Requester {
        self.requester
    }

    /// Adds what a read has seen to what is replaced.
    pub(super) fn has_seen(&mut self, clock: &CausalClock) {
        self.seen.merge(clock);
    }
}

/// Why a write was refused, in words.
struct Refusal {
    code: ErrorCode,
    text: String,
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Refusal {
        Refusal { code, text: String::new() }
    }
}

impl From<Full> for Refusal {
    fn from(full: Full) -> Refusal {
        let code = match full {
            Full::Siblings { .. } | Full::Actors { .. } => ErrorCode::TooManySiblings,
            Full::Bytes { .. } | Full::Value { .. } => ErrorCode::TooLarge,
        };
        Refusal { code, text: full.to_string() }
    }
}

impl<E: Env> Shard<E> {
    /// Coordinates a put or delete of a key with siblings, of which this node is a replica and this core the owner; or a sloppy one of which
    /// no replica can be reached.
    pub(super) fn write_set(
        self: &Rc<Self>,
        requester: Requester,
        route: Route,
        time: Order,
        request: &Request<'_>,
        deadline_ns: u64,
    ) {
        let (level, options, key, context, value) = match *request {
            Request::Put { level, options, key, ttl_ms, context, value, .. } => {
                if value.len() > self.settings.value_bytes_max {
                    return self.answer_error(requester, ErrorCode::TooLarge);
                }
                let expiry_ms = match self.ttl_ms(key.table, ttl_ms) {
                    0 => 0,
                    ttl_ms => self.env.wall_ms().saturating_add(ttl_ms),
                };
                (level, options, key, context, Some((value, expiry_ms)))
            }
            Request::Delete { level, options, key, context, .. } => (level, options, key, context, None),
            _ => unreachable!("only puts and deletes write"),
        };
        let overwrites = options & OVERWRITE != 0;
        if value.is_none() && context.is_empty() && !overwrites {
            let text = "a delete needs the context of a get, which says what to delete, or to overwrite";
            return self
                .refuse_set_write(requester, Refusal { code: ErrorCode::BadContext, text: text.to_owned() });
        }
        let seen = match Context::decode(context, Context::hash_of(&key)) {
            Ok(context) => context.clock,
            Err(error) => {
                let refusal = Refusal { code: ErrorCode::BadContext, text: error.to_string() };
                return self.refuse_set_write(requester, refusal);
            }
        };
        if self.engine.is_fenced() {
            return self.answer_error(requester, ErrorCode::Fenced);
        }
        if route.position.is_none() && overwrites {
            let text = "no replica can be reached, and to overwrite is to read one first".to_owned();
            return self.refuse_set_write(requester, Refusal { code: ErrorCode::Unavailable, text });
        }
        let key_bytes = key.partition.len() + key.sort.len();
        let bytes = SetWrite::bytes_of(key_bytes, value.map_or(0, |(value, _)| value.len()), &seen);
        let Some(holding) = self.held.hold(bytes) else {
            return self.answer_error(requester, ErrorCode::Overloaded);
        };
        let write = SetWrite {
            requester,
            route,
            time,
            level,
            table: key.table,
            key: [key.partition, key.sort].concat().into(),
            partition_len: key.partition.len(),
            value: value.map(|(value, expiry_ms)| (value.into(), expiry_ms)),
            seen,
            sloppy: options & SLOPPY != 0,
            deadline_ns,
            _holding: holding,
        };
        if overwrites {
            return self.read_before(write, level, &key);
        }
        self.latch_set_write(write);
    }

    /// Reads a key at the level of a write that replaces what that read finds.
    fn read_before(self: &Rc<Self>, write: SetWrite, level: Level, key: &Key<'_>) {
        let (requester, route, deadline_ns) = (write.requester, write.route, write.deadline_ns);
        cover::mark("set read before it was overwritten");
        let level = if planted::active(planted::Bug::OverwriteReadsOne) { Level::One } else { level };
        self.coordinate_read_for(requester, route, level, key, deadline_ns, Some(Box::new(write)));
    }

    /// Takes the latch of a write's key, now or when it is free.
    pub(super) fn latch_set_write(self: &Rc<Self>, write: SetWrite) {
        let entered = self.latches.borrow_mut().enter(write);
        match entered {
            Entered::Holds(latch, write) => self.begin_set_write(latch, write),
            Entered::Waits => cover::mark("write waited for a latch"),
            Entered::Full(write) => self.answer_error(write.requester, ErrorCode::Overloaded),
        }
    }

    /// Lets a latch go. Whoever has waited longest goes on.
    pub(super) fn release_latch(self: &Rc<Self>, latch: LatchId) {
        let next = self.latches.borrow_mut().leave(latch);
        if let Some(write) = next {
            self.begin_set_write(latch, write);
        }
    }

    fn begin_set_write(self: &Rc<Self>, latch: LatchId, write: SetWrite) {
        if self.is_expired(write.deadline_ns, Waited::ForLatch) {
            self.answer_error(write.requester, ErrorCode::Expired);
            return self.release_latch(latch);
        }
        if write.route.position.is_none() {
            if let Err(refusal) = self.write_set_apart(latch, &write) {
                self.refuse_set_write(write.requester, refusal);
                self.release_latch(latch);
            }
            return;
        }
        let (route, key, deadline_ns) = (write.route, write.key.clone(), write.deadline_ns);
        let (partition, sort) = key.split_at(write.partition_len);
        let key = Key { table: write.table, partition, sort };
        self.local_copy(route, &key, deadline_ns, move |shard, found| {
            if let Err(refusal) = shard.append_to_set(latch, &write, found) {
                shard.refuse_set_write(write.requester, refusal);
                shard.release_latch(latch);
            }
        });
    }

    fn refuse_set_write(&self, requester: Requester, refusal: Refusal) {
        if refusal.code == ErrorCode::TooManySiblings {
            cover::mark("too many siblings");
        }
        self.counters.count_error(refusal.code);
        self.answer(requester, &Reply::Error { code: refusal.code, text: &refusal.text });
    }

    /// Makes the next set of the local one, and sends it to the log and the other replicas. After an error it is with nobody, and the
    /// latch is still held.
    fn append_to_set(
        self: &Rc<Self>,
        latch: LatchId,
        write: &SetWrite,
        found: Result<Option<RecordBuf>, ErrorCode>,
    ) -> Result<(), Refusal> {
        // Without what this replica has, no dot may be minted on top of it: another replica can.
        let unreadable = || Refusal {
            code: ErrorCode::Unavailable,
            text: "this replica cannot read what it has of the key: ask another".to_owned(),
        };
        let found = found.map_err(|code| match code {
            ErrorCode::Overloaded | ErrorCode::Expired => code.into(),
            _ => unreadable(),
        })?;
        // It may have been read for longer than its client waits, and what is minted now lies above what that has written since.
        self.in_time(write.deadline_ns, Waited::ForDisk)?;
        let mut set = match &found {
            None => SiblingSet::default(),
            Some(record) => set_of(&record.as_record()).ok_or_else(unreadable)?,
        };
        let limits = SetLimits::of_table(usize::from(write.route.max_siblings), write.route.replicas);
        let (given, dot) = self.next_set(write, &mut set, self.dots.get(), &limits)?;
        self.send_set(latch, write, &set, given, dot).map_err(|code| match code {
            // Joins had made it too long, and this write makes it shorter, but not short enough for a group of the log.
            ErrorCode::TooLarge => {
                let max = self.settings.set_bytes_max(&write.key()).min(limits.bytes_max);
                let full = if write.value.is_some() { set.too_long(max) } else { Full::Bytes { max } };
                full.into()
            }
            code => code.into(),
        })
    }

    /// Makes the next set of one. The dot is of `actor`, and its number is 0 for a delete, which has none.
    fn next_set<'s>(
        self: &Rc<Self>,
        write: &'s SetWrite,
        set: &mut SiblingSet<'s>,
        actor: Actor,
        limits: &SetLimits,
    ) -> Result<(Version, Dot), Refusal> {
        let nothing = CausalClock::default();
        let seen = if planted::active(planted::Bug::ContextIgnored) { &nothing } else { &write.seen };
        let mut given = Version::default();
        let mut dot = Dot { actor: Actor(0), number: 0 };
        match &write.value {
            Some((value, expiry_ms)) => {
                // Above everything that is known of the key: the number is new for its actor, whatever a context claims to have seen.
                let above = write.time.max(set.clock().order_max()).max(write.seen.order_max());
                let order = self.mint(above)?;
                dot = Dot { actor, number: order.0 };
                let sibling = Sibling { dot, order, expiry_ms: *expiry_ms, value };
                if let Err(full) = set.put(seen, sibling, limits) {
                    // What has expired for the slowest clock there may be gives its place to others. Only where there is no other way:
                    // it is gone everywhere then, and a clock that is further off would be believed.
                    cover::mark("expired siblings gave their places up");
                    set.expire(self.env.wall_ms().saturating_sub(self.settings.clock_drift_max_ms));
                    set.put(seen, sibling, limits).map_err(|_| full)?;
                }
                (given.order, given.actor, given.expiry_ms) = (order, dot.actor, *expiry_ms);
                given.flags.0 |= u8::from(*expiry_ms > 0) * VersionFlags::EXPIRES;
            }
            None => {
                // A context from a clock that is too far ahead would hide what is written later: it is held to the same bound.
                self.mint(write.time.max(write.seen.order_max()))?;
                set.delete(seen, limits)?;
                given.order = set.clock().order_max();
                given.flags.0 |= VersionFlags::TOMBSTONE;
            }
        }
        Ok((given, dot))
    }

    /// Makes the next set of the last one that this core wrote apart from the key's replicas ([`super::apart`]), and sends it to stand-ins. After an
    /// error it is with nobody, and the latch is still held.
    fn write_set_apart(self: &Rc<Self>, latch: LatchId, write: &SetWrite) -> Result<(), Refusal> {
        cover::mark("set written apart from its replicas");
        let latch_key = write.latch_key();
        let last = self.apart.borrow().last(&latch_key);
        let mut set = match &last {
            None => SiblingSet::default(),
            Some(bytes) => SiblingSet::decode(bytes).expect("it was encoded here"),
        };
        let actor = self.apart.borrow_mut().actor(|| self.env.random());
        // What is here and what the replicas have apart from it is to travel when it comes together: this is one writer more.
        let limits = SetLimits::of_table(usize::from(write.route.max_siblings), write.route.replicas + 1);
        let (given, _) = self.next_set(write, &mut set, actor, &limits)?;
        let (mut bytes, key) = (Vec::new(), write.key());
        set.encode(&mut bytes);
        if !self.begin_apart(&latch_key, &bytes) {
            let text = "too much was written while replicas are away: wait until they are back".to_owned();
            return Err(Refusal { code: ErrorCode::Overloaded, text });
        }
        let coordinated = Write { sloppy: true, ..write.with(key, set.version(), &bytes, given) };
        self.start_write(&coordinated, Some(latch)).map_err(|code| {
            self.apart.borrow_mut().end(&latch_key, false);
            code.into()
        })
    }

    /// After an error it is with nobody, and the latch is still held.
    fn send_set(
        self: &Rc<Self>,
        latch: LatchId,
        write: &SetWrite,
        set: &SiblingSet<'_>,
        given: Version,
        dot: Dot,
    ) -> Result<(), ErrorCode> {
        let (route, key) = (write.route, write.key());
        let (mut bytes, version) = (Vec::new(), set.version());
        set.encode(&mut bytes);
        let coordinated = write.with(key, version, &bytes, given);
        let (operation, spread) = self.prepare_write(&coordinated)?;
        let id = self.operations.borrow_mut().insert(Operation::Write(operation));
        let here = route.position.expect("a coordinator of a set is a replica of it") as u8;
        let ack = Ack::Set { operation: id, replica: here, latch };
        let record = record_of(&version, &bytes);
        if let Err(code) =
            self.stage(engine_key(&key, route.vnode, route.token), record, route.vnode_epoch.0, ack)
        {
            self.operations.borrow_mut().remove(id);
            return Err(code);
        }
        self.deadlines.borrow_mut().add(write.deadline_ns, id);
        let (mut lone, mut shipped) = (Vec::new(), coordinated);
        if planted::active(planted::Bug::LoneDotShipped) && dot.number > 0 {
            let set = set.lone(dot);
            set.encode(&mut lone);
            (shipped.version, shipped.value) = (set.version(), &lone);
        }
        // The local one is staged already.
        for replica in spread.asked.iter().filter(|replica| *replica != here) {
            if let Err(code) = self.send_share(&spread, id, replica, &shipped) {
                self.on_write_answer(id, replica, WriteAnswer::Refused(code));
            }
        }
        Ok(())
    }
}
