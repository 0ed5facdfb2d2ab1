//! What clients ask, from frame to answer or to a coordinator.

use std::rc::Rc;

use ferrite_wire::{
    CoreId, DecodeError, Epoch, ErrorCode, FrameView, Key, Level, Order, Reply, Request, RequestId, SLOPPY,
    Token, Version, VersionFlags,
};

use super::afar::OwnedKey;
use super::expiry::Waited;
use super::log_pump::Ack;
use super::multi_put::Terms;
use super::record::{engine_key, record_of, version_of};
use super::requester::Requester;
use super::tables::{TableRefusal, usable};
use super::writes::Write;
use super::{Next, Route, Shard};
use crate::env::{Connection, Env, Hop};

impl<E: Env> Shard<E> {
    /// A client's frame. `raw` is the whole of it, for a hop.
    pub(super) fn on_client_frame(
        self: &Rc<Self>,
        connection: Connection,
        frame: &FrameView<'_>,
        raw: &[u8],
    ) -> Next {
        let id = frame.header.request;
        let request = match Request::decode(frame.header.kind, frame.body) {
            Ok(request) => request,
            // The frame is whole and its checksum holds: this request is refused, the connection lives.
            Err(DecodeError::TooLong { .. }) => {
                self.refuse(connection, id, ErrorCode::TooLarge, "a key or value is longer than its limit");
                return Next::Frame;
            }
            Err(DecodeError::Unknown { field: "request", .. }) => {
                self.refuse(connection, id, ErrorCode::Unsupported, "not a request");
                return Next::Close;
            }
            Err(error) => {
                self.refuse_bytes(connection, id, error);
                return Next::Close;
            }
        };
        if let Some(level) = level_of(&request) {
            if self.is_joining {
                let text =
                    "this node has not joined the cluster and owns nothing: ask a node that is not joining";
                self.refuse(connection, id, ErrorCode::NotJoined, text);
                return Next::Frame;
            }
            if level.is_of_datacenters() && self.has_datacenters {
                let text =
                    "levels of datacenters are not there yet where there are several: say ONE, QUORUM or ALL";
                self.refuse(connection, id, ErrorCode::Unsupported, text);
                return Next::Frame;
            }
        }
        if let Request::Get { epoch, level, key, .. } = &request
            && let Some(next) = self.get_here(connection, id, *epoch, *level, key)
        {
            return next;
        }
        self.on_request(connection, frame, raw, &request);
        Next::Frame
    }

    /// A client's request that takes the long way.
    pub(super) fn on_request(
        self: &Rc<Self>,
        connection: Connection,
        frame: &FrameView<'_>,
        raw: &[u8],
        request: &Request<'_>,
    ) {
        let id = frame.header.request;
        let came_late_ns = self.came_late_ns(connection, frame, request);
        let deadline_ns = self.env.now_ns() + self.timeout_ns(frame.header.deadline_us, came_late_ns);
        if self.stopping.get() {
            self.refuse(connection, id, ErrorCode::Stopping, "this node is shutting down");
            return;
        }
        let Some(requester) = self.admit(connection, id, request_epoch(request)) else {
            self.refuse(connection, id, ErrorCode::Overloaded, "too many requests in flight");
            return;
        };
        if self.is_expired(deadline_ns, Waited::InSocket) {
            return self.answer_error(requester, ErrorCode::Expired);
        }
        let route = single_key(request).map(|key| self.route(key));
        let elsewhere = match route {
            Some(Ok(route)) => self.elsewhere(request, route),
            Some(Err(_)) | None => None,
        };
        if let Some(core) = elsewhere {
            if !self.may_ask_core(core, connection) {
                ferrite_lsm::cover::mark("too much was asked of other cores");
                return self.answer_error(requester, ErrorCode::Overloaded);
            }
            let hop = Hop::Request { connection, from_peer: false, deadline_ns, frame: raw.to_vec() };
            ferrite_lsm::cover::mark("client's request hopped");
            self.counters.hops.set(self.counters.hops.get() + 1);
            if let Err(code) = self.ask_core(core, hop) {
                self.answer_error(requester, code);
            }
            return;
        }
        self.execute_at(requester, frame.header.time, request, route, deadline_ns);
    }

