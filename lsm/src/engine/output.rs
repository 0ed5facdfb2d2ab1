//! New tables, from the first record to their place in a store.
//!
//! The order that makes them safe: the file is written and synced; its directory is synced; it is opened, which reads back
//! what was written; only then the manifest names it, and only after that reads find it. Until it is named nobody knows it: on
//! any failure it is litter, to be unlinked, unless the manifest's write is what failed, or was not waited for (see [`super::doubt`]).

use std::collections::BTreeMap;
use std::rc::Rc;

use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::Core;
use super::levels::Levels;
use super::store::Store;
use crate::manifest::{self, Edit};
use crate::planted::{self, Bug};
use crate::values::{Pointer, StoredValue, ValueBuilder};
use crate::{
    BuildError, Class, Damage, Directory, Disk, DiskError, DiskErrorKind, FileId, FileName, Key, KeyBuf,
    Pace, Prefix, ReadError, Record, RecordFlags, Table, TableBuilder, TableMeta, TableName, ValueFile,
    ValuesMeta, cover,
};

/// File numbers carry the core that minted them above this many bits, so that they are unique within the node.
pub(crate) const NUMBER_BITS: u32 = 48;
/// Times in a row that background work asks for a buffer, yielding in between, before it fails.
pub(super) const BUFFER_TRIES_MAX: usize = 1000;

/// The tables that a flush or a compaction writes.
pub(super) struct Output<'a, D: Disk, P: Pace> {
    core: &'a Core<D, P>,
    store: u16,
    class: Class,
    max_seq: u64,
    builder: Option<TableBuilder<D>>,
    tables: Vec<Rc<Table<D>>>,
    /// The value file that is being written, and those that are finished.
    values: Option<ValueBuilder<D>>,
    value_files: Vec<(ValuesMeta, Rc<ValueFile<D>>)>,
    /// Every file begun, finished or not, until a change names them.
    names: Vec<FileName>,
    /// What is added is in use: reads find it in the cache where it is now.
    in_use: bool,
    /// Blocks that were put into the cache for that, by table: behind the last one. None once the tables are named.
    cached: BTreeMap<u64, u32>,
    /// Bytes of records worked on since the last pause.
    since_pause: usize,
    /// Ends and lengths of the tables of the run below, by key, and how many of them the table being written has passed.
    below: Vec<(KeyBuf, u64)>,
    passed: usize,
    /// Bytes of those that it overlaps, and may overlap at most.
    overlap: u64,
    overlap_max: u64,
    last: Option<Prefix>,
    /// Bytes of the tables and value files finished.
    pub(super) bytes: u64,
    /// Bytes of this output among [`Core::build_bytes`].
    charged: usize,
}

impl<'a, D: Disk, P: Pace> Output<'a, D, P> {
    pub(super) fn new(core: &'a Core<D, P>, store: u16, class: Class, max_seq: u64) -> Self {
        Output {
            core,
            store,
            class,
            max_seq,
            builder: None,
            tables: Vec::new(),
            values: None,
            value_files: Vec::new(),
            names: Vec::new(),
            in_use: false,
            cached: BTreeMap::new(),
            since_pause: 0,
            below: Vec::new(),
            passed: 0,
            overlap: 0,
            overlap_max: u64::MAX,
            last: None,
            bytes: 0,
            charged: 0,
        }
    }

    /// Has tables end before they overlap more than `overlap_max` bytes of the tables below: `(last key, bytes)`, by key.
    pub(super) fn mind(&mut self, below: Vec<(KeyBuf, u64)>, overlap_max: u64) {
        (self.below, self.overlap_max) = (below, overlap_max);
    }

    /// Whether the record's value goes into a value file.
    #[inline]
    pub(super) fn is_large(&self, record: &Record<'_>) -> bool {
        // A sibling set is joined by merges, which need it at hand.
        const STAYS: u8 = RecordFlags::SEPARATED | RecordFlags::SIBLINGS;
        record.flags.0 & STAYS == 0
            && self.core.options.large_value_bytes.is_some_and(|least| record.value.len() >= least.max(1))
    }

    /// Whether [`Output::ready`] has nothing to do for this record.
    #[inline]
    pub(super) fn takes(&self, record: &Record<'_>) -> bool {
        self.builder.is_some() && (self.values.is_some() || !self.is_large(record))
    }

