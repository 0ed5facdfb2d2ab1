//! RocksDB through its C interface: the system's, or with the feature `built-rocksdb` the one that its crate builds with io_uring.
//!
//! Asynchronous reads. RocksDB reads through io_uring only if the program defines a function `RocksDbIOUringEnable` that says so,
//! which the crate brings along; the note counts the rings that are open, so that a build without them shows. Then the blocks that
//! one MultiGet needs of one file are read at once. Reads of several files and levels would overlap too if RocksDB were built
//! with coroutines, which takes the folly library: neither Debian's build nor the crate's has them. MultiGet takes its keys 32
//! at a time whatever it is given; more keys at once are better sorted, so more of those share a file.

use std::ffi::{CStr, CString, c_char, c_double, c_int, c_uchar, c_void};
use std::os::unix::ffi::OsStrExt;
use std::ptr::null_mut;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::db::{Db, Setup};
use crate::keys;

const BLOOM_BITS: c_double = 10.0;
const LZ4: c_int = 4;

type Handle = *mut c_void;

// Linked for the library that it brings; what is called is declared below for both.
#[cfg(feature = "built-rocksdb")]
use librocksdb_sys as _;

// SAFETY: these are the declarations of rocksdb/c.h, the same in 7.8 and 11.8 where not marked, with every handle as a pointer to nothing
// known.
#[cfg_attr(not(feature = "built-rocksdb"), link(name = "rocksdb"))]
unsafe extern "C" {
    fn rocksdb_options_create() -> Handle;
    fn rocksdb_options_set_create_if_missing(options: Handle, yes: c_uchar);
    fn rocksdb_options_set_use_direct_reads(options: Handle, yes: c_uchar);
    fn rocksdb_options_set_use_direct_io_for_flush_and_compaction(options: Handle, yes: c_uchar);
    fn rocksdb_options_set_compression(options: Handle, kind: c_int);
    fn rocksdb_options_set_write_buffer_size(options: Handle, bytes: usize);
    fn rocksdb_options_increase_parallelism(options: Handle, threads: c_int);
    fn rocksdb_options_set_max_open_files(options: Handle, files: c_int);
    fn rocksdb_options_set_block_based_table_factory(options: Handle, table: Handle);
    fn rocksdb_options_set_level_compaction_dynamic_level_bytes(options: Handle, yes: c_uchar);
    fn rocksdb_block_based_options_create() -> Handle;
    fn rocksdb_block_based_options_set_block_cache(table: Handle, cache: Handle);
    fn rocksdb_block_based_options_set_filter_policy(table: Handle, policy: Handle);
    fn rocksdb_block_based_options_set_block_size(table: Handle, bytes: usize);
    fn rocksdb_filterpolicy_create_bloom_full(bits: c_double) -> Handle;
    fn rocksdb_cache_create_lru(bytes: usize) -> Handle;
    fn rocksdb_open_column_families(
        options: Handle,
        path: *const c_char,
        families: c_int,
        names: *const *const c_char,
        family_options: *const Handle,
        handles: *mut Handle,
        error: *mut *mut c_char,
    ) -> Handle;
    fn rocksdb_close(db: Handle);
    fn rocksdb_column_family_handle_destroy(family: Handle);
    fn rocksdb_writeoptions_create() -> Handle;
    fn rocksdb_writeoptions_set_sync(options: Handle, yes: c_uchar);
    fn rocksdb_readoptions_create() -> Handle;
    #[cfg(feature = "built-rocksdb")]
    fn rocksdb_readoptions_set_async_io(options: Handle, yes: c_uchar);
    fn rocksdb_flushoptions_create() -> Handle;
    fn rocksdb_flush(db: Handle, options: Handle, error: *mut *mut c_char);
    fn rocksdb_writebatch_create() -> Handle;
    fn rocksdb_writebatch_clear(batch: Handle);
    fn rocksdb_writebatch_put(
        batch: Handle,
        key: *const c_char,
        klen: usize,
        value: *const c_char,
        vlen: usize,
    );
    fn rocksdb_write(db: Handle, options: Handle, batch: Handle, error: *mut *mut c_char);
    fn rocksdb_get_pinned(
        db: Handle,
        options: Handle,
        key: *const c_char,
        len: usize,
        error: *mut *mut c_char,
    ) -> Handle;
    fn rocksdb_pinnableslice_value(slice: Handle, len: *mut usize) -> *const c_char;
    fn rocksdb_pinnableslice_destroy(slice: Handle);
    fn rocksdb_batched_multi_get_cf(
        db: Handle,
        options: Handle,
        family: Handle,
        count: usize,
        keys: *const *const c_char,
        lens: *const usize,
        values: *mut Handle,
        errors: *mut *mut c_char,
        sorted: bool,
    );
    fn rocksdb_create_iterator(db: Handle, options: Handle) -> Handle;
    fn rocksdb_iter_seek(iterator: Handle, key: *const c_char, len: usize);
    fn rocksdb_iter_valid(iterator: Handle) -> c_uchar;
    fn rocksdb_iter_next(iterator: Handle);
    fn rocksdb_iter_key(iterator: Handle, len: *mut usize) -> *const c_char;
    fn rocksdb_iter_value(iterator: Handle, len: *mut usize) -> *const c_char;
    fn rocksdb_iter_destroy(iterator: Handle);
    fn rocksdb_property_int(db: Handle, name: *const c_char, value: *mut u64) -> c_int;
    fn rocksdb_property_value(db: Handle, name: *const c_char) -> *mut c_char;
    fn rocksdb_free(pointer: *mut c_void);
}

