//! How a block's payload lies in the file.
//!
//! ```text
//! block   := stored trailer          stored = the payload, or the LZ4 compression of what is packed of it
//! trailer := codec:u8 payload_bytes:u32 checksum:u64
//! codec   := 0 raw | 1 packed, lz4           2 is kept for zstd
//! ```
//!
//! The checksum covers everything before it, and is seeded with the file's id and the block's offset. It is verified before
//! anything is decompressed, and that goes into a buffer of the declared length, which is bounded. What is packed: [`super::packing`].

use super::block::Block;
use super::format::{Compression, FileId, RECORD_BYTES_MAX, take};
use super::packing;
use crate::planted::{self, Bug};
use crate::{Damage, FileName};

pub(super) const TRAILER_BYTES: usize = 13;
/// Longest payload: the largest record, and what stands around it.
const PAYLOAD_BYTES_MAX: usize = RECORD_BYTES_MAX + 64 * 1024;
/// No LZ4 stream expands more than this many times.
const LZ4_RATIO_MAX: usize = 255;
const RAW: u8 = 0;
const LZ4: u8 = 1;

/// Where compressed bytes go before it is known whether they are worth it.
#[derive(Default)]
pub(crate) struct Compressor {
    buffer: Vec<u8>,
}

impl Compressor {
    /// Bytes it has in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// The codec and the bytes to store for a payload: compressed only if that saves an eighth.
    pub(crate) fn choose<'a>(&'a mut self, payload: &'a [u8], compression: Compression) -> (u8, &'a [u8]) {
        match compression {
            Compression::None => {}
            Compression::Lz4 => {
                self.buffer.resize(lz4_flex::block::get_maximum_output_size(payload.len()), 0);
                if let Ok(len) = lz4_flex::block::compress_into(payload, &mut self.buffer)
                    && len <= payload.len() - payload.len() / 8
                {
                    return (LZ4, &self.buffer[..len]);
                }
            }
        }
        (RAW, payload)
    }
}

/// The codec and the bytes to store for a payload that is not compressed.
pub(super) fn raw(payload: &[u8]) -> (u8, &[u8]) {
    (RAW, payload)
}

/// Whether a codec stores the payload as it is.
pub(super) fn is_raw(codec: u8) -> bool {
    codec == RAW
}

/// Appends a block that will stand at `offset` of the file.
pub(super) fn write(
    out: &mut Vec<u8>,
    codec: u8,
    stored: &[u8],
    payload_bytes: usize,
    id: FileId,
    offset: u64,
) {
    let start = out.len();
    out.extend_from_slice(stored);
    out.push(codec);
    out.extend_from_slice(&(payload_bytes as u32).to_le_bytes());
    let checksum = id.checksum(offset, &out[start..]);
    out.extend_from_slice(&checksum.to_le_bytes());
}

/// Checks a block that was read at `offset` of `file`, and makes it searchable.
pub(super) fn read(
    bytes: &[u8],
    file: FileName,
    id: FileId,
    offset: u64,
    token_seed: u64,
) -> Result<Block, Damage> {
    let damage = |what, expected, found| Damage { file, offset, what, expected, found };
    let short = || damage("block length", TRAILER_BYTES as u64, bytes.len() as u64);
    let (covered, checksum) = bytes.split_last_chunk::<8>().ok_or_else(short)?;
    let (checksum, expected) = (u64::from_le_bytes(*checksum), id.checksum(offset, covered));
    if checksum != expected && !planted::active(Bug::BlockNotVerified) {
        return Err(damage("block checksum", expected, checksum));
    }
    let (stored, mut rest) = covered.split_at_checked(covered.len().wrapping_sub(5)).ok_or_else(short)?;
    let [codec] = take(&mut rest).ok_or_else(short)?;
    let payload_bytes = u32::from_le_bytes(take(&mut rest).ok_or_else(short)?) as usize;
    let wrong_length = |found: usize| damage("block payload length", payload_bytes as u64, found as u64);
    let malformed = |what| damage(what, 0, 0);
    match codec {
        RAW if stored.len() == payload_bytes => Block::parse(stored, token_seed).map_err(malformed),
        RAW => Err(wrong_length(stored.len())),
        LZ4 => {
            if payload_bytes > PAYLOAD_BYTES_MAX.min(stored.len().saturating_mul(LZ4_RATIO_MAX)) {
                return Err(wrong_length(stored.len()));
            }
            let mut packed = vec![0; payload_bytes];
            match lz4_flex::block::decompress_into(stored, &mut packed) {
                Ok(len) if len == payload_bytes => {
                    let payload = packing::unpack(&packed, token_seed).map_err(malformed)?;
                    Block::parse(&payload, token_seed).map_err(malformed)
                }
                Ok(len) => Err(wrong_length(len)),
                Err(_) => Err(malformed("block compression")),
            }
        }
        other => Err(damage("block codec", u64::from(LZ4), u64::from(other))),
    }
}
