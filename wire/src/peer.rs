//! What cores of different nodes say to each other.
//!
//! ```text
//! replica_write        := vnode_epoch:u64 key version value_len:u32 value
//! hinted_write         := target:u16 vnode_epoch:u64 key version value_len:u32 value
//! replica_read         := vnode_epoch:u64 want:u8 key
//! replica_write_answer := applied:u8(0) | refused:u8(1) code:u16
//! replica_read_answer  := absent:u8(0) | full:u8(1) version value_len:u32 value | digest:u8(2) version | refused:u8(3) code:u16
//! ```
//!
//! A digest of a record is its version: it covers versions, not visibility, so that an expired record and its live twin agree. The version
//! of a set of siblings is made of all that is in it, so that different sets have different ones.
//!
//! A hinted write is kept for the node that it names, a replica that could not be reached, and answered as a replica write is.
//!
//! A put or delete may come from a peer, too, with the body that a client sends: from a node that is no replica of a key with siblings,
//! whose writes only a replica may take. It is answered as a client's.

use crate::request::{checked, decode_key, encode_key};
use crate::{DecodeError, Epoch, ErrorCode, FrameKind, Key, NodeId, Reader, Version, limits};

/// Longest payload of a record of a version, in bytes.
pub fn payload_bytes_max(version: &Version) -> usize {
    if version.flags.has_siblings() { limits::SET_BYTES_MAX } else { limits::VALUE_BYTES_MAX }
}

/// What a coordinator wants of a replica's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadWant {
    /// Version and value.
    Full,
    /// The version only.
    Digest,
}

/// A replica's answer to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAnswer {
    /// Durable on this replica.
    Applied,
    /// Not applied on this replica.
    Refused(ErrorCode),
}

/// A replica's answer to a read. Tombstones and expired records are answered as records, not as absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaAnswer<'a> {
    /// The replica has no record of the key.
    Absent,
    /// The record.
    Full {
        /// Its version.
        version: Version,
        /// Its payload.
        value: &'a [u8],
    },
    /// The record's digest.
    Digest {
        /// Its version.
        version: Version,
    },
    /// The replica could not read.
    Refused(ErrorCode),
}

/// A message between cores of different nodes, borrowed from its frame's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerMessage<'a> {
    /// Store this record.
    ReplicaWrite {
        /// The epoch of the vnode's replica list, as the coordinator knows it.
        vnode_epoch: Epoch,
        /// The key.
        key: Key<'a>,
        /// The record's version.
        version: Version,
        /// The record's payload.
        value: &'a [u8],
    },
    /// Keep this record for another node, a replica of its key, and deliver it once that is there.
    HintedWrite {
        /// Whom it is for.
        target: NodeId,
        /// The epoch of the vnode's replica list, as the coordinator knows it.
        vnode_epoch: Epoch,
        /// The key.
        key: Key<'a>,
        /// The record's version.
        version: Version,
        /// The record's payload.
        value: &'a [u8],
    },
    /// Read this record.
    ReplicaRead {
        /// The epoch of the vnode's replica list, as the coordinator knows it.
        vnode_epoch: Epoch,
        /// All of it, or its digest.
        want: ReadWant,
        /// The key.
        key: Key<'a>,
    },
    /// Answers `ReplicaWrite` and `HintedWrite`.
    ReplicaWriteAnswer(WriteAnswer),
    /// Answers `ReplicaRead`.
    ReplicaReadAnswer(ReplicaAnswer<'a>),
}

impl<'a> PeerMessage<'a> {
    /// The kind of frame that carries this message.
    pub fn kind(&self) -> FrameKind {
        match self {
            PeerMessage::ReplicaWrite { .. } => FrameKind::ReplicaWrite,
            PeerMessage::HintedWrite { .. } => FrameKind::HintedWrite,
            PeerMessage::ReplicaRead { .. } => FrameKind::ReplicaRead,
            PeerMessage::ReplicaWriteAnswer(_) => FrameKind::ReplicaWriteAnswer,
            PeerMessage::ReplicaReadAnswer(_) => FrameKind::ReplicaReadAnswer,
        }
    }

