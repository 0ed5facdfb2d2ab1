//! Many puts and deletes in one frame, and what became of each.
//!
//! ```text
//! multi_put := epoch:u64 level:u8 options:u8 count:u32 entry*
//! entry     := put:u8(0) key ttl_ms:u64 context_len:u32 value_len:u32 context value
//!            | delete:u8(1) key context_len:u32 context
//! outcomes  := count:u32 outcome*
//! outcome   := done:u8(0) version answered:u8 flags:u8 | error:u8(1) code:u16
//! ```
//!
//! Level and options are those of each entry, and the options those of a put. Each entry is a write for itself: there is no order among them, and
//! some may be done where others are not.

use crate::reply::{SLOPPY_ANSWER, decode_answered};
use crate::request::{checked, decode_key, encode_key};
use crate::{DecodeError, Epoch, ErrorCode, Key, Level, Reader, Request, Version, limits};

/// One write of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// Writes one key.
    Put {
        /// The key.
        key: Key<'a>,
        /// Time to live in milliseconds; 0 = the table's default.
        ttl_ms: u64,
        /// Causal context of an earlier get; empty = none. Opaque.
        context: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// Deletes one key.
    Delete {
        /// The key.
        key: Key<'a>,
        /// Causal context of an earlier get; empty = none. Opaque.
        context: &'a [u8],
    },
}

impl<'a> Entry<'a> {
    /// The key.
    pub fn key(&self) -> &Key<'a> {
        match self {
            Entry::Put { key, .. } | Entry::Delete { key, .. } => key,
        }
    }

    /// The same write as a request of its own.
    pub fn request(&self, epoch: Epoch, level: Level, options: u8) -> Request<'a> {
        match *self {
            Entry::Put { key, ttl_ms, context, value } => {
                Request::Put { epoch, level, options, key, ttl_ms, context, value }
            }
            Entry::Delete { key, context } => Request::Delete { epoch, level, options, key, context },
        }
    }

    /// Its encoded length, in bytes.
    pub fn encoded_len(&self) -> usize {
        const KEY_HEAD: usize = 12;
        let (key, rest) = match self {
            Entry::Put { key, context, value, .. } => (key, 8 + 4 + 4 + context.len() + value.len()),
            Entry::Delete { key, context } => (key, 4 + context.len()),
        };
        1 + KEY_HEAD + key.partition.len() + key.sort.len() + rest
    }

    /// Appends the entry.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Entry::Put { key, ttl_ms, context, value } => {
                out.push(0);
                encode_key(key, out);
                out.extend_from_slice(&ttl_ms.to_le_bytes());
                out.extend_from_slice(&(context.len() as u32).to_le_bytes());
                out.extend_from_slice(&(value.len() as u32).to_le_bytes());
                out.extend_from_slice(context);
                out.extend_from_slice(value);
            }
            Entry::Delete { key, context } => {
                out.push(1);
                encode_key(key, out);
                out.extend_from_slice(&(context.len() as u32).to_le_bytes());
                out.extend_from_slice(context);
            }
        }
    }

    fn decode(reader: &mut Reader<'a>) -> Result<Entry<'a>, DecodeError> {
        Ok(match reader.u8()? {
            0 => {
                let key = decode_key(reader)?;
                let ttl_ms = reader.u64()?;
                let context_len = checked(reader.u32()?, "context", limits::CONTEXT_BYTES_MAX)?;
                let value_len = checked(reader.u32()?, "value", limits::VALUE_BYTES_MAX)?;
                let context = reader.take(context_len)?;
                Entry::Put { key, ttl_ms, context, value: reader.take(value_len)? }
            }
            1 => {
                let key = decode_key(reader)?;
                let context_len = checked(reader.u32()?, "context", limits::CONTEXT_BYTES_MAX)?;
                Entry::Delete { key, context: reader.take(context_len)? }
            }
            other => return Err(DecodeError::Unknown { field: "entry", value: u64::from(other) }),
        })
    }
}

/// The entries of a multi-put: validated, still encoded, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl<'a> Entries<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each entry in turn.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        (0..self.count).map(move |_| Entry::decode(&mut reader).expect("checked when it was decoded"))
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(self.bytes);
    }

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Entries<'a>, DecodeError> {
        let count = checked(reader.u32()?, "multi-put", limits::MULTI_PUT_ENTRIES_MAX)? as u32;
        let bytes = reader.rest();
        for _ in 0..count {
            Entry::decode(reader)?;
        }
        Ok(Entries { count, bytes })
    }
}

/// What became of one write of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It reached its level.
    Done {
        /// The version it was given.
        version: Version,
        /// How many had acknowledged it.
        answered: u8,
        /// Whether one of those stands in for a replica.
        sloppy: bool,
    },
    /// It did not; the code says whether it may have been applied ([`ErrorCode::says_not_applied`]).
    Error(ErrorCode),
}

impl Outcome {
    /// Appends the outcome.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Outcome::Done { version, answered, sloppy } => {
                out.push(0);
                version.encode(out);
                out.extend_from_slice(&[*answered, if *sloppy { SLOPPY_ANSWER } else { 0 }]);
            }
            Outcome::Error(code) => {
                out.push(1);
                out.extend_from_slice(&(*code as u16).to_le_bytes());
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Outcome, DecodeError> {
        Ok(match reader.u8()? {
            0 => {
                let version = Version::decode(reader)?;
                let (answered, flags) = decode_answered(reader, SLOPPY_ANSWER)?;
                Outcome::Done { version, answered, sloppy: flags & SLOPPY_ANSWER != 0 }
            }
            1 => Outcome::Error(ErrorCode::from_u16(reader.u16()?)?),
            other => return Err(DecodeError::Unknown { field: "outcome", value: u64::from(other) }),
        })
    }
}

/// The outcomes of a multi-put, in the order of its entries: validated, still encoded, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcomes<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl<'a> Outcomes<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each outcome in turn.
    pub fn iter(&self) -> impl Iterator<Item = Outcome> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        (0..self.count).map(move |_| Outcome::decode(&mut reader).expect("checked when it was decoded"))
    }

    /// Appends the body of a reply that tells these.
    pub fn encode_all(outcomes: impl ExactSizeIterator<Item = Outcome>, out: &mut Vec<u8>) {
        out.extend_from_slice(&(outcomes.len() as u32).to_le_bytes());
        outcomes.for_each(|outcome| outcome.encode(out));
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(self.bytes);
    }

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Outcomes<'a>, DecodeError> {
        let count = checked(reader.u32()?, "outcomes", limits::MULTI_PUT_ENTRIES_MAX)? as u32;
        let bytes = reader.rest();
        for _ in 0..count {
            Outcome::decode(reader)?;
        }
        Ok(Outcomes { count, bytes })
    }
}
