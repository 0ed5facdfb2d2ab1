//! A shard: all that one core of a node does with data.
//!
//! It is written over an [`Env`] and told what happens through [`Handler`], so that the reactor and the simulator run the
//! same code. A request's way: bytes → [`Shard::on_received`] → session → request borrowed from the buffer → route (wrong
//! core? hop) → local read or write, or a coordinator (`reads`, `writes`) → log group (`log_pump`) → answer.
//!
//! State lies in small cells, each borrowed for a few statements and never across an await or a call that may come back.
//! What is in memory is answered within the call that brought the question; only disk reads, log groups and background jobs
//! are tasks, and every one of them ends by itself.

mod apart;
mod debts;
mod dots;
mod expiry;
mod forward;
mod generation;
mod gets;
mod gossip;
mod gossip_links;
mod greeting;
mod hedges;
mod held;
mod hint_delivery;
mod hint_store;
mod hints;
mod latches;
mod link;
mod liveness;
mod log_pump;
mod members;
mod multi_get;
mod multi_put;
mod passed;
mod peers;
mod reads;
mod record;
mod repairs;
mod replica;
mod requester;
mod requests;
mod session;
mod set_writes;
mod sets;
mod settings;
mod slab;
mod stand_ins;
mod status;
mod tables;
mod time;
mod waiting;
mod wheel;
mod writes;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};

use ferrite_cluster::hints::Ledger;
use ferrite_cluster::{Clock, Ring};
use ferrite_lsm::{Engine, OpenError};
use ferrite_wire::{
    Actor, CoreId, Epoch, FrameKind, FrameView, NodeId, Parsed, PeerMessage, Request, Token, VnodeId, limits,
    parse_frame,
};

pub use liveness::{Absences, Progress};
pub use settings::ShardSettings;

use crate::env::{Connection, Env, Handler, Hop, Received, Sent};
use crate::recovered;
use apart::{APART_BYTES_MAX, APART_KEYS_MAX, Apart};
use debts::{HINTS_AT_ONCE, Owed};
use forward::ForwardOperation;
use gossip::Gossip;
use hedges::Hedges;
use held::Held;
use hint_delivery::DeliveryOperation;
use latches::Latches;
use link::Links;
use liveness::Liveness;
use log_pump::AckQueue;
use multi_get::MultiGet;
use multi_put::{MULTI_PUTS_MAX, MultiPut};
use passed::Passed;
use reads::ReadOperation;
use repairs::RepairOperation;
use requester::Requester;
use session::{Next, SessionKind, Sessions};
use slab::{OperationId, Slab};
use status::Counters;
use waiting::WaitingRoom;
use wheel::Wheel;
use writes::WriteOperation;

/// Grain of request deadlines, in nanoseconds.
const DEADLINE_GRAIN_NS: u64 = 4_000_000;
/// How often links and sessions are looked after, in nanoseconds.
const TEND_INTERVAL_NS: u64 = 20_000_000;
/// After so long without writes the log gives back the space that it keeps ready for them, in nanoseconds.
const REST_AFTER_NS: u64 = 10_000_000_000;
/// Deadlines of operations that have ended, from which they are pruned: 4 MiB of them.
const DEADLINES_LEFT_MAX: usize = 1 << 18;
/// Most multi-gets in flight on a core.
const MULTI_GETS_MAX: usize = 1_024;

/// Where a key belongs, as this core sees it.
#[derive(Clone, Copy, Debug)]
struct Route {
    token: Token,
    vnode: VnodeId,
    vnode_epoch: Epoch,
    /// This node's place among the replicas of the key's table, if it is one.
    position: Option<usize>,
    /// How many replicas the key's table has: the first so many of the preference list.
    replicas: usize,
    /// Most siblings of the key, in a table that keeps them; 0 = the last write wins.
    max_siblings: u16,
    /// The core of this node that owns the vnode, if it is not this one.
    hop: Option<CoreId>,
}

