//! The envelope every record travels and is stored in, in every conflict mode.

use crate::{Actor, DecodeError, Order, Reader};

/// Bits that say how to read a record's payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VersionFlags(pub u8);

impl VersionFlags {
    /// The record says that the key was deleted; the payload is empty.
    pub const TOMBSTONE: u8 = 1;
    /// `expiry_ms` is set.
    pub const EXPIRES: u8 = 1 << 1;
    /// The payload is a set of siblings with their clock, not one value. Such records are joined; none replaces another.
    pub const SIBLINGS: u8 = 1 << 2;
    const DEFINED: u8 = Self::TOMBSTONE | Self::EXPIRES | Self::SIBLINGS;

    /// Whether this is a deletion.
    pub fn is_tombstone(self) -> bool {
        self.0 & Self::TOMBSTONE != 0
    }

    /// Whether the payload is a set of siblings.
    #[inline]
    pub fn has_siblings(self) -> bool {
        self.0 & Self::SIBLINGS != 0
    }
}

/// Where a record stands among the records of its key: last write wins by `(order, actor)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Hybrid logical time of the write; of a sibling set, the highest.
    pub order: Order,
    /// Who minted it: breaks ties, so that equal times neither mix nor flip between replicas.
    pub actor: Actor,
    /// How to read the payload.
    pub flags: VersionFlags,
    /// Absolute expiry in milliseconds since the Unix epoch; 0 = never.
    pub expiry_ms: u64,
}

impl Version {
    /// Bytes of the encoded envelope.
    pub const BYTES: usize = 25;

    /// Whether this version wins over `other` under last-write-wins.
    #[inline]
    pub fn beats(&self, other: &Version) -> bool {
        (self.order, self.actor) > (other.order, other.actor)
    }

    /// Appends the envelope: order, actor, expiry (u64 each), flags (u8).
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.order.0.to_le_bytes());
        out.extend_from_slice(&self.actor.0.to_le_bytes());
        out.extend_from_slice(&self.expiry_ms.to_le_bytes());
        out.push(self.flags.0);
    }

    /// Reads an envelope.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Version, DecodeError> {
        let order = Order(reader.u64()?);
        let actor = Actor(reader.u64()?);
        let expiry_ms = reader.u64()?;
        let flags = reader.u8()?;
        if flags & !VersionFlags::DEFINED != 0 {
            return Err(DecodeError::Unknown { field: "version flags", value: u64::from(flags) });
        }
        Ok(Version { order, actor, flags: VersionFlags(flags), expiry_ms })
    }
}
