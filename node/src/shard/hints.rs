//! Hints: taking them in, and what is told of them. How much is kept and what is owed is [`ferrite_cluster::hints`]'s to decide.
//!
//! | a hint | is made | from |
//! |---|---|---|
//! | strict | when a write has ended as done or unknown, for each replica that missed it or may have ([`super::debts`]) | the local record; a coordinator that is no replica keeps the bytes until then |
//! | sloppy | for the coordinator of a sloppy write, in whose level it counts once it is durable ([`super::stand_ins`]) | the message |
//!
//! A write that is told as not applied leaves none. Strict hints take little room in the log from writes: a few after each group, and the rest is put
//! off, within a bound ([`super::debts`]).

use std::fmt::Write;
use std::rc::Rc;

use ferrite_cluster::hints::{HintKind, LaneId};
use ferrite_cluster::planted;
use ferrite_lsm::cover;
use ferrite_wire::{ErrorCode, HintsAction, Key, NodeId, Order, PeerMessage, Version, WriteAnswer};

use super::Shard;
use super::hint_store::{Hint, encode_hint, hint_bytes, hint_key, local_record, mark_key, table_of};
use super::log_pump::Ack;
use super::requester::Requester;
use super::slab::OperationId;
use crate::env::Env;

/// Who waits for a hint to be durable.
#[derive(Clone, Copy, Debug)]
pub(super) enum HintThen {
    /// Nobody.
    Nothing,
    /// The coordinator on another node.
    Peer(Requester),
    /// An operation of this core, in place of the replica at this place.
    Local {
        /// Which.
        operation: OperationId,
        /// The place in the key's preference list.
        replica: u8,
    },
    /// It was written again: where it was it is done with.
    Again {
        /// Where that was.
        lane: LaneId,
        /// In which attempt it was read there.
        attempt: u32,
        /// Its time there.
        at: u64,
    },
}

/// A hint on its way into the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct HintAck {
    lane: LaneId,
    at: u64,
    bytes: u64,
    then: HintThen,
}

impl<E: Env> Shard<E> {
    /// Takes a strict hint in, or counts why not. False = the log has no room at this moment, and nothing has changed.
    pub(super) fn keep_strict(
        self: &Rc<Self>,
        target: NodeId,
        key: &Key<'_>,
        version: &Version,
        payload: &[u8],
    ) -> bool {
        let (kind, bytes) = (HintKind::Strict, hint_bytes(key, payload));
        let admitted = self.hints.borrow_mut().admit(target, kind, bytes, self.env.wall_ms());
        let Ok((lane, at)) = admitted else {
            cover::mark("strict hint dropped");
            return true;
        };
        let mut value = Vec::with_capacity(payload.len() + Version::BYTES + 5);
        encode_hint(kind, key.table, version, payload, &mut value);
        let ack = Ack::Hint(HintAck { lane, at, bytes, then: HintThen::Nothing });
        match self.stage_past_waiting(hint_key(lane, at, key), local_record(at, &value), 0, ack) {
            Ok(()) => cover::mark("strict hint kept"),
            Err(ErrorCode::Overloaded) => {
                cover::mark("strict hint put off");
                self.hints.borrow_mut().put_off(lane, at, bytes);
                return false;
            }
            Err(_) => self.hints.borrow_mut().not_written(lane, at, bytes),
        }
        true
    }

    /// Takes in a hint for a sloppy write, unless it finds no room until the deadline of who waits for it: for whom nobody waits it does not count. After an
    /// error nobody is told anything else, and whatever there is to count was counted.
    pub(super) fn keep_hint(
        self: &Rc<Self>,
        deadline_ns: u64,
        target: NodeId,
        key: &Key<'_>,
        version: &Version,
        payload: &[u8],
        then: HintThen,
    ) -> Result<(), ErrorCode> {
        let (kind, bytes) = (HintKind::Sloppy, hint_bytes(key, payload));
        let admitted = self.hints.borrow_mut().admit(target, kind, bytes, self.env.wall_ms());
        let Ok((lane, at)) = admitted else {
            cover::mark("sloppy hint refused");
            if planted::active(planted::Bug::SloppyHintDropped) {
                self.tell_hint(then, WriteAnswer::Applied);
                return Ok(());
            }
            return Err(ErrorCode::Overloaded);
        };
        let mut value = Vec::with_capacity(payload.len() + Version::BYTES + 5);
        encode_hint(kind, key.table, version, payload, &mut value);
        let ack = Ack::Hint(HintAck { lane, at, bytes, then });
        let staged = self.stage_by(deadline_ns, hint_key(lane, at, key), local_record(at, &value), 0, ack);
        match staged {
            Ok(()) => cover::mark("sloppy hint kept"),
            Err(_) => self.hints.borrow_mut().not_written(lane, at, bytes),
        }
        staged
    }