/// An operation this core coordinates.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for every replicated write")]
enum Operation {
    Read(Box<ReadOperation>),
    Repair(Box<RepairOperation>),
    Write(WriteOperation),
    Forward(ForwardOperation),
    Delivery(DeliveryOperation),
}

/// One core of a node.
pub struct Shard<E: Env> {
    env: E,
    settings: ShardSettings,
    engine: Engine<E::Disk, E::Pace>,
    me: Weak<Shard<E>>,
    actor: Actor,
    /// The actor of the dots that are minted from now on.
    dots: Cell<Actor>,
    /// How often the core's data was opened.
    life: u64,
    latches: RefCell<Latches>,
    apart: RefCell<Apart>,
    clock: RefCell<Clock>,
    ring: RefCell<Ring>,
    /// The tables, encoded: every peer has the same.
    tables: Vec<u8>,
    /// How the tables of members that were refused for it differ, at most one for each member.
    differing: RefCell<BTreeMap<NodeId, String>>,
    sessions: RefCell<Sessions>,
    links: RefCell<Links>,
    /// The node's part in gossip; on its first core.
    gossip: RefCell<Option<Gossip>>,
    liveness: Liveness,
    acks: RefCell<AckQueue>,
    waiting: RefCell<WaitingRoom>,
    operations: RefCell<Slab<Operation>>,
    /// What they keep.
    held: Held,
    multi_gets: RefCell<Slab<MultiGet>>,
    multi_puts: RefCell<Slab<MultiPut>>,
    deadlines: RefCell<Wheel<OperationId>>,
    hedges: RefCell<Hedges>,
    hop_backlog: RefCell<VecDeque<(CoreId, Hop)>>,
    /// Bytes of the frames in it.
    hop_backlog_bytes: Cell<usize>,
    counters: Counters,
    /// When the shard was opened.
    opened_ns: u64,
    pump_runs: Cell<bool>,
    job_runs: Cell<bool>,
    /// A periodic sync is in flight.
    sync_runs: Cell<bool>,
    disk_reads: Cell<usize>,
    hints: RefCell<Ledger>,
    /// Hints are being read, in so many tasks.
    hint_fetches: Cell<usize>,
    /// Writes among the operations that have ended and still owe.
    debts: Cell<usize>,
    /// What writes keep in mind for what they may owe.
    debts_held: Held,
    /// Hints that are yet to be made, for want of room in the log.
    owed: RefCell<VecDeque<Owed>>,
    /// When the last group became durable, while the log owes a mark.
    wrote_ns: Cell<Option<u64>>,
    /// The same, while the log keeps space ready.
    busy_ns: Cell<Option<u64>>,
    /// When links and sessions are looked after next.
    tend_ns: Cell<u64>,
    synced_ns: Cell<u64>,
    lease_staged: Cell<bool>,
    stopping: Cell<bool>,
    closed: Cell<bool>,
    /// Called once when a sync has failed.
    on_fence: RefCell<Option<Box<dyn FnOnce()>>>,
    fence_told: Cell<bool>,
    /// How many quarantines have been told of.
    quarantines_told: Cell<u64>,
    /// When scrubbing was last allowed some bytes.
    scrubbed_ns: Cell<u64>,
    /// What has expired for everybody.
    passed: RefCell<Passed>,
}

