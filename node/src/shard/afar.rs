//! Records from afar: of an order further ahead than this node's clock follows, written by a node whose wall clock was.
//!
//! They are data and are applied, as the rule of [`Clock`](ferrite_cluster::Clock) has it. But what is written to such a key afterwards is minted below, and
//! would be acknowledged and lose. So a core keeps in mind how far ahead any record of its keys may be. While that is beyond the drift, a write of a key where the
//! last write wins looks first at what is there, and is refused (`clock drift`) if that is from afar: at its coordinator, if it is a replica, and at each
//! replica. With nothing from afar, which is how it should be, this costs a comparison.
//!
//! Hints and repairs come as replica writes too, and are refused alike. Who sends those takes it for done: something newer is there. Where what is there is damaged,
//! replicas take what is sent, for that heals the key; a coordinator mints nothing on top of it.
//!
//! ```text
//! afar := nothing             a record in the core's local space; its order is the mark
//! ```
//!
//! Invariant: the mark is in the log no later than the record that it is about, unless the log refused the mark and then took the record. It is raised in steps of [`STEP_MS`], so that a run of such records does not
//! write as many marks; the price is that writes look first for so much longer.
//!
//! A mark that the log refuses is staged again at the next tick, and with the next such record, however far ahead it was: only one that is staged or durable
//! spares that. A group that finds no buffer refuses what is in it, and what waited behind it is taken: the record without its mark. What is looked for goes by all
//! that were raised, refused or not.
//!
//! What this leaves: replicas that have not got the record, or cannot read it, take the write, and where those suffice for its level it is acknowledged, and hidden once
//! the record has spread. A change of the number of cores gives the highest mark to every core.

use std::cell::Cell;
use std::rc::Rc;

use ferrite_lsm::{Engine, Prefix, Record, RecordBuf, RecordFlags, cover};
use ferrite_wire::{ErrorCode, Key, Order, TableId, Version};

use super::expiry::Waited;
use super::held::Holding;
use super::log_pump::Ack;
use super::record::version_of;
use super::{Route, Shard};
use crate::env::Env;

/// A mark is this much further ahead than the record that it was raised for, in milliseconds.
const STEP_MS: u64 = 60_000;
const KEY: ferrite_lsm::Key<'static> = ferrite_lsm::Key {
    prefix: Prefix { space: 0, vnode: 0, table: 0, token: 0 },
    partition: b"afar",
    sort: b"",
};

/// The mark of a core's records.
#[derive(Debug)]
pub(super) struct Afar {
    /// No record is further ahead.
    mark: Cell<Order>,
    /// The log has been given one for records up to here, and has not refused it.
    staged: Cell<Order>,
    /// The log has one for records up to here.
    durable: Cell<Order>,
}

impl Afar {
    /// Of a core that has found this one.
    pub(super) fn new(found: Order) -> Afar {
        Afar { mark: Cell::new(found), staged: Cell::new(found), durable: Cell::new(found) }
    }

    /// No record is further ahead.
    pub(super) fn mark(&self) -> Order {
        self.mark.get()
    }

    /// It is raised to here and on its way into the log.
    pub(super) fn raise(&self, mark: Order) {
        self.mark.set(self.mark.get().max(mark));
        self.staged.set(mark);
    }

    /// The log has it.
    pub(super) fn written(&self, mark: Order) {
        self.durable.set(self.durable.get().max(mark));
    }

    /// The log has refused one.
    pub(super) fn refused(&self) {
        self.staged.set(self.durable.get());
    }
}

/// The mark of the lives before. One that cannot be read is as if there had been none.
pub(super) async fn restore<E: Env>(engine: &Engine<E::Disk, E::Pace>) -> Order {
    match engine.read(KEY).await {
        Ok(found) => found.map_or(Order(0), |found| Order(found.record().order)),
        Err(error) => {
            tracing::warn!(%error, "whether there are records from afar cannot be read: they are not looked for");
            Order(0)
        }
    }
}

/// A key that outlives its frame.
#[derive(Debug)]
pub(super) struct OwnedKey {
    table: TableId,
    partition: Box<[u8]>,
    sort: Box<[u8]>,
}

