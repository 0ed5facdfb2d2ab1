//! The cache against its budget, scans, and readers that wait, fail and go away.

use std::collections::{BTreeSet, VecDeque};
use std::pin::{Pin, pin};
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::mem_disk::run::{block_on, poll_once};
use crate::mem_disk::{MemDisk, OpKind, ReadFault};
use crate::{
    Directory, FileId, Key, NameOp, Prefix, Record, RecordFlags, TableBuilder, TableName, TableOptions,
};

const NAME: TableName = TableName { store: 0, number: 9 };
const BLOCKS: u32 = 600;

/// A table of blocks of one large record each; record `n` of block `n`.
fn table(value_bytes: usize, blocks: u32) -> (MemDisk, Rc<Table<MemDisk>>) {
    let disk = MemDisk::new();
    let table = block_on(async {
        disk.names(NameOp::CreateDirectory(Directory::Store(NAME.store))).await.unwrap();
        let options = TableOptions::default();
        let mut builder =
            TableBuilder::create(disk.clone(), NAME, FileId(5), options, Class::Flush).await.unwrap();
        for n in 0..blocks {
            let prefix = Prefix { space: 1, vnode: 0, table: 0, token: u64::from(n) };
            let value = vec![n as u8; value_bytes];
            let record =
                Record { order: u64::from(n), actor: 0, flags: RecordFlags(0), expiry_ms: 0, value: &value };
            builder.add(Key { prefix, partition: b"", sort: b"" }, record);
        }
        let meta = builder.finish(0).await.unwrap();
        Table::open(disk.clone(), NAME, meta.bytes, None, Class::Read).await.unwrap()
    });
    assert_eq!(table.blocks(), blocks);
    (disk, table)
}

/// A block, of whatever.
pub(super) fn one_block() -> Block {
    let (_, table) = table(1, 1);
    block_on(BlockCache::new(1 << 20).read(&table, BlockHandle(0), Class::Read)).unwrap()
}

fn number(block: &Block) -> u64 {
    block.entry_at(0).1.order
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn never_exceeds_its_budget_and_never_mixes_blocks_up(
        budget in 0usize..400_000,
        steps in prop::collection::vec((0u32..BLOCKS, 0u8..20, any::<bool>()), 1..1500),
    ) {
        let (_, table) = table(2500, BLOCKS);
        let cache = BlockCache::new(budget);
        let (mut held, mut budget_max) = (0, budget);
        let mut budget = budget;
        let mut readers: VecDeque<Block> = VecDeque::new();
        for (at, action, near) in steps {
            let handle = BlockHandle(if near { at % 20 } else { at });
            match action {
                0 => cache.forget(NAME.number, 0..handle.0.min(40)),
                18 => drop(readers.pop_front()),
                19 => {
                    budget = at as usize * 700;
                    budget_max = budget_max.max(budget);
                    cache.resize(budget);
                }
                1..4 => {
                    if let Some(block) = cache.get(NAME.number, handle) {
                        prop_assert_eq!(number(&block), u64::from(handle.0));
                        if near && readers.len() < 8 {
                            readers.push_back(block);
                        }
                    }
                }
                _ => {
                    let block = block_on(cache.read(&table, handle, Class::Read)).unwrap();
                    prop_assert_eq!(number(&block), u64::from(handle.0));
                }
            }
            let stats = cache.stats();
            // Readers' blocks and the smallest tables cannot be helped; then there is nothing else.
            let least = stats.pinned_bytes + stats.own_bytes;
            prop_assert!(stats.all_bytes() <= budget || stats.blocks == 0, "{stats:?} of {budget}");
            prop_assert!(stats.all_bytes() <= budget.max(least));
            prop_assert!(stats.bytes >= stats.blocks * 2500);
            let pinned: usize = readers.iter().map(|block| block.bytes() + 16).sum();
            // Beside those that are held: those that were when it last looked, and as many again before it looks.
            prop_assert!(stats.pinned_bytes <= pinned + (8 + 8) * 3000);
            held = held.max(stats.blocks);
        }
        prop_assert!(held <= budget_max / 2500);
    }
}