impl<E: Env> Shard<E> {
    /// Recovers the core's data and makes the shard ready to be told of connections. What was found is logged and counted.
    pub async fn open(env: E, settings: ShardSettings) -> Result<Rc<Shard<E>>, OpenError> {
        let vnodes =
            settings.placement.vnodes_of(settings.core).into_iter().map(|(vnode, _)| vnode).collect();
        let options = ferrite_lsm::Options { vnodes: Some(vnodes), ..settings.engine.clone() };
        let (engine, recovery) = Engine::open(env.disk(), env.pace(), options).await?;
        status::log_quarantined(settings.core, &recovery.quarantined);
        recovered::tell(settings.core, settings.engine.core, &recovery);
        let grew = settle_vnodes::<E>(&engine, &settings).await?;
        let dots = dots::restore(&env, &settings, &engine, &recovery, grew).await;
        let generation = match settings.core {
            CoreId(0) => Some(generation::begin(&env, &engine).await),
            _ => None,
        };
        let clock = time::restore(&env, &settings, &engine).await?;
        if engine.has_staged() {
            // What cannot be written now, on a full disk for instance, does not keep the node from starting.
            engine.commit().await.ok();
        }
        let hints = hint_store::restore::<E>(&settings, &engine).await?;
        let ring = Ring::new(settings.topology.clone(), settings.node);
        let mut tables = Vec::with_capacity(ring.tables().encoded_len());
        ring.tables().encode(&mut tables);
        let now_ns = env.now_ns();
        let shard = Rc::new_cyclic(|me| Shard {
            actor: Actor(env.random()),
            dots: Cell::new(dots),
            life: recovery.incarnation,
            latches: RefCell::new(Latches::new(settings.operations_max)),
            apart: RefCell::new(Apart::new(APART_KEYS_MAX, APART_BYTES_MAX)),
            engine,
            me: me.clone(),
            clock: RefCell::new(clock),
            ring: RefCell::new(ring),
            tables,
            differing: RefCell::default(),
            sessions: RefCell::default(),
            links: RefCell::default(),
            gossip: RefCell::default(),
            liveness: Liveness::default(),
            acks: RefCell::default(),
            waiting: RefCell::new(WaitingRoom::new(settings.waiting_bytes_max)),
            // How many may begin is said by `has_room_to_coordinate`.
            operations: RefCell::new(Slab::new(settings.operations_max + debts::DEBTS_MAX)),
            held: Held::new(settings.operation_bytes_max),
            multi_gets: RefCell::new(Slab::new(MULTI_GETS_MAX)),
            multi_puts: RefCell::new(Slab::new(MULTI_PUTS_MAX)),
            deadlines: RefCell::new(Wheel::new(now_ns, DEADLINE_GRAIN_NS)),
            hedges: RefCell::default(),
            hop_backlog: RefCell::default(),
            hop_backlog_bytes: Cell::new(0),
            counters: Counters::new(&recovery),
            opened_ns: now_ns,
            pump_runs: Cell::new(false),
            job_runs: Cell::new(false),
            sync_runs: Cell::new(false),
            disk_reads: Cell::new(0),
            hints: RefCell::new(hints),
            hint_fetches: Cell::new(0),
            debts: Cell::new(0),
            debts_held: Held::new(debts::DEBT_BYTES_MAX),
            owed: RefCell::default(),
            wrote_ns: Cell::new(None),
            busy_ns: Cell::new(Some(now_ns)),
            tend_ns: Cell::new(now_ns),
            synced_ns: Cell::new(now_ns),
            lease_staged: Cell::new(false),
            stopping: Cell::new(false),
            closed: Cell::new(false),
            on_fence: RefCell::default(),
            fence_told: Cell::new(false),
            quarantines_told: Cell::new(0),
            scrubbed_ns: Cell::new(now_ns),
            passed: RefCell::new(Passed::new(now_ns, env.wall_ms())),
            env,
            settings,
        });
        shard.add_contact_links();
        if let Some(generation) = generation {
            shard.start_gossip(generation);
        }
        shard.start_job();
        Ok(shard)
    }

    fn rc(&self) -> Rc<Shard<E>> {
        self.me.upgrade().expect("a shard is only called while somebody holds it")
    }

    /// Whether another operation may begin. Those that have ended and still owe take no place from it, and give it none.
    fn has_room_to_coordinate(&self) -> bool {
        self.operations.borrow().len() - self.debts.get() < self.settings.operations_max
    }

    /// Calls `told` once if a sync fails.
    pub fn on_fence(&self, told: impl FnOnce() + 'static) {
        *self.on_fence.borrow_mut() = Some(Box::new(told));
    }

