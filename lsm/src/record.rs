//! A record: the version envelope and a payload the engine does not look into.

/// Bits of a record's envelope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RecordFlags(pub u8);

impl RecordFlags {
    /// A deletion.
    pub const TOMBSTONE: u8 = 1;
    /// `expiry_ms` is set.
    pub const EXPIRES: u8 = 1 << 1;
    /// The payload is a sibling set: records join instead of replacing each other, by [`crate::Options::join`].
    pub const SIBLINGS: u8 = 1 << 2;
    /// In a table: the value is a pointer into a value file. Never set in a [`Record`] that callers see.
    pub const SEPARATED: u8 = 1 << 3;
    /// Bits that stored encodings use for themselves; never set in a [`Record`].
    pub const STORAGE: u8 = 1 << 5 | 1 << 6;
    /// Newer than everything in its store's frozen memtables and tables when it was applied: a read may stop at it.
    pub const DOMINATES: u8 = 1 << 7;
    /// The bits that come from outside; the engine keeps the others to itself.
    pub const OUTSIDE: u8 = Self::TOMBSTONE | Self::EXPIRES | Self::SIBLINGS;
}

/// A borrowed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Hybrid logical time.
    pub order: u64,
    /// Who minted it; breaks ties.
    pub actor: u64,
    /// Flags.
    pub flags: RecordFlags,
    /// Absolute expiry in milliseconds since the Unix epoch; 0 = never.
    pub expiry_ms: u64,
    /// Opaque.
    pub value: &'a [u8],
}

impl Record<'_> {
    /// Whether this record wins over `other` under last-write-wins.
    #[inline]
    pub fn beats(&self, other: &Record<'_>) -> bool {
        (self.order, self.actor) > (other.order, other.actor)
    }
}
