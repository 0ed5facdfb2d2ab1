//! A shard: all that one core of a node does with data.
//!
//! It is written over an [`Env`] and told what happens through [`Handler`](crate::env::Handler), so that the reactor and the simulator run the
//! same code. A request's way: bytes → [`Handler::on_received`](crate::env::Handler::on_received) → session → request borrowed from the buffer → route (wrong
//! core? hop) → local read or write, or a coordinator (`reads`, `writes`) → log group (`log_pump`) → answer.
//!
//! State lies in small cells, each borrowed for a few statements and never across an await or a call that may come back.
//! What is in memory is answered within the call that brought the question; only disk reads, log groups and background jobs
//! are tasks, and every one of them ends by itself.

mod afar;
mod apart;
mod backlog;
mod batches;
mod clock_bounds;
mod comparisons;
mod debts;
mod dots;
mod expiry;
mod forward;
mod generation;
mod gets;
mod gossip;
mod gossip_links;
mod gossip_sessions;
mod greeting;
mod handler;
mod hedges;
mod held;
mod hint_counts;
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
mod questions;
mod reach;
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
mod standstill;
mod status;
mod stop;
mod tables;
mod time;
mod upkeep;
mod waiting;
mod walls;
mod wheel;
mod writes;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::{Rc, Weak};

use ferrite_cluster::hints::Ledger;
use ferrite_cluster::{Clock, Ring, Walls};
use ferrite_lsm::{DiskError, Engine, OpenError};
use ferrite_wire::{
    Actor, CoreId, Epoch, FrameKind, FrameView, NodeId, PeerMessage, Request, Token, VnodeId,
};

pub use gossip_links::UNLISTED_MAX;
pub use hint_counts::HintCounts;
pub use liveness::{Absence, Absences, Progress};
pub(crate) use sets::joining_sets;
pub use settings::{DEADLINE_MAX_NS, Joining, PARTS_MAX, ShardSettings};
pub use stop::DRAIN_MS;

use crate::env::{Connection, Env, Hop};
use crate::recovered;
use afar::Afar;
use apart::{APART_KEYS_MAX, Apart};
use backlog::Backlog;
use comparisons::Comparisons;
use debts::Owed;
use forward::ForwardOperation;
use gossip::Gossip;
use hedges::Hedges;
use held::Held;
use hint_delivery::DeliveryOperation;
use latches::Latches;
use link::Links;
use liveness::Liveness;
use log_pump::AckQueue;
use multi_get::{MULTI_GETS_MAX, MultiGet};
use multi_put::{MULTI_PUTS_MAX, MultiPut};
use passed::Passed;
use questions::Questions;
use reads::ReadOperation;
use repairs::RepairOperation;
use requester::Requester;
use session::{Next, SessionKind, Sessions};
use slab::{OperationId, Slab};
use standstill::Standstill;
use status::Counters;
use waiting::WaitingRoom;
use wheel::Wheel;
use writes::WriteOperation;