    /// By how much a write may be older than it seems, in nanoseconds: its frame took that long to come in whole, or lay in its socket because the connection was not
    /// read from. Its client may have given it up, and written something else since. A read harms nobody.
    pub(super) fn came_late_ns(
        &self,
        connection: Connection,
        frame: &FrameView<'_>,
        request: &Request<'_>,
    ) -> u64 {
        if frame.header.deadline_us == 0 {
            return 0;
        }
        if !matches!(request, Request::Put { .. } | Request::Delete { .. } | Request::MultiPut { .. }) {
            return 0;
        }
        let half_sent = self.sessions.borrow_mut().get_mut(connection).and_then(|session| session.half_sent);
        let came_for_ns = half_sent.map_or(0, |half| half.age_ns(self.env.now_ns()));
        came_for_ns.max(self.env.lay_ns(connection))
    }

    /// The core that carries a request of one key out, if it is not this one.
    pub(super) fn elsewhere(&self, request: &Request<'_>, route: Route) -> Option<CoreId> {
        route.hop.or_else(|| self.minting_core(request, route))
    }

    /// The core whose clock mints this node's versions of a key that the node is no replica of, if it is not this one. With a clock for
    /// each core that a client happens to reach, a later write through the same node could get the lower order.
    fn minting_core(&self, request: &Request<'_>, route: Route) -> Option<CoreId> {
        let is_write = matches!(request, Request::Put { .. } | Request::Delete { .. });
        let core = self.settings.placement.core(route.vnode);
        let mints_here = is_write && route.position.is_none() && !route.has_siblings();
        (mints_here && core != self.settings.core).then_some(core)
    }

    /// Counts a request against its connection's bound. `None` = over it.
    fn admit(&self, connection: Connection, request: RequestId, epoch: Epoch) -> Option<Requester> {
        let mut sessions = self.sessions.borrow_mut();
        let session = sessions.get_mut(connection)?;
        if session.in_flight >= self.settings.requests_per_connection_max {
            return None;
        }
        session.in_flight += 1;
        let stale = epoch != Epoch(0) && epoch < self.ring.borrow().epoch();
        Some(Requester::Connection { connection, request, stale })
    }

    /// Carries out a request that belongs to this core.
    pub(super) fn execute(
        self: &Rc<Self>,
        requester: Requester,
        time: Order,
        request: &Request<'_>,
        deadline_ns: u64,
    ) {
        let route = single_key(request).map(|key| self.route(key));
        self.execute_at(requester, time, request, route, deadline_ns);
    }

