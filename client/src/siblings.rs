//! Keys of tables with siblings: what a read of one brings, and what a write of one replaces.
//!
//! Concurrent puts of such a key are all kept. A read brings them with a [`Context`], which stands for what it has seen; a write that
//! bears it replaces exactly that. Read, merge, write: [`crate::BlockingClient::update`] does all three.

use ferrite_wire::{ErrorCode, Fault, Key, Mode, Table, TableId, Tables, Version};

use crate::WriteOptions;
use crate::outcome::{ReadError, ReadResult, Value, WriteOutcome};
use crate::pipeline::Operation;

/// How often an update reads, merges and writes before its last outcome is the answer.
pub const UPDATE_ATTEMPTS_MAX: u32 = 8;

/// What a read of a key has seen. Opaque; good for writes of that key only, from any client, however late.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    bytes: Vec<u8>,
}

impl Context {
    /// A context from where its bytes were kept.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Context {
        Context { bytes: bytes.into() }
    }

    /// Its bytes, to be kept.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether it is that of a key that was never written: nothing has been seen.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// What a key has: of a table with siblings perhaps several values, of another one or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Siblings {
    /// The values that nothing has replaced; none = the key has no value. Their order means nothing.
    pub values: Vec<Value>,
    /// What the read has seen; empty in a table that keeps the last write.
    pub context: Context,
    /// How many replicas answered.
    pub answered: u8,
}

/// What a write replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaces<'a> {
    /// What a read had seen; what others have written since stays beside it.
    Seen(&'a Context),
    /// Whatever a read at the write's level finds, which the server makes.
    All,
}

/// One value that all siblings were merged into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The value.
    pub bytes: Vec<u8>,
    /// What it stands for: a put of it with this context leaves it alone.
    pub context: Context,
    /// How many there were.
    pub siblings: usize,
}

impl Siblings {
    /// The one value, or none; several are an error.
    pub fn single(mut self) -> ReadResult {
        match self.values.len() {
            0 | 1 => Ok(self.values.pop()),
            count => Err(ReadError::Siblings { count }),
        }
    }

    /// The value of a read of a key without siblings as the only one.
    pub(crate) fn of_one(value: Option<Value>, answered: u8) -> Siblings {
        Siblings { values: value.into_iter().collect(), context: Context::default(), answered }
    }

    /// All of them as one. `merge` is asked only where there are several.
    pub(crate) fn merged(self, merge: impl FnOnce(&[Value]) -> Vec<u8>) -> Option<Merged> {
        let Siblings { mut values, context, .. } = self;
        let siblings = values.len();
        let bytes = match siblings {
            0 => return None,
            1 => values.swap_remove(0).bytes,
            _ => merge(&values),
        };
        Some(Merged { bytes, context, siblings })
    }
}

/// Refuses an update of a key whose table keeps the last write: two of them at once would lose one.
pub(crate) fn check_update(tables: &Tables, table: TableId) -> Result<(), ReadError> {
    // A table that is not there is the server's to refuse.
    if let Some(Table { mode: Mode::Lww, name, .. }) = tables.get(table) {
        let text = format!("table {name} keeps the last write: an update could lose another");
        return Err(ReadError::Refused(Fault { code: ErrorCode::Unsupported, text }));
    }
    Ok(())
}

/// How an update ends that has nothing to delete, for nothing was ever written.
pub(crate) fn nothing_to_delete() -> WriteOutcome {
    WriteOutcome::Done { version: Version::default(), answered: 0, sloppy: false }
}

/// The write of an update: the next value of a key (`None` = delete) in place of what the update's read has seen. `None` = there is nothing to delete, and no
/// context to do it with.
pub(crate) fn write_of_update<'a>(
    key: Key<'a>,
    next: Option<&'a [u8]>,
    seen: &'a Context,
    options: WriteOptions,
) -> Option<Operation<'a>> {
    let replaces = Replaces::Seen(seen);
    match next {
        Some(value) => Some(Operation::PutReplacing(key, value, replaces, options)),
        None if seen.is_empty() => None,
        None => Some(Operation::DeleteReplacing(key, replaces, options)),
    }
}

