//! The bytes of a log segment. Little-endian throughout; lengths in bytes unless said otherwise.
//!
//! ```text
//! segment   := header group* rest            ; groups start on block boundaries, one follows the other
//! block     := 4096 bytes
//! header    := copy zeros(3072) copy zeros(448)  ; one block: the first copy in its first sector, the second in its last
//! copy      := magic:u64 version:u16 core:u16 flags:u32 id:u64 life:u64
//!              life_first:u64 life_after:u64 checksum:u32 zeros(4) file_bytes:u64
//! group     := magic:u32 checksum:u32 blocks:u32 body:u32 count:u32 zeros(4) id:u64 life:u64
//!              first:u64 mark:u64 seed:u64 record{count} zeros trailer   ; `blocks` blocks, records take `body` bytes
//! trailer   := id:u64 life:u64               ; the last bytes of the last block
//! rest      := zeros, or in a recycled segment what its previous life left
//! ```
//!
//! - A segment's `id` grows with each segment opened; its file's slot number means nothing. `life` is random, minted each time the
//!   log is opened. Together they say whose a group is: the groups of a recycled segment's previous life never pass for this
//!   one's, and no two groups of a log share `(id, life)` and place unless one overwrote the other.
//! - A group's checksum is the CRC-32C of all its blocks except the checksum itself, seeded with `id` and `life`.
//! - `first` is the sequence number of the first record, or of the record to come when `count` is 0. `mark` is the highest sequence
//!   number that was known to be synced when the group was written; it is below `first`.
//! - `seed` is that of the hash by which tokens follow from partition keys, for records that leave them out; 0 where none does.
//! - `life_first` is the first sequence number of the life, `life_after` the last one of earlier lives that counts: what an
//!   earlier life holds beyond it was cut, and never replays.
//! - `file_bytes` is the length of the segment's file, which never changes: a file that is shorter was cut by something else.
//! - A copy's checksum is the CRC-32C of the whole copy except the checksum itself. That of version 2, which had zeros behind it, was of
//!   what stands before it.
//! - Flag 1 of a header says that the segment was recycled: its `rest` need not be zeros.
//! - The header has two copies in different sectors, written at once: one may rot. Copies that are valid but differ were torn
//!   by a crash while the segment was being recycled; the lower id is what the segment still is.
//! - Numbers are trusted only if they make sense: ids and sequence numbers from 1 to 2^62, `life_after` below `life_first`, no flag
//!   that is not known, files of whole blocks that hold more than a header. A header that is valid by its checksum and makes none
//!   counts as damaged.
//! - The trailer repeats the identity in another sector than the header: the end of the log is told from leftovers by either.
//!
//! The record grammar is in `codec`.

use crate::BLOCK_BYTES;

/// Version of this format.
pub const VERSION: u16 = 3;

/// Bytes of a group before its records.
pub(super) const GROUP_HEADER_BYTES: usize = 64;
/// Bytes of a group after its padding.
pub(super) const TRAILER_BYTES: usize = 16;
/// Bytes of a segment before its groups.
pub(super) const SEGMENT_HEADER_BYTES: u64 = BLOCK_BYTES as u64;
/// Longest group that anyone may write, in bytes; read before anything is trusted.
pub const GROUP_BYTES_LIMIT: usize = 16 << 20;

const HEADER_MAGIC: u64 = u64::from_le_bytes(*b"FerrLog\0");
const GROUP_MAGIC: u32 = u32::from_le_bytes(*b"FGrp");
const COPY_BYTES: usize = 64;
const CHECKSUM_AT: usize = 48;
/// The last version whose checksums did not cover what stands behind them.
const VERSION_CHECKED_IN_FRONT: u16 = 2;
const SECOND_COPY_AT: usize = BLOCK_BYTES - 512;
const RECYCLED: u32 = 1;
/// No id and no sequence number that is read is above this: what follows one can always be counted, and written.
const NUMBER_MAX: u64 = 1 << 62;
/// What is written may go on beyond that.
const WRITTEN_MAX: u64 = 1 << 63;

/// Whose a group is: the segment and the opening of the log that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The segment's id, from 1.
    pub segment: u64,
    /// The log's life.
    pub life: u64,
}

