//! Frames: a fixed 32-byte little-endian header and a body.
//!
//! ```text
//! frame    := checksum:u32 body_len:u32 kind:u8 flags:u8 reserved:u16 deadline_us:u32 request:u64 time:u64 body
//! checksum := crc32c of everything after itself, body included
//! ```

use crate::{DecodeError, Order, RequestId, limits};

/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 32;

/// What a frame's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// First frame of a connection, from the side that connected.
    Hello = 1,
    /// The answer to [`FrameKind::Hello`].
    HelloReply = 2,

    /// Asks for an answer and nothing else.
    Ping = 0x10,
    /// Asks for the topology.
    Topology = 0x11,
    /// Asks for the node's own state, for people.
    Status = 0x12,
    /// Reads one key.
    Get = 0x13,
    /// Writes one key.
    Put = 0x14,
    /// Deletes one key.
    Delete = 0x15,
    /// Reads several keys.
    MultiGet = 0x16,
    /// Writes and deletes several keys.
    MultiPut = 0x17,
    /// Asks what is owed to other nodes, or holds delivery up.
    Hints = 0x18,

    /// Answers a ping.
    Pong = 0x20,
    /// Answers a topology request.
    TopologyReply = 0x21,
    /// Answers a status request.
    StatusReply = 0x22,
    /// A value was found.
    Value = 0x23,
    /// The key has no value.
    Absent = 0x24,
    /// A write reached its level.
    Done = 0x25,
    /// Answers a multi-get.
    Values = 0x26,
    /// What a key of a table with siblings has.
    Siblings = 0x27,
    /// Answers a multi-put.
    Outcomes = 0x28,
    /// A typed error.
    Error = 0x2f,

    /// A coordinator sends a record to a replica.
    ReplicaWrite = 0x40,
    /// A coordinator reads from a replica.
    ReplicaRead = 0x41,
    /// A coordinator sends a record to a node that keeps it for one of the replicas.
    HintedWrite = 0x42,
    /// A replica's answer to a write.
    ReplicaWriteAnswer = 0x50,
    /// A replica's answer to a read.
    ReplicaReadAnswer = 0x51,

    /// A packet of gossip; nothing answers it.
    Gossip = 0x60,
}

impl FrameKind {
    /// Every kind, for tables and tests.
    pub const ALL: [FrameKind; 27] = [
        FrameKind::Hello,
        FrameKind::HelloReply,
        FrameKind::Ping,
        FrameKind::Topology,
        FrameKind::Status,
        FrameKind::Get,
        FrameKind::Put,
        FrameKind::Delete,
        FrameKind::MultiGet,
        FrameKind::MultiPut,
        FrameKind::Hints,
        FrameKind::Pong,
        FrameKind::TopologyReply,
        FrameKind::StatusReply,
        FrameKind::Value,
        FrameKind::Absent,
        FrameKind::Done,
        FrameKind::Values,
        FrameKind::Siblings,
        FrameKind::Outcomes,
        FrameKind::Error,
        FrameKind::ReplicaWrite,
        FrameKind::ReplicaRead,
        FrameKind::HintedWrite,
        FrameKind::ReplicaWriteAnswer,
        FrameKind::ReplicaReadAnswer,
        FrameKind::Gossip,
    ];

    /// The kind that travels as `value`.
    #[inline]
    pub fn from_u8(value: u8) -> Result<FrameKind, DecodeError> {
        Ok(match value {
            1 => FrameKind::Hello,
            2 => FrameKind::HelloReply,
            0x10 => FrameKind::Ping,
            0x11 => FrameKind::Topology,
            0x12 => FrameKind::Status,
            0x13 => FrameKind::Get,
            0x14 => FrameKind::Put,
            0x15 => FrameKind::Delete,
            0x16 => FrameKind::MultiGet,
            0x17 => FrameKind::MultiPut,
            0x18 => FrameKind::Hints,
            0x20 => FrameKind::Pong,
            0x21 => FrameKind::TopologyReply,
            0x22 => FrameKind::StatusReply,
            0x23 => FrameKind::Value,
            0x24 => FrameKind::Absent,
            0x25 => FrameKind::Done,
            0x26 => FrameKind::Values,
            0x27 => FrameKind::Siblings,
            0x28 => FrameKind::Outcomes,
            0x2f => FrameKind::Error,
            0x40 => FrameKind::ReplicaWrite,
            0x41 => FrameKind::ReplicaRead,
            0x42 => FrameKind::HintedWrite,
            0x50 => FrameKind::ReplicaWriteAnswer,
            0x51 => FrameKind::ReplicaReadAnswer,
            0x60 => FrameKind::Gossip,
            _ => return Err(DecodeError::Unknown { field: "frame kind", value: u64::from(value) }),
        })
    }
}