pub struct Rocks {
    db: Handle,
    family: Handle,
    write: Handle,
    read: Handle,
    /// Waits for the flush, as it comes.
    flush: Handle,
    batch: Handle,
    value_bytes: usize,
}

impl Rocks {
    pub fn open(setup: &Setup) -> Rocks {
        let path = CString::new(setup.directory.as_os_str().as_bytes()).expect("no zero in a path");
        let yes = |flag: bool| c_uchar::from(flag);
        // SAFETY: handles come from their create functions and live as long as the process; strings end with a zero.
        unsafe {
            let table = rocksdb_block_based_options_create();
            rocksdb_block_based_options_set_block_cache(table, rocksdb_cache_create_lru(setup.cache_bytes));
            rocksdb_block_based_options_set_filter_policy(
                table,
                rocksdb_filterpolicy_create_bloom_full(BLOOM_BITS),
            );
            rocksdb_block_based_options_set_block_size(table, 4096);
            let options = rocksdb_options_create();
            rocksdb_options_set_create_if_missing(options, 1);
            rocksdb_options_set_use_direct_reads(options, 1);
            rocksdb_options_set_use_direct_io_for_flush_and_compaction(options, 1);
            rocksdb_options_set_compression(options, if setup.lz4 { LZ4 } else { 0 });
            rocksdb_options_set_write_buffer_size(options, setup.memtable_bytes);
            rocksdb_options_increase_parallelism(options, 2);
            rocksdb_options_set_max_open_files(options, -1);
            // The default from 8.4 on.
            rocksdb_options_set_level_compaction_dynamic_level_bytes(options, 1);
            rocksdb_options_set_block_based_table_factory(options, table);
            let mut error = null_mut();
            let mut family = null_mut();
            let name = c"default".as_ptr();
            let db = rocksdb_open_column_families(
                options,
                path.as_ptr(),
                1,
                &name,
                &options,
                &mut family,
                &mut error,
            );
            check(error);
            let write = rocksdb_writeoptions_create();
            rocksdb_writeoptions_set_sync(write, yes(setup.synced));
            let read = rocksdb_readoptions_create();
            #[cfg(feature = "built-rocksdb")]
            rocksdb_readoptions_set_async_io(read, yes(setup.reads_device));
            Rocks {
                db,
                family,
                write,
                read,
                flush: rocksdb_flushoptions_create(),
                batch: rocksdb_writebatch_create(),
                value_bytes: setup.value_bytes,
            }
        }
    }

    fn property(&self, name: &CStr) -> u64 {
        let mut value = 0;
        // SAFETY: the database is open, the name ends with a zero.
        let failed = unsafe { rocksdb_property_int(self.db, name.as_ptr(), &mut value) };
        assert_eq!(failed, 0, "{name:?}");
        value
    }

    fn text(&self, name: &CStr) -> String {
        // SAFETY: the database is open, both strings end with a zero, and RocksDB's is this process's to free.
        unsafe {
            let value = rocksdb_property_value(self.db, name.as_ptr());
            assert!(!value.is_null(), "{name:?}");
            let text = CStr::from_ptr(value).to_string_lossy().into_owned();
            rocksdb_free(value.cast());
            text
        }
    }
}

/// The rings that this process has: RocksDB opens one for a thread that reads so.
fn rings() -> usize {
    let open = std::fs::read_dir("/proc/self/fd").expect("Linux lists them").flatten();
    open.filter(|entry| {
        std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().contains("[io_uring]"))
    })
    .count()
}

fn check(error: *mut c_char) {
    if !error.is_null() {
        // SAFETY: RocksDB's errors are strings that end with a zero.
        panic!("RocksDB: {}", unsafe { CStr::from_ptr(error) }.to_string_lossy());
    }
}

/// What a pinned slice shows, which is then let go.
fn shown<R>(slice: Handle, seen: impl FnOnce(&[u8]) -> R) -> Option<R> {
    if slice.is_null() {
        return None;
    }
    // SAFETY: the slice is valid until it is destroyed.
    unsafe {
        let mut len = 0;
        let start = rocksdb_pinnableslice_value(slice, &mut len);
        let result = seen(std::slice::from_raw_parts(start.cast(), len));
        rocksdb_pinnableslice_destroy(slice);
        Some(result)
    }
}

impl Db for Rocks {
    async fn put(&mut self, key: &[u8; 16], value: &[u8]) {
        // SAFETY: the batch copies both.
        unsafe {
            rocksdb_writebatch_put(self.batch, key.as_ptr().cast(), 16, value.as_ptr().cast(), value.len())
        };
    }