/// Whether an update begins anew after its write: others filled the key up since the read, and can be merged.
pub(crate) fn begins_anew(outcome: &WriteOutcome, attempt: u32) -> bool {
    let is_full =
        matches!(outcome, WriteOutcome::NotApplied(fault) if fault.code == ErrorCode::TooManySiblings);
    is_full && attempt < UPDATE_ATTEMPTS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bytes: &[u8]) -> Value {
        Value { bytes: bytes.to_vec(), version: Version::default(), answered: 2 }
    }

    fn siblings(values: &[&[u8]]) -> Siblings {
        let values = values.iter().map(|bytes| value(bytes)).collect();
        Siblings { values, context: Context::from_bytes(*b"seen"), answered: 2 }
    }

    #[test]
    fn only_several_are_merged_and_only_one_is_a_value() {
        let never = |_: &[Value]| unreachable!("there is nothing to merge");
        assert_eq!(siblings(&[]).merged(never), None);
        let one = siblings(&[b"a"]).merged(never).expect("a value");
        assert_eq!((one.bytes.as_slice(), one.siblings), (&b"a"[..], 1));
        let join = |values: &[Value]| values.iter().flat_map(|value| value.bytes.clone()).collect();
        let two = siblings(&[b"a", b"b"]).merged(join).expect("a value");
        assert_eq!((two.bytes.as_slice(), two.siblings), (&b"ab"[..], 2));
        assert_eq!(two.context.as_bytes(), b"seen");
        assert_eq!(siblings(&[]).single(), Ok(None));
        assert_eq!(siblings(&[b"a"]).single(), Ok(Some(value(b"a"))));
        assert_eq!(siblings(&[b"a", b"b"]).single(), Err(ReadError::Siblings { count: 2 }));
    }

    #[test]
    fn updates_begin_anew_for_full_keys_only_and_not_for_ever() {
        let refused = |code| WriteOutcome::NotApplied(Fault { code, text: String::new() });
        for code in ErrorCode::ALL {
            assert_eq!(begins_anew(&refused(code), 1), code == ErrorCode::TooManySiblings, "{code}");
        }
        assert!(!begins_anew(&refused(ErrorCode::TooManySiblings), UPDATE_ATTEMPTS_MAX));
    }

    #[test]
    fn an_update_replaces_what_its_read_has_seen() {
        let (key, options) = (Key::plain(b"k"), WriteOptions::default());
        let (seen, nothing) = (Context::from_bytes(*b"seen"), Context::default());
        let write = |next, context| write_of_update(key, next, context, options);
        let Some(Operation::PutReplacing(_, b"v", Replaces::Seen(context), _)) = write(Some(b"v"), &seen)
        else {
            panic!("a put")
        };
        assert_eq!(context, &seen);
        assert!(matches!(write(Some(b"v"), &nothing), Some(Operation::PutReplacing(..))));
        let Some(Operation::DeleteReplacing(_, Replaces::Seen(context), _)) = write(None, &seen) else {
            panic!("a delete")
        };
        assert_eq!(context, &seen);
        assert!(write(None, &nothing).is_none() && nothing_to_delete().is_done());
    }

    #[test]
    fn a_table_that_keeps_the_last_write_takes_no_updates() {
        let carts = TableId::of("carts");
        let table = Table {
            id: carts,
            name: "carts".to_owned(),
            mode: Mode::Siblings,
            max_siblings: 8,
            ..Table::default_of(3)
        };
        let tables = Tables::new(vec![Table::default_of(3), table]).expect("sound");
        assert_eq!(check_update(&tables, carts), Ok(()));
        assert_eq!(check_update(&tables, TableId::of("unknown")), Ok(()), "the server will say");
        assert!(check_update(&tables, TableId::DEFAULT).is_err());
    }
}