/// A full cache whose blocks are removed while readers hold them: the list of those that are held grew past the budget, for nothing was
/// evicted for it.
#[test]
fn the_list_of_what_readers_hold_is_within_the_budget() {
    let (_, table) = table(2500, BLOCKS);
    for slack in 0..64 {
        let cache = BlockCache::new(64 << 10);
        for block in 0..BLOCKS {
            block_on(cache.read(&table, BlockHandle(block), Class::Read)).unwrap();
        }
        let budget = cache.stats().all_bytes() + slack;
        cache.resize(budget);
        let (at, _held) = (0..BLOCKS)
            .find_map(|block| Some((block, cache.get(NAME.number, BlockHandle(block))?)))
            .expect("a full cache holds a block");
        cache.forget(NAME.number, at..at + 1);
        assert!(cache.stats().all_bytes() <= budget, "{:?} of {budget}", cache.stats());
    }
}

/// They are the cache's last reference: below its budget nothing ever made it look for them.
#[test]
fn what_readers_let_go_of_does_not_stay() {
    let (_, table) = table(2500, BLOCKS);
    let cache = BlockCache::new(64 << 20);
    for block in 0..BLOCKS {
        let held = block_on(cache.read(&table, BlockHandle(block), Class::Read)).unwrap();
        cache.forget(NAME.number, 0..BLOCKS);
        drop(held);
        assert!(cache.stats().pinned_bytes <= 8 * 3000, "{:?} after {block}", cache.stats());
    }
}

#[test]
fn everything_that_fits_is_kept() {
    let (disk, table) = table(2500, 100);
    let cache = BlockCache::new(1 << 20);
    for round in 0..3 {
        for block in 0..100 {
            assert_eq!(
                number(&block_on(cache.read(&table, BlockHandle(block), Class::Read)).unwrap()),
                u64::from(block)
            );
        }
        assert_eq!(cache.stats().hits, round * 100);
    }
    let stats = cache.stats();
    assert_eq!((stats.misses, stats.evictions, stats.blocks), (100, 0, 100));
    let reads = disk.counts().reads;
    cache.forget(NAME.number, 0..100);
    assert_eq!((cache.stats().bytes, cache.stats().blocks), (0, 0));
    block_on(cache.read(&table, BlockHandle(3), Class::Read)).unwrap();
    assert_eq!(disk.counts().reads, reads + 1);
}

#[test]
fn a_scan_does_not_push_out_what_is_used() {
    let (_, table) = table(2500, BLOCKS);
    let cache = BlockCache::new(100 * 2800);
    let hot: BTreeSet<u32> = (0..40).collect();
    let touch = |block| drop(block_on(cache.read(&table, BlockHandle(block), Class::Read)).unwrap());
    for _ in 0..4 {
        hot.iter().for_each(|&block| touch(block));
    }
    // The hot blocks are still used now and then while everything else passes once.
    for block in 40..BLOCKS {
        touch(block);
        touch(block % 40);
    }
    let kept = hot.iter().filter(|&&block| cache.get(NAME.number, BlockHandle(block)).is_some()).count();
    assert_eq!(kept, 40);
}

#[test]
fn forgetting_over_and_over_leaves_nothing_behind() {
    let (_, table) = table(2500, 50);
    let cache = BlockCache::new(1 << 24);
    for _ in 0..200 {
        for block in 0..50 {
            block_on(cache.read(&table, BlockHandle(block), Class::Read)).unwrap();
        }
        cache.forget(NAME.number, 0..50);
    }
    assert!(cache.slots.borrow().queued() <= 200, "{} turns are queued", cache.slots.borrow().queued());
    assert_eq!(cache.stats().bytes, 0);
}