    /// As [`Shard::execute`]; `route` is that of the request's key, if it has one.
    pub(super) fn execute_at(
        self: &Rc<Self>,
        requester: Requester,
        time: Order,
        request: &Request<'_>,
        route: Option<Result<Route, TableRefusal>>,
        deadline_ns: u64,
    ) {
        let route = match route {
            None => None,
            Some(Ok(route)) => Some(route),
            Some(Err(refusal)) => return self.answer_table_refusal(requester, refusal),
        };
        let routed = || route.expect("a request of one key has a route");
        if let Some(route) = route.filter(Route::has_siblings)
            && let Request::Put { .. } | Request::Delete { .. } = request
        {
            let counter = match request {
                Request::Put { .. } => &self.counters.puts,
                _ => &self.counters.deletes,
            };
            counter.set(counter.get() + 1);
            return match route.position {
                Some(_) => self.write_set(requester, route, time, request, deadline_ns),
                None => self.forward(requester, route, time, request, deadline_ns),
            };
        }
        if let Request::Put { context, .. } | Request::Delete { context, .. } = request
            && !context.is_empty()
        {
            // Whoever sends one counts on it that what came since the read stays.
            let text = "the key's table keeps the last write, which no context holds back: put without one";
            self.counters.count_error(ErrorCode::BadContext);
            return self.answer(requester, &Reply::Error { code: ErrorCode::BadContext, text });
        }
        let write_of = |level, options, key, version, value| {
            let (route, sloppy) = (routed(), options & SLOPPY != 0);
            Write { requester, route, level, sloppy, key, version, value, given: version, deadline_ns }
        };
        match *request {
            Request::Ping => self.answer(requester, &Reply::Pong),
            Request::Topology { .. } => {
                let topology = self.ring.borrow().topology_bytes();
                self.answer(requester, &Reply::Topology(&topology));
            }
            Request::Status => {
                let text = self.status();
                self.answer(requester, &Reply::Status(&text));
            }
            Request::Hints(action) => {
                let text = self.hints_text(action);
                self.answer(requester, &Reply::Status(&text));
            }
            Request::Get { level, key, .. } => {
                self.counters.gets.set(self.counters.gets.get() + 1);
                self.get(requester, routed(), level, &key, deadline_ns);
            }
            Request::Put { level, options, key, ttl_ms, value, .. } => {
                self.counters.puts.set(self.counters.puts.get() + 1);
                let mut version = Version::default();
                let ttl_ms = self.ttl_ms(key.table, ttl_ms);
                if ttl_ms > 0 {
                    version.flags.0 |= VersionFlags::EXPIRES;
                    version.expiry_ms = self.env.wall_ms().saturating_add(ttl_ms);
                }
                self.put(time, write_of(level, options, key, version, value));
            }
            Request::Delete { level, options, key, .. } => {
                self.counters.deletes.set(self.counters.deletes.get() + 1);
                let version = Version { flags: VersionFlags(VersionFlags::TOMBSTONE), ..Version::default() };
                self.put(time, write_of(level, options, key, version, b""));
            }
            Request::MultiGet { level, keys, .. } => {
                self.counters.gets.set(self.counters.gets.get() + keys.len() as u64);
                self.multi_get(requester, level, keys, deadline_ns);
            }
            Request::MultiPut { level, options, entries, .. } => {
                self.multi_put(requester, entries, Terms { time, level, options, deadline_ns });
            }
        }
    }

    /// Reads one key for a client.
    pub(super) fn get(
        self: &Rc<Self>,
        requester: Requester,
        route: Route,
        level: Level,
        key: &Key<'_>,
        deadline_ns: u64,
    ) {
        let is_compared = self.is_compared_after(level.needed(route.replicas), route.replicas);
        self.get_alone_or_with_others(requester, route, level, key, deadline_ns);
        if is_compared {
            self.compare_replicas(route, key);
        }
    }

    fn get_alone_or_with_others(
        self: &Rc<Self>,
        requester: Requester,
        route: Route,
        level: Level,
        key: &Key<'_>,
        deadline_ns: u64,
    ) {
        if route.position.is_some() && level.needed(route.replicas) == 1 {
            let context_hash = route.context_hash(key);
            return self.local_read(route, key, deadline_ns, move |shard, found| match found {
                Ok(None) => shard.answer(requester, &Reply::Absent { answered: 1 }),
                Ok(Some(record)) => {
                    let version = version_of(&record);
                    shard.with_reply(
                        || context_hash,
                        &version,
                        record.value,
                        1,
                        |reply| shard.answer_seen(requester, reply, version.order),
                    );
                }
                Err(code) => shard.answer_error(requester, code),
            });
        }
        self.coordinate_read(requester, route, level, key, deadline_ns);
    }

