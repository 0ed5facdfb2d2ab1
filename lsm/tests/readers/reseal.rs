//! Puts the right checksums into files whose bytes were changed, so that what stands behind the checksums is met as well.
//!
//! Written after the grammars of the formats, beside the code that is under test. Whatever does not look like a piece of a file is left
//! as it is.

use xxhash_rust::xxh3::xxh3_64_with_seed;

const PAGE: usize = 4096;
const SEGMENT_COPY_BYTES: usize = 64;
const SEGMENT_CHECKSUM_AT: usize = 48;
const SEGMENT_COPIES_AT: [usize; 2] = [0, PAGE - 512];
const GROUP_MAGIC: &[u8] = b"FGrp";
const MARK_MAGIC: &[u8] = b"FeMK";
const MARK_CHECKSUM_AT: usize = 28;
const MANIFEST_HEADER_BYTES: usize = 40;
const MANIFEST_CHECKSUM_AT: usize = 32;
const FOOTER_SEED: u64 = 0x4665_5461_626c_6531;
const VALUES_SEED: u64 = 0x4665_5661_6c75_6531;
const VALUES_HEADER_BYTES: usize = 40;
const VALUE_HEADER_BYTES: usize = 36;

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?)).ok()
}

/// A log segment: both copies of its header, and every group.
pub(crate) fn log(file: &mut [u8]) {
    for at in SEGMENT_COPIES_AT {
        let Some(copy) = file.get_mut(at..at + SEGMENT_COPY_BYTES) else { return };
        if copy.iter().any(|byte| *byte != 0) {
            let (before, behind) = copy.split_at_mut(SEGMENT_CHECKSUM_AT);
            let (field, behind) = behind.split_at_mut(4);
            let checksum = crc32c::crc32c_append(crc32c::crc32c(before), behind);
            field.copy_from_slice(&checksum.to_le_bytes());
        }
    }
    let mut at = PAGE;
    while at + PAGE <= file.len() {
        let len = u32_at(file, at + 8).and_then(|blocks| blocks.checked_mul(PAGE)).unwrap_or(0);
        let is_group = file[at..].starts_with(GROUP_MAGIC) && len > 0 && len <= file.len() - at;
        if !is_group {
            at += PAGE;
            continue;
        }
        let group = &mut file[at..at + len];
        let seed = crc32c::crc32c(&group[24..40]);
        let checksum = crc32c::crc32c_append(crc32c::crc32c_append(seed, &group[..4]), &group[8..]);
        group[4..8].copy_from_slice(&checksum.to_le_bytes());
        at += len;
    }
}

/// A manifest of this number: its marks, and every group. A mark that was never written stays blank.
pub(crate) fn manifest(file: &mut [u8], number: u64) {
    let mut at = 0;
    while at + PAGE <= file.len() {
        let page = &file[at..at + PAGE];
        if at < 2 * PAGE && page.iter().all(|byte| *byte == 0) {
            at += PAGE;
            continue;
        }
        if at < 2 * PAGE && page.starts_with(MARK_MAGIC) {
            manifest_piece(&mut file[at..at + PAGE], number, MARK_CHECKSUM_AT);
            at += PAGE;
            continue;
        }
        let edits = u32_at(file, at + 28).unwrap_or(0);
        let len = (MANIFEST_HEADER_BYTES + edits).next_multiple_of(PAGE);
        let len = if len <= file.len() - at { len } else { PAGE };
        manifest_piece(&mut file[at..at + len], number, MANIFEST_CHECKSUM_AT);
        at += len;
    }
}

fn manifest_piece(piece: &mut [u8], number: u64, checksum_at: usize) {
    piece[checksum_at..checksum_at + 4].fill(0);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), piece);
    piece[checksum_at..checksum_at + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// What stands at a place of a file with this id.
fn placed(id: &[u8], offset: usize, bytes: &[u8]) -> [u8; 8] {
    let half = |at: usize| u64::from_le_bytes(id[at..at + 8].try_into().expect("eight bytes"));
    let seed = half(0) ^ half(8).rotate_left(23);
    xxh3_64_with_seed(bytes, seed ^ (offset as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()
}

/// A table: its blocks, as far as its index tells where they are, its three sections, its footer.
pub(crate) fn table(file: &mut [u8]) {
    let Some(footer) = file.len().checked_sub(PAGE) else { return };
    let id = file[footer + 16..footer + 32].to_vec();
    let section = |file: &[u8], which: usize| {
        let at = footer + 32 + 24 * which;
        let (offset, len) = (u64_at(file, at)?, u64_at(file, at + 8)?);
        (offset.checked_add(len)? <= footer).then_some((at + 16, offset, len))
    };
    if let Some((_, index, len)) = section(file, 0) {
        blocks(file, &id, index, index + len);
    }
    for which in 0..3 {
        if let Some((checksum_at, offset, len)) = section(file, which) {
            let checksum = placed(&id, offset, &file[offset..offset + len]);
            file[checksum_at..checksum_at + 8].copy_from_slice(&checksum);
        }
    }
    let checksum = xxh3_64_with_seed(&file[footer..footer + PAGE - 8], FOOTER_SEED);
    file[footer + PAGE - 8..].copy_from_slice(&checksum.to_le_bytes());
}

fn blocks(file: &mut [u8], id: &[u8], index: usize, end: usize) {
    let (Some(blocks), Some(groups)) = (u32_at(file, index), u32_at(file, index + 4)) else { return };
    for block in 0..blocks.min(file.len() / PAGE) {
        let place = index + 12 + 12 * groups + 8 * blocks + 8 * block;
        if place + 8 > end {
            return;
        }
        let (Some(offset), Some(len)) = (u32_at(file, place), u32_at(file, place + 4)) else { return };
        if len < 8 || offset + len > index {
            continue;
        }
        let checksum = placed(id, offset, &file[offset..offset + len - 8]);
        file[offset + len - 8..offset + len].copy_from_slice(&checksum);
    }
}

/// A value file: its header, and each record as far as the lengths lead.
pub(crate) fn values(file: &mut [u8]) {
    if file.len() < VALUES_HEADER_BYTES {
        return;
    }
    let checksum = xxh3_64_with_seed(&file[..32], VALUES_SEED);
    file[32..40].copy_from_slice(&checksum.to_le_bytes());
    let id = file[16..32].to_vec();
    let mut at = VALUES_HEADER_BYTES;
    while at + VALUE_HEADER_BYTES <= file.len() {
        let stored = u32_at(file, at + 24).unwrap_or(0);
        let end = at + VALUE_HEADER_BYTES + stored;
        if end > file.len() {
            return;
        }
        let checksum = placed(&id, at, &file[at + 8..end]);
        file[at..at + 8].copy_from_slice(&checksum);
        if stored == 0 {
            return;
        }
        at = end;
    }
}
