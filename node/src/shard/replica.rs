//! The replica's side: records stored and read for coordinators on other nodes.

use std::rc::Rc;

use ferrite_cluster::planted;
use ferrite_lsm::{Record, RecordBuf};
use ferrite_wire::{
    Epoch, ErrorCode, FrameView, Key, PeerMessage, ReadWant, ReplicaAnswer, Reply, Version, WriteAnswer,
    payload_bytes_max,
};

use super::afar::OwnedKey;
use super::expiry::Waited;
use super::log_pump::Ack;
use super::record::{engine_key, record_of, version_of};
use super::requester::Requester;
use super::sets::arrived;
use super::{Route, Shard};
use crate::env::Env;

/// A record that a coordinator sends to a replica.
#[derive(Clone, Copy)]
struct Share {
    route: Route,
    vnode_epoch: Epoch,
    version: Version,
    deadline_ns: u64,
}

impl<E: Env> Shard<E> {
    /// Handles a message of another node's core. The frame has been routed: this core owns the key, or nobody here does.
    pub(super) fn on_peer_message(
        self: &Rc<Self>,
        requester: Requester,
        frame: &FrameView<'_>,
        message: &PeerMessage<'_>,
        deadline_ns: u64,
    ) {
        self.observe(frame.header.time);
        match message {
            PeerMessage::ReplicaWrite { vnode_epoch, key, version, value } => {
                let refused = match self.route(key) {
                    // Others would go on writing for as long as it takes to drain, and it would take as long as they do.
                    _ if self.stopping.get() => Some(ErrorCode::Stopping),
                    Ok(route) if route.has_siblings() != version.flags.has_siblings() => {
                        Some(ErrorCode::Malformed)
                    }
                    Ok(route) if route.has_siblings() && arrived(version, value).is_none() => {
                        Some(ErrorCode::Malformed)
                    }
                    Ok(route @ Route { position: Some(_), .. }) => {
                        let share =
                            Share { route, vnode_epoch: *vnode_epoch, version: *version, deadline_ns };
                        self.take_share(requester, &share, key, value).err()
                    }
                    Ok(_) => Some(ErrorCode::Unavailable),
                    Err(refusal) => Some(refusal.code()),
                };
                if let Some(code) = refused {
                    self.answer_peer(requester, &PeerMessage::ReplicaWriteAnswer(WriteAnswer::Refused(code)));
                }
            }
            PeerMessage::HintedWrite { target, key, version, value, .. } => {
                self.observe(version.order);
                if let Err(code) =
                    self.on_hinted_write(requester, *target, key, (version, value), deadline_ns)
                {
                    self.refuse_message(requester, message, code);
                }
            }
            PeerMessage::ReplicaRead { want, key, .. } => match self.route(key) {
                // For the same reason. They ask another replica.
                _ if self.stopping.get() => self.refuse_read(requester, ErrorCode::Stopping),
                Ok(route @ Route { position: Some(_), .. }) => {
                    self.replica_read(requester, route, *want, key, deadline_ns);
                }
                Ok(_) => self.refuse_read(requester, ErrorCode::Unavailable),
                Err(refusal) => self.refuse_read(requester, refusal.code()),
            },
            PeerMessage::ReplicaWriteAnswer(_) | PeerMessage::ReplicaReadAnswer(_) => {
                unreachable!("answers come over links and are taken there")
            }
        }
    }

    /// Takes a record of a key of which this core is a replica. An error = it was not taken, and nobody was answered.
    fn take_share(
        self: &Rc<Self>,
        requester: Requester,
        share: &Share,
        key: &Key<'_>,
        value: &[u8],
    ) -> Result<(), ErrorCode> {
        let is_near = self.take_note(&share.route, share.version.order)?;
        if !is_near || !self.must_look(&share.route) {
            return self.stage_share(requester, share, key, value);
        }
        let holding = self.hold_record(key, value).ok_or(ErrorCode::Overloaded)?;
        let (owned, share, value) = (OwnedKey::of(key), *share, value.to_vec());
        let brought = Some(share.version);
        self.look_first(&share.route, key, brought, share.deadline_ns, holding, move |shard, looked| {
            let taken = looked.and_then(|()| shard.stage_share(requester, &share, &owned.key(), &value));
            if let Err(code) = taken {
                shard.answer_peer(requester, &PeerMessage::ReplicaWriteAnswer(WriteAnswer::Refused(code)));
            }
        });
        Ok(())
    }

    fn stage_share(
        &self,
        requester: Requester,
        share: &Share,
        key: &Key<'_>,
        value: &[u8],
    ) -> Result<(), ErrorCode> {
        let Share { route, vnode_epoch, mut version, deadline_ns } = *share;
        if planted::active(planted::Bug::ExpiryByLocalClock) && version.expiry_ms > 0 {
            let left_ms = version.expiry_ms.saturating_sub(version.order.wall_ms());
            version.expiry_ms = self.env.wall_ms() + left_ms;
        }
        if planted::active(planted::Bug::AckedBeforeReplicaSync) {
            self.answer_peer(requester, &PeerMessage::ReplicaWriteAnswer(WriteAnswer::Applied));
        }
        let key = engine_key(key, route.vnode, route.token);
        let (record, ack) = (record_of(&version, value), Ack::Peer(requester));
        self.stage_by(deadline_ns, key, record, vnode_epoch.0, ack)
    }