    /// Makes sure that a record can be added, which begins a table where there is none, and a value file if it takes one.
    pub(super) async fn ready(&mut self, with_values: bool) -> Result<(), DiskError> {
        if with_values && self.values.is_none() {
            let name = self.core.mint_name(self.store);
            self.names.push(FileName::Values { store: name.store, number: name.number });
            let file_id = self.core.file_id(name);
            let options = self.core.options.table;
            let format = (options.compression, options.write_bytes);
            let (disk, name) = (self.core.disk.clone(), (name.store, name.number));
            self.values = Some(ValueBuilder::create(disk, name, file_id, format, self.class).await?);
        }
        if self.builder.is_none() {
            let name = self.core.mint_name(self.store);
            self.names.push(name.file());
            let file_id = self.core.file_id(name);
            let options = self.core.options.table;
            let disk = self.core.disk.clone();
            self.builder = Some(TableBuilder::create(disk, name, file_id, options, self.class).await?);
        }
        Ok(())
    }

    /// Adds a record, which must be after all others; [`Output::ready`] came before.
    #[inline]
    pub(super) fn add(&mut self, key: Key<'_>, record: Record<'_>) {
        self.since_pause += cost(&key, &record);
        if self.is_large(&record) {
            let pointer = self.values.as_mut().expect("made ready").add(key.prefix, record.value);
            self.add_pointer(key, record, pointer);
        } else {
            self.add_to_table(key, record);
        }
    }

    /// As [`Output::add`], of a record that is a pointer, whose value is written anew.
    pub(super) fn add_collected(&mut self, key: Key<'_>, record: Record<'_>, value: &StoredValue) {
        let pointer = self.values.as_mut().expect("made ready").add_stored(key.prefix, value);
        self.since_pause += pointer.stored_bytes as usize;
        self.core.counters.collected_bytes.add(pointer.record_bytes());
        self.add_pointer(key, record, pointer);
    }

    fn add_pointer(&mut self, key: Key<'_>, record: Record<'_>, pointer: Pointer) {
        let flags = RecordFlags(record.flags.0 | RecordFlags::SEPARATED);
        self.add_to_table(key, Record { flags, value: &pointer.encode(), ..record });
    }

    #[inline]
    fn add_to_table(&mut self, key: Key<'_>, record: Record<'_>) {
        self.last = Some(key.prefix);
        let builder = self.builder.as_mut().expect("made ready");
        builder.add(key, record);
        if self.in_use {
            builder.mark_in_use();
        }
    }

    /// Whether what is added next is in use: blocks of it go into the cache, so that reads which were answered from memory still are
    /// when this output has taken the place of what answered them.
    #[inline]
    pub(super) fn set_in_use(&mut self, in_use: bool) {
        self.in_use = in_use;
    }

    /// Puts the blocks that are in use into the cache. Nobody asks for them before the table is named, and if it never is they are
    /// forgotten.
    fn cache_used(&mut self, builder: &mut TableBuilder<D>) {
        let FileName::Table { number, .. } = builder.file() else { unreachable!("a table's") };
        for (handle, block) in builder.take_used() {
            self.core.cache.succeed(number, handle, block);
            self.cached.insert(number, handle.0 + 1);
        }
    }

    fn forget_cached(&mut self) {
        let mut obsolete = self.core.obsolete.borrow_mut();
        std::mem::take(&mut self.cached).into_iter().for_each(|(table, end)| obsolete.uncache(table, 0..end));
    }

    /// Counts `records` like this one as worked on, although none of them stays.
    #[inline]
    pub(super) fn skip(&mut self, key: &Key<'_>, record: &Record<'_>, records: usize) {
        self.since_pause += records * cost(key, record);
    }

    /// Whether a slice is over, and [`Output::pause`] is due.
    #[inline]
    pub(super) fn wants_pause(&self) -> bool {
        self.since_pause >= SLICE_BYTES
    }

    /// Hands what is full to the disk, and gives way.
    pub(super) async fn pause(&mut self) -> Result<(), DiskError> {
        self.since_pause = 0;
        if let Some(mut builder) = self.builder.take() {
            self.cache_used(&mut builder);
            self.builder = Some(builder);
        }
        self.charge();
        if let Some(builder) = &mut self.builder
            && builder.wants_flush()
        {
            let mut tries = BUFFER_TRIES_MAX;
            while let Err(error) = builder.flush().await {
                self.core.no_buffer(error, &mut tries).await?;
            }
            self.core.pace.throttle(self.core.options.table.write_bytes, self.class).await;
        }
        if let Some(values) = &mut self.values
            && values.wants_flush()
        {
            let before = values.bytes();
            let mut tries = BUFFER_TRIES_MAX;
            while let Err(error) = values.flush().await {
                self.core.no_buffer(error, &mut tries).await?;
            }
            let is_full = before >= self.core.options.table_bytes;
            self.core.pace.throttle(self.core.options.table.write_bytes, self.class).await;
            if is_full {
                self.finish_values().await?;
            }
        }
        self.core.give_way().await;
        Ok(())
    }

