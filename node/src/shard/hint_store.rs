//! Hints as records of the node's own space, in order of time.
//!
//! ```text
//! key   := space 0, vnode = the target's number, table = 1 + stream, token = time, then the key's partition and sort
//! value := kind:u8(0 strict, 1 sloppy) table:u32 version payload            little-endian
//! mark  := the key with token 0 and nothing behind it; its order is the watermark (`Engine::retire`)
//! ```
//!
//! A hint bears the record itself, not a pointer to it: it is delivered as it was written, whatever has become of the key here since, and by
//! a node that is no replica of it. The engine takes it for a plain record, whatever the flags of its version say.
//! What is held back ([`LaneId::held_back`]) is a stream of its own. The stream is the core that wrote it, so that a lane has one owner with any number of cores ([`ferrite_lsm::layout`]).
//!
//! Hints that cannot be read are lost to their target, and to nobody else: a walk goes on behind them, and says so.

use std::ops::ControlFlow;

use ferrite_cluster::hints::{Fetch, Found, HintKind, LaneId, Ledger};
use ferrite_lsm::{
    Direction, Engine, Key, KeyRange, OpenError, Prefix, ReadError, Record, RecordFlags, ScanLimits, cover,
};
use ferrite_wire::{NodeId, Reader, TableId, Version};

use super::ShardSettings;
use crate::env::Env;

/// What a hint takes beside its key and value, in bytes, about.
const HINT_OVERHEAD_BYTES: usize = 64;
/// Records between two steps of the walk at a start.
const RESTORE_RECORDS: usize = 1_024;
/// Stretches that cannot be read and are passed over at a start, for each target; what is behind the last one is found by nobody.
const RESTORE_HOLES_MAX: usize = 64;

/// A hint that was read.
#[derive(Debug)]
pub(super) struct Hint {
    pub(super) at: u64,
    pub(super) bytes: u64,
    pub(super) kind: HintKind,
    pub(super) table: TableId,
    pub(super) partition: Box<[u8]>,
    pub(super) sort: Box<[u8]>,
    pub(super) version: Version,
    pub(super) payload: Box<[u8]>,
}

impl Hint {
    /// The key of its record.
    pub(super) fn key(&self) -> ferrite_wire::Key<'_> {
        ferrite_wire::Key { table: self.table, partition: &self.partition, sort: &self.sort }
    }
}

/// Bytes that a hint counts for.
pub(super) fn hint_bytes(key: &ferrite_wire::Key<'_>, payload: &[u8]) -> u64 {
    (HINT_OVERHEAD_BYTES + key.partition.len() + key.sort.len() + payload.len()) as u64
}

/// The engine's key of a hint.
pub(super) fn hint_key<'k>(id: LaneId, at: u64, key: &ferrite_wire::Key<'k>) -> Key<'k> {
    Key { prefix: prefix(id, at), partition: key.partition, sort: key.sort }
}

/// The engine's key of a lane's mark.
pub(super) fn mark_key(id: LaneId) -> Key<'static> {
    Key { prefix: prefix(id, 0), partition: b"", sort: b"" }
}

/// The table of the engine's that a lane is.
pub(super) fn table_of(stream: u16) -> u32 {
    u32::from(stream) + 1
}

fn prefix(id: LaneId, at: u64) -> Prefix {
    Prefix { space: 0, vnode: id.target.0, table: table_of(id.stream), token: at }
}

/// A plain record of space 0.
pub(super) fn local_record(at: u64, value: &[u8]) -> Record<'_> {
    Record { order: at, actor: 0, flags: RecordFlags(0), expiry_ms: 0, value }
}

/// Appends the value of a hint.
pub(super) fn encode_hint(
    kind: HintKind,
    table: TableId,
    version: &Version,
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    out.push(match kind {
        HintKind::Strict => 0,
        HintKind::Sloppy => 1,
    });
    out.extend_from_slice(&table.0.to_le_bytes());
    version.encode(out);
    out.extend_from_slice(payload);
}

/// The hint of a stored record; `None` = it is none, which only a bug or damage makes.
pub(super) fn decode_hint(key: &Key<'_>, value: &[u8]) -> Option<Hint> {
    let mut reader = Reader::new(value);
    let kind = match reader.u8().ok()? {
        0 => HintKind::Strict,
        1 => HintKind::Sloppy,
        _ => return None,
    };
    let table = TableId(reader.u32().ok()?);
    let version = Version::decode(&mut reader).ok()?;
    let payload = reader.rest();
    let wire_key = ferrite_wire::Key { table, partition: key.partition, sort: key.sort };
    Some(Hint {
        at: key.prefix.token,
        bytes: hint_bytes(&wire_key, payload),
        kind,
        table,
        partition: key.partition.into(),
        sort: key.sort.into(),
        version,
        payload: payload.into(),
    })
}