/// Grain of request deadlines, in nanoseconds.
const DEADLINE_GRAIN_NS: u64 = 4_000_000;

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
    /// The number under which the clock's bound was last staged.
    bound_number: Cell<u64>,
    walls: RefCell<Walls>,
    /// What was told last of this node's wall clock: it is ahead.
    is_ahead_told: Cell<bool>,
    /// Whether that was compared with others', or others were waited for for long enough.
    is_judged: Cell<bool>,
    /// Whether it was known at the start what earlier lives may have minted.
    is_bound_known: bool,
    /// Whether the latest bound that was staged says that it is.
    is_bound_told_known: Cell<bool>,
    /// Records of keys of this core may lie as far ahead as this, and no further. They look before they write while it is beyond the drift.
    afar: Afar,
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
    /// Parts of multi-gets and multi-puts in flight.
    parts: Cell<usize>,
    questions: Questions,
    deadlines: RefCell<Wheel<OperationId>>,
    hedges: RefCell<Hedges>,
    comparisons: Comparisons,
    backlog: RefCell<Backlog>,
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
    standstill: Standstill,
    synced_ns: Cell<u64>,
    lease_staged: Cell<bool>,
    stopping: Cell<bool>,
    /// When it was asked to stop.
    stopped_ns: Cell<u64>,
    /// Until when hints are made of what is owed, once it stops and they can be.
    last_hints_ns: Cell<Option<u64>>,
    closed: Cell<Option<Result<(), DiskError>>>,
    /// Called once when a sync has failed.
    on_fence: RefCell<Option<Box<dyn FnOnce()>>>,
    fence_told: Cell<bool>,
    /// Whether members are in several datacenters.
    has_datacenters: bool,
    /// Whether this node is yet to become an owner: then it takes part in the gossip, and in nothing else.
    is_joining: bool,
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
        let (clock, bound_number, is_bound_known) = time::restore(&env, &settings, &engine).await?;
        let afar = afar::restore::<E>(&engine).await;
        if engine.has_staged() {
            // What cannot be written now, on a full disk for instance, does not keep the node from starting.
            engine.commit().await.ok();
        }
        let hints = hint_store::restore::<E>(&settings, &engine).await?;
        let ring = Ring::new(settings.topology.clone(), settings.node);
        let mut tables = Vec::with_capacity(ring.tables().encoded_len());
        ring.tables().encode(&mut tables);
        let datacenter = |node: &ferrite_wire::NodeEntry| node.datacenter.clone();
        let datacenters: BTreeSet<String> = settings.topology.nodes.iter().map(datacenter).collect();
        let now_ns = env.now_ns();
        let shard = Rc::new_cyclic(|me| Shard {
            actor: Actor(env.random()),
            dots: Cell::new(dots),
            life: recovery.incarnation,
            latches: RefCell::new(Latches::new(settings.operations_max)),
            apart: RefCell::new(Apart::new(APART_KEYS_MAX, settings.apart_bytes_max)),
            engine,
            has_datacenters: datacenters.len() > 1,
            is_joining: settings.is_joining(),
            me: me.clone(),
            clock: RefCell::new(clock),
            bound_number: Cell::new(bound_number),
            walls: RefCell::default(),
            is_ahead_told: Cell::new(false),
            is_judged: Cell::new(false),
            is_bound_known,
            is_bound_told_known: Cell::new(is_bound_known),
            afar: Afar::new(afar),
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
            parts: Cell::new(0),
            questions: Questions::new(settings.cores, settings.hops_max),
            deadlines: RefCell::new(Wheel::new(now_ns, DEADLINE_GRAIN_NS)),
            hedges: RefCell::default(),
            comparisons: Comparisons::default(),
            backlog: RefCell::default(),
            counters: Counters::new(&recovery),
            opened_ns: now_ns,
            pump_runs: Cell::new(false),
            job_runs: Cell::new(false),
            sync_runs: Cell::new(false),
            disk_reads: Cell::new(0),
            hints: RefCell::new(hints),
            hint_fetches: Cell::new(0),
            debts: Cell::new(0),
            debts_held: Held::new(settings.debt_bytes_max),
            owed: RefCell::default(),
            wrote_ns: Cell::new(None),
            busy_ns: Cell::new(Some(now_ns)),
            tend_ns: Cell::new(now_ns),
            standstill: Standstill::default(),
            synced_ns: Cell::new(now_ns),
            lease_staged: Cell::new(false),
            stopping: Cell::new(false),
            stopped_ns: Cell::new(0),
            last_hints_ns: Cell::new(None),
            closed: Cell::new(None),
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

    /// Whether the disk did not give some table when it was opened: its keys are refused until the next start.
    pub fn has_unread_tables(&self) -> bool {
        !self.engine.unreadable().is_empty()
    }

    /// Whether what was here before closed its log in order, and nothing of that was lost.
    pub fn was_closed_in_order(&self) -> bool {
        self.counters.closed_cleanly
    }

    /// Whether something is known to be damaged for good: its keys are refused until replicas have brought it again.
    pub fn has_quarantined(&self) -> bool {
        !self.engine.quarantined().is_empty()
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
                let now_ns = self.env.now_ns();
                let lay_ns = self.env.lay_ns(connection);
                let late_ns = self.standstill.late_from_peer_ns(now_ns, self.tend_ns.get(), lay_ns);
                let deadline_ns = now_ns + self.given_ns(frame.header.deadline_us).saturating_sub(late_ns);
                if self.is_expired(deadline_ns, expiry::Waited::AtReplica) {
                    self.refuse_message(requester, &message, ferrite_wire::ErrorCode::Expired);
                } else if let Ok(Route { hop: Some(core), .. }) = self.route(key) {
                    let hop = Hop::Request { connection, from_peer: true, deadline_ns, frame: raw.to_vec() };
                    ferrite_lsm::cover::mark("peer's request hopped");
                    self.counters.hops.set(self.counters.hops.get() + 1);
                    // Nothing bounds how many questions peers send: only answers may wait for room.
                    if let Err(code) = self.ask_core(core, hop) {
                        self.refuse_message(requester, &message, code);
                    }
                } else {
                    self.on_peer_message(requester, frame, &message, deadline_ns);
                }
                true
            }
            FrameKind::Put | FrameKind::Delete => self.on_handed_on(connection, requester, frame, raw),
            FrameKind::Ping | FrameKind::Topology => match Request::decode(frame.header.kind, frame.body) {
                Ok(Request::Ping) => {
                    self.tell_wall(requester);
                    true
                }
                Ok(request) => {
                    self.execute(requester, frame.header.time, &request, 0);
                    true
                }
                Err(error) => self.refuse_bytes(connection, id, error),
            },
            _ => self.refuse(connection, id, ferrite_wire::ErrorCode::Unsupported, "not a peer's message"),
        }
    }

    /// How long a request that is read now may take whose header says so many microseconds, and that is older than it seems by `came_late_ns`. What this core stood
    /// still meanwhile is in that, and is not taken off twice.
    fn timeout_ns(&self, deadline_us: u32, came_late_ns: u64) -> u64 {
        let late_ns = self.standstill.late_ns(self.env.now_ns(), self.tend_ns.get(), came_late_ns);
        self.given_ns(deadline_us).saturating_sub(late_ns)
    }

    /// How long a header gives a request that says so many microseconds.
    fn given_ns(&self, deadline_us: u32) -> u64 {
        let by_default_ns = self.settings.request_timeout_ns;
        match deadline_us {
            0 => by_default_ns,
            us => (u64::from(us) * 1_000).min(self.settings.deadline_max_ns.max(by_default_ns)),
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

impl<E: Env> std::fmt::Debug for Shard<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shard(node {}, core {})", self.settings.node.0, self.settings.core.0)
    }
}

#[cfg(test)]
mod tests;