    /// Whether a sync failed: the shard serves reads only.
    pub fn is_fenced(&self) -> bool {
        self.engine.is_fenced()
    }

    fn on_frame(
        self: &Rc<Self>,
        connection: Connection,
        kind: SessionKind,
        frame: &FrameView<'_>,
        raw: &[u8],
    ) -> Next {
        match kind {
            SessionKind::New => Next::close_unless(self.greet(connection, frame)),
            SessionKind::Client => self.on_client_frame(connection, frame, raw),
            SessionKind::Peer => Next::close_unless(self.on_peer_frame(connection, frame, raw)),
            SessionKind::Link(number) => Next::close_unless(self.on_link_frame(number, connection, frame)),
            SessionKind::Gossip(node) => Next::close_unless(self.on_gossip_frame(connection, node, frame)),
            SessionKind::GossipLink(number) => {
                Next::close_unless(self.on_gossip_link_frame(number, connection, frame))
            }
        }
    }

    /// A frame from a peer that connected to us: a replica message, or a question of the link's own.
    fn on_peer_frame(self: &Rc<Self>, connection: Connection, frame: &FrameView<'_>, raw: &[u8]) -> bool {
        let id = frame.header.request;
        let requester = Requester::Connection { connection, request: id, stale: false };
        match frame.header.kind {
            FrameKind::ReplicaWrite | FrameKind::HintedWrite | FrameKind::ReplicaRead => {
                let message = match PeerMessage::decode(frame.header.kind, frame.body) {
                    Ok(message) => message,
                    Err(error) => return self.refuse_bytes(connection, id, error),
                };
                let (PeerMessage::ReplicaWrite { key, .. }
                | PeerMessage::HintedWrite { key, .. }
                | PeerMessage::ReplicaRead { key, .. }) = &message
                else {
                    unreachable!("the kinds above");
                };
                let deadline_ns = self.env.now_ns() + self.timeout_ns(frame.header.deadline_us);
                if let Ok(Route { hop: Some(core), .. }) = self.route(key) {
                    let hop = Hop::Request { connection, from_peer: true, deadline_ns, frame: raw.to_vec() };
                    ferrite_lsm::cover::mark("peer's request hopped");
                    self.counters.hops.set(self.counters.hops.get() + 1);
                    // Nothing bounds how many questions peers send: only answers may wait for room.
                    if self.env.hop(core, hop).is_err() {
                        self.refuse_message(requester, &message, ferrite_wire::ErrorCode::Overloaded);
                    }
                } else {
                    self.on_peer_message(requester, frame, &message, deadline_ns);
                }
                true
            }
            FrameKind::Put | FrameKind::Delete => self.on_handed_on(connection, requester, frame, raw),
            FrameKind::Ping | FrameKind::Topology => match Request::decode(frame.header.kind, frame.body) {
                Ok(request) => {
                    self.execute(requester, frame.header.time, &request, 0);
                    true
                }
                Err(error) => self.refuse_bytes(connection, id, error),
            },
            _ => self.refuse(connection, id, ferrite_wire::ErrorCode::Unsupported, "not a peer's message"),
        }
    }

    /// How long a request may take whose header says so many microseconds.
    fn timeout_ns(&self, deadline_us: u32) -> u64 {
        match deadline_us {
            0 => self.settings.request_timeout_ns,
            us => u64::from(us) * 1_000,
        }
    }

    /// Closes a connection from this side.
    fn drop_connection(self: &Shard<E>, connection: Connection) {
        self.env.close(connection);
        self.forget(connection);
    }

    fn forget(&self, connection: Connection) {
        let kind = self.sessions.borrow_mut().close(connection);
        match kind {
            Some(SessionKind::Link(number)) => self.rc().on_link_cut(number, connection),
            Some(SessionKind::GossipLink(number)) => self.on_gossip_link_cut(number, connection),
            Some(SessionKind::New | SessionKind::Client | SessionKind::Peer | SessionKind::Gossip(_))
            | None => {}
        }
    }