    /// Writes a hint that its target will never take, and that counted, again among those that are held back.
    pub(super) fn hold_back(self: &Rc<Self>, from: LaneId, attempt: u32, hint: &Hint) {
        let lane = LaneId::held_back(from.target, self.settings.core, self.settings.cores);
        if self.write_again(lane, from, attempt, hint).is_err() {
            self.delivery_failed(from, attempt, hint.at);
        }
    }

    /// Writes a hint for a core that is absent again, behind all others; where the log has no room at this moment, it and what was read after it is read again
    /// when it has. False = so it is.
    pub(super) fn write_behind(self: &Rc<Self>, from: LaneId, attempt: u32, hint: &Hint) -> bool {
        let lane = LaneId { target: from.target, stream: self.settings.core.0 };
        match self.write_again(lane, from, attempt, hint) {
            Ok(()) => cover::mark("hint written again behind others"),
            Err(ErrorCode::Overloaded) => {
                cover::mark("no room to write a hint again");
                self.hints.borrow_mut().no_room(from, attempt, hint.at, self.env.now_ns());
                return false;
            }
            Err(_) => self.delivery_failed(from, attempt, hint.at),
        }
        true
    }

    /// Writes a hint again into a lane. It is done with where it was once that is durable. After an error nothing has changed.
    fn write_again(
        self: &Rc<Self>,
        lane: LaneId,
        from: LaneId,
        attempt: u32,
        hint: &Hint,
    ) -> Result<(), ErrorCode> {
        let at = self.hints.borrow_mut().write_again(lane, hint.bytes, self.env.wall_ms());
        let mut value = Vec::with_capacity(hint.payload.len() + Version::BYTES + 5);
        encode_hint(hint.kind, hint.table, &hint.version, &hint.payload, &mut value);
        let then = HintThen::Again { lane: from, attempt, at: hint.at };
        let ack = HintAck { lane, at, bytes: hint.bytes, then };
        let staged =
            self.stage_now(hint_key(lane, at, &hint.key()), local_record(at, &value), 0, Ack::Hint(ack));
        if staged.is_err() {
            self.hints.borrow_mut().put_off(lane, at, hint.bytes);
        }
        staged
    }

    /// A hint is durable, or the log has refused it.
    pub(super) fn hint_written(self: &Rc<Self>, ack: HintAck, refused: Option<ErrorCode>) {
        if let HintThen::Again { lane, attempt, at } = ack.then {
            match refused {
                None => {
                    if ack.lane.is_held_back() {
                        cover::mark("sloppy hint held back");
                    }
                    self.hints.borrow_mut().written_again(ack.lane, ack.at, lane, at);
                    self.pump_lane(lane);
                }
                Some(_) => {
                    self.hints.borrow_mut().put_off(ack.lane, ack.at, ack.bytes);
                    self.delivery_failed(lane, attempt, at);
                }
            }
            return;
        }
        let answer = match refused {
            None => {
                self.hints.borrow_mut().written(ack.lane, ack.at);
                WriteAnswer::Applied
            }
            Some(code) => {
                let mut hints = self.hints.borrow_mut();
                match code {
                    // It was counted as what it is.
                    ErrorCode::Expired => hints.put_off(ack.lane, ack.at, ack.bytes),
                    _ => hints.not_written(ack.lane, ack.at, ack.bytes),
                }
                WriteAnswer::Refused(code)
            }
        };
        self.tell_hint(ack.then, answer);
    }

    fn tell_hint(self: &Rc<Self>, then: HintThen, answer: WriteAnswer) {
        match then {
            HintThen::Nothing | HintThen::Again { .. } => {}
            HintThen::Peer(requester) => {
                self.answer_peer(requester, &PeerMessage::ReplicaWriteAnswer(answer));
            }
            HintThen::Local { operation, replica } => self.on_write_answer(operation, replica, answer),
        }
    }

    /// Writes the marks that are due: the watermarks, so far as they have moved.
    pub(super) fn mark_hints(&self) {
        if self.engine.is_fenced() {
            return;
        }
        let moved: Vec<(LaneId, u64)> = {
            let mut hints = self.hints.borrow_mut();
            let lanes: Vec<LaneId> = hints.lanes().map(|(id, _)| id).collect();
            lanes.into_iter().filter_map(|id| Some((id, hints.mark(id)?))).collect()
        };
        for (id, mark) in moved {
            let staged =
                self.stage_now(mark_key(id), local_record(mark, b""), 0, Ack::HintMark { lane: id, mark });
            if staged.is_err() {
                self.hint_marked(id, None);
            }
        }
    }