/// Blocks of a table, all in the cache.
fn filled(blocks: u32, hits: usize) -> BlockCache {
    let (_, table) = table(3000, 1);
    let budget = blocks as usize * 3300 + 32 * 1024;
    // Each its own: what readers hold is another matter.
    let own = || block_on(table.read_block(BlockHandle(0), Class::Read)).unwrap();
    let cache = BlockCache::new(budget);
    for number in 0..blocks {
        cache.insert(NAME.number, BlockHandle(number), own());
    }
    for _ in 0..hits {
        (0..blocks).for_each(|number| drop(cache.get(NAME.number, BlockHandle(number))));
    }
    assert_eq!((cache.stats().blocks, cache.stats().evictions), (blocks as usize, 0));
    cache
}

/// The queues were swept as a whole by whichever removal came to the limit: a walk through all that the cache holds.
#[test]
fn no_removal_sweeps_all_of_the_queues() {
    const BLOCKS: u32 = 6000;
    let cache = filled(BLOCKS, 0);
    let looks = || cache.slots.borrow().looks();
    for number in 0..BLOCKS {
        let before = looks();
        cache.forget(NAME.number, number..number + 1);
        assert!(looks() - before <= 8, "{} for block {number}", looks() - before);
        let (queued, held) = (cache.slots.borrow().queued(), cache.stats().blocks);
        assert!(queued <= held * 2 + BLOCKS as usize / 4 + 64, "{queued} turns of {held} blocks");
    }
    // What is left of turns is cleared away in parts, too.
    cache.insert(NAME.number, BlockHandle(0), filled(1, 0).get(NAME.number, BlockHandle(0)).unwrap());
    while {
        let before = looks();
        let more = cache.tidy();
        assert!(looks() - before <= TURNS_AT_ONCE);
        more
    } {}
    assert!(cache.slots.borrow().queued() <= 70, "{}", cache.slots.borrow().queued());
    assert!(cache.get(NAME.number, BlockHandle(0)).is_some());
}

/// Where everything had been hit three times, the first eviction judged everything three times.
#[test]
fn an_eviction_judges_a_few_items_however_often_they_were_hit() {
    const BLOCKS: u32 = 6000;
    let cache = filled(BLOCKS, 4);
    let looks = || cache.slots.borrow().looks();
    let more = filled(50, 0);
    // So that there is no room for one more.
    cache.resize(cache.stats().all_bytes());
    for number in 0..50 {
        let (before, evicted_before) = (looks(), cache.stats().evictions as usize);
        let block = more.get(NAME.number, BlockHandle(number)).unwrap();
        cache.insert(NAME.number, BlockHandle(BLOCKS + number), block);
        let evicted = cache.stats().evictions as usize;
        // A queue that grows takes the room of some blocks.
        let evictions = evicted - evicted_before;
        assert!(evictions <= 100, "{evictions} for insertion {number}");
        assert!(looks() - before <= 257 * evictions + 8, "{} for {evictions} evictions", looks() - before);
    }
    let (evicted, budget) = (cache.stats().evictions, cache.stats().all_bytes() - 200 * 3016);
    cache.resize(budget);
    let stats = cache.stats();
    assert!(stats.evictions - evicted >= 190 && stats.all_bytes() <= budget, "{stats:?}");
}

#[test]
fn a_block_larger_than_an_eighth_of_the_budget_passes_by() {
    let (_, table) = table(2500, 3);
    let cache = BlockCache::new(10_000);
    for block in 0..3 {
        block_on(cache.read(&table, BlockHandle(block), Class::Read)).unwrap();
    }
    assert_eq!(cache.stats().blocks, 0);
}

type Read<'a> = Pin<Box<dyn Future<Output = Result<Block, ReadError>> + 'a>>;

fn waiting<'a>(cache: &'a BlockCache, table: &'a Table<MemDisk>, block: u32, count: usize) -> Vec<Read<'a>> {
    (0..count)
        .map(|_| {
            let mut read: Read<'a> = Box::pin(cache.read(table, BlockHandle(block), Class::Read));
            assert!(poll_once(read.as_mut()).is_none());
            read
        })
        .collect()
}

fn reads_in_flight(disk: &MemDisk) -> usize {
    disk.in_flight(None).iter().filter(|op| op.kind == OpKind::Read).count()
}