    /// Whether the table that is being written has its length, or overlaps enough of the run below.
    pub(super) fn is_full(&mut self) -> bool {
        let (Some(builder), Some(last)) = (&self.builder, self.last) else { return false };
        while let Some((end, bytes)) = self.below.get(self.passed)
            && end.prefix < last
        {
            // Where a table begins, it overlaps one that it has not counted; a rest of one more is a small error.
            self.overlap += bytes;
            self.passed += 1;
        }
        let length = builder.bytes();
        length >= self.core.options.table_bytes
            || builder.memory_bytes() >= self.core.build_bytes_max()
            || self.overlap > self.overlap_max && length >= self.core.options.table_bytes / SHORT_TABLES_MAX
    }

    /// Length of the table that is being written so far.
    pub(super) fn table_length(&self) -> u64 {
        self.builder.as_ref().map_or(0, TableBuilder::bytes)
    }

    /// What is known of the finished tables.
    pub(super) fn finished(&self) -> impl Iterator<Item = &TableMeta> + Clone {
        self.tables.iter().map(|table| table.meta())
    }

    /// Numbers of the finished tables.
    pub(super) fn numbers(&self) -> Vec<u64> {
        self.tables.iter().map(|table| table.number()).collect()
    }

    /// Ends the table that is being written, if any: synced and open after this.
    pub(super) async fn finish(&mut self) -> Result<(), DiskError> {
        let Some(mut builder) = self.builder.take() else { return Ok(()) };
        if builder.entries() == 0 {
            self.discard(builder.file());
            return Ok(());
        }
        self.charge_with(builder.memory_bytes());
        self.overlap = 0;
        while builder.build_filter() {
            self.core.give_way().await;
        }
        let mut tries = BUFFER_TRIES_MAX;
        let meta = loop {
            match builder.finish(self.max_seq).await {
                Ok(meta) => break meta,
                Err(error) => self.core.no_buffer(error, &mut tries).await?,
            }
        };
        self.cache_used(&mut builder);
        self.core.sync_directory(Directory::Store(self.store)).await?;
        let (name, bytes, file_id) = (meta.name, meta.bytes, Some(meta.file_id));
        let mut tries = BUFFER_TRIES_MAX;
        let opened = loop {
            match Table::open(self.core.disk.clone(), name, bytes, file_id, self.class).await {
                Ok(opened) => break opened,
                Err(error) => self.core.no_read_buffer(error, &mut tries).await?,
            }
        };
        self.tables.push(opened);
        self.bytes += bytes;
        drop(builder);
        self.charge();
        Ok(())
    }

    /// Ends everything that is being written: synced and open after this.
    pub(super) async fn end(&mut self) -> Result<(), DiskError> {
        self.finish().await?;
        self.finish_values().await
    }

    async fn finish_values(&mut self) -> Result<(), DiskError> {
        let Some(mut builder) = self.values.take() else { return Ok(()) };
        if builder.is_empty() {
            self.discard(builder.file());
            return Ok(());
        }
        let mut tries = BUFFER_TRIES_MAX;
        let meta = loop {
            match builder.finish().await {
                Ok(meta) => break meta,
                Err(error) => self.core.no_buffer(error, &mut tries).await?,
            }
        };
        self.core.sync_directory(Directory::Store(self.store)).await?;
        let (file, bytes, file_id) = (meta.file(), meta.bytes, Some(meta.file_id));
        let mut tries = BUFFER_TRIES_MAX;
        let opened = loop {
            match ValueFile::open(self.core.disk.clone(), file, bytes, file_id, self.class).await {
                Ok(opened) => break opened,
                Err(error) => self.core.no_read_buffer(error, &mut tries).await?,
            }
        };
        self.value_files.push((meta, Rc::new(opened)));
        self.bytes += meta.bytes;
        cover::mark("value file written");
        Ok(())
    }

    /// Lets go of a file that was begun for a record which never came: it was retired, or its vnode went, while the file was made.
    fn discard(&mut self, file: FileName) {
        self.names.retain(|name| *name != file);
        self.core.obsolete.borrow_mut().discard(std::iter::once(file));
        self.charge();
    }

    /// Counts what this output has in memory at the moment.
    fn charge(&mut self) {
        self.charge_with(self.builder.as_ref().map_or(0, TableBuilder::memory_bytes));
    }

