//! The causal context that a client gets with a read and gives back with a write: what that read had seen.
//!
//! To the client it is opaque bytes. It is bound to its key, for the numbers of a clock mean nothing at another one: used there, it
//! would cover writes that nobody read.
//!
//! ```text
//! context := format:u8 = 1  key_hash:u64  clock          clock as in a sibling set
//! ```

use ferrite_wire::{DecodeError, Key, Reader, limits::REPLICAS_MAX};
use xxhash_rust::xxh3::Xxh3;

use super::{ACTORS_MAX, Clock};

const FORMAT: u8 = 1;
/// Most actors of a context: what replicas that were written to apart may have together. No read gives a longer one.
const CONTEXT_ACTORS_MAX: usize = ACTORS_MAX * REPLICAS_MAX;

/// What a read of one key had seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// [`Context::hash_of`] the key that was read.
    pub key_hash: u64,
    /// What had been seen.
    pub clock: Clock,
}

/// Why a context was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextError {
    /// It is not one that this version of the store made.
    Malformed(DecodeError),
    /// It comes from a read of another key.
    OtherKey,
}

impl std::fmt::Display for ContextError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ContextError::Malformed(error) => write!(f, "not a context: {error}"),
            ContextError::OtherKey => {
                write!(f, "the context is of another key: use the one of a read of this key")
            }
        }
    }
}

impl std::error::Error for ContextError {}

impl Context {
    /// Hash of a key and its table: the context of another key is not taken for this one's.
    pub fn hash_of(key: &Key<'_>) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(&key.table.0.to_le_bytes());
        hash.update(&(key.partition.len() as u32).to_le_bytes());
        hash.update(key.partition);
        hash.update(key.sort);
        hash.digest()
    }

    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        out.extend_from_slice(&self.key_hash.to_le_bytes());
        self.clock.encode(out);
    }

    /// Reads the context of a write to a key; no bytes at all = nothing was seen.
    pub fn decode(bytes: &[u8], key_hash: u64) -> Result<Context, ContextError> {
        if bytes.is_empty() {
            return Ok(Context { key_hash, clock: Clock::default() });
        }
        let context = decode(bytes).map_err(ContextError::Malformed)?;
        if context.key_hash == key_hash { Ok(context) } else { Err(ContextError::OtherKey) }
    }
}

fn decode(bytes: &[u8]) -> Result<Context, DecodeError> {
    let mut reader = Reader::new(bytes);
    let format = reader.u8()?;
    if format != FORMAT {
        return Err(DecodeError::Unknown { field: "context format", value: format.into() });
    }
    let key_hash = reader.u64()?;
    let clock = Clock::decode(&mut reader)?;
    if clock.dots.len() > CONTEXT_ACTORS_MAX {
        let (len, max) = (clock.dots.len() as u64, CONTEXT_ACTORS_MAX as u64);
        return Err(DecodeError::TooLong { field: "context", len, max });
    }
    if reader.rest().is_empty() { Ok(Context { key_hash, clock }) } else { Err(DecodeError::Trailing) }
}