/// The keys of what a fetch asks for.
pub(super) fn range_of(id: LaneId, fetch: &Fetch) -> KeyRange {
    let from = |at: u64| Key { prefix: prefix(id, at), partition: b"", sort: b"" };
    let lane = KeyRange::table(0, id.target.0, table_of(id.stream)).from(&from(fetch.after + 1));
    match fetch.through.checked_add(1) {
        Some(behind) => lane.before(&from(behind)),
        None => lane,
    }
}

/// Finds what a core owes. Lanes whose stream is another core's are retired here: that core has them, too.
pub(super) async fn restore<E: Env>(
    settings: &ShardSettings,
    engine: &Engine<E::Disk, E::Pace>,
) -> Result<Ledger, OpenError> {
    let mut ledger = Ledger::new(settings.hints.clone(), settings.core.0);
    let others = settings.topology.nodes.iter().map(|node| node.id).filter(|id| *id != settings.node);
    for target in others {
        restore_target::<E>(settings, engine, target, &mut ledger).await?;
    }
    for target in strangers::<E>(settings, engine).await {
        restore_stranger::<E>(settings, engine, target, &mut ledger).await?;
    }
    Ok(ledger)
}

/// Nodes that are no members and for which there are hints.
async fn strangers<E: Env>(settings: &ShardSettings, engine: &Engine<E::Disk, E::Pace>) -> Vec<NodeId> {
    let is_known = |node: NodeId| settings.topology.node(node).is_some();
    let (mut strangers, mut holes) = (Vec::new(), 0);
    // There is no node 0.
    let mut left = Some(KeyRange::local_from(1));
    while let Some(range) = left {
        let mut found = None;
        let visit = |key: Key<'_>, _: Record<'_>| {
            found = Some(NodeId(key.prefix.vnode));
            ControlFlow::Break(())
        };
        let walked = engine.scan(&range, Direction::Forward, ScanLimits::records(1), visit).await;
        left = match (walked, found) {
            (Ok(_), Some(node)) => {
                strangers.extend((!is_known(node)).then_some(node));
                node.0.checked_add(1).map(KeyRange::local_from)
            }
            (Ok(_), None) => None,
            // It is told where it is a member's.
            (Err(_), _) if holes < RESTORE_HOLES_MAX => {
                holes += 1;
                engine.behind_unreadable(&range).await
            }
            (Err(_), _) => None,
        };
    }
    strangers
}

/// Counts what is kept for a node that is no member, or lets go of it.
async fn restore_stranger<E: Env>(
    settings: &ShardSettings,
    engine: &Engine<E::Disk, E::Pace>,
    target: NodeId,
    ledger: &mut Ledger,
) -> Result<(), OpenError> {
    let mut its = Ledger::new(settings.hints.clone(), settings.core.0);
    restore_target::<E>(settings, engine, target, &mut its).await?;
    let (count, bytes) = its.owed(target);
    let (core, node) = (settings.core.0, target.0);
    if settings.forget_hints_for.contains(&target) {
        its.lanes().for_each(|(id, _)| engine.retire(target.0, table_of(id.stream), u64::MAX));
        cover::mark("hints for no member forgotten");
        tracing::info!(core, node, hints = count, bytes, "hints for a node that is no member are let go of");
    } else if count > 0 {
        ledger.add_orphans(target, count, bytes);
        tracing::warn!(
            core,
            node,
            hints = count,
            bytes,
            "hints are kept for a node that is no member: add its number to `forget` under [hints] to let them go"
        );
    }
    Ok(())
}