    fn tend(self: &Rc<Self>, now_ns: u64) {
        self.tend_ns.set(now_ns + TEND_INTERVAL_NS);
        self.tend_links(now_ns);
        self.tend_progress(now_ns);
        self.tend_gossip(now_ns);
        let late = now_ns.saturating_sub(self.settings.half_sent_timeout_ns);
        let half_sent = self.sessions.borrow().half_sent_before(late);
        for connection in half_sent {
            let text = "a handshake or frame was not finished in time";
            self.refuse(connection, ferrite_wire::RequestId(0), ferrite_wire::ErrorCode::Malformed, text);
            self.drop_connection(connection);
        }
        self.tell_fence();
        let operations = self.operations.borrow();
        let mut deadlines = self.deadlines.borrow_mut();
        if deadlines.len() > operations.len() + DEADLINES_LEFT_MAX {
            deadlines.prune(|id| operations.contains(*id));
        }
        drop((operations, deadlines));
        self.tend_clock();
        self.tend_log(now_ns);
        self.mark_hints();
        if !self.stopping.get() && self.waiting.borrow().is_empty() {
            self.make_hints(HINTS_AT_ONCE);
        }
        self.deliver_hints();
        self.tend_scrub(now_ns);
        self.admit_waiting();
        let drift_ms = self.settings.clock_drift_max_ms;
        let passed_ms = self.passed.borrow_mut().at(now_ns, self.env.wall_ms(), drift_ms);
        self.engine.set_expired(passed_ms);
        self.start_job();
    }

    /// Allows scrubbing its share, and tells of what was found damaged.
    fn tend_scrub(&self, now_ns: u64) {
        let since_ns = now_ns.saturating_sub(self.scrubbed_ns.replace(now_ns));
        let bytes = u128::from(self.settings.scrub_bytes_per_s) * u128::from(since_ns) / 1_000_000_000;
        self.engine.allow_scrub(bytes as u64);
        let quarantines = self.engine.quarantines();
        if self.quarantines_told.replace(quarantines) != quarantines {
            self.renew_actor();
            status::log_quarantined(self.settings.core, &self.engine.quarantined());
        }
    }

    /// The log's own rhythm: periodic syncs, and a mark once writing has paused.
    fn tend_log(self: &Rc<Self>, now_ns: u64) {
        if self.engine.is_fenced() {
            return;
        }
        let sync_due = |every| now_ns.saturating_sub(self.synced_ns.get()) >= every;
        // Beside the pump, not in its turn: under load the pump never rests, and the interval is a promise.
        if self.settings.sync_interval_ns.is_some_and(sync_due) && !self.sync_runs.replace(true) {
            self.synced_ns.set(now_ns);
            let shard = self.rc();
            self.env.spawn(async move {
                // A failure fences the engine, which is told of at the next tick.
                shard.engine.sync_now().await.ok();
                shard.sync_runs.set(false);
            });
        }
        if self.busy_ns.get().is_some_and(|at| now_ns.saturating_sub(at) >= REST_AFTER_NS) {
            self.busy_ns.set(None);
            self.engine.rest();
        }
        let mark_due = |at| now_ns.saturating_sub(at) >= self.settings.mark_after_ns;
        if self.wrote_ns.get().is_some_and(mark_due) && !self.pump_runs.replace(true) {
            let shard = self.rc();
            self.env.spawn(async move {
                shard.wrote_ns.set(None);
                shard.engine.mark().await;
                shard.pump_runs.set(false);
                shard.start_pump();
            });
        }
    }
}