    /// As [`Output::charge`], with a table being built of so many bytes.
    fn charge_with(&mut self, builder: usize) {
        let values = self.values.as_ref().map_or(0, ValueBuilder::memory_bytes);
        let finished: usize = self.tables.iter().map(|table| table.memory_bytes()).sum();
        let before = std::mem::replace(&mut self.charged, builder + values + finished);
        self.core.count_build(before, self.charged);
    }

    /// Puts the finished tables into `level` in place of `dropped`, together with other changes, durably; then `install` changes
    /// the store in memory, which has its new levels already.
    pub(super) async fn commit(
        self,
        level: u8,
        dropped: &[TableName],
        others: impl Iterator<Item = Edit>,
        install: impl FnOnce(&mut Store<D>),
    ) -> Result<(), DiskError> {
        self.commit_at(|_| level, dropped, others, install).await
    }

    /// As [`Output::commit`], with a level for each finished table.
    pub(super) async fn commit_at(
        mut self,
        level_of: impl Fn(usize) -> u8,
        dropped: &[TableName],
        others: impl Iterator<Item = Edit>,
        install: impl FnOnce(&mut Store<D>),
    ) -> Result<(), DiskError> {
        assert!(self.builder.is_none() && self.values.is_none(), "it was ended");
        let values = self.value_files.iter().map(|&(values, _)| Edit::AddValues { values });
        let mut edits: Vec<Edit> =
            values.chain(dropped.iter().map(|&table| Edit::Remove { table })).collect();
        for (at, table) in self.tables.iter().enumerate() {
            edits.push(Edit::Add { level: level_of(at), table: Rc::new(table.meta().clone()) });
        }
        edits.extend(others);
        // From here on the files are the change's business.
        self.names.clear();
        let added = (&self.tables[..], &self.value_files[..]);
        let put = self.core.put_tables(self.store, added, dropped, edits, install).await;
        put.map_err(|failed| failed.error)?;
        self.cached.clear();
        Ok(())
    }
}

/// New tables, and new value files.
pub(super) type Added<'a, D> = (&'a [Rc<Table<D>>], &'a [(ValuesMeta, Rc<ValueFile<D>>)]);

impl<D: Disk, P: Pace> Drop for Output<'_, D, P> {
    fn drop(&mut self) {
        self.core.count_build(self.charged, 0);
        self.forget_cached();
        self.core.obsolete.borrow_mut().discard(self.names.drain(..));
    }
}

/// Bytes of records that a flush or a merge works on before everything else may run: some microseconds' work.
const SLICE_BYTES: usize = crate::BLOCK_BYTES;
/// A table is at least the full length divided by this, however much it overlaps: few files are worth more than even plans.
const SHORT_TABLES_MAX: u64 = 8;
/// What a record costs beside its bytes, so that many small ones make a pause too.
const RECORD_COST_BYTES: usize = 16;

#[inline]
fn cost(key: &Key<'_>, record: &Record<'_>) -> usize {
    key.partition.len() + key.sort.len() + record.value.len() + RECORD_COST_BYTES
}

impl<D: Disk, P: Pace> Core<D, P> {
    /// Changes the tables of a store: on the disk, then in memory, with nothing in between that could be seen.
    pub(super) async fn put_tables(
        &self,
        store: u16,
        (added, added_values): Added<'_, D>,
        dropped: &[TableName],
        mut edits: Vec<Edit>,
        install: impl FnOnce(&mut Store<D>),
    ) -> Result<(), manifest::CommitError> {
        edits.extend(self.manifest.catalog().spent_drops());
        edits.push(Edit::NextNumber { number: self.next_number.get() });
        self.change(&edits).await?;
        // No waiting from here on: all that is named is open.
        let named = |(meta, file): &(ValuesMeta, Rc<ValueFile<D>>)| (meta.number, Rc::clone(file));
        self.values.borrow_mut().extend(added_values.iter().map(named));
        self.tables.borrow_mut().extend(added.iter().map(|table| (table.number(), Rc::clone(table))));
        // A table that only changed its level is among the added ones.
        let is_gone = |name: &&TableName| added.iter().all(|table| table.number() != name.number);
        let gone: Vec<TableName> = dropped.iter().filter(is_gone).copied().collect();
        self.renew(store, &gone);
        {
            let mut stores = self.stores.borrow_mut();
            let index = stores.index_of_store(store);
            install(&mut stores.stores[index]);
        }
        self.survey();
        Ok(())
    }

