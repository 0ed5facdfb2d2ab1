//! What servers answer.
//!
//! ```text
//! value    := version answered:u8 flags:u8 value_len:u32 value
//! absent   := answered:u8 flags:u8
//! done     := version answered:u8 flags:u8
//! outcomes := see `multi_put`
//! values   := count:u32 item*
//! item     := absent:u8(0) answered:u8 | found:u8(1) answered:u8 version value_len:u32 value | error:u8(2) code:u16
//!           | several:u8(3) answered:u8 siblings
//! siblings_reply := answered:u8 flags:u8 siblings
//! flags    := of done: bit 0 sloppy; all other bits, and all of the others, 0
//! error    := code:u16 text_len:u16 text
//! topology_reply, status_reply := bytes
//! pong     := (empty)
//! ```

use crate::multi_put::Outcomes;
use crate::request::checked;
use crate::{DecodeError, ErrorCode, FrameKind, Reader, Siblings, Version, limits};

/// In the flags of `done`: somebody who is no replica counted.
pub(crate) const SLOPPY_ANSWER: u8 = 1;

/// A reply, borrowed from its frame's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// Answers a ping.
    Pong,
    /// An encoded [`crate::Topology`].
    Topology(&'a [u8]),
    /// `name value` lines.
    Status(&'a str),
    /// The key's value.
    Value {
        /// Its version.
        version: Version,
        /// How many replicas answered.
        answered: u8,
        /// The value.
        value: &'a [u8],
    },
    /// The key has no value: never written, deleted or expired.
    Absent {
        /// How many replicas answered.
        answered: u8,
    },
    /// The write reached its level.
    Done {
        /// The version it was given.
        version: Version,
        /// How many had acknowledged it: replicas, and nodes that stand in for replicas.
        answered: u8,
        /// Whether one of those stands in for a replica: reads at any level may miss the write until it is delivered.
        sloppy: bool,
    },
    /// Answers of a multi-get, in the order of its keys.
    Values(Items<'a>),
    /// Answers of a multi-put, in the order of its entries.
    Outcomes(Outcomes<'a>),
    /// What a key of a table with siblings has, perhaps nothing.
    Siblings {
        /// How many replicas answered.
        answered: u8,
        /// The values and their context.
        siblings: Siblings<'a>,
    },
    /// A typed error.
    Error {
        /// What kind.
        code: ErrorCode,
        /// One line for people; may be empty.
        text: &'a str,
    },
}

/// One answer of a multi-get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// The key's value.
    Value {
        /// How many replicas answered.
        answered: u8,
        /// Its version.
        version: Version,
        /// The value.
        value: &'a [u8],
    },
    /// The key has no value.
    Absent {
        /// How many replicas answered.
        answered: u8,
    },
    /// This key could not be read.
    Error(ErrorCode),
    /// What a key of a table with siblings has, perhaps nothing.
    Siblings {
        /// How many replicas answered.
        answered: u8,
        /// The values and their context.
        siblings: Siblings<'a>,
    },
}

/// The answers of a multi-get: validated, still encoded, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Items<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl<'a> Items<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each answer in turn.
    pub fn iter(&self) -> impl Iterator<Item = Item<'a>> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        (0..self.count).map(move |_| Item::decode(&mut reader).expect("checked when the reply was decoded"))
    }
}

impl<'a> Item<'a> {
    fn encoded_len(&self) -> usize {
        match self {
            Item::Absent { .. } => 2,
            Item::Value { value, .. } => 2 + Version::BYTES + 4 + value.len(),
            Item::Error(_) => 3,
            Item::Siblings { siblings, .. } => 2 + siblings.encoded_len(),
        }
    }

    /// Appends the item.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Item::Absent { answered } => out.extend_from_slice(&[0, *answered]),
            Item::Value { answered, version, value } => {
                out.extend_from_slice(&[1, *answered]);
                version.encode(out);
                out.extend_from_slice(&(value.len() as u32).to_le_bytes());
                out.extend_from_slice(value);
            }
            Item::Error(code) => {
                out.push(2);
                out.extend_from_slice(&(*code as u16).to_le_bytes());
            }
            Item::Siblings { answered, siblings } => {
                out.extend_from_slice(&[3, *answered]);
                siblings.encode(out);
            }
        }
    }

    fn decode(reader: &mut Reader<'a>) -> Result<Item<'a>, DecodeError> {
        Ok(match reader.u8()? {
            0 => Item::Absent { answered: reader.u8()? },
            1 => {
                let answered = reader.u8()?;
                let version = Version::decode(reader)?;
                let len = checked(reader.u32()?, "value", limits::VALUE_BYTES_MAX)?;
                Item::Value { answered, version, value: reader.take(len)? }
            }
            2 => Item::Error(ErrorCode::from_u16(reader.u16()?)?),
            3 => Item::Siblings { answered: reader.u8()?, siblings: Siblings::decode(reader)? },
            other => return Err(DecodeError::Unknown { field: "item", value: u64::from(other) }),
        })
    }
}

impl<'a> Reply<'a> {
    /// The kind of frame that carries this reply.
    pub fn kind(&self) -> FrameKind {
        match self {
            Reply::Pong => FrameKind::Pong,
            Reply::Topology(_) => FrameKind::TopologyReply,
            Reply::Status(_) => FrameKind::StatusReply,
            Reply::Value { .. } => FrameKind::Value,
            Reply::Absent { .. } => FrameKind::Absent,
            Reply::Done { .. } => FrameKind::Done,
            Reply::Values(_) => FrameKind::Values,
            Reply::Outcomes(_) => FrameKind::Outcomes,
            Reply::Siblings { .. } => FrameKind::Siblings,
            Reply::Error { .. } => FrameKind::Error,
        }
    }