impl Identity {
    fn seed(self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.segment.to_le_bytes()), &self.life.to_le_bytes())
    }
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The core whose log it is.
    pub core: u16,
    /// Whose its groups are.
    pub identity: Identity,
    /// Whether the segment held something before.
    pub recycled: bool,
    /// First sequence number of this life.
    pub life_first: u64,
    /// Last sequence number of earlier lives that counts.
    pub life_after: u64,
    /// Length of its file.
    pub file_bytes: u64,
}

/// Why a block is not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// All zeros: never written.
    Blank,
    /// Neither copy is valid.
    Damaged {
        /// Checksum of the first copy's bytes.
        expected: u32,
        /// The checksum it carries.
        found: u32,
    },
    /// The checksum is right and the fields make no sense: written by a bug, not damaged.
    Fields,
    /// A valid header of another version.
    Version(u16),
}

impl SegmentHeader {
    /// Writes the header's block.
    pub(super) fn encode(&self, block: &mut [u8]) {
        assert!(self.is_sound(WRITTEN_MAX), "a header that makes no sense: {self:?}");
        let block = &mut block[..BLOCK_BYTES];
        block.fill(0);
        let copy = &mut block[..COPY_BYTES];
        copy[..8].copy_from_slice(&HEADER_MAGIC.to_le_bytes());
        copy[8..10].copy_from_slice(&VERSION.to_le_bytes());
        copy[10..12].copy_from_slice(&self.core.to_le_bytes());
        copy[12..16].copy_from_slice(&(if self.recycled { RECYCLED } else { 0 }).to_le_bytes());
        copy[16..24].copy_from_slice(&self.identity.segment.to_le_bytes());
        copy[24..32].copy_from_slice(&self.identity.life.to_le_bytes());
        copy[32..40].copy_from_slice(&self.life_first.to_le_bytes());
        copy[40..48].copy_from_slice(&self.life_after.to_le_bytes());
        copy[56..].copy_from_slice(&self.file_bytes.to_le_bytes());
        let checksum = copy_checksum(copy);
        copy[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        block.copy_within(..COPY_BYTES, SECOND_COPY_AT);
    }

    /// Reads a header's block, or what a file that was cut short has of it.
    pub fn decode(block: &[u8]) -> Result<SegmentHeader, HeaderFault> {
        let block = &block[..block.len().min(BLOCK_BYTES)];
        let copy_at = |at| block.get(at..at + COPY_BYTES).map_or(Err(HeaderFault::Blank), Self::decode_copy);
        match (copy_at(0), copy_at(SECOND_COPY_AT)) {
            (Ok(first), Ok(second)) if second.identity.segment < first.identity.segment => Ok(second),
            (Ok(header), _)
            | (Err(HeaderFault::Damaged { .. } | HeaderFault::Blank | HeaderFault::Fields), Ok(header)) => {
                Ok(header)
            }
            (Err(HeaderFault::Version(version)), _) | (Err(_), Err(HeaderFault::Version(version))) => {
                Err(HeaderFault::Version(version))
            }
            (Err(fault), Err(_)) if block.iter().any(|byte| *byte != 0) => match fault {
                HeaderFault::Blank => Err(HeaderFault::Damaged { expected: 0, found: 0 }),
                fault => Err(fault),
            },
            (Err(_), Err(_)) => Err(HeaderFault::Blank),
        }
    }

    /// The highest id that either copy of a header speaks of. An id is not minted again though its header was torn: the copy may
    /// still be there when the other is torn the next time.
    pub(super) fn highest_id(block: &[u8]) -> u64 {
        [0, SECOND_COPY_AT]
            .into_iter()
            .filter_map(|at| Self::decode_copy(block.get(at..at + COPY_BYTES)?).ok())
            .map(|header| header.identity.segment)
            .max()
            .unwrap_or(0)
    }

    /// Which of its copies are valid.
    pub(super) fn copies(block: &[u8]) -> [bool; 2] {
        [0, SECOND_COPY_AT]
            .map(|at| block.get(at..at + COPY_BYTES).is_some_and(|copy| Self::decode_copy(copy).is_ok()))
    }

    fn decode_copy(copy: &[u8]) -> Result<SegmentHeader, HeaderFault> {
        if copy.iter().all(|byte| *byte == 0) {
            return Err(HeaderFault::Blank);
        }
        let expected = copy_checksum(copy);
        let found = u32_at(copy, CHECKSUM_AT);
        let version = u16_at(copy, 8);
        let is_of_old_version =
            version <= VERSION_CHECKED_IN_FRONT && found == crc32c::crc32c(&copy[..CHECKSUM_AT]);
        if expected != found && !is_of_old_version || u64_at(copy, 0) != HEADER_MAGIC {
            return Err(HeaderFault::Damaged { expected, found });
        }
        if version != VERSION {
            return Err(HeaderFault::Version(version));
        }
        let header = SegmentHeader {
            core: u16_at(copy, 10),
            identity: Identity { segment: u64_at(copy, 16), life: u64_at(copy, 24) },
            recycled: u32_at(copy, 12) & RECYCLED != 0,
            life_first: u64_at(copy, 32),
            life_after: u64_at(copy, 40),
            file_bytes: u64_at(copy, 56),
        };
        let is_known = u32_at(copy, 12) & !RECYCLED == 0;
        if is_known && header.is_sound(NUMBER_MAX) { Ok(header) } else { Err(HeaderFault::Fields) }
    }

    fn is_sound(&self, number_max: u64) -> bool {
        let SegmentHeader { identity, life_first, life_after, file_bytes, .. } = *self;
        (1..=number_max).contains(&identity.segment)
            && (1..=number_max).contains(&life_first)
            && life_after < life_first
            && (SEGMENT_HEADER_BYTES + 1..=NUMBER_MAX).contains(&file_bytes)
            && file_bytes.is_multiple_of(BLOCK_BYTES as u64)
    }
}

/// Of a copy of a header, its checksum left out.
fn copy_checksum(copy: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&copy[..CHECKSUM_AT]), &copy[CHECKSUM_AT + 4..COPY_BYTES])
}

