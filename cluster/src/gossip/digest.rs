//! What a node says of itself beside being alive: load, cores, version, tables, topology. Gossip carries the newest of each node to all.
//!
//! ```text
//! digest  := node:u16 generation:u64 sequence:u64 tables:u64 epoch:u64 load_permille:u16 version name cores:u16 core{cores}
//! version := len:u8 text{len}                                               at most 32 bytes
//! name    := len:u8 text{len}                                               what the node is called; at most 255 bytes
//! core    := progress:u32 still_ms:u32 fence:u8                             0 open, 1 fenced
//! ```
//!
//! Integers are little-endian. One digest has one encoding. A text is printable ASCII, so that it can be shown as it is.
//!
//! Of two digests of a node the newer one is the one with the higher (generation, sequence). How long a core has stood still is
//! measured by the node itself, against its own clock: an observer that compared counters of two digests would take a digest
//! that was late for a core that stood.

use ferrite_wire::{DecodeError, Epoch, NodeId, Reader, Tables, limits};

use super::Generation;

/// Longest version of the software, in bytes.
pub const VERSION_BYTES_MAX: usize = 32;
/// Longest name of a node, in bytes.
const NAME_BYTES_MAX: usize = limits::NAME_BYTES_MAX;
const _: () = assert!(NAME_BYTES_MAX <= u8::MAX as usize);
/// Bytes of a core.
const CORE_BYTES: usize = 4 + 4 + 1;
/// Bytes of a digest beside its texts and its cores.
const HEAD_BYTES: usize = 2 + 8 + 8 + 8 + 8 + 2 + 1 + 1 + 2;
/// Longest digest, in bytes.
pub const DIGEST_BYTES_MAX: usize =
    HEAD_BYTES + VERSION_BYTES_MAX + NAME_BYTES_MAX + limits::CORES_MAX * CORE_BYTES;

/// Hash of the tables that a node was configured with. Equal lists of tables are equal bytes, so the hash is that of the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TablesHash(pub u64);

impl TablesHash {
    /// The hash of a list.
    pub fn of(tables: &Tables) -> TablesHash {
        let mut bytes = Vec::with_capacity(tables.encoded_len());
        tables.encode(&mut bytes);
        TablesHash(xxhash_rust::xxh3::xxh3_64(&bytes))
    }
}

impl std::fmt::Display for TablesHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Whether a core takes writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fence {
    /// It does.
    #[default]
    Open,
    /// A sync has failed: it serves reads only, until its process is started anew.
    Fenced,
}

/// A core, as its node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreDigest {
    /// How often the core has come round; wraps.
    pub progress: u32,
    /// For how long `progress` had not moved.
    pub still_ms: u32,
    /// Whether it takes writes.
    pub fence: Fence,
}

/// A node, as it sees itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Whose.
    pub node: NodeId,
    /// The life it was made in.
    pub generation: Generation,
    /// Its number in that node's process, ascending.
    pub sequence: u64,
    /// The tables that the node was configured with.
    pub tables: TablesHash,
    /// The newest topology that it knows: who knows an older one fetches what differs.
    pub epoch: Epoch,
    /// How busy it is, in thousandths of what it can do.
    pub load_permille: u16,
    /// Version of its software.
    pub version: String,
    /// What it is called where it is configured.
    pub name: String,
    /// Its cores, from 0.
    pub cores: Vec<CoreDigest>,
}

impl Digest {
    /// Whether this one is to replace another of the same node.
    pub fn is_newer_than(&self, other: &Digest) -> bool {
        (self.generation, self.sequence) > (other.generation, other.sequence)
    }

    /// Bytes of its encoding.
    pub fn encoded_len(&self) -> usize {
        HEAD_BYTES + self.version.len() + self.name.len() + self.cores.len() * CORE_BYTES
    }

    /// Appends it.
    ///
    /// # Panics
    /// If it has more cores or longer texts than a digest may have, or others.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(
            is_text(&self.version, VERSION_BYTES_MAX),
            "a version is at most {VERSION_BYTES_MAX} bytes long"
        );
        assert!(is_text(&self.name, NAME_BYTES_MAX), "a name is at most {NAME_BYTES_MAX} bytes long");
        assert!(self.cores.len() <= limits::CORES_MAX, "a node has at most {} cores", limits::CORES_MAX);
        out.extend_from_slice(&self.node.0.to_le_bytes());
        out.extend_from_slice(&self.generation.0.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.tables.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.load_permille.to_le_bytes());
        for text in [&self.version, &self.name] {
            out.push(text.len() as u8);
            out.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(&(self.cores.len() as u16).to_le_bytes());
        for core in &self.cores {
            out.extend_from_slice(&core.progress.to_le_bytes());
            out.extend_from_slice(&core.still_ms.to_le_bytes());
            out.push(match core.fence {
                Fence::Open => 0,
                Fence::Fenced => 1,
            });
        }
    }

    /// Reads one.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Digest, DecodeError> {
        let (node, generation, sequence) = (NodeId(reader.u16()?), Generation(reader.u64()?), reader.u64()?);
        let (tables, epoch) = (TablesHash(reader.u64()?), Epoch(reader.u64()?));
        let load_permille = reader.u16()?;
        let version = text(reader, "version", VERSION_BYTES_MAX)?;
        let name = text(reader, "name of a node", NAME_BYTES_MAX)?;
        let count = usize::from(reader.u16()?);
        if count > limits::CORES_MAX {
            let (len, max) = (count as u64, limits::CORES_MAX as u64);
            return Err(DecodeError::TooLong { field: "cores", len, max });
        }
        // What is reserved is bounded by the bytes that are there.
        let mut cores = Vec::with_capacity(count.min(reader.rest().len() / CORE_BYTES));
        for _ in 0..count {
            let (progress, still_ms) = (reader.u32()?, reader.u32()?);
            let fence = match reader.u8()? {
                0 => Fence::Open,
                1 => Fence::Fenced,
                value => return Err(DecodeError::Unknown { field: "fence", value: value.into() }),
            };
            cores.push(CoreDigest { progress, still_ms, fence });
        }
        Ok(Digest { node, generation, sequence, tables, epoch, load_permille, version, name, cores })
    }
}

/// Whether a text may be part of a digest: nothing in it could be taken for the end of a line.
pub(super) fn is_text(text: &str, bytes_max: usize) -> bool {
    text.len() <= bytes_max && text.bytes().all(is_printable)
}

fn is_printable(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

fn text(reader: &mut Reader<'_>, field: &'static str, bytes_max: usize) -> Result<String, DecodeError> {
    let len = usize::from(reader.u8()?);
    if len > bytes_max {
        return Err(DecodeError::TooLong { field, len: len as u64, max: bytes_max as u64 });
    }
    let bytes = reader.take(len)?;
    if let Some(odd) = bytes.iter().find(|byte| !is_printable(**byte)) {
        return Err(DecodeError::Unknown { field, value: u64::from(*odd) });
    }
    Ok(bytes.iter().map(|byte| char::from(*byte)).collect())
}
