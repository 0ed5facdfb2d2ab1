//! The tables of a sorted level as one source of a merge.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::{BlockCache, Class, Disk, Extent, Key, ReadError, Record, Source, Table, TableCursor};

/// Walks disjoint tables one behind the other, past the cache. Only the one that is walked holds buffers.
pub(crate) struct Chain<D: Disk> {
    ahead: VecDeque<(Rc<Table<D>>, Vec<Extent>)>,
    cursor: Option<TableCursor<D>>,
    /// Only what is in it, if given.
    within: Option<Extent>,
    /// Parts of the table at hand that are passed over.
    dead: Vec<Extent>,
    cache: Rc<BlockCache>,
}

impl<D: Disk> Chain<D> {
    /// Over tables given by key, each with the parts of it that are passed over. `cache` is asked what of them is in use.
    pub(crate) fn new(
        cache: &Rc<BlockCache>,
        tables: impl Iterator<Item = (Rc<Table<D>>, Vec<Extent>)>,
    ) -> Chain<D> {
        let cache = Rc::clone(cache);
        Chain { ahead: tables.collect(), cursor: None, within: None, dead: Vec::new(), cache }
    }

    /// As [`Chain::new`], over what these tables hold of an extent.
    pub(crate) fn within(
        extent: Extent,
        cache: &Rc<BlockCache>,
        tables: impl Iterator<Item = (Rc<Table<D>>, Vec<Extent>)>,
    ) -> Chain<D> {
        Chain { within: Some(extent), ..Chain::new(cache, tables) }
    }

    /// Whether the cursor stands on a key that is not asked for: then none behind it in its table is.
    fn is_behind(&self) -> bool {
        let Some(within) = self.within else { return false };
        let current = self.cursor.as_ref().and_then(|cursor| cursor.current());
        current.is_some_and(|(key, _)| !within.contains(key.prefix))
    }

    /// The dead part that the cursor stands in.
    fn dead_here(&self) -> Option<Extent> {
        let (key, _) = self.cursor.as_ref()?.current()?;
        self.dead.iter().find(|extent| extent.contains(key.prefix)).copied()
    }
}

impl<D: Disk> Source for Chain<D> {
    fn is_in_use(&self) -> bool {
        self.cursor.as_ref().is_some_and(Source::is_in_use)
    }

    #[inline]
    fn current(&self) -> Option<(Key<'_>, Record<'_>)> {
        self.cursor.as_ref().and_then(|cursor| cursor.current())
    }

    #[inline]
    fn advance(&mut self) -> bool {
        let stands = self.cursor.as_mut().is_some_and(|cursor| cursor.advance());
        stands && !self.is_behind() && (self.dead.is_empty() || self.dead_here().is_none())
    }

    async fn fill(&mut self) -> Result<(), ReadError> {
        loop {
            if let Some(cursor) = &mut self.cursor {
                cursor.fill().await?;
                if let Some(dead) = self.dead_here() {
                    let cursor = self.cursor.as_mut().expect("it stands on a key");
                    cursor.seek(&dead.range().high());
                    continue;
                }
                if !self.is_behind() && self.cursor.as_ref().is_some_and(|cursor| cursor.current().is_some())
                {
                    return Ok(());
                }
            }
            let Some((table, dead)) = self.ahead.pop_front() else {
                self.cursor = None;
                return Ok(());
            };
            self.dead = dead;
            let range = self.within.map(|extent| extent.range());
            let low = range.as_ref().map(|range| range.low());
            let low = low.as_ref();
            let cache = Rc::clone(&self.cache);
            self.cursor = Some(TableCursor::watching(table, cache, Class::Background, low));
        }
    }
}