    /// Refuses a peer's question without having looked at it.
    pub(super) fn refuse_message(&self, requester: Requester, message: &PeerMessage<'_>, code: ErrorCode) {
        match message {
            PeerMessage::ReplicaWrite { .. } | PeerMessage::HintedWrite { .. } => {
                self.answer_peer(requester, &PeerMessage::ReplicaWriteAnswer(WriteAnswer::Refused(code)));
            }
            PeerMessage::ReplicaRead { .. } => self.refuse_read(requester, code),
            PeerMessage::ReplicaWriteAnswer(_) | PeerMessage::ReplicaReadAnswer(_) => {
                unreachable!("answers come over links and are taken there")
            }
        }
    }

    fn refuse_read(&self, requester: Requester, code: ErrorCode) {
        self.answer_peer(requester, &PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Refused(code)));
    }

    fn replica_read(
        self: &Rc<Self>,
        requester: Requester,
        route: Route,
        want: ReadWant,
        key: &Key<'_>,
        deadline_ns: u64,
    ) {
        self.local_read(route, key, deadline_ns, move |shard, found| {
            let answer = match found {
                Err(code) => ReplicaAnswer::Refused(code),
                Ok(None) => ReplicaAnswer::Absent,
                Ok(Some(record)) => match want {
                    ReadWant::Full if record.value.len() > payload_bytes_max(&version_of(&record)) => {
                        ReplicaAnswer::Refused(ErrorCode::TooLarge)
                    }
                    ReadWant::Full => {
                        ReplicaAnswer::Full { version: version_of(&record), value: record.value }
                    }
                    ReadWant::Digest => ReplicaAnswer::Digest { version: version_of(&record) },
                },
            };
            shard.answer_peer(requester, &PeerMessage::ReplicaReadAnswer(answer));
        });
    }

    /// Reads this core's own copy: at once if it is in memory, else by a task that waits for the disk, unless its time is up by then. `done` is
    /// called once.
    pub(super) fn local_read(
        self: &Rc<Self>,
        route: Route,
        key: &Key<'_>,
        deadline_ns: u64,
        done: impl FnOnce(&Rc<Shard<E>>, Result<Option<Record<'_>>, ErrorCode>) + 'static,
    ) {
        let engine_key = engine_key(key, route.vnode, route.token);
        let mut done = Some(done);
        let answered = self.engine.get(engine_key, |record| {
            let done = done.take().expect("called once");
            done(self, Ok(record));
        });
        let Some(done) = done else {
            debug_assert!(answered.is_ok());
            return;
        };
        self.disk_read(engine_key, deadline_ns, done);
    }

    /// As [`Shard::local_read`], of a copy: `done` may stage what it makes of it, which a look into the engine may not.
    pub(super) fn local_copy(
        self: &Rc<Self>,
        route: Route,
        key: &Key<'_>,
        deadline_ns: u64,
        done: impl FnOnce(&Rc<Shard<E>>, Result<Option<RecordBuf>, ErrorCode>) + 'static,
    ) {
        let engine_key = engine_key(key, route.vnode, route.token);
        let copy = |record: Record<'_>| {
            let Record { order, actor, flags, expiry_ms, value } = record;
            RecordBuf { order, actor, flags, expiry_ms, value: value.to_vec() }
        };
        let mut copied = None;
        if self.engine.get(engine_key, |record| copied = Some(record.map(copy))).is_ok() {
            return done(self, Ok(copied.expect("what is in memory is shown")));
        }
        let copied = move |shard: &Rc<Shard<E>>, found: Result<Option<Record<'_>>, ErrorCode>| {
            done(shard, found.map(|record| record.map(copy)));
        };
        self.disk_read(engine_key, deadline_ns, copied);
    }

    fn disk_read(
        self: &Rc<Self>,
        engine_key: ferrite_lsm::Key<'_>,
        deadline_ns: u64,
        done: impl FnOnce(&Rc<Shard<E>>, Result<Option<Record<'_>>, ErrorCode>) + 'static,
    ) {
        if self.disk_reads.get() >= self.settings.disk_reads_max {
            return done(self, Err(ErrorCode::Overloaded));
        }
        self.disk_reads.set(self.disk_reads.get() + 1);
        let read = self.engine.read(engine_key);
        let shard = self.clone();
        self.env.spawn(async move {
            if let Err(code) = shard.in_time(deadline_ns, Waited::ForDisk) {
                shard.disk_reads.set(shard.disk_reads.get() - 1);
                return done(&shard, Err(code));
            }
            let found = read.await;
            shard.disk_reads.set(shard.disk_reads.get() - 1);
            match &found {
                Ok(None) => done(&shard, Ok(None)),
                Ok(Some(found)) => done(&shard, Ok(Some(found.record()))),
                // The budget for buffers is spent: nothing is wrong with the data.
                Err(ferrite_lsm::ReadError::NoBuffer) => done(&shard, Err(ErrorCode::Overloaded)),
                Err(error) => {
                    tracing::warn!(core = shard.settings.core.0, %error, "a read failed");
                    done(&shard, Err(ErrorCode::Damaged));
                }
            }
        });
    }

    /// Whether a record is a live value for a client at this moment.
    pub(super) fn visible(&self, version: &Version) -> bool {
        if planted::active(planted::Bug::ExpiredShown) {
            return !version.flags.is_tombstone();
        }
        !version.flags.is_tombstone() && (version.expiry_ms == 0 || version.expiry_ms > self.expiry_wall_ms())
    }

    /// The reply for a record as a client sees it.
    pub(super) fn client_reply<'r>(&self, version: &Version, value: &'r [u8], answered: u8) -> Reply<'r> {
        if self.visible(version) {
            Reply::Value { version: *version, answered, value }
        } else {
            Reply::Absent { answered }
        }
    }
}