/// Whether a segment's first block bears the mark of one, in either copy of its header.
pub(crate) fn bears_magic(block: &[u8]) -> bool {
    let magic = HEADER_MAGIC.to_le_bytes();
    [0, SECOND_COPY_AT].into_iter().any(|at| block.get(at..).is_some_and(|copy| copy.starts_with(&magic)))
}

/// What a group's header says, its records left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    /// Whose it is.
    pub identity: Identity,
    /// Sequence number of the first record, or of the one to come.
    pub first: u64,
    /// Records.
    pub count: u32,
    /// Highest sequence number known synced before it.
    pub mark: u64,
    /// Seed of the tokens that records leave out.
    pub token_seed: u64,
    /// Bytes of the records.
    pub body: u32,
    /// Blocks in all.
    pub blocks: u32,
}

impl GroupHeader {
    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        self.blocks as usize * BLOCK_BYTES
    }

    /// Sequence number after the last record.
    pub fn next(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count))
    }

    /// Writes header, padding and trailer around the records that stand in `group` already; `group` is cut to the group's
    /// length by the caller.
    pub(super) fn seal(&self, group: &mut [u8]) {
        assert_eq!(group.len(), self.bytes());
        let end = GROUP_HEADER_BYTES + self.body as usize;
        let trailer = group.len() - TRAILER_BYTES;
        assert!(end <= trailer, "records run into the trailer");
        group[end..trailer].fill(0);
        group[trailer..trailer + 8].copy_from_slice(&self.identity.segment.to_le_bytes());
        group[trailer + 8..].copy_from_slice(&self.identity.life.to_le_bytes());
        let header = &mut group[..GROUP_HEADER_BYTES];
        header.fill(0);
        header[..4].copy_from_slice(&GROUP_MAGIC.to_le_bytes());
        header[8..12].copy_from_slice(&self.blocks.to_le_bytes());
        header[12..16].copy_from_slice(&self.body.to_le_bytes());
        header[16..20].copy_from_slice(&self.count.to_le_bytes());
        header[24..32].copy_from_slice(&self.identity.segment.to_le_bytes());
        header[32..40].copy_from_slice(&self.identity.life.to_le_bytes());
        header[40..48].copy_from_slice(&self.first.to_le_bytes());
        header[48..56].copy_from_slice(&self.mark.to_le_bytes());
        header[56..].copy_from_slice(&self.token_seed.to_le_bytes());
        let checksum = checksum(self.identity, group);
        group[4..8].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Blocks that a group with `body` bytes of records takes.
pub(super) fn blocks_for(body: usize) -> usize {
    (GROUP_HEADER_BYTES + body + TRAILER_BYTES).div_ceil(BLOCK_BYTES)
}

fn checksum(identity: Identity, group: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(identity.seed(), &group[..4]), &group[8..])
}

