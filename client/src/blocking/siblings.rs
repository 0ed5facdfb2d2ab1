//! Keys of tables with siblings, for one thread.

use ferrite_wire::Key;

use super::BlockingClient;
use crate::outcome::{ReadError, Value, WriteOutcome};
use crate::pipeline::Operation;
use crate::siblings::{
    Merged, Replaces, Siblings, begins_anew, check_update, nothing_to_delete, write_of_update,
};
use crate::{ReadOptions, WriteOptions};

impl BlockingClient {
    /// Reads a key of a table with siblings: all its values, and the context to replace them with. A key of another table has one value or
    /// none, and an empty context: this also says how many replicas had answered that it has none.
    pub fn get_siblings(&mut self, key: Key<'_>, options: ReadOptions) -> Result<Siblings, ReadError> {
        self.call(Operation::Get(key, options)).read()
    }

    /// Reads several keys, each as [`BlockingClient::get_siblings`] does; the answers are in their order. There is no snapshot across keys.
    pub fn multi_get_siblings(
        &mut self,
        keys: &[Key<'_>],
        options: ReadOptions,
    ) -> Vec<Result<Siblings, ReadError>> {
        self.call(Operation::MultiGet(keys, options)).reads()
    }

    /// Reads a key and makes one value of all its siblings; `merge` is asked only where there are several. Nothing is written: put the
    /// result with its context to leave it alone.
    pub fn get_merged(
        &mut self,
        key: Key<'_>,
        options: ReadOptions,
        merge: impl FnOnce(&[Value]) -> Vec<u8>,
    ) -> Result<Option<Merged>, ReadError> {
        Ok(self.get_siblings(key, options)?.merged(merge))
    }

    /// Writes a key of a table with siblings in place of what a read had seen, or of all there is.
    pub fn put_replacing(
        &mut self,
        key: Key<'_>,
        value: &[u8],
        replaces: Replaces<'_>,
        options: WriteOptions,
    ) -> WriteOutcome {
        self.call(Operation::PutReplacing(key, value, replaces, options)).write()
    }

    /// Deletes what a read of a key of a table with siblings had seen, or all there is.
    pub fn delete_replacing(
        &mut self,
        key: Key<'_>,
        replaces: Replaces<'_>,
        options: WriteOptions,
    ) -> WriteOutcome {
        self.call(Operation::DeleteReplacing(key, replaces, options)).write()
    }

    /// Reads a key of a table with siblings at the level of the write, has `change` make its next value of all there are (`None` =
    /// delete), and writes that in place of them. What others write meanwhile stays beside it, and is before the next update. Where
    /// they fill the key up, all of it is done again, [`UPDATE_ATTEMPTS_MAX`](crate::UPDATE_ATTEMPTS_MAX) times at most; each call
    /// has the whole timeout. An update whose outcome is unknown may be made again if `change` takes it well that its own result is
    /// among the values. Refused for tables that keep the last write: two updates at once would lose one. The topology, which says that, is
    /// fetched first where it is not known yet.
    pub fn update(
        &mut self,
        key: Key<'_>,
        options: WriteOptions,
        mut change: impl FnMut(&[Value]) -> Option<Vec<u8>>,
    ) -> Result<WriteOutcome, ReadError> {
        let known = self.known_topology().cloned();
        let topology = match known {
            Some(topology) => topology,
            None => self.topology()?,
        };
        check_update(&topology.tables, key.table)?;
        let read = ReadOptions { level: options.level, timeout: options.timeout };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let Siblings { values, context, .. } = self.get_siblings(key, read)?;
            let next = change(&values);
            let outcome = match write_of_update(key, next.as_deref(), &context, options) {
                Some(write) => self.call(write).write(),
                None => nothing_to_delete(),
            };
            if !begins_anew(&outcome, attempt) {
                return Ok(outcome);
            }
        }
    }
}