    /// Appends the body.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Reply::Pong => {}
            Reply::Topology(bytes) => out.extend_from_slice(bytes),
            Reply::Status(text) => out.extend_from_slice(text.as_bytes()),
            Reply::Value { version, answered, value } => {
                version.encode(out);
                out.extend_from_slice(&[answered, 0]);
                out.extend_from_slice(&(value.len() as u32).to_le_bytes());
                out.extend_from_slice(value);
            }
            Reply::Absent { answered } => out.extend_from_slice(&[answered, 0]),
            Reply::Done { version, answered, sloppy } => {
                version.encode(out);
                out.extend_from_slice(&[answered, if sloppy { SLOPPY_ANSWER } else { 0 }]);
            }
            Reply::Values(items) => {
                out.extend_from_slice(&items.count.to_le_bytes());
                out.extend_from_slice(items.bytes);
            }
            Reply::Outcomes(outcomes) => outcomes.encode(out),
            Reply::Siblings { answered, siblings } => {
                out.extend_from_slice(&[answered, 0]);
                siblings.encode(out);
            }
            Reply::Error { code, text } => {
                let mut len = text.len().min(limits::ERROR_TEXT_BYTES_MAX);
                while !text.is_char_boundary(len) {
                    len -= 1;
                }
                out.extend_from_slice(&(code as u16).to_le_bytes());
                out.extend_from_slice(&(len as u16).to_le_bytes());
                out.extend_from_slice(&text.as_bytes()[..len]);
            }
        }
    }

    /// Appends the body of a multi-get's reply, which is never longer than [`limits::BODY_BYTES_MAX`]: a value that
    /// does not fit any more is answered [`ErrorCode::TooLarge`], and its asker gets it on its own.
    pub fn encode_values<'i>(items: impl ExactSizeIterator<Item = Item<'i>>, out: &mut Vec<u8>) {
        const REFUSAL_BYTES: usize = 3;
        assert!(items.len() <= limits::MULTI_GET_KEYS_MAX, "a multi-get is bounded when it is decoded");
        let body_start = out.len();
        let mut unanswered = items.len();
        out.extend_from_slice(&(items.len() as u32).to_le_bytes());
        for item in items {
            unanswered -= 1;
            let room = limits::BODY_BYTES_MAX - (out.len() - body_start) - unanswered * REFUSAL_BYTES;
            if item.encoded_len() <= room {
                item.encode(out);
            } else {
                Item::Error(ErrorCode::TooLarge).encode(out);
            }
        }
    }

    /// Reads the body of a reply frame. A kind that is not a reply is [`DecodeError::Unknown`].
    #[inline]
    pub fn decode(kind: FrameKind, body: &'a [u8]) -> Result<Reply<'a>, DecodeError> {
        let mut reader = Reader::new(body);
        let reply = match kind {
            FrameKind::Value => {
                let version = Version::decode(&mut reader)?;
                let (answered, _) = decode_answered(&mut reader, 0)?;
                let len = checked(reader.u32()?, "value", limits::VALUE_BYTES_MAX)?;
                Reply::Value { version, answered, value: reader.take(len)? }
            }
            FrameKind::Absent => Reply::Absent { answered: decode_answered(&mut reader, 0)?.0 },
            FrameKind::Done => {
                let version = Version::decode(&mut reader)?;
                let (answered, flags) = decode_answered(&mut reader, SLOPPY_ANSWER)?;
                Reply::Done { version, answered, sloppy: flags & SLOPPY_ANSWER != 0 }
            }
            FrameKind::Values => {
                let count = checked(reader.u32()?, "multi-get", limits::MULTI_GET_KEYS_MAX)? as u32;
                let bytes = reader.rest();
                for _ in 0..count {
                    Item::decode(&mut reader)?;
                }
                Reply::Values(Items { count, bytes })
            }
            FrameKind::Outcomes => Reply::Outcomes(Outcomes::decode(&mut reader)?),
            FrameKind::Siblings => {
                let (answered, _) = decode_answered(&mut reader, 0)?;
                Reply::Siblings { answered, siblings: Siblings::decode(&mut reader)? }
            }
            FrameKind::Error => {
                let code = ErrorCode::from_u16(reader.u16()?)?;
                let len = checked(u32::from(reader.u16()?), "error text", limits::ERROR_TEXT_BYTES_MAX)?;
                let text = std::str::from_utf8(reader.take(len)?).map_err(|_| DecodeError::NotUtf8)?;
                Reply::Error { code, text }
            }
            FrameKind::Pong => Reply::Pong,
            FrameKind::TopologyReply => return Ok(Reply::Topology(body)),
            FrameKind::StatusReply => {
                return Ok(Reply::Status(std::str::from_utf8(body).map_err(|_| DecodeError::NotUtf8)?));
            }
            other => return Err(DecodeError::Unknown { field: "reply", value: other as u64 }),
        };
        if reader.rest().is_empty() { Ok(reply) } else { Err(DecodeError::Trailing) }
    }
}

/// How many answered, and flags of which only the `defined` may be set.
#[inline]
pub(crate) fn decode_answered(reader: &mut Reader<'_>, defined: u8) -> Result<(u8, u8), DecodeError> {
    let (answered, flags) = (reader.u8()?, reader.u8()?);
    if flags & !defined != 0 {
        return Err(DecodeError::Unknown { field: "answer flags", value: u64::from(flags) });
    }
    Ok((answered, flags))
}