/// Why bytes are not a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupFault {
    /// No group starts here.
    NoMagic,
    /// Its length is none that a group can have, or more than there is room for.
    Length {
        /// The length it claims, in bytes.
        claimed: u64,
    },
    /// It is another segment's, or another life's, whole or not.
    Foreign(Identity),
    /// The checksum is wrong.
    Checksum {
        /// Of the bytes.
        expected: u32,
        /// The one it carries.
        found: u32,
    },
    /// The checksum is right and the fields make no sense together: written by a bug, not damaged.
    Fields,
}

/// How much of `bytes` a group that starts there claims, if one does: what must be read before [`decode_group`] can tell.
pub(super) fn claimed_bytes(bytes: &[u8]) -> Option<usize> {
    if bytes.len() < GROUP_HEADER_BYTES || u32_at(bytes, 0) != GROUP_MAGIC {
        return None;
    }
    let claimed = u64::from(u32_at(bytes, 8)) * BLOCK_BYTES as u64;
    (claimed > 0 && claimed <= GROUP_BYTES_LIMIT as u64).then_some(claimed as usize)
}

/// Reads the group at the start of `bytes`, which may go on after it: its header and its records' bytes. With an identity, a group
/// of anyone else is refused; without, a group is taken at its own word. Never panics, whatever the bytes.
///
/// The checksum is over up to [`GROUP_BYTES_LIMIT`], and most groups that a recycled segment's search meets are its previous life's: what
/// neither its header nor its trailer says is ours is refused before. Neither may be believed before the checksum, which covers them; but one
/// damaged place leaves the other, so that a damaged group of ours is still told from somebody else's.
pub fn decode_group(bytes: &[u8], identity: Option<Identity>) -> Result<(GroupHeader, &[u8]), GroupFault> {
    if bytes.len() < GROUP_HEADER_BYTES || u32_at(bytes, 0) != GROUP_MAGIC {
        return Err(GroupFault::NoMagic);
    }
    let claimed = u64::from(u32_at(bytes, 8)) * BLOCK_BYTES as u64;
    let length = GroupFault::Length { claimed };
    let len = claimed_bytes(bytes).ok_or(length)?;
    let group = bytes.get(..len).ok_or(length)?;
    let own = Identity { segment: u64_at(group, 24), life: u64_at(group, 32) };
    let ends = [&group[..BLOCK_BYTES], &group[len - BLOCK_BYTES..]];
    if identity.is_some_and(|identity| !ends.into_iter().any(|block| bears(block, identity))) {
        return Err(GroupFault::Foreign(own));
    }
    let found = u32_at(group, 4);
    let expected = checksum(own, group);
    if expected != found {
        return Err(GroupFault::Checksum { expected, found });
    }
    if identity.is_some_and(|identity| identity != own) {
        return Err(GroupFault::Foreign(own));
    }
    let header = GroupHeader {
        identity: own,
        first: u64_at(group, 40),
        count: u32_at(group, 16),
        mark: u64_at(group, 48),
        token_seed: u64_at(group, 56),
        body: u32_at(group, 12),
        blocks: u32_at(group, 8),
    };
    let end = GROUP_HEADER_BYTES as u64 + u64::from(header.body);
    let whole = end + TRAILER_BYTES as u64 <= claimed;
    if !whole || header.mark >= header.first || header.first > NUMBER_MAX || own.segment > NUMBER_MAX {
        return Err(GroupFault::Fields);
    }
    Ok((header, &group[GROUP_HEADER_BYTES..end as usize]))
}