    /// Appends the body.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            PeerMessage::ReplicaWrite { vnode_epoch, key, version, value } => {
                encode_record(*vnode_epoch, key, version, value, out);
            }
            PeerMessage::HintedWrite { target, vnode_epoch, key, version, value } => {
                out.extend_from_slice(&target.0.to_le_bytes());
                encode_record(*vnode_epoch, key, version, value, out);
            }
            PeerMessage::ReplicaRead { vnode_epoch, want, key } => {
                out.extend_from_slice(&vnode_epoch.0.to_le_bytes());
                out.push(match want {
                    ReadWant::Full => 0,
                    ReadWant::Digest => 1,
                });
                encode_key(key, out);
            }
            PeerMessage::ReplicaWriteAnswer(WriteAnswer::Applied) => out.push(0),
            PeerMessage::ReplicaWriteAnswer(WriteAnswer::Refused(code)) => {
                out.push(1);
                out.extend_from_slice(&(*code as u16).to_le_bytes());
            }
            PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Absent) => out.push(0),
            PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Full { version, value }) => {
                out.push(1);
                version.encode(out);
                out.extend_from_slice(&(value.len() as u32).to_le_bytes());
                out.extend_from_slice(value);
            }
            PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Digest { version }) => {
                out.push(2);
                version.encode(out);
            }
            PeerMessage::ReplicaReadAnswer(ReplicaAnswer::Refused(code)) => {
                out.push(3);
                out.extend_from_slice(&(*code as u16).to_le_bytes());
            }
        }
    }

    /// Reads the body of a peer frame. A kind that is not a peer message is [`DecodeError::Unknown`].
    #[inline]
    pub fn decode(kind: FrameKind, body: &'a [u8]) -> Result<PeerMessage<'a>, DecodeError> {
        let mut reader = Reader::new(body);
        let message = match kind {
            FrameKind::ReplicaWrite => {
                let (vnode_epoch, key, version, value) = decode_record(&mut reader)?;
                PeerMessage::ReplicaWrite { vnode_epoch, key, version, value }
            }
            FrameKind::HintedWrite => {
                let target = NodeId(reader.u16()?);
                let (vnode_epoch, key, version, value) = decode_record(&mut reader)?;
                PeerMessage::HintedWrite { target, vnode_epoch, key, version, value }
            }
            FrameKind::ReplicaRead => {
                let vnode_epoch = Epoch(reader.u64()?);
                let want = match reader.u8()? {
                    0 => ReadWant::Full,
                    1 => ReadWant::Digest,
                    other => return Err(DecodeError::Unknown { field: "want", value: u64::from(other) }),
                };
                PeerMessage::ReplicaRead { vnode_epoch, want, key: decode_key(&mut reader)? }
            }
            FrameKind::ReplicaWriteAnswer => PeerMessage::ReplicaWriteAnswer(match reader.u8()? {
                0 => WriteAnswer::Applied,
                1 => WriteAnswer::Refused(ErrorCode::from_u16(reader.u16()?)?),
                other => return Err(DecodeError::Unknown { field: "write answer", value: u64::from(other) }),
            }),
            FrameKind::ReplicaReadAnswer => PeerMessage::ReplicaReadAnswer(match reader.u8()? {
                0 => ReplicaAnswer::Absent,
                1 => {
                    let version = Version::decode(&mut reader)?;
                    let len = checked(reader.u32()?, "value", payload_bytes_max(&version))?;
                    ReplicaAnswer::Full { version, value: reader.take(len)? }
                }
                2 => ReplicaAnswer::Digest { version: Version::decode(&mut reader)? },
                3 => ReplicaAnswer::Refused(ErrorCode::from_u16(reader.u16()?)?),
                other => return Err(DecodeError::Unknown { field: "read answer", value: u64::from(other) }),
            }),
            other => return Err(DecodeError::Unknown { field: "peer message", value: other as u64 }),
        };
        if reader.rest().is_empty() { Ok(message) } else { Err(DecodeError::Trailing) }
    }
}

#[inline]
fn encode_record(vnode_epoch: Epoch, key: &Key<'_>, version: &Version, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&vnode_epoch.0.to_le_bytes());
    encode_key(key, out);
    version.encode(out);
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
}

#[inline]
fn decode_record<'a>(reader: &mut Reader<'a>) -> Result<(Epoch, Key<'a>, Version, &'a [u8]), DecodeError> {
    let vnode_epoch = Epoch(reader.u64()?);
    let key = decode_key(reader)?;
    let version = Version::decode(reader)?;
    let len = checked(reader.u32()?, "value", payload_bytes_max(&version))?;
    Ok((vnode_epoch, key, version, reader.take(len)?))
}