    /// Takes over in memory what the manifest says of a store, and lets go of the tables that it no longer names.
    pub(super) fn renew(&self, store: u16, gone: &[TableName]) {
        let mut tables = self.tables.borrow_mut();
        let mut stores = self.stores.borrow_mut();
        let catalog = self.manifest.catalog();
        let index = stores.index_of_store(store);
        let mut unreadable = self.unreadable.borrow_mut();
        stores.stores[index].levels = Rc::new(Levels::of(&catalog.stores[&store], |meta| {
            let table = tables.get(&meta.name.number).cloned();
            assert!(table.is_some() || unreadable.contains(&meta.name.number), "named tables are open");
            table
        }));
        let mut obsolete = self.obsolete.borrow_mut();
        for name in gone {
            let stays = catalog.stores[&store].areas_of(name.number).next().is_some();
            match tables.remove(&name.number) {
                Some(table) => obsolete.drop_table(table, stays),
                None => {
                    assert!(unreadable.remove(&name.number), "named tables are open");
                    obsolete.discard((!stays).then(|| name.file()).into_iter());
                }
            }
        }
        if planted::active(Bug::LiveValuesUnlinked) {
            let early = self.wasteful.borrow();
            early.iter().for_each(|&number| obsolete.drop_values(FileName::Values { store, number }));
        }
        drop((tables, stores, catalog, obsolete, unreadable));
        self.count_tables();
    }

    fn mint_name(&self, store: u16) -> TableName {
        let number = self.next_number.get();
        assert!(number >> NUMBER_BITS == 0, "file numbers are spent");
        self.next_number.set(number + 1);
        TableName { store, number: u64::from(self.options.core) << NUMBER_BITS | number }
    }

    fn file_id(&self, name: TableName) -> FileId {
        FileId(xxh3_128_with_seed(&self.options.entropy.to_le_bytes(), name.number))
    }

    /// Syncs a directory; a failure other than a full disk fences, as that of any sync.
    async fn sync_directory(&self, directory: Directory) -> Result<(), DiskError> {
        let synced = manifest::sync_directory(&self.disk, directory).await;
        self.fence_after(synced)
    }

    fn fence_after<T>(&self, done: Result<T, DiskError>) -> Result<T, DiskError> {
        if let Err(error) = &done
            && error.kind != DiskErrorKind::NoSpace
        {
            self.fence();
        }
        done
    }

    /// After a builder's error: waits a turn if only a buffer was missing, else fails.
    async fn no_buffer(&self, error: BuildError, tries: &mut usize) -> Result<(), DiskError> {
        match error {
            BuildError::NoBuffer if *tries > 0 => {
                *tries -= 1;
                self.pace.yield_now().await;
                Ok(())
            }
            BuildError::NoBuffer => Err(DiskError::no_buffer("buffer a write", None)),
            // After a failed sync the next may succeed with the data lost.
            BuildError::Disk(error) if error.operation == "sync" => self.fence_after(Err(error)),
            BuildError::Disk(error) => Err(error),
        }
    }

    /// As [`Core::no_buffer`], of a read.
    pub(super) async fn no_read_buffer(&self, error: ReadError, tries: &mut usize) -> Result<(), DiskError> {
        if error != ReadError::NoBuffer || *tries == 0 {
            return Err(self.unreadable(error));
        }
        *tries -= 1;
        self.pace.yield_now().await;
        Ok(())
    }

    /// Background work met a table that it cannot read.
    pub(super) fn unreadable(&self, error: ReadError) -> DiskError {
        self.suspect(&error);
        match error {
            ReadError::Disk(error) => error,
            ReadError::Damage(Damage { file, .. }) | ReadError::Quarantined(file) => {
                DiskError { kind: DiskErrorKind::Io, operation: "use damaged", name: Some(file) }
            }
            ReadError::NoBuffer => DiskError::no_buffer("buffer a read", None),
        }
    }
}

/// No file that nothing names is believed to have been minted with a number above this, its core's part left out: a file each microsecond
/// for two years. Counted on from a higher one, the numbers would end, and before that a manifest would be refused for them.
const LEFT_COUNTER_MAX: u64 = 1 << (NUMBER_BITS - 2);

/// As [`counter_of`], of a file that nothing names: anybody may have put it there.
pub(crate) fn left_counter_of(core: u16, number: u64) -> Option<u64> {
    counter_of(core, number).filter(|&counter| counter <= LEFT_COUNTER_MAX)
}

/// The number of a file without its core's part, if the core minted it.
pub(crate) fn counter_of(core: u16, number: u64) -> Option<u64> {
    (number >> NUMBER_BITS == u64::from(core)).then_some(number & ((1 << NUMBER_BITS) - 1))
}
