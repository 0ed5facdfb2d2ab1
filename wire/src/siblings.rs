//! What a read of a key with siblings answers: the values that nothing has replaced, and the context to replace them with.
//!
//! ```text
//! siblings := context_len:u32 context count:u16 sibling*count
//! sibling  := version value_len:u32 value
//! ```
//!
//! No sibling at all: the key has no value, and the context says what has been seen of it, which may be a delete. The context is
//! opaque to clients; a write that bears it replaces what this read has seen, and nothing else.

use crate::request::checked;
use crate::{DecodeError, Reader, Version, limits};

/// A sibling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiblingValue<'a> {
    /// The version that its write was given.
    pub version: Version,
    /// The value.
    pub value: &'a [u8],
}

/// The siblings of a key with their context: validated, still encoded, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Siblings<'a> {
    context: &'a [u8],
    count: u16,
    /// The siblings, one after the other.
    bytes: &'a [u8],
}

impl<'a> Siblings<'a> {
    /// The causal context, opaque.
    pub fn context(&self) -> &'a [u8] {
        self.context
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether the key has no value.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each sibling in turn.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = SiblingValue<'a>> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        (0..self.count).map(move |_| SiblingValue::decode(&mut reader).expect("checked when it was decoded"))
    }

    /// Appends what [`Siblings::decode`] reads.
    ///
    /// # Panics
    /// If there are more than 65,535 of them.
    pub fn encode_parts<'s>(
        context: &[u8],
        siblings: impl ExactSizeIterator<Item = SiblingValue<'s>>,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(&(context.len() as u32).to_le_bytes());
        out.extend_from_slice(context);
        let count = u16::try_from(siblings.len()).expect("puts keep sets far smaller");
        out.extend_from_slice(&count.to_le_bytes());
        for SiblingValue { version, value } in siblings {
            version.encode(out);
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(value);
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.context.len() as u32).to_le_bytes());
        out.extend_from_slice(self.context);
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(self.bytes);
    }

    pub(crate) fn encoded_len(&self) -> usize {
        4 + self.context.len() + 2 + self.bytes.len()
    }

    /// Reads what [`Siblings::encode_parts`] has written.
    pub fn decode(reader: &mut Reader<'a>) -> Result<Siblings<'a>, DecodeError> {
        let context_len = checked(reader.u32()?, "context", limits::CONTEXT_BYTES_MAX)?;
        let context = reader.take(context_len)?;
        let count = reader.u16()?;
        let start = reader.rest();
        for _ in 0..count {
            SiblingValue::decode(reader)?;
        }
        Ok(Siblings { context, count, bytes: &start[..start.len() - reader.rest().len()] })
    }
}

impl<'a> SiblingValue<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<SiblingValue<'a>, DecodeError> {
        let version = Version::decode(reader)?;
        let len = checked(reader.u32()?, "value", limits::VALUE_BYTES_MAX)?;
        Ok(SiblingValue { version, value: reader.take(len)? })
    }
}