    async fn commit(&mut self) {
        let mut error = null_mut();
        // SAFETY: all handles are open.
        unsafe {
            rocksdb_write(self.db, self.write, self.batch, &mut error);
            rocksdb_writebatch_clear(self.batch);
        }
        check(error);
    }

    async fn get<R>(&mut self, key: &[u8; 16], seen: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let mut error = null_mut();
        // SAFETY: all handles are open; the key is read within the call.
        let slice = unsafe { rocksdb_get_pinned(self.db, self.read, key.as_ptr().cast(), 16, &mut error) };
        check(error);
        shown(slice, seen)
    }

    async fn get_many(&mut self, keys: &[[u8; 16]], mut seen: impl FnMut(usize, &[u8])) {
        let starts: Vec<*const c_char> = keys.iter().map(|key| key.as_ptr().cast()).collect();
        let lens = vec![16; keys.len()];
        let mut values = vec![null_mut(); keys.len()];
        let mut errors = vec![null_mut(); keys.len()];
        // SAFETY: all arrays are as long as the count says.
        unsafe {
            rocksdb_batched_multi_get_cf(
                self.db,
                self.read,
                self.family,
                keys.len(),
                starts.as_ptr(),
                lens.as_ptr(),
                values.as_mut_ptr(),
                errors.as_mut_ptr(),
                false,
            );
        }
        for (at, (slice, error)) in values.into_iter().zip(errors).enumerate() {
            check(error);
            shown(slice, |value| seen(at, value));
        }
    }

    async fn get_deep(
        &mut self,
        mut numbers: impl FnMut() -> u64,
        total: u64,
        depth: usize,
        latencies: &mut Histogram<u64>,
    ) -> u64 {
        let (mut found, mut left, len) = (0, total, self.value_bytes);
        while left > 0 {
            let wanted: Vec<u64> = (0..left.min(depth as u64)).map(|_| numbers()).collect();
            let keys: Vec<_> = wanted.iter().map(|number| keys::key(*number)).collect();
            let start = std::time::Instant::now();
            self.get_many(&keys, |at, value| {
                assert!(keys::is_of(value, wanted[at], len));
                found += 1;
            })
            .await;
            latencies.saturating_record_n(start.elapsed().as_nanos() as u64, wanted.len() as u64);
            left -= wanted.len() as u64;
        }
        found
    }

    async fn scan(&mut self, key: &[u8; 16], count: usize) -> usize {
        // SAFETY: the iterator is used between its creation and its end, and its key and value while it stands on them.
        unsafe {
            let iterator = rocksdb_create_iterator(self.db, self.read);
            rocksdb_iter_seek(iterator, key.as_ptr().cast(), 16);
            let mut walked = 0;
            while walked < count && rocksdb_iter_valid(iterator) != 0 {
                let (mut klen, mut vlen) = (0, 0);
                let key = rocksdb_iter_key(iterator, &mut klen);
                let value = rocksdb_iter_value(iterator, &mut vlen);
                assert!(klen == 16 && vlen == self.value_bytes);
                std::hint::black_box((*key, *value));
                walked += 1;
                rocksdb_iter_next(iterator);
            }
            rocksdb_iter_destroy(iterator);
            walked
        }
    }

    fn depths(&self) -> &'static [usize] {
        &[16, 32, 64, 128, 200]
    }

    async fn settle(&mut self) {
        let mut error = null_mut();
        // SAFETY: all handles are open.
        unsafe { rocksdb_flush(self.db, self.flush, &mut error) };
        check(error);
        let mut quiet = 0;
        while quiet < 3 {
            let busy = self.property(c"rocksdb.mem-table-flush-pending")
                + self.property(c"rocksdb.num-running-flushes")
                + self.property(c"rocksdb.compaction-pending")
                + self.property(c"rocksdb.num-running-compactions");
            quiet = if busy == 0 { quiet + 1 } else { 0 };
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    async fn give_way(&mut self) {}

    fn note(&self) -> String {
        let tables = self.text(c"rocksdb.levelstats");
        let levels = tables.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let (level, files, mib) = (words.next()?.parse::<u32>().ok()?, words.next()?, words.next()?);
            (files != "0").then(|| format!("level {level}: {files} tables, {mib} MiB"))
        });
        let work = self.text(c"rocksdb.cfstats-no-file-histogram");
        let work = work.lines().filter(|line| {
            line.starts_with("Flush(GB): cumulative") || line.starts_with("Cumulative compaction")
        });
        format!(
            "version {}; rings open: {}; {}; {}",
            env!("ROCKSDB_VERSION"),
            rings(),
            levels.collect::<Vec<_>>().join(", "),
            work.collect::<Vec<_>>().join("; ")
        )
    }

    async fn close(self) {
        // SAFETY: nothing is used after.
        unsafe {
            rocksdb_column_family_handle_destroy(self.family);
            rocksdb_close(self.db);
        }
    }
}
