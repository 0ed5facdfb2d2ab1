//! A sibling set as bytes: the payload of a record that is flagged as one.
//!
//! ```text
//! set     := actors:u16 entry{actors} siblings:u16 sibling{siblings}
//! entry   := actor:u64 number:u64                                  by actor, each once, number > 0
//! sibling := entry:u16 number:u64 order:u64 expiry_ms:u64 value_len:u32 value      by actor and number, each once
//! ```
//!
//! A sibling's `entry` is the place of its actor among the entries, and its number is not above that entry's. Integers are little-endian.
//! One set has one encoding, so sets are equal exactly where their bytes are.

use ferrite_wire::{Actor, DecodeError, Order, Reader, limits};

use super::{Clock, Dot, Sibling, SiblingSet};

/// Bytes of a sibling beside its value.
const SIBLING_BYTES: usize = 2 + 8 + 8 + 8 + 4;
/// Bytes of an actor's entry.
const ENTRY_BYTES: usize = 16;

impl Clock {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&count(self.dots.len()));
        for dot in &self.dots {
            out.extend_from_slice(&dot.actor.0.to_le_bytes());
            out.extend_from_slice(&dot.number.to_le_bytes());
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Clock, DecodeError> {
        let count = usize::from(reader.u16()?);
        // What is reserved is bounded by the bytes that are there.
        let mut dots: Vec<Dot> = Vec::with_capacity(count.min(reader.rest().len() / ENTRY_BYTES));
        for _ in 0..count {
            let dot = Dot { actor: Actor(reader.u64()?), number: reader.u64()? };
            if dot.number == 0 || dots.last().is_some_and(|last| last.actor >= dot.actor) {
                return Err(DecodeError::Unknown { field: "clock entry", value: dot.number });
            }
            dots.push(dot);
        }
        Ok(Clock { dots })
    }
}

impl Sibling<'_> {
    /// Bytes of its encoding.
    pub(super) fn bytes(&self) -> usize {
        SIBLING_BYTES + self.value.len()
    }
}

impl<'a> SiblingSet<'a> {
    /// Bytes of its encoding.
    pub fn encoded_bytes(&self) -> usize {
        let siblings: usize = self.siblings.iter().map(Sibling::bytes).sum();
        self.clock_bytes() + siblings
    }

    /// Bytes of it that are not its siblings'.
    pub(super) fn clock_bytes(&self) -> usize {
        4 + self.clock.dots.len() * ENTRY_BYTES
    }

    /// Whether it has an encoding: no number of writes makes one that has not, but joins of what never came from writes may.
    pub fn is_encodable(&self) -> bool {
        self.clock.dots.len().max(self.siblings.len()) <= usize::from(u16::MAX)
    }

    /// Appends the set.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_bytes());
        self.clock.encode(out);
        out.extend_from_slice(&count(self.siblings.len()));
        for sibling in &self.siblings {
            let entry = self.clock.dots.binary_search_by_key(&sibling.dot.actor, |dot| dot.actor);
            let entry = entry.expect("the clock covers every sibling");
            out.extend_from_slice(&(entry as u16).to_le_bytes());
            out.extend_from_slice(&sibling.dot.number.to_le_bytes());
            out.extend_from_slice(&sibling.order.0.to_le_bytes());
            out.extend_from_slice(&sibling.expiry_ms.to_le_bytes());
            out.extend_from_slice(&(sibling.value.len() as u32).to_le_bytes());
            out.extend_from_slice(sibling.value);
        }
    }

    /// Reads a set that takes all of `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<SiblingSet<'a>, DecodeError> {
        let mut reader = Reader::new(bytes);
        let clock = Clock::decode(&mut reader)?;
        let count = usize::from(reader.u16()?);
        let mut siblings: Vec<Sibling<'a>> =
            Vec::with_capacity(count.min(reader.rest().len() / SIBLING_BYTES));
        for _ in 0..count {
            let entry = reader.u16()?;
            let number = reader.u64()?;
            let Some(seen) = clock.dots.get(usize::from(entry)) else {
                return Err(DecodeError::Unknown { field: "sibling's actor", value: entry.into() });
            };
            let dot = Dot { actor: seen.actor, number };
            if number == 0 || number > seen.number || siblings.last().is_some_and(|last| last.dot >= dot) {
                return Err(DecodeError::Unknown { field: "sibling's number", value: number });
            }
            let (order, expiry_ms) = (Order(reader.u64()?), reader.u64()?);
            let len = reader.u32()?;
            if len as usize > limits::VALUE_BYTES_MAX {
                let max = limits::VALUE_BYTES_MAX as u64;
                return Err(DecodeError::TooLong { field: "sibling", len: len.into(), max });
            }
            siblings.push(Sibling { dot, order, expiry_ms, value: reader.take(len as usize)? });
        }
        if reader.rest().is_empty() { Ok(SiblingSet { clock, siblings }) } else { Err(DecodeError::Trailing) }
    }
}

/// # Panics
/// If a set is not [encodable](SiblingSet::is_encodable).
fn count(items: usize) -> [u8; 2] {
    u16::try_from(items).expect("puts keep sets far smaller").to_le_bytes()
}
