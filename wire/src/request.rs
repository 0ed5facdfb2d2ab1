//! What clients ask.
//!
//! ```text
//! key       := table:u32 partition_len:u32 sort_len:u32 partition sort
//! get       := epoch:u64 level:u8 options:u8 key
//! put       := epoch:u64 level:u8 options:u8 key ttl_ms:u64 context_len:u32 value_len:u32 context value
//! delete    := epoch:u64 level:u8 options:u8 key context_len:u32 context
//! multi_get := epoch:u64 level:u8 options:u8 count:u32 key*
//! multi_put := see `multi_put`
//! topology  := have:u64
//! ping, status := (empty)
//! hints     := action:u8                                   0 = tell, 1 = pause, 2 = resume
//! options   := of a put or delete: bit 0 overwrite, bit 1 sloppy; all other bits, and all of other requests, 0
//! ```

use crate::multi_put::{Entries, Entry};
use crate::{DecodeError, Epoch, FrameKind, Key, Level, Reader, TableId, limits};

/// In the options of a put or delete of a key with siblings: the coordinator reads the key at the request's level first, and the
/// write replaces what that read found. Elsewhere it changes nothing: writes replace what is there anyway.
pub const OVERWRITE: u8 = 1;
/// In the options of a put or delete: replicas that are away may be stood in for by other nodes, which keep the record for them, and whose
/// acknowledgements count. Without it a level is met by the key's own replicas or not at all.
pub const SLOPPY: u8 = 1 << 1;
/// Time to live of a put that is to live for ever, whatever its table says.
pub const TTL_NEVER: u64 = u64::MAX;
const OPTIONS_OF_WRITES: u8 = OVERWRITE | SLOPPY;

/// What is wanted of a core's hints: the records it keeps for replicas on other nodes that missed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HintsAction {
    /// Only to be told.
    Tell,
    /// Delivery stops until it is resumed, or the node restarted; hints are taken as before.
    Pause,
    /// Delivery goes on.
    Resume,
}

impl HintsAction {
    /// Every action, for tests.
    pub const ALL: [HintsAction; 3] = [HintsAction::Tell, HintsAction::Pause, HintsAction::Resume];

    fn to_u8(self) -> u8 {
        match self {
            HintsAction::Tell => 0,
            HintsAction::Pause => 1,
            HintsAction::Resume => 2,
        }
    }

    fn from_u8(value: u8) -> Result<HintsAction, DecodeError> {
        HintsAction::ALL
            .into_iter()
            .find(|action| action.to_u8() == value)
            .ok_or(DecodeError::Unknown { field: "hints action", value: u64::from(value) })
    }
}

/// The keys of a multi-get: validated, still encoded, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl<'a> Keys<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each key in turn.
    pub fn iter(&self) -> impl Iterator<Item = Key<'a>> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        (0..self.count).map(move |_| decode_key(&mut reader).expect("checked when the request was decoded"))
    }
}

/// A request, borrowed from its frame's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Answered by `Pong`.
    Ping,
    /// Answered by the topology.
    Topology {
        /// The epoch the client has; 0 = none.
        have: Epoch,
    },
    /// Answered by a text of `name value` lines.
    Status,
    /// Answered by a text of `name value` lines about the hints of the core that is asked, as they are after the action.
    Hints(HintsAction),
    /// Reads one key.
    Get {
        /// The client's topology epoch; 0 = none.
        epoch: Epoch,
        /// How many replicas must answer.
        level: Level,
        /// Reserved, 0.
        options: u8,
        /// The key.
        key: Key<'a>,
    },
    /// Writes one key.
    Put {
        /// The client's topology epoch; 0 = none.
        epoch: Epoch,
        /// How many replicas must answer.
        level: Level,
        /// [`OVERWRITE`] and [`SLOPPY`], or 0.
        options: u8,
        /// The key.
        key: Key<'a>,
        /// Time to live in milliseconds; 0 = the table's default, [`TTL_NEVER`] = for ever.
        ttl_ms: u64,
        /// Causal context of an earlier get; empty = none. Opaque.
        context: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// Deletes one key.
    Delete {
        /// The client's topology epoch; 0 = none.
        epoch: Epoch,
        /// How many replicas must answer.
        level: Level,
        /// [`OVERWRITE`] and [`SLOPPY`], or 0.
        options: u8,
        /// The key.
        key: Key<'a>,
        /// Causal context of an earlier get; empty = none. Opaque.
        context: &'a [u8],
    },
    /// Reads several keys; the answers keep their order.
    MultiGet {
        /// The client's topology epoch; 0 = none.
        epoch: Epoch,
        /// How many replicas must answer, for each key.
        level: Level,
        /// Reserved, 0.
        options: u8,
        /// The keys.
        keys: Keys<'a>,
    },
    /// Writes and deletes several keys; the outcomes keep their order.
    MultiPut {
        /// The client's topology epoch; 0 = none.
        epoch: Epoch,
        /// How many replicas must answer, for each entry.
        level: Level,
        /// [`OVERWRITE`] and [`SLOPPY`], or 0, of each entry.
        options: u8,
        /// The writes.
        entries: Entries<'a>,
    },
}