async fn restore_target<E: Env>(
    settings: &ShardSettings,
    engine: &Engine<E::Disk, E::Pace>,
    target: NodeId,
    ledger: &mut Ledger,
) -> Result<(), OpenError> {
    let mut left = Some(KeyRange::vnode(0, target.0));
    let mut lane: Option<(u16, Found)> = None;
    let mut holes = 0;
    let end = |lane: Option<(u16, Found)>, ledger: &mut Ledger| {
        let Some((stream, found)) = lane else { return };
        let id = LaneId { target, stream };
        if id.is_held_back() && settings.forget_held_back_for.contains(&target) {
            engine.retire(target.0, table_of(stream), found.last);
            // Not what is held back from now on: that is later, wherever the wall clock has been.
            ledger.restore(id, Found { mark: found.last, last: found.last, ..Found::default() });
            cover::mark("held back hints forgotten");
            let (core, target_node, hints) = (settings.core.0, target.0, found.count);
            tracing::info!(core, target_node, hints, "hints that were held back are let go of");
            return;
        }
        engine.retire(target.0, table_of(stream), found.mark);
        ledger.restore(id, found);
    };
    while let Some(range) = left {
        // Where to go on, if that is not the next key.
        let mut next = None;
        let mut ended = None;
        let mut shown = None;
        let visit = |key: Key<'_>, record: Record<'_>| {
            shown = Some(key.prefix);
            let Prefix { table, token, .. } = key.prefix;
            // Node 0's vnode also holds what concerns the core as a whole.
            let Some(stream) = table.checked_sub(1).and_then(|stream| u16::try_from(stream).ok()) else {
                next = Some(Prefix { table: 1, token: 0, ..key.prefix });
                return ControlFlow::Break(());
            };
            if stream % settings.cores != settings.core.0 {
                engine.retire(target.0, table, u64::MAX);
                next = Some(Prefix { table: table + 1, token: 0, ..key.prefix });
                return ControlFlow::Break(());
            }
            if lane.is_none_or(|(open, _)| open != stream) {
                ended = lane.replace((stream, Found::default()));
            }
            let (_, found) = lane.as_mut().expect("just set");
            if token == 0 {
                found.mark = record.order;
                next = record.order.checked_add(1).map(|token| Prefix { token, ..key.prefix });
                return ControlFlow::Break(());
            }
            if found.count == 0 {
                found.first = token;
            }
            found.last = token;
            found.count += 1;
            if let Some(hint) = decode_hint(&key, record.value) {
                found.bytes += hint.bytes;
            }
            if ended.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let limits = ScanLimits { records: RESTORE_RECORDS, bytes: usize::MAX };
        let walked = engine.scan(&range, Direction::Forward, limits, visit).await;
        end(ended, ledger);
        left = match walked {
            Ok(left) => left,
            Err(error @ ReadError::NoBuffer) => return Err(error.into()),
            Err(error) => {
                let core = settings.core.0;
                tracing::error!(core, target_node = target.0, %error, "hints cannot be read: they are passed over");
                cover::mark("start passed over unreadable hints");
                ledger.count_unreadable();
                holes += 1;
                let unread = match shown {
                    Some(prefix) => range.from(&first_key(prefix.to_u128() + 1)),
                    None => range,
                };
                if holes < RESTORE_HOLES_MAX { engine.behind_unreadable(&unread).await } else { None }
            }
        };
        if let (Some(range), Some(prefix)) = (&left, next) {
            left = Some(range.from(&Key { prefix, partition: b"", sort: b"" }));
        }
    }
    end(lane, ledger);
    Ok(())
}

/// The first key that a prefix may have.
fn first_key(prefix: u128) -> Key<'static> {
    Key { prefix: Prefix::from_u128(prefix), partition: b"", sort: b"" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrite_wire::{Actor, Order, VersionFlags};

    #[test]
    fn a_hint_comes_back_as_it_was_and_bytes_that_are_none_do_not() {
        let id = LaneId { target: NodeId(7), stream: 3 };
        let key = ferrite_wire::Key { table: TableId(5), partition: b"p", sort: b"s" };
        let flags = VersionFlags(VersionFlags::SIBLINGS);
        let version = Version { order: Order(9), actor: Actor(8), flags, expiry_ms: 3 };
        let mut value = Vec::new();
        encode_hint(HintKind::Sloppy, key.table, &version, b"payload", &mut value);
        let stored = hint_key(id, 77, &key);
        let hint = decode_hint(&stored, &value).expect("it was encoded");
        assert_eq!(
            (hint.at, hint.table, hint.version, &*hint.payload),
            (77, key.table, version, &b"payload"[..])
        );
        assert_eq!((&*hint.partition, &*hint.sort), (&b"p"[..], &b"s"[..]));
        assert_eq!(hint.bytes, hint_bytes(&key, b"payload"));
        for len in 0..30 {
            assert!(decode_hint(&stored, &value[..len]).is_none(), "{len} bytes");
        }
        value[0] = 2;
        assert!(decode_hint(&stored, &value).is_none());
    }

    #[test]
    fn a_fetch_reads_what_is_behind_and_through_and_never_the_mark() {
        let id = LaneId { target: NodeId(7), stream: 3 };
        let key = ferrite_wire::Key { table: TableId(5), partition: b"\xff\xff", sort: b"s" };
        let fetch =
            Fetch { of: None, rewrites: false, after: 0, through: 9, records: 1, bytes: 1, attempt: 1 };
        let is_in = |fetch: &Fetch, at| range_of(id, fetch).contains(&hint_key(id, at, &key));
        assert_eq!([0, 1, 9, 10].map(|at| is_in(&fetch, at)), [false, true, true, false]);
        assert!(!range_of(id, &fetch).contains(&mark_key(id)));
        let rest = Fetch { after: 4, through: u64::MAX, ..fetch };
        assert_eq!([4, 5, u64::MAX].map(|at| is_in(&rest, at)), [false, true, true]);
    }
}