impl OwnedKey {
    pub(super) fn of(key: &Key<'_>) -> OwnedKey {
        OwnedKey { table: key.table, partition: key.partition.into(), sort: key.sort.into() }
    }

    pub(super) fn key(&self) -> Key<'_> {
        Key { table: self.table, partition: &self.partition, sort: &self.sort }
    }
}

impl<E: Env> Shard<E> {
    /// Takes note of a record that is about to be staged, with the clock or with the mark. False = it is from afar. After an error it must not be staged: the
    /// mark was not.
    pub(super) fn take_note(&self, route: &Route, order: Order) -> Result<bool, ErrorCode> {
        let is_near = self.observe(order);
        if !is_near && !route.has_siblings() && order > self.afar.staged.get() {
            cover::mark("record from afar");
            self.stage_mark(Order(order.0.saturating_add(Order::from_wall_ms(STEP_MS).0)))?;
            let (core, until_ms) = (self.settings.core.0, order.wall_ms());
            tracing::warn!(
                core,
                until_ms,
                "a record lies further ahead than clocks may: its key takes no writes until its time has come"
            );
        }
        Ok(is_near)
    }

    fn stage_mark(&self, mark: Order) -> Result<(), ErrorCode> {
        let record = Record { order: mark.0, actor: 0, flags: RecordFlags(0), expiry_ms: 0, value: b"" };
        self.stage(KEY, record, 0, Ack::Afar(mark))?;
        self.afar.raise(mark);
        Ok(())
    }

    /// Stages again what the log has refused: the record that it is about may be there.
    pub(super) fn tend_mark(&self) {
        let mark = self.afar.mark.get();
        if mark > self.afar.staged.get() {
            // What is refused now is tried again at the next tick.
            let _refused = self.stage_mark(mark);
        }
    }

    /// Whether a write of a key has to look first at what is there.
    #[inline]
    pub(super) fn must_look(&self, route: &Route) -> bool {
        route.position.is_some() && !route.has_siblings() && self.is_afar(self.afar.mark())
    }

    /// Room for a record that waits until its key was looked at; `None` = there is none.
    pub(super) fn hold_record(&self, key: &Key<'_>, value: &[u8]) -> Option<Holding> {
        self.held.hold(key.partition.len() + key.sort.len() + value.len())
    }

    /// Looks. `then` is called once: with an error if a record from afar is there, nobody can tell, or that took longer than whoever asks waits: what is minted
    /// by then lies above what its client has written since. Such an error says that nothing was applied. Until then what it keeps is held.
    ///
    /// `brought` is the version of a record that somebody else has minted. Only what beats it is in its way: a wall clock that was set back meanwhile makes afar of
    /// what lies beneath it, too, and whoever sent it would take it for done. And what cannot be read for damage is not: this replica gets its copy back from others
    /// by nothing else, and refused, a hint would keep all behind it waiting.
    pub(super) fn look_first(
        self: &Rc<Self>,
        route: &Route,
        key: &Key<'_>,
        brought: Option<Version>,
        deadline_ns: u64,
        holding: Holding,
        then: impl FnOnce(&Rc<Shard<E>>, Result<(), ErrorCode>) + 'static,
    ) {
        self.local_copy(*route, key, deadline_ns, move |shard, found| {
            let is_beaten_by = |found: &RecordBuf| {
                brought.is_none_or(|brought| version_of(&found.as_record()).beats(&brought))
            };
            let looked = match found {
                Ok(Some(found)) if shard.is_afar(Order(found.order)) && is_beaten_by(&found) => {
                    cover::mark("write refused on top of a record from afar");
                    Err(ErrorCode::ClockDrift)
                }
                Ok(_) => shard.in_time(deadline_ns, Waited::ForDisk),
                Err(ErrorCode::Damaged) if brought.is_some() => {
                    cover::mark("damaged key healed that was to be looked at");
                    shard.in_time(deadline_ns, Waited::ForDisk)
                }
                Err(code) if code.says_not_applied() => Err(code),
                // Nothing was minted or sent: whatever says otherwise of a write is not the word for it.
                Err(_) => Err(ErrorCode::Unavailable),
            };
            then(shard, looked);
            drop(holding);
        });
    }
}
