//! The tables of a sorted level as one source of a merge.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::{Class, Disk, Key, ReadError, Record, Source, Table, TableCursor};

/// Walks disjoint tables one behind the other, past the cache. Only the one that is walked holds buffers.
pub(crate) struct Chain<D: Disk> {
    ahead: VecDeque<Rc<Table<D>>>,
    cursor: Option<TableCursor<D>>,
}

impl<D: Disk> Chain<D> {
    /// Over tables given by key.
    pub(crate) fn new(tables: impl Iterator<Item = Rc<Table<D>>>) -> Chain<D> {
        Chain { ahead: tables.collect(), cursor: None }
    }
}

impl<D: Disk> Source for Chain<D> {
    #[inline]
    fn current(&self) -> Option<(Key<'_>, Record<'_>)> {
        self.cursor.as_ref().and_then(|cursor| cursor.current())
    }

    #[inline]
    fn advance(&mut self) -> bool {
        self.cursor.as_mut().is_some_and(|cursor| cursor.advance())
    }

    async fn fill(&mut self) -> Result<(), ReadError> {
        loop {
            if let Some(cursor) = &mut self.cursor {
                cursor.fill().await?;
                if cursor.current().is_some() {
                    return Ok(());
                }
            }
            let Some(table) = self.ahead.pop_front() else {
                self.cursor = None;
                return Ok(());
            };
            self.cursor = Some(TableCursor::streaming(table, Class::Background, None));
        }
    }
}