/// The first start persists which store holds which vnode. Later starts have found the same vnodes here, or the engine
/// refused to open: the configuration has changed under the data then. Served on, acknowledged records would be out of
/// sight, and a replica that is empty would count in quorums. Says whether there were some that were not here before.
async fn settle_vnodes<E: Env>(
    engine: &Engine<E::Disk, E::Pace>,
    settings: &ShardSettings,
) -> Result<bool, OpenError> {
    let mut mine = settings.placement.vnodes_of(settings.core);
    mine.retain(|(vnode, _)| engine.vnode_store(*vnode).is_none());
    engine.assign(&mine).await?;
    Ok(!mine.is_empty())
}

impl<E: Env> Handler for Shard<E> {
    fn on_accepted(&self, connection: Connection) {
        if self.stopping.get() {
            return self.env.close(connection);
        }
        self.sessions.borrow_mut().open(connection, SessionKind::New, self.env.now_ns());
    }

    fn on_connected(&self, connection: Connection) {
        self.hello(connection);
    }

    fn on_received(&self, connection: Connection, bytes: &[u8]) -> Received {
        let shard = self.rc();
        let mut used = 0;
        loop {
            // Asked anew for each frame: the first changes it, and any may close the connection.
            let Some(kind) = self.sessions.borrow().kind(connection) else { return Received::Close };
            if kind == SessionKind::Client {
                let several = shard.get_several(connection, &bytes[used..]);
                if several > 0 {
                    used += several;
                    continue;
                }
            }
            let parsed = match kind {
                SessionKind::New => self.parse_greeting(&bytes[used..]),
                SessionKind::Client | SessionKind::Peer | SessionKind::Link(_) => {
                    parse_frame(&bytes[used..], limits::BODY_BYTES_MAX)
                }
                SessionKind::Gossip(_) | SessionKind::GossipLink(_) => {
                    parse_frame(&bytes[used..], limits::GOSSIP_BYTES_MAX)
                }
            };
            match parsed {
                Ok(Parsed::Frame { frame, bytes: len }) => {
                    match shard.on_frame(connection, kind, &frame, &bytes[used..used + len]) {
                        Next::Frame => used += len,
                        Next::Later => {
                            if let Some(session) = self.sessions.borrow_mut().get_mut(connection) {
                                session.half_sent_since_ns = None;
                            }
                            return Received::Consumed { used, need: 0 };
                        }
                        Next::Close => {
                            self.forget(connection);
                            return Received::Close;
                        }
                    }
                }
                Ok(Parsed::Need { bytes: need }) => {
                    let left = bytes.len() - used;
                    let now_ns = self.env.now_ns();
                    if let Some(session) = self.sessions.borrow_mut().get_mut(connection)
                        && kind != SessionKind::New
                    {
                        // A frame that grows is not stuck; one that stands still from one receive to the next is.
                        session.half_sent_since_ns = (left > 0).then_some(now_ns);
                    }
                    return Received::Consumed { used, need: if left == 0 { 0 } else { need } };
                }
                Err(error) => {
                    self.refuse_bytes(connection, ferrite_wire::RequestId(0), error);
                    self.forget(connection);
                    return Received::Close;
                }
            }
        }
    }

    fn on_closed(&self, connection: Connection) {
        self.forget(connection);
    }