#[test]
fn who_misses_the_same_block_waits_for_one_read() {
    let (disk, table) = table(2500, 4);
    let cache = BlockCache::new(1 << 20);
    disk.defer();
    let reads = waiting(&cache, &table, 1, 10);
    let other = waiting(&cache, &table, 2, 1);
    assert_eq!(reads_in_flight(&disk), 2);
    assert_eq!(cache.stats().coalesced, 9);
    disk.complete_all();
    for mut read in reads {
        assert_eq!(number(&poll_once(read.as_mut()).expect("it landed").unwrap()), 1);
    }
    assert_eq!(number(&block_on(pin!(other.into_iter().next().unwrap())).unwrap()), 2);
    assert_eq!(cache.stats().blocks, 2);
    assert!(cache.flights.is_idle());
}

#[test]
fn followers_are_woken_and_not_only_polled() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (disk, table) = table(2500, 2);
    let cache = BlockCache::new(1 << 20);
    disk.defer();
    let mut reads = waiting(&cache, &table, 0, 3);
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    for read in &mut reads[1..] {
        // Polled again with another waker: the last one counts.
        assert!(read.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    disk.complete_all();
    assert!(poll_once(reads[0].as_mut()).is_some());
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
}

#[test]
fn a_leader_that_goes_away_is_replaced() {
    let (disk, table) = table(2500, 2);
    let cache = BlockCache::new(1 << 20);
    disk.defer();
    let mut reads = waiting(&cache, &table, 1, 4);
    drop(reads.remove(0));
    // A follower that goes away, too, is not waited for.
    drop(reads.remove(1));
    for read in &mut reads {
        assert!(poll_once(read.as_mut()).is_none());
    }
    // The dropped read is detached, and there is one more.
    assert_eq!(reads_in_flight(&disk), 2);
    disk.complete_all();
    for read in &mut reads {
        assert_eq!(number(&poll_once(read.as_mut()).expect("it landed").unwrap()), 1);
    }
    assert!(cache.flights.is_idle());
}

#[test]
fn a_failed_read_fails_all_who_wait_and_is_not_remembered() {
    let (disk, table) = table(2500, 2);
    let cache = BlockCache::new(1 << 20);
    disk.defer();
    let reads = waiting(&cache, &table, 1, 3);
    let op = disk.in_flight(None)[0].id;
    disk.fail_read(op, ReadFault::Io);
    for mut read in reads {
        assert!(matches!(poll_once(read.as_mut()).expect("it landed"), Err(ReadError::Disk(_))));
    }
    let mut again = waiting(&cache, &table, 1, 1);
    disk.complete_all();
    assert_eq!(number(&poll_once(again[0].as_mut()).expect("it landed").unwrap()), 1);
}

/// What was promoted once counted as in use for as long as it was held: merges carried it along for ever, though nobody asked for it.
#[test]
fn what_nobody_asks_for_any_more_is_not_in_use_though_it_is_held() {
    let (_, table) = table(2500, BLOCKS);
    let cache = BlockCache::new(200_000);
    let read = |n| number(&block_on(cache.read(&table, BlockHandle(n), Class::Read)).unwrap());
    let is_in_use = |n| cache.is_in_use(NAME.number, BlockHandle(n));
    assert_eq!((read(0), is_in_use(0)), (0, false));
    assert_eq!((read(0), is_in_use(0)), (0, true));
    // Its turn comes, and it gets another round for its hit.
    let rounds = (1..BLOCKS).take_while(|&n| {
        read(n);
        is_in_use(0)
    });
    assert!(rounds.count() > 10, "until room is needed");
    assert!(cache.peek(NAME.number, BlockHandle(0)).is_some(), "it is held");
    // What succeeds a block in use is in use, until its turn comes.
    let block = block_on(cache.read(&table, BlockHandle(0), Class::Read)).unwrap();
    cache.succeed(NAME.number + 1, BlockHandle(0), block);
    assert!(cache.is_in_use(NAME.number + 1, BlockHandle(0)));
}
