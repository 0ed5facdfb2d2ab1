//! Typed errors: what a decoder can object to, and what a server can answer.

use crate::Short;

/// Why bytes from a peer could not be decoded. The connection that sent them is closed; no other is affected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// A field ran past the end of its frame.
    Short,
    /// Bytes were left over after the last field.
    Trailing,
    /// A length exceeds its limit in [`crate::limits`].
    TooLong {
        /// Which field.
        field: &'static str,
        /// Its length, in bytes or items.
        len: u64,
        /// The limit, in the same unit.
        max: u64,
    },
    /// The frame's checksum does not match its bytes.
    Checksum,
    /// A frame kind, role, level or flag that this version does not define.
    Unknown {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A name or text is not UTF-8.
    NotUtf8,
    /// The first bytes are not a Ferrite handshake.
    Magic,
    /// No protocol version in common with the sender of a handshake.
    Version {
        /// Oldest version the sender speaks.
        min: u16,
        /// Newest version the sender speaks.
        max: u16,
    },
}

impl DecodeError {
    /// The code that answers bytes like these, before the connection is closed.
    pub fn code(&self) -> ErrorCode {
        match self {
            DecodeError::Version { .. } => ErrorCode::Version,
            DecodeError::TooLong { .. } => ErrorCode::TooLarge,
            DecodeError::Short
            | DecodeError::Trailing
            | DecodeError::Checksum
            | DecodeError::Unknown { .. }
            | DecodeError::NotUtf8
            | DecodeError::Magic => ErrorCode::Malformed,
        }
    }
}

impl From<Short> for DecodeError {
    fn from(_: Short) -> Self {
        DecodeError::Short
    }
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DecodeError::Short => write!(f, "a field runs past the end of its frame"),
            DecodeError::Trailing => write!(f, "bytes are left over after the last field"),
            DecodeError::TooLong { field, len, max } => write!(f, "{field} is {len} long, more than {max}"),
            DecodeError::Checksum => write!(f, "the checksum does not match"),
            DecodeError::Unknown { field, value } => write!(f, "unknown {field} {value}"),
            DecodeError::NotUtf8 => write!(f, "a text is not UTF-8"),
            DecodeError::Magic => write!(f, "not a Ferrite handshake"),
            DecodeError::Version { min, max } => {
                let (ours_min, ours_max) = (crate::PROTOCOL_MIN, crate::PROTOCOL_MAX);
                write!(f, "the peer speaks protocol {min} to {max}, this side {ours_min} to {ours_max}")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

/// The kinds of error a server answers with. The number is what travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ErrorCode {
    /// The bytes could not be decoded; the connection closes.
    Malformed = 1,
    /// No protocol version in common; the connection closes.
    Version = 2,
    /// The peer belongs to another cluster; the connection closes.
    ForeignCluster = 3,
    /// A key, value or list is over its limit. Not applied.
    TooLarge = 4,
    /// Fewer live replicas than the level needs. Not applied.
    Unavailable = 5,
    /// Too few replicas answered a read before its deadline, or hold by then what it found.
    Timeout = 6,
    /// A write may have reached a replica, but its level was not reached in time. It may or may not become visible.
    Unknown = 7,
    /// A queue is full or the memory budget is spent. Not applied; try again later.
    Overloaded = 8,
    /// The core is fenced after a failed sync: it serves reads only. Not applied.
    Fenced = 9,
    /// No space is left on the device. Not applied.
    DiskFull = 10,
    /// The stored bytes of this key are damaged, or the device failed to read them.
    Damaged = 11,
    /// No such table.
    NoTable = 12,
    /// Clocks are further apart than `max_clock_drift` allows: a node's and most others', or a node's and what it was told. Not applied.
    ClockDrift = 13,
    /// The server is shutting down. Not applied.
    Stopping = 14,
    /// The request is not defined for this connection or not supported by this server.
    Unsupported = 15,
    /// The client's deadline had passed before work began. Not applied.
    Expired = 16,
    /// The peer was configured with other tables; the connection closes, and the text names the first difference.
    TablesDiffer = 17,
    /// The causal context of a write is not one, or is of another key, or is missing where one is needed; the text says which. Not applied.
    BadContext = 18,
    /// A key of a table with siblings has as many as it may, or as many actors: read it, merge, and write with the context of that read.
    /// Not applied.
    TooManySiblings = 19,
    /// The node has not joined the cluster: it owns nothing, and coordinates nothing. Not applied; ask another node.
    NotJoined = 20,
}

impl ErrorCode {
    /// Every code, for tables and tests.
    pub const ALL: [ErrorCode; 20] = [
        ErrorCode::Malformed,
        ErrorCode::Version,
        ErrorCode::ForeignCluster,
        ErrorCode::TooLarge,
        ErrorCode::Unavailable,
        ErrorCode::Timeout,
        ErrorCode::Unknown,
        ErrorCode::Overloaded,
        ErrorCode::Fenced,
        ErrorCode::DiskFull,
        ErrorCode::Damaged,
        ErrorCode::NoTable,
        ErrorCode::ClockDrift,
        ErrorCode::Stopping,
        ErrorCode::Unsupported,
        ErrorCode::Expired,
        ErrorCode::TablesDiffer,
        ErrorCode::BadContext,
        ErrorCode::TooManySiblings,
        ErrorCode::NotJoined,
    ];