/// Bits that belong to the frame rather than to its body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameFlags(pub u8);

impl FrameFlags {
    /// In a reply: the request named an older topology epoch than the server's, or came to the wrong core; fetch the topology.
    pub const STALE_TOPOLOGY: u8 = 1;
    const DEFINED: u8 = Self::STALE_TOPOLOGY;

    /// Whether the sender should fetch the topology again.
    pub fn is_stale(self) -> bool {
        self.0 & Self::STALE_TOPOLOGY != 0
    }
}

/// The header's fields but for length and checksum, which the codec fills in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the body is.
    pub kind: FrameKind,
    /// Frame flags.
    pub flags: FrameFlags,
    /// Time left when the frame was sent, in microseconds; 0 = the server's default. Zero in replies.
    pub deadline_us: u32,
    /// The sender's number for the request; a reply repeats it.
    pub request: RequestId,
    /// The highest hybrid logical time the sender has seen.
    pub time: Order,
}

/// A whole frame, borrowed from the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameView<'a> {
    /// The header.
    pub header: FrameHeader,
    /// The body.
    pub body: &'a [u8],
}

/// What [`parse_frame`] found at the front of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A whole frame, `bytes` long with its header.
    Frame {
        /// The frame.
        frame: FrameView<'a>,
        /// Its length.
        bytes: usize,
    },
    /// Not yet whole: at least `bytes` are needed in all.
    Need {
        /// Bytes needed, counted from the frame's first.
        bytes: usize,
    },
}

/// Looks for a frame at the front of `bytes`. `body_bytes_max` is checked as soon as the length is there, before the body is.
#[inline]
pub fn parse_frame(bytes: &[u8], body_bytes_max: usize) -> Result<Parsed<'_>, DecodeError> {
    debug_assert!(body_bytes_max <= limits::BODY_BYTES_MAX);
    let Some(head) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else {
        return Ok(Parsed::Need { bytes: FRAME_HEADER_BYTES });
    };
    let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let body_len = u32_at(4) as usize;
    if body_len > body_bytes_max {
        return Err(DecodeError::TooLong {
            field: "frame body",
            len: body_len as u64,
            max: body_bytes_max as u64,
        });
    }
    let kind = FrameKind::from_u8(head[8])?;
    let flags = head[9];
    if flags & !FrameFlags::DEFINED != 0 {
        return Err(DecodeError::Unknown { field: "frame flags", value: u64::from(flags) });
    }
    if head[10] | head[11] != 0 {
        let value = u64::from(u16::from_le_bytes([head[10], head[11]]));
        return Err(DecodeError::Unknown { field: "reserved header bytes", value });
    }
    let total = FRAME_HEADER_BYTES + body_len;
    if bytes.len() < total {
        return Ok(Parsed::Need { bytes: total });
    }
    if crc32c::crc32c(&bytes[4..total]) != u32_at(0) {
        return Err(DecodeError::Checksum);
    }
    let header = FrameHeader {
        kind,
        flags: FrameFlags(flags),
        deadline_us: u32_at(12),
        request: RequestId(u64_at(16)),
        time: Order(u64_at(24)),
    };
    Ok(Parsed::Frame { frame: FrameView { header, body: &bytes[FRAME_HEADER_BYTES..total] }, bytes: total })
}

/// Reserves a header at the end of `out` and says where; append the body, then call [`finish_frame`].
#[inline]
pub fn start_frame(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    start
}

/// Fills in the header reserved by [`start_frame`]; everything in `out` after it is the body.
#[inline]
pub fn finish_frame(out: &mut [u8], start: usize, header: &FrameHeader) {
    let frame = &mut out[start..];
    let body_len = frame.len() - FRAME_HEADER_BYTES;
    assert!(body_len <= limits::BODY_BYTES_MAX, "a frame's body is bounded before it is encoded");
    frame[4..8].copy_from_slice(&(body_len as u32).to_le_bytes());
    frame[8] = header.kind as u8;
    frame[9] = header.flags.0;
    frame[10..12].copy_from_slice(&[0; 2]);
    frame[12..16].copy_from_slice(&header.deadline_us.to_le_bytes());
    frame[16..24].copy_from_slice(&header.request.0.to_le_bytes());
    frame[24..32].copy_from_slice(&header.time.0.to_le_bytes());
    let checksum = crc32c::crc32c(&frame[4..]);
    frame[..4].copy_from_slice(&checksum.to_le_bytes());
}