    fn on_hop(&self, from: CoreId, message: Hop) {
        let shard = self.rc();
        match message {
            Hop::Progress(progress) => self.on_progress(from, progress),
            Hop::Absences(absences) => self.on_absences(absences),
            Hop::Reply { connection, frame } => {
                if shard.take_item_reply(connection, &frame) || shard.take_entry_reply(connection, &frame) {
                    return;
                }
                if let Some(session) = self.sessions.borrow_mut().get_mut(connection) {
                    session.in_flight = session.in_flight.saturating_sub(1);
                }
                let sent = self.env.send(connection, |out| out.extend_from_slice(&frame));
                if matches!(sent, Sent::Full | Sent::Crowded) {
                    let Ok(Parsed::Frame { frame, .. }) = parse_frame(&frame, limits::BODY_BYTES_MAX) else {
                        unreachable!("the other core made this frame");
                    };
                    self.answer_without_room(connection, frame.header.request, frame.header.kind);
                }
            }
            Hop::Request { connection, from_peer, deadline_ns, frame } => {
                let Ok(Parsed::Frame { frame, .. }) = parse_frame(&frame, limits::BODY_BYTES_MAX) else {
                    unreachable!("the other core checked this frame");
                };
                let requester = Requester::Core { core: from, connection, request: frame.header.request };
                if from_peer && matches!(frame.header.kind, FrameKind::Put | FrameKind::Delete) {
                    let request =
                        Request::decode(frame.header.kind, frame.body).expect("the other core decoded it");
                    shard.take_over(requester, frame.header.time, &request, deadline_ns);
                } else if from_peer {
                    let message = PeerMessage::decode(frame.header.kind, frame.body)
                        .expect("the other core decoded it");
                    if self.is_expired(deadline_ns, expiry::Waited::AtReplica) {
                        self.refuse_message(requester, &message, ferrite_wire::ErrorCode::Expired);
                    } else {
                        shard.on_peer_message(requester, &frame, &message, deadline_ns);
                    }
                } else if self.is_expired(deadline_ns, expiry::Waited::InQueue) {
                    self.answer_error(requester, ferrite_wire::ErrorCode::Expired);
                } else if self.stopping.get() {
                    self.answer_error(requester, ferrite_wire::ErrorCode::Stopping);
                } else {
                    let request =
                        Request::decode(frame.header.kind, frame.body).expect("the other core decoded it");
                    shard.execute(requester, frame.header.time, &request, deadline_ns);
                }
            }
        }
    }

    fn on_batch_end(&self) {
        self.liveness.turn();
        self.flush_hops();
        self.rc().start_pump();
    }

    fn next_timer(&self) -> Option<u64> {
        let (deadline, hedge) = (self.deadlines.borrow().next(), self.next_hedge());
        let timers = [Some(self.tend_ns.get()), deadline, hedge, self.next_gossip_ns()];
        timers.into_iter().flatten().min()
    }

    fn on_timer(&self, now_ns: u64) {
        let shard = self.rc();
        shard.hedge_due(now_ns);
        let mut due = Vec::new();
        self.deadlines.borrow_mut().take_due(now_ns, &mut due);
        for operation in due {
            shard.on_deadline(operation);
        }
        if now_ns >= self.tend_ns.get() {
            shard.tend(now_ns);
        }
        shard.tick_gossip(now_ns);
        self.flush_hops();
        shard.start_pump();
    }

    fn on_stop(&self) {
        self.stopping.set(true);
        self.rc().leave_gossip();
        self.engine.stop_compactions();
    }

    fn is_drained(&self) -> bool {
        if self.closed.get() {
            return true;
        }
        let idle = self.acks.borrow().len() == 0
            && self.waiting.borrow().is_empty()
            // What a write still owes when the node stops is not waited for.
            && self.operations.borrow().len() == self.debts.get()
            && self.hint_fetches.get() == 0
            && self.multi_gets.borrow().len() == 0
            && self.multi_puts.borrow().len() == 0
            && self.latches.borrow().is_empty()
            && self.hop_backlog.borrow().is_empty()
            && self.disk_reads.get() == 0
            && !self.pump_runs.get()
            && !self.sync_runs.get()
            && !self.lease_staged.get()
            && !self.job_runs.get();
        if idle && !self.engine.has_staged() {
            self.pump_runs.set(true);
            let shard = self.rc();
            self.env.spawn(async move {
                shard.leave_actor();
                if let Err(error) = shard.engine.close().await {
                    tracing::error!(core = shard.settings.core.0, %error, "the log was not closed cleanly");
                }
                shard.closed.set(true);
            });
        }
        false
    }
}

impl<E: Env> std::fmt::Debug for Shard<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shard(node {}, core {})", self.settings.node.0, self.settings.core.0)
    }
}

#[cfg(test)]
mod tests;
