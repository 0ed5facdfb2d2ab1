//! Marks: what a manifest knows to be synced of itself.
//!
//! Why: a group that does not hold at the end of the file looks the same whether a power cut interrupted its write or it went bad
//! after its change had been acknowledged. Taken for the former, the latter takes an acknowledged change back: a vnode that was
//! dropped would be there again, or a quarantined area be read as if it were whole.
//!
//! How: two blocks in front of the groups. When a group is synced, a mark with the number of groups synced so far is written, synced,
//! into the block that does not hold the mark before it; only then does the change count as made. So of the two marks one is
//! always whole: a power cut can harm only the one being written. A bad group below the mark was made, and is damage; one
//! above it was never acknowledged, and is cut.
//!
//! | groups that hold | highest mark | then |
//! |---|---|---|
//! | fewer than the mark says | any | damage: they were synced |
//! | as many, or one more | any | whole: the power went before that one was marked |
//! | more than that | any | damage: both marks were, and are not |
//! | none | none | empty: the file was being made, and whatever stands in it is what a torn write left |
//!
//! Should the newest mark go bad, the one before it leaves the last group as it was without marks: it takes two places that rot
//! to lose a change. A mark costs one more synced write of a block for each change, and changes are rare: a flush, a merge, a
//! drop. Rejected: an empty group behind each group, which a file that is cut short loses with it; and the mark in the next group, which
//! is there already (a good group behind a bad one), and says nothing of the last.

use super::format::{self, Fault, Identity, MAGIC, VERSION, damaged};
use crate::BLOCK_BYTES;

/// The first bytes of each mark.
const MARK_MAGIC: u32 = 0x4b4d_6546;
const CHECKSUM_AT: usize = 28;
/// Bytes in front of the groups.
pub(super) const MARKS_BYTES: usize = 2 * BLOCK_BYTES;

/// Whether a manifest's first block is one's: the first mark is in it, and in earlier versions the first group.
pub(crate) fn bears_magic(block: &[u8]) -> bool {
    [MARK_MAGIC, MAGIC].into_iter().any(|magic| block.starts_with(&magic.to_le_bytes()))
}

/// Where the mark for so many groups is.
pub(super) fn mark_offset(groups: u32) -> u64 {
    u64::from(groups.wrapping_sub(1) % 2) * BLOCK_BYTES as u64
}

/// Encodes a mark: so many groups are synced.
pub(super) fn encode_mark(identity: Identity, groups: u32) -> Vec<u8> {
    assert!(groups > 0, "a mark follows a group");
    let mut out = vec![0; BLOCK_BYTES];
    out[0..4].copy_from_slice(&MARK_MAGIC.to_le_bytes());
    out[4..6].copy_from_slice(&VERSION.to_le_bytes());
    out[6..8].copy_from_slice(&identity.core.to_le_bytes());
    out[8..24].copy_from_slice(&identity.life.to_le_bytes());
    out[24..28].copy_from_slice(&groups.to_le_bytes());
    let checksum = format::checksum_of(identity.number, &out, CHECKSUM_AT);
    out[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// What both marks of a file say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// Groups known to be synced; 0 = no mark holds.
    pub(super) groups: u32,
    /// Whose they are.
    life: Option<u128>,
    /// By block: what is wrong with it, if it is neither blank nor a mark.
    pub(super) faults: [Option<Fault>; 2],
}

impl Marks {
    /// Reads the marks at the front of `bytes`, which may be shorter. A fault of an unknown version, another core, or of fields that
    /// cannot be is an error, with its offset.
    pub(super) fn read(core: u16, number: u64, bytes: &[u8]) -> Result<Marks, (Fault, u64)> {
        // Earlier versions have a group where the first mark is.
        if bytes.starts_with(&MAGIC.to_le_bytes())
            && let Err(fault @ Fault::Version { .. }) = format::decode_group(core, number, bytes)
        {
            return Err((fault, 0));
        }
        let mut marks = Marks::default();
        for (slot, block) in bytes[..bytes.len().min(MARKS_BYTES)].chunks(BLOCK_BYTES).enumerate() {
            if block.iter().all(|byte| *byte == 0) {
                continue;
            }
            let offset = (slot * BLOCK_BYTES) as u64;
            match decode(core, number, block) {
                Ok((life, groups)) => {
                    let is_odd = groups == 0
                        || mark_offset(groups) != offset
                        || *marks.life.get_or_insert(life) != life;
                    if is_odd {
                        let fault =
                            Fault::Wrong { what: "mark", expected: slot as u64, found: groups.into() };
                        return Err((fault, offset));
                    }
                    marks.groups = marks.groups.max(groups);
                }
                Err(fault @ Fault::Damaged { .. }) => marks.faults[slot] = Some(fault),
                Err(fault @ (Fault::Wrong { .. } | Fault::Version { .. })) => return Err((fault, offset)),
            }
        }
        Ok(marks)
    }

    /// Whose groups they count, if one holds.
    pub(super) fn life(&self) -> Option<u128> {
        self.life
    }

    /// What is wrong with a file of which this many groups hold; `None` if a power cut may leave it so.
    pub(super) fn judge(&self, groups: u32) -> Option<Fault> {
        let wrong = |what| damaged(what, self.groups.into(), groups.into());
        if groups < self.groups {
            return Some(wrong("synced groups"));
        }
        (groups > self.groups.saturating_add(1)).then(|| wrong("marks"))
    }
}

fn decode(core: u16, number: u64, block: &[u8]) -> Result<(u128, u32), Fault> {
    if block.len() < BLOCK_BYTES {
        return Err(damaged("mark length", BLOCK_BYTES as u64, block.len() as u64));
    }
    let u16_at = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().expect("four bytes"));
    if u32_at(0) != MARK_MAGIC {
        return Err(damaged("mark magic", MARK_MAGIC.into(), u32_at(0).into()));
    }
    let (computed, stored) = (format::checksum_of(number, block, CHECKSUM_AT), u32_at(CHECKSUM_AT));
    if stored != computed {
        return Err(damaged("mark checksum", computed.into(), stored.into()));
    }
    if u16_at(4) != VERSION {
        return Err(Fault::Version { found: u16_at(4) });
    }
    if u16_at(6) != core {
        return Err(Fault::Wrong { what: "core", expected: core.into(), found: u16_at(6).into() });
    }
    let life = u128::from_le_bytes(block[8..24].try_into().expect("sixteen bytes"));
    Ok((life, u32_at(24)))
}