    /// Mints the order of a write, above what its client has seen, and sees to its replicas, once it is sure that no record from afar lies there.
    fn put(self: &Rc<Self>, seen: Order, write: Write<'_>) {
        if !self.must_look(&write.route) {
            return self.put_at_once(seen, write);
        }
        let Some(holding) = self.hold_record(&write.key, write.value) else {
            return self.answer_error(write.requester, ErrorCode::Overloaded);
        };
        let (owned, value) = (OwnedKey::of(&write.key), write.value.to_vec());
        let Write { requester, route, level, sloppy, version, given, deadline_ns, .. } = write;
        self.look_first(&route, &write.key, None, deadline_ns, holding, move |shard, looked| match looked {
            Ok(()) => {
                let (key, value) = (owned.key(), &value[..]);
                let write =
                    Write { requester, route, level, sloppy, key, version, value, given, deadline_ns };
                shard.put_at_once(seen, write);
            }
            Err(code) => shard.answer_error(requester, code),
        });
    }

    fn put_at_once(self: &Rc<Self>, seen: Order, mut write: Write<'_>) {
        let Write { requester, route, level, key, value, deadline_ns, .. } = write;
        if value.len() > self.settings.value_bytes_max {
            return self.answer_error(requester, ErrorCode::TooLarge);
        }
        if self.engine.is_fenced() && route.position.is_some() {
            return self.answer_error(requester, ErrorCode::Fenced);
        }
        match self.mint(seen) {
            Ok(order) => (write.version.order, write.version.actor) = (order, self.actor),
            Err(code) => return self.answer_error(requester, code),
        }
        write.given = write.version;
        if route.replicas == 1 && route.position.is_some() {
            if level.needed(1) > 1 {
                return self.answer_error(requester, ErrorCode::Unavailable);
            }
            let ack = Ack::Client { requester, version: write.version, deadline_ns };
            let key = engine_key(&key, route.vnode, route.token);
            let record = record_of(&write.version, value);
            if let Err(code) = self.stage_by(deadline_ns, key, record, route.vnode_epoch.0, ack) {
                self.answer_error(requester, code);
            }
            return;
        }
        self.coordinate_write(&write);
    }

    /// Where a key belongs.
    #[inline]
    pub(super) fn route(&self, key: &Key<'_>) -> Result<Route, TableRefusal> {
        let ring = self.ring.borrow();
        let table = usable(&ring, key.table)?;
        let token: Token = key.token(ring.hash_seed());
        let vnode = token.vnode(ring.vnodes());
        let replicas = ring.replicas_of(table, vnode);
        let position = ring.position_of_me(vnode).filter(|position| *position < replicas);
        let owner = self.settings.placement.core(vnode);
        let hop = (position.is_some() && owner != self.settings.core).then_some(owner);
        let (vnode_epoch, max_siblings) = (ring.vnode_epoch(vnode), table.max_siblings);
        Ok(Route { token, vnode, vnode_epoch, position, replicas, max_siblings, hop })
    }
}

fn single_key<'r>(request: &'r Request<'_>) -> Option<&'r Key<'r>> {
    match request {
        Request::Get { key, .. } | Request::Put { key, .. } | Request::Delete { key, .. } => Some(key),
        Request::Ping
        | Request::Topology { .. }
        | Request::Status
        | Request::Hints(_)
        | Request::MultiGet { .. }
        | Request::MultiPut { .. } => None,
    }
}

fn level_of(request: &Request<'_>) -> Option<Level> {
    match request {
        Request::Get { level, .. }
        | Request::Put { level, .. }
        | Request::Delete { level, .. }
        | Request::MultiGet { level, .. }
        | Request::MultiPut { level, .. } => Some(*level),
        Request::Ping | Request::Topology { .. } | Request::Status | Request::Hints(_) => None,
    }
}

fn request_epoch(request: &Request<'_>) -> Epoch {
    match request {
        Request::Get { epoch, .. }
        | Request::Put { epoch, .. }
        | Request::Delete { epoch, .. }
        | Request::MultiGet { epoch, .. }
        | Request::MultiPut { epoch, .. } => *epoch,
        Request::Ping | Request::Topology { .. } | Request::Status | Request::Hints(_) => Epoch(0),
    }
}