impl<'a> Request<'a> {
    /// The kind of frame that carries this request.
    pub fn kind(&self) -> FrameKind {
        match self {
            Request::Ping => FrameKind::Ping,
            Request::Topology { .. } => FrameKind::Topology,
            Request::Status => FrameKind::Status,
            Request::Hints(_) => FrameKind::Hints,
            Request::Get { .. } => FrameKind::Get,
            Request::Put { .. } => FrameKind::Put,
            Request::Delete { .. } => FrameKind::Delete,
            Request::MultiGet { .. } => FrameKind::MultiGet,
            Request::MultiPut { .. } => FrameKind::MultiPut,
        }
    }

    /// Appends the body.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Request::Ping | Request::Status => {}
            Request::Topology { have } => out.extend_from_slice(&have.0.to_le_bytes()),
            Request::Hints(action) => out.push(action.to_u8()),
            Request::Get { epoch, level, options, key } => {
                encode_common(epoch, level, options, out);
                encode_key(&key, out);
            }
            Request::Put { epoch, level, options, key, ttl_ms, context, value } => {
                encode_common(epoch, level, options, out);
                encode_key(&key, out);
                out.extend_from_slice(&ttl_ms.to_le_bytes());
                out.extend_from_slice(&(context.len() as u32).to_le_bytes());
                out.extend_from_slice(&(value.len() as u32).to_le_bytes());
                out.extend_from_slice(context);
                out.extend_from_slice(value);
            }
            Request::Delete { epoch, level, options, key, context } => {
                encode_common(epoch, level, options, out);
                encode_key(&key, out);
                out.extend_from_slice(&(context.len() as u32).to_le_bytes());
                out.extend_from_slice(context);
            }
            Request::MultiGet { epoch, level, options, keys } => {
                encode_common(epoch, level, options, out);
                out.extend_from_slice(&keys.count.to_le_bytes());
                out.extend_from_slice(keys.bytes);
            }
            Request::MultiPut { epoch, level, options, entries } => {
                encode_common(epoch, level, options, out);
                entries.encode(out);
            }
        }
    }

    /// Appends the body of a multi-get of `keys`.
    pub fn encode_multi_get(epoch: Epoch, level: Level, keys: &[Key<'_>], out: &mut Vec<u8>) {
        encode_common(epoch, level, 0, out);
        out.extend_from_slice(&(keys.len() as u32).to_le_bytes());
        keys.iter().for_each(|key| encode_key(key, out));
    }

    /// Appends the body of a multi-put of `entries`.
    pub fn encode_multi_put<'e>(
        epoch: Epoch,
        level: Level,
        options: u8,
        entries: impl ExactSizeIterator<Item = Entry<'e>>,
        out: &mut Vec<u8>,
    ) {
        encode_common(epoch, level, options, out);
        out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        entries.for_each(|entry| entry.encode(out));
    }

    /// Reads the body of a request frame. A kind that is not a request is [`DecodeError::Unknown`].
    #[inline]
    pub fn decode(kind: FrameKind, body: &'a [u8]) -> Result<Request<'a>, DecodeError> {
        let mut reader = Reader::new(body);
        let request = match kind {
            FrameKind::Get => {
                let (epoch, level, options) = decode_common(&mut reader, 0)?;
                Request::Get { epoch, level, options, key: decode_key(&mut reader)? }
            }
            FrameKind::Put => {
                let (epoch, level, options) = decode_common(&mut reader, OPTIONS_OF_WRITES)?;
                let key = decode_key(&mut reader)?;
                let ttl_ms = reader.u64()?;
                let context_len = checked(reader.u32()?, "context", limits::CONTEXT_BYTES_MAX)?;
                let value_len = checked(reader.u32()?, "value", limits::VALUE_BYTES_MAX)?;
                let context = reader.take(context_len)?;
                Request::Put { epoch, level, options, key, ttl_ms, context, value: reader.take(value_len)? }
            }
            FrameKind::Delete => {
                let (epoch, level, options) = decode_common(&mut reader, OPTIONS_OF_WRITES)?;
                let key = decode_key(&mut reader)?;
                let context_len = checked(reader.u32()?, "context", limits::CONTEXT_BYTES_MAX)?;
                Request::Delete { epoch, level, options, key, context: reader.take(context_len)? }
            }
            FrameKind::MultiGet => {
                let (epoch, level, options) = decode_common(&mut reader, 0)?;
                let count = checked(reader.u32()?, "multi-get", limits::MULTI_GET_KEYS_MAX)? as u32;
                let bytes = reader.rest();
                for _ in 0..count {
                    decode_key(&mut reader)?;
                }
                Request::MultiGet { epoch, level, options, keys: Keys { count, bytes } }
            }
            FrameKind::MultiPut => {
                let (epoch, level, options) = decode_common(&mut reader, OPTIONS_OF_WRITES)?;
                Request::MultiPut { epoch, level, options, entries: Entries::decode(&mut reader)? }
            }
            FrameKind::Ping => Request::Ping,
            FrameKind::Status => Request::Status,
            FrameKind::Hints => Request::Hints(HintsAction::from_u8(reader.u8()?)?),
            FrameKind::Topology => Request::Topology { have: Epoch(reader.u64()?) },
            other => return Err(DecodeError::Unknown { field: "request", value: other as u64 }),
        };
        if reader.rest().is_empty() { Ok(request) } else { Err(DecodeError::Trailing) }
    }
}