/// Whether a block, valid or not, bears an identity: as the first block of a group or as the last.
///
/// What a recycled segment's previous life left bears another id, and usually the same life: the id decides, and one of the
/// fields beside it must agree, so that either may be damaged.
pub(super) fn bears(block: &[u8], identity: Identity) -> bool {
    let segment = identity.segment.to_le_bytes();
    let life = identity.life.to_le_bytes();
    let head = block[24..32] == segment && (block[32..40] == life || u32_at(block, 0) == GROUP_MAGIC);
    let tail = &block[BLOCK_BYTES - TRAILER_BYTES..];
    head || (tail[..8] == segment && tail[8..] == life)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Puts the right checksum into a copy of a header that a test has changed.
#[cfg(test)]
pub(super) fn reseal(copy: &mut [u8]) {
    let checksum = copy_checksum(copy);
    copy[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: Identity = Identity { segment: 7, life: 0xABCD_EF01_2345_6789 };

    fn group(body: &[u8], first: u64, count: u32, mark: u64) -> Vec<u8> {
        let blocks = blocks_for(body.len());
        let mut bytes = vec![0xA5; blocks * BLOCK_BYTES];
        bytes[GROUP_HEADER_BYTES..GROUP_HEADER_BYTES + body.len()].copy_from_slice(body);
        let header = GroupHeader {
            identity: OURS,
            first,
            count,
            mark,
            token_seed: 0,
            body: body.len() as u32,
            blocks: blocks as u32,
        };
        header.seal(&mut bytes);
        bytes
    }

    fn header() -> SegmentHeader {
        SegmentHeader {
            core: 3,
            identity: OURS,
            recycled: true,
            life_first: 100,
            life_after: 90,
            file_bytes: 64 << 10,
        }
    }

    #[test]
    fn every_flipped_bit_of_a_group_is_found() {
        let good = group(b"some records", 10, 1, 9);
        assert!(decode_group(&good, Some(OURS)).is_ok());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_group(&bad, Some(OURS)).is_err(), "bit {bit}");
            assert!(bears(&bad[..BLOCK_BYTES], OURS), "bit {bit}: still known as ours");
        }
    }

    #[test]
    fn a_group_is_nobody_elses() {
        let bytes = group(b"x", 1, 1, 0);
        for other in [Identity { segment: 8, ..OURS }, Identity { life: 1, ..OURS }] {
            assert_eq!(decode_group(&bytes, Some(other)), Err(GroupFault::Foreign(OURS)));
            assert!(!bears(&bytes[..BLOCK_BYTES], Identity { segment: 8, ..OURS }));
        }
        assert!(decode_group(&bytes, None).is_ok());
    }

    /// Each of them cost a checksum over all that it claimed to be.
    #[test]
    fn a_group_that_nothing_says_is_ours_is_refused_without_its_checksum() {
        let other = Identity { segment: 8, ..OURS };
        let good = group(&[7; 3 * BLOCK_BYTES], 1, 1, 0);
        let mut stale = good.clone();
        stale[5000] ^= 1;
        assert_eq!(decode_group(&stale, Some(other)), Err(GroupFault::Foreign(OURS)));
        // One of ours whose header or trailer went bad is damaged, and nobody else's.
        let trailer = good.len() - TRAILER_BYTES;
        for at in [24, 32, 5000, trailer, trailer + 8] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let found = decode_group(&bad, Some(OURS));
            assert!(matches!(found, Err(GroupFault::Checksum { .. })), "byte {at}: {found:?}");
        }
    }

    #[test]
    fn headers_survive_the_loss_of_one_copy_and_a_torn_rewrite_is_the_older() {
        let header = header();
        let mut block = vec![0xA5; BLOCK_BYTES];
        header.encode(&mut block);
        for byte in 0..BLOCK_BYTES {
            let mut bad = block.clone();
            bad[byte] ^= 0x40;
            assert_eq!(SegmentHeader::decode(&bad), Ok(header), "byte {byte}");
        }
        let mut newer = vec![0; BLOCK_BYTES];
        let identity = Identity { segment: 9, ..OURS };
        SegmentHeader { identity, ..header }.encode(&mut newer);
        let torn = [&newer[..512], &block[512..]].concat();
        assert_eq!(SegmentHeader::decode(&torn), Ok(header));
        assert_eq!(SegmentHeader::highest_id(&torn), 9);
        let torn = [&block[..512], &newer[512..]].concat();
        assert_eq!(SegmentHeader::decode(&torn), Ok(header));
        assert_eq!(SegmentHeader::decode(&vec![0; BLOCK_BYTES]), Err(HeaderFault::Blank));
        assert!(matches!(SegmentHeader::decode(&[1; BLOCK_BYTES]), Err(HeaderFault::Damaged { .. })));
    }

    #[test]
    fn numbers_that_make_no_sense_are_no_header() {
        let good = header();
        let mut block = vec![0; BLOCK_BYTES];
        good.encode(&mut block);
        let fields = [
            (12, 2),
            (16, 0),
            (16, u64::MAX),
            (16, 1 << 63),
            (32, 0),
            (32, 90),
            (32, u64::MAX),
            (32, 1 << 63),
            (40, 100),
            (40, u64::MAX),
            (56, 0),
            (56, 4096),
            (56, 8193),
            (56, !4095),
        ];
        for (at, value) in fields {
            let mut bad = block.clone();
            for copy in [0, SECOND_COPY_AT] {
                let field = copy + at;
                let len = if at == 12 { 4 } else { 8 };
                bad[field..field + len].copy_from_slice(&value.to_le_bytes()[..len]);
                reseal(&mut bad[copy..copy + COPY_BYTES]);
            }
            assert_eq!(SegmentHeader::decode(&bad), Err(HeaderFault::Fields), "{value} at {at}");
            // One copy that makes sense is enough.
            bad[..COPY_BYTES].copy_from_slice(&block[..COPY_BYTES]);
            assert_eq!(SegmentHeader::decode(&bad), Ok(good));
        }
    }

    /// Where nothing but its checksum told a header of another version from damage, a log of that version was taken for a damaged one,
    /// which an engine opens.
    #[test]
    fn the_version_before_is_told_by_name() {
        let mut block = vec![0; BLOCK_BYTES];
        header().encode(&mut block);
        for copy in [0, SECOND_COPY_AT] {
            let copy = &mut block[copy..copy + COPY_BYTES];
            copy[8..10].copy_from_slice(&2u16.to_le_bytes());
            copy[CHECKSUM_AT + 4..].fill(0);
            let checksum = crc32c::crc32c(&copy[..CHECKSUM_AT]);
            copy[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        }
        assert_eq!(SegmentHeader::decode(&block), Err(HeaderFault::Version(2)));
    }

    #[test]
    fn a_header_is_known_as_long_as_its_first_copy_is_there() {
        let mut block = vec![0; BLOCK_BYTES];
        header().encode(&mut block);
        for len in 0..BLOCK_BYTES {
            let found = SegmentHeader::decode(&block[..len]);
            match len {
                0 => assert_eq!(found, Err(HeaderFault::Blank)),
                1..COPY_BYTES => assert!(matches!(found, Err(HeaderFault::Damaged { .. })), "{len} bytes"),
                _ => assert_eq!(found, Ok(header()), "{len} bytes"),
            }
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), magic: bool, blocks in 0u32..3) {
            let mut padded = bytes.clone();
            padded.resize(2 * BLOCK_BYTES, 0);
            if magic {
                padded[..4].copy_from_slice(&GROUP_MAGIC.to_le_bytes());
                padded[8..12].copy_from_slice(&blocks.to_le_bytes());
                let own = Identity { segment: u64_at(&padded, 24), life: u64_at(&padded, 32) };
                if let Some(group) = padded.get(..blocks as usize * BLOCK_BYTES).filter(|group| !group.is_empty()) {
                    let checksum = checksum(own, group);
                    padded[4..8].copy_from_slice(&checksum.to_le_bytes());
                }
            }
            let _either = decode_group(&padded, None);
            let _either = decode_group(&bytes, None);
            let _either = SegmentHeader::decode(&padded);
        }
    }
}