    /// A mark is durable (or was refused): what is behind it may go.
    pub(super) fn hint_marked(&self, lane: LaneId, mark: Option<u64>) {
        let mark = self.hints.borrow_mut().marked(lane, mark);
        self.engine.retire(lane.target.0, table_of(lane.stream), mark);
    }

    /// Carries out a client's request about hints, and gives the lines that answer it.
    pub(super) fn hints_text(self: &Rc<Self>, action: HintsAction) -> String {
        match action {
            HintsAction::Tell => {}
            HintsAction::Pause | HintsAction::Resume => {
                self.hints.borrow_mut().pause(action == HintsAction::Pause);
                tracing::info!(core = self.settings.core.0, ?action, "delivery of hints");
            }
        }
        let mut text = String::new();
        self.hint_lines(&mut |name, value| {
            writeln!(text, "{name} {value}").expect("a string takes any text");
        });
        text
    }

    /// What is told of hints, as names and values.
    pub(super) fn hint_lines(&self, line: &mut dyn FnMut(&str, &dyn std::fmt::Display)) {
        let (now_ns, wall_ms) = (self.env.now_ns(), self.env.wall_ms());
        let mut hints = self.hints.borrow_mut();
        let (count, bytes) = hints.owed_to_all();
        line("hints.paused", &hints.is_paused());
        line("hints.count", &count);
        line("hints.bytes", &bytes);
        line("hints.bytes_max", &hints.options().bytes_max);
        line("hints.bytes_max_for_one", &hints.options().strict_bytes_max);
        let held_back: u64 = hints.targets().into_iter().map(|target| hints.count_held_back(target)).sum();
        line("hints.held_back", &held_back);
        let bytes_held_back: u64 =
            hints.targets().into_iter().map(|target| hints.bytes_held_back(target)).sum();
        line("hints.held_back_bytes", &bytes_held_back);
        line("hints.orphaned", &hints.orphans().map(|(_, count, _)| count).sum::<u64>());
        line("hints.unreadable", &hints.unreadable());
        line("hints.writes_tracked", &self.debts.get());
        line("hints.put_off", &self.owed.borrow().len());
        let name_of = |node: NodeId| {
            let known = self.settings.topology.node(node);
            known.map_or_else(|| format!("node-{}", node.0), |node| node.name.clone())
        };
        for target in hints.targets() {
            let name = name_of(target);
            let state = hints.state(target, self.is_there(target), now_ns).name();
            let (count, bytes) = hints.owed(target);
            let oldest_ms = hints.oldest_ms(target);
            let age_s = oldest_ms.map_or(0, |at| wall_ms.saturating_sub(at) / 1_000);
            let (written, delivered, per_s) = hints.delivered(target, now_ns);
            let lanes = hints.lanes().filter(|(id, _)| id.target == target);
            let (window, in_flight, cores_behind) =
                lanes.fold((0, 0, 0), |(window, in_flight, cores_behind), (_, lane)| {
                    (
                        window + lane.window(),
                        in_flight + lane.in_flight(),
                        cores_behind.max(lane.cores_behind()),
                    )
                });
            line(
                &format!("hints.for.{name}"),
                &format_args!(
                    "{state} count={count} bytes={bytes} oldest_s={age_s} delivered_per_s={per_s} written={written} \
                     delivered={delivered} window={window} in_flight={in_flight} cores_behind={cores_behind}"
                ),
            );
        }
        for (target, count, bytes) in hints.orphans() {
            line(
                &format!("hints.for.{}", name_of(target)),
                &format_args!("orphaned count={count} bytes={bytes}"),
            );
        }
        for (target, reason, count) in hints.drops() {
            line(&format!("hints.dropped.{}.{}", name_of(target), reason.name()), &count);
        }
    }

    /// Hints that this core keeps and has not delivered yet.
    pub fn hints_owed(&self) -> u64 {
        self.hints.borrow().owed_to_all().0
    }

    /// Whether any core of a node can be reached at this moment, and gossip does not hold it to be down, or it has said something lately.
    pub(super) fn is_there(&self, node: NodeId) -> bool {
        match self.counts_absent(node, None) {
            true => self.is_heard_of(node),
            false => self.links.borrow().heard_ns(node).is_some(),
        }
    }

    /// Whether a node has said anything lately. One that has not may be gone, and nobody has noticed yet.
    pub(super) fn is_heard_of(&self, node: NodeId) -> bool {
        self.links.borrow().heard_ns(node).is_some_and(|at| at >= self.lately_ns())
    }

    /// The version under which a hint is delivered: as it was written.
    pub(super) fn version_to_deliver(self: &Rc<Self>, version: Version) -> Version {
        if planted::active(planted::Bug::HintMintedAnew)
            && !version.flags.has_siblings()
            && let Ok(order) = self.mint(Order(version.order.0))
        {
            return Version { order, ..version };
        }
        version
    }
}