fn encode_common(epoch: Epoch, level: Level, options: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&epoch.0.to_le_bytes());
    out.push(level.to_u8());
    out.push(options);
}

fn decode_common(reader: &mut Reader<'_>, defined: u8) -> Result<(Epoch, Level, u8), DecodeError> {
    let epoch = Epoch(reader.u64()?);
    let level = Level::from_u8(reader.u8()?)?;
    let options = reader.u8()?;
    if options & !defined != 0 {
        return Err(DecodeError::Unknown { field: "options", value: u64::from(options) });
    }
    Ok((epoch, level, options))
}

pub(crate) fn encode_key(key: &Key<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&key.table.0.to_le_bytes());
    out.extend_from_slice(&(key.partition.len() as u32).to_le_bytes());
    out.extend_from_slice(&(key.sort.len() as u32).to_le_bytes());
    out.extend_from_slice(key.partition);
    out.extend_from_slice(key.sort);
}

#[inline]
pub(crate) fn decode_key<'a>(reader: &mut Reader<'a>) -> Result<Key<'a>, DecodeError> {
    let table = TableId(reader.u32()?);
    let (partition_len, sort_len) = (reader.u32()? as usize, reader.u32()? as usize);
    let len = partition_len as u64 + sort_len as u64;
    if len > limits::KEY_BYTES_MAX as u64 {
        return Err(DecodeError::TooLong { field: "key", len, max: limits::KEY_BYTES_MAX as u64 });
    }
    Ok(Key { table, partition: reader.take(partition_len)?, sort: reader.take(sort_len)? })
}

#[inline]
pub(crate) fn checked(len: u32, field: &'static str, max: usize) -> Result<usize, DecodeError> {
    if len as usize > max {
        return Err(DecodeError::TooLong { field, len: u64::from(len), max: max as u64 });
    }
    Ok(len as usize)
}