    /// The code that travels as `value`.
    pub fn from_u16(value: u16) -> Result<ErrorCode, DecodeError> {
        // Codes are 1, 2, 3 … in the order of `ALL`.
        let at = usize::from(value).checked_sub(1);
        at.and_then(|at| ErrorCode::ALL.get(at).copied())
            .ok_or(DecodeError::Unknown { field: "error code", value: u64::from(value) })
    }

    /// Whether a write answered with this code has certainly reached no replica, so that it may be sent again.
    /// The remaining codes leave it unknown.
    pub fn says_not_applied(self) -> bool {
        match self {
            ErrorCode::Malformed
            | ErrorCode::Version
            | ErrorCode::ForeignCluster
            | ErrorCode::TooLarge
            | ErrorCode::Unavailable
            | ErrorCode::Overloaded
            | ErrorCode::Fenced
            | ErrorCode::DiskFull
            | ErrorCode::NoTable
            | ErrorCode::ClockDrift
            | ErrorCode::Stopping
            | ErrorCode::Unsupported
            | ErrorCode::Expired
            | ErrorCode::TablesDiffer
            | ErrorCode::BadContext
            | ErrorCode::TooManySiblings
            | ErrorCode::NotJoined => true,
            ErrorCode::Timeout | ErrorCode::Unknown | ErrorCode::Damaged => false,
        }
    }

    /// The code in words.
    pub fn name(self) -> &'static str {
        match self {
            ErrorCode::Malformed => "malformed",
            ErrorCode::Version => "no common version",
            ErrorCode::ForeignCluster => "foreign cluster",
            ErrorCode::TooLarge => "too large",
            ErrorCode::Unavailable => "unavailable",
            ErrorCode::Timeout => "timed out",
            ErrorCode::Unknown => "unknown",
            ErrorCode::Overloaded => "overloaded",
            ErrorCode::Fenced => "fenced",
            ErrorCode::DiskFull => "disk full",
            ErrorCode::Damaged => "damaged",
            ErrorCode::NoTable => "no such table",
            ErrorCode::ClockDrift => "clock drift",
            ErrorCode::Stopping => "stopping",
            ErrorCode::Unsupported => "unsupported",
            ErrorCode::Expired => "expired",
            ErrorCode::TablesDiffer => "tables differ",
            ErrorCode::BadContext => "bad context",
            ErrorCode::TooManySiblings => "too many siblings",
            ErrorCode::NotJoined => "not joined",
        }
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// An error as it travels: a code, and a text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of error.
    pub code: ErrorCode,
    /// One line for people; may be empty.
    pub text: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.text.is_empty() {
            write!(f, "{}", self.code)
        } else {
            write!(f, "{}: {}", self.code, self.text)
        }
    }
}

impl std::error::Error for Fault {}
