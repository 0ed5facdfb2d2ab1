mod values;

use super::*;
use crate::mem_disk::run::{block_on, try_run};
use crate::mem_disk::{CrashMode, Fault as DiskFault, MemDisk};
use crate::{Extent, FileId, KeyBuf, Prefix, TableMeta, TableName, ValueShare, ValuesMeta};
use std::rc::Rc;

const CORE: u16 = 3;
const LIFE: u128 = 0x1234_5678;

fn table(number: u64) -> Rc<TableMeta> {
    let key = |token: u64| KeyBuf {
        prefix: Prefix { space: 1, vnode: 2, table: 3, token },
        partition: token.to_be_bytes()[..].into(),
        sort: Box::default(),
    };
    Rc::new(TableMeta {
        name: TableName { store: 5, number },
        bytes: 4096 * number,
        file_id: FileId(u128::from(number) << 70),
        blocks: 2,
        entries: 10,
        tombstones: 1,
        expiring: 2,
        expiry_median_ms: 77,
        raw_bytes: 4000,
        min_order: 7,
        max_order: 9,
        max_seq: 11,
        token_seed: Some(number),
        smallest: key(number),
        largest: key(number),
        values: Vec::new(),
    })
}

/// The same, with values in a file.
fn naming(number: u64, file: u64) -> Rc<TableMeta> {
    let values = vec![ValueShare { file, bytes: 77 }];
    Rc::new(TableMeta { values, ..TableMeta::clone(&table(number)) })
}

fn area(number: u64, block: u32, detached: bool) -> Rc<Area> {
    let (low, high) = (table(number).smallest.clone(), table(number + 1).largest.clone());
    let table = TableName { store: 5, number };
    Rc::new(Area { table, block, blocks: 2, detached, order_max: 44, low, high })
}

#[test]
fn what_is_dropped_is_not_lost_any_more() {
    let wide = |number: u64, detached: bool| {
        let at = |vnode| KeyBuf {
            prefix: Prefix { space: 1, vnode, table: 0, token: 0 },
            partition: Box::default(),
            sort: Box::default(),
        };
        Rc::new(Area { low: at(1), high: at(4), ..Area::clone(&area(number, 0, detached)) })
    };
    let mut catalog = Catalog::default();
    let drop_2 = |tables| Edit::Drop { store: 5, extent: Extent::vnode(2), seq: 9, tables };
    let name = |number| TableName { store: 5, number };
    for edit in [
        Edit::Store { store: 5 },
        Edit::Add { level: 0, table: table(1) },
        Edit::Add { level: 0, table: table(2) },
        Edit::Add { level: 0, table: table(3) },
        Edit::Quarantine(wide(1, false)),
        Edit::Quarantine(wide(2, false)),
        Edit::Quarantine(area(3, 0, false)),
        // Gone before the drop; named by it, and gone after it; both wholly inside.
        Edit::Remove { table: name(1) },
        Edit::Remove { table: name(3) },
        drop_2(vec![2]),
        Edit::Remove { table: name(2) },
    ] {
        catalog.apply(&edit).expect("valid");
    }
    let left = catalog.stores[&5].areas.iter();
    let left: Vec<_> =
        left.map(|area| (area.table.number, area.low.prefix.vnode, area.high.prefix.vnode)).collect();
    assert_eq!(left, [(1, 1, 2), (1, 3, 4), (2, 1, 2), (2, 3, 4)]);
    let mut again = Catalog::default();
    for edit in catalog.to_edits() {
        again.apply(&edit).expect("valid");
    }
    assert_eq!(again, catalog);
}

/// A change for every kind of edit, each valid after the ones before it.
fn changes() -> Vec<Vec<Edit>> {
    let values = |number| Edit::AddValues {
        values: ValuesMeta { store: 5, number, bytes: 8192, record_bytes: 77, file_id: FileId(9) },
    };
    vec![
        vec![
            Edit::Opened { incarnation: 1 },
            Edit::Store { store: 5 },
            Edit::Store { store: 6 },
            Edit::Home { store: 6 },
        ],
        vec![Edit::Assign { vnode: 9, store: 6, epoch: 4 }, Edit::Assign { vnode: 8, store: 5, epoch: 0 }],
        vec![
            Edit::Add { level: 0, table: table(1) },
            Edit::Flushed { store: 5, seq: 20 },
            Edit::NextNumber { number: 2 },
            Edit::LogFloor { seq: 12 },
        ],
        vec![
            values(7),
            values(8),
            Edit::Remove { table: TableName { store: 5, number: 1 } },
            Edit::Add { level: 1, table: naming(2, 7) },
            Edit::Add { level: 1, table: naming(3, 8) },
        ],
        vec![
            Edit::DamagedValues { store: 5, number: 7 },
            Edit::Quarantine(area(2, 3, false)),
            Edit::Quarantine(area(3, 1, false)),
        ],
        vec![Edit::Remove { table: TableName { store: 5, number: 3 } }],
        vec![
            Edit::Drop { store: 5, extent: Extent::table(8, 77), seq: 30, tables: vec![2, 3] },
            Edit::Drop { store: 5, extent: Extent::vnode(9), seq: 31, tables: vec![] },
        ],
        vec![
            Edit::Drop { store: 5, extent: Extent::vnode(8), seq: 32, tables: vec![3] },
            Edit::ForgetDrop { store: 5, extent: Extent::vnode(9), seq: 31 },
            Edit::Unassign { vnode: 8 },
        ],
        vec![Edit::Closed { seq: 33 }],
    ]
}

#[test]
fn an_area_outlives_its_table_until_it_is_released() {
    let mut catalog = states(&changes()).pop().expect("several");
    let detached = |catalog: &Catalog| {
        let areas = catalog.stores[&5].areas.iter();
        areas.map(|area| (area.table.number, area.detached)).collect::<Vec<_>>()
    };
    assert_eq!(detached(&catalog), [(2, false), (3, true)]);
    let mut apply = |edit| catalog.apply(&edit).map(|()| detached(&catalog));
    // What was confirmed after its table had been merged away was read by the merge.
    assert_eq!(apply(Edit::Quarantine(area(9, 0, false))), Ok(vec![(2, false), (3, true)]));
    assert!(apply(Edit::Quarantine(area(2, 9, true))).is_err(), "table 2 is there");
    assert_eq!(apply(Edit::Release { table: TableName { store: 5, number: 3 } }), Ok(vec![(2, false)]));
    assert_eq!(apply(Edit::Remove { table: TableName { store: 5, number: 2 } }), Ok(vec![(2, true)]));
    // A table that changes its place keeps its marks.
    assert_eq!(apply(Edit::Add { level: 2, table: table(2) }), Ok(vec![(2, false)]));
}

fn states(changes: &[Vec<Edit>]) -> Vec<Catalog> {
    let mut catalog = Catalog::default();
    let mut states = vec![catalog.clone()];
    for change in changes {
        for edit in change {
            catalog.apply(edit).expect("valid");
        }
        states.push(catalog.clone());
    }
    states
}

fn disk() -> MemDisk {
    let disk = MemDisk::new();
    block_on(disk.names(NameOp::CreateDirectory(Directory::Core(CORE)))).expect("fresh disk");
    disk
}

async fn begin(disk: &MemDisk, edit_bytes_max: u64) -> Result<Manifest<MemDisk>, DiskError> {
    let found = load(disk, CORE).await.expect("nothing is damaged");
    let catalog = found.catalog.unwrap_or_default();
    Manifest::begin(disk.clone(), CORE, LIFE, edit_bytes_max, catalog, &found.numbers).await
}

/// A file of these changes, of which so many are marked.
fn bytes_marked(changes: &[Vec<Edit>], marked: u32) -> Vec<u8> {
    let identity = Identity { core: CORE, number: 1, life: LIFE };
    let groups = (0..).zip(changes).flat_map(|(index, edits)| format::encode_group(identity, index, edits));
    let mut bytes: Vec<u8> = vec![0; MARKS_BYTES].into_iter().chain(groups).collect();
    for groups in 1..=marked {
        let at = mark_offset(groups) as usize;
        bytes[at..at + BLOCK_BYTES].copy_from_slice(&encode_mark(identity, groups));
    }
    bytes
}

fn bytes_of(changes: &[Vec<Edit>]) -> Vec<u8> {
    bytes_marked(changes, changes.len() as u32)
}

#[test]
fn every_change_survives_reopening() {
    for edit_bytes_max in [0, 5000, 1 << 20] {
        let disk = disk();
        let (changes, states) = (changes(), states(&changes()));
        for (at, change) in changes.iter().enumerate() {
            let manifest = block_on(begin(&disk, edit_bytes_max)).expect("opens");
            assert_eq!(*manifest.catalog(), states[at]);
            block_on(manifest.commit(change)).expect("commits");
            assert_eq!(*manifest.catalog(), states[at + 1]);
        }
        let found = block_on(load(&disk, CORE)).expect("loads");
        assert_eq!(found.catalog.as_ref(), states.last());
        assert!(!found.cut_tail);
        assert_eq!(found.numbers.len(), 1, "old files are removed");
    }
}

#[test]
fn a_snapshot_leads_to_the_same_state() {
    for state in states(&changes()) {
        let mut again = Catalog::default();
        for edit in state.to_edits() {
            again.apply(&edit).expect("valid");
        }
        assert_eq!(again, state);
    }
}

/// The last group was taken for a cut tail, whatever it said, and its change taken back.
#[test]
fn a_flipped_bit_is_found_and_takes_no_marked_change_back() {
    let changes = changes();
    let states = states(&changes);
    let bytes = bytes_of(&changes);
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        match replay(CORE, 1, &bad) {
            Replay::Damaged(_, offset) => assert_eq!(offset as usize, at / BLOCK_BYTES * BLOCK_BYTES),
            Replay::Whole { catalog, cut_tail: false } => {
                assert!(at < MARKS_BYTES, "byte {at} is no mark's");
                assert_eq!(Some(&catalog), states.last());
            }
            other => panic!("byte {at} flipped gives {other:?}"),
        }
    }
}

#[test]
fn a_flipped_bit_above_the_mark_cuts_the_last_change_only() {
    let changes = changes();
    let states = states(&changes);
    let bytes = bytes_marked(&changes, changes.len() as u32 - 1);
    assert_eq!(
        replay(CORE, 1, &bytes),
        Replay::Whole { catalog: states[changes.len()].clone(), cut_tail: false }
    );
    for at in bytes.len() - BLOCK_BYTES..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        let catalog = states[changes.len() - 1].clone();
        assert_eq!(replay(CORE, 1, &bad), Replay::Whole { catalog, cut_tail: true }, "byte {at}");
    }
}

#[test]
fn every_length_gives_the_last_state_or_damage() {
    let changes = changes();
    let bytes = bytes_of(&changes);
    for len in 0..bytes.len() {
        match replay(CORE, 1, &bytes[..len]) {
            // Not even a mark is whole: an engine that has other files refuses.
            Replay::Empty => assert!(len < BLOCK_BYTES),
            Replay::Damaged(Fault::Damaged { .. }, _) => {}
            other => panic!("{other:?} after {len} bytes"),
        }
    }
    // While the file is being made there is no mark.
    let bytes = bytes_marked(&changes[..1], 0);
    for len in 0..bytes.len() {
        assert_eq!(replay(CORE, 1, &bytes[..len]), Replay::Empty, "{len} bytes");
    }
}

#[test]
fn marks_that_no_power_cut_leaves_are_damage() {
    let changes = changes();
    let all = changes.len() as u32;
    for marked in 0..all {
        let judged = replay(CORE, 1, &bytes_marked(&changes, marked));
        assert_eq!(matches!(judged, Replay::Whole { .. }), marked + 1 == all, "{marked} of {all} marked");
    }
    // Of the newest mark any sector may be torn: the other one is whole.
    let bytes = bytes_of(&changes);
    let at = mark_offset(all) as usize;
    for sector in 0..8 {
        let mut torn = bytes.clone();
        torn[at + sector * 512..at + (sector + 1) * 512].fill(0x77);
        assert!(matches!(replay(CORE, 1, &torn), Replay::Whole { cut_tail: false, .. }), "sector {sector}");
        torn[BLOCK_BYTES - at..][..BLOCK_BYTES].fill(0x77);
        assert!(matches!(replay(CORE, 1, &torn), Replay::Damaged(..)), "both");
    }
}

#[test]
fn foreign_files_and_unknown_versions_are_refused() {
    let bytes = bytes_of(&changes());
    assert!(matches!(replay(CORE + 1, 1, &bytes), Replay::Damaged(Fault::Wrong { .. }, 0)));
    assert!(matches!(replay(CORE, 2, &bytes), Replay::Empty), "another file's number seeds the checksums");
    assert!(bears_magic(&bytes) && !bears_magic(&[0; MARKS_BYTES]));
    // Earlier versions have no marks; later ones say so in each part.
    let group = &bytes[MARKS_BYTES..MARKS_BYTES + BLOCK_BYTES];
    for (front, version) in [(&[][..], format::VERSION - 1), (&[0; MARKS_BYTES], format::VERSION + 1)] {
        let mut other = group.to_vec();
        other[4] = version as u8;
        format::seal(1, &mut other);
        let judged = replay(CORE, 1, &[front, &other].concat());
        assert_eq!(judged, Replay::Damaged(Fault::Version { found: version }, front.len() as u64));
    }
    let contradiction = bytes_of(&[vec![Edit::Remove { table: TableName { store: 1, number: 1 } }]]);
    assert!(matches!(replay(CORE, 1, &contradiction), Replay::Damaged(..)));
}

/// A table that was there twice, or a number that two stores had, opened: the engine knows tables and value files by their numbers, and
/// came upon it in the next merge, which panicked.
#[test]
fn a_table_or_a_value_file_that_is_there_twice_is_damage() {
    let add = |level, number| Edit::Add { level, table: table(number) };
    let stores = vec![Edit::Store { store: 5 }, Edit::Store { store: 6 }];
    let once = vec![add(1, 2), add(0, 3)];
    let elsewhere = TableMeta { name: TableName { store: 6, number: 2 }, ..TableMeta::clone(&table(2)) };
    let values = |store| Edit::AddValues {
        values: ValuesMeta { store, number: 7, bytes: 8192, record_bytes: 77, file_id: FileId(9) },
    };
    let whole = replay(CORE, 1, &bytes_of(&[stores.clone(), once.clone(), vec![values(5)]]));
    assert!(matches!(whole, Replay::Whole { .. }), "{whole:?}");
    let is_inspected_whole = |bytes: &[u8]| {
        let disk = disk();
        disk.write_all(FileName::Manifest { core: CORE, number: 1 }, bytes);
        let verdict = block_on(crate::inspect::manifest(&disk, CORE, None, &mut |_| {}));
        verdict.expect("it can be read").is_whole()
    };
    assert!(is_inspected_whole(&bytes_of(&[stores.clone(), once.clone(), vec![values(5)]])));
    for (again, number) in [
        (add(0, 2), 2),
        (add(2, 2), 2),
        (add(0, 3), 3),
        (Edit::Add { level: 1, table: Rc::new(elsewhere) }, 2),
        (values(6), 7),
    ] {
        let twice = bytes_of(&[stores.clone(), once.clone(), vec![values(5)], vec![again]]);
        let judged = replay(CORE, 1, &twice);
        let Replay::Damaged(Fault::Wrong { found, .. }, _) = judged else { panic!("{judged:?}") };
        assert_eq!((found, is_inspected_whole(&twice)), (number, false));
    }
    // A table that changes its place is removed first.
    let moved = vec![Edit::Remove { table: TableName { store: 5, number: 3 } }, add(2, 3)];
    assert!(matches!(replay(CORE, 1, &bytes_of(&[stores, once, moved])), Replay::Whole { .. }));
}

#[test]
fn a_power_cut_at_any_step_keeps_what_was_committed() {
    let (changes, states) = (changes(), states(&changes()));
    for edit_bytes_max in [0, 1 << 20] {
        for mode in CrashMode::EVERY {
            for step in 0.. {
                let disk = disk();
                let first = disk.steps();
                disk.crash_at(first + step);
                let mut committed = 0;
                let ended = try_run(async {
                    let manifest = begin(&disk, edit_bytes_max).await.expect("no fault");
                    for change in &changes {
                        manifest.commit(change).await.expect("no fault");
                        committed += 1;
                    }
                });
                let mut random = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                let left = disk.crash(mode, &mut || {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    random
                });
                let found = block_on(load(&left, CORE)).expect("a cut is no damage");
                let catalog = found.catalog.unwrap_or_default();
                let next = states.get(committed + 1).unwrap_or(&states[committed]);
                assert!(
                    catalog == states[committed] || catalog == *next,
                    "step {step}, {mode:?}, {committed} committed: {catalog:?}"
                );
                if ended.is_some() {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_failed_step_loses_nothing_and_the_next_change_succeeds() {
    let (changes, states) = (changes(), states(&changes()));
    for fault in [DiskFault::NoSpace, DiskFault::Io, DiskFault::Short] {
        for edit_bytes_max in [0, 1 << 20] {
            for n in 0.. {
                let disk = disk();
                let manifest = block_on(begin(&disk, edit_bytes_max)).expect("no fault yet");
                disk.fail_at(n, fault);
                let before = disk.steps();
                for (at, change) in changes.iter().enumerate() {
                    if block_on(manifest.commit(change)).is_err() {
                        assert_eq!(*manifest.catalog(), states[at]);
                        block_on(manifest.commit(change)).expect("the fault is over");
                    }
                    assert_eq!(*manifest.catalog(), states[at + 1]);
                }
                let found = block_on(load(&disk, CORE)).expect("loads");
                assert_eq!(found.catalog.as_ref(), states.last());
                if disk.steps() - before < n {
                    break;
                }
            }
        }
    }
}

/// Each change that found the disk full left a number in memory, and a file where one could be made and had no room for its content,
/// until one succeeded.
#[test]
fn changes_that_find_the_disk_full_leave_a_few_files_at_most() {
    let disk = disk();
    let manifest = block_on(begin(&disk, 0)).expect("no fault yet");
    let listed = || {
        let state = manifest.state.borrow();
        (state.superseded.len(), state.attempts.len())
    };
    let files = || disk.list(Directory::Core(CORE)).len();
    let fails = || block_on(manifest.commit(&[])).expect_err("the disk is full");
    for attempt in 0..3 * ATTEMPTS_MAX {
        // The attempt before this one is unlinked, durably; then a file is made, and has no room.
        disk.fail_at(if attempt == 0 { 1 } else { 3 }, DiskFault::NoSpace);
        assert!(fails().in_doubt);
        assert_eq!((listed(), files()), ((0, 1), 2), "attempt {attempt}");
    }
    disk.set_full(true);
    for attempt in 0..3 * ATTEMPTS_MAX {
        assert!(!fails().in_doubt, "nothing was made");
        assert_eq!((listed(), files()), ((0, 1), 1), "attempt {attempt}");
    }
    disk.set_full(false);
    // Now none can be removed.
    for attempt in 0..3 * ATTEMPTS_MAX {
        let (_, left) = listed();
        disk.stick(FileName::Manifest { core: CORE, number: manifest.number() + 1 });
        if left < ATTEMPTS_MAX {
            // Each is tried, the directory synced, and a file made.
            disk.fail_at(left as u64 + 2, DiskFault::NoSpace);
        }
        let failed = fails();
        assert_eq!(failed.in_doubt, left < ATTEMPTS_MAX, "attempt {attempt}: {failed:?}");
        assert!(failed.is_refused != failed.in_doubt && !failed.fences(), "attempt {attempt}: {failed:?}");
        assert!(listed().1 <= ATTEMPTS_MAX && files() <= 1 + ATTEMPTS_MAX, "attempt {attempt}");
    }
    assert_eq!((listed(), files()), ((0, ATTEMPTS_MAX), 1 + ATTEMPTS_MAX));
    disk.heal();
    block_on(manifest.commit(&[])).expect("there is room");
    assert_eq!((listed(), files()), ((0, 0), 1));
    let found = block_on(load(&disk, CORE)).expect("loads");
    assert_eq!(found.catalog.as_ref(), Some(&*manifest.catalog()));
}

/// One file that could not be unlinked kept all that came after it.
#[test]
fn a_file_that_stays_keeps_no_other() {
    let disk = disk();
    let manifest = block_on(begin(&disk, 0)).expect("no fault yet");
    disk.stick(FileName::Manifest { core: CORE, number: manifest.number() });
    for _ in 0..4 {
        block_on(manifest.commit(&[])).expect("there is room");
        assert_eq!(disk.list(Directory::Core(CORE)).len(), 2);
    }
}

/// The power is cut while changes find the disk full, one after the other: what was acknowledged before them is in a file that none
/// of them removed.
#[test]
fn a_power_cut_after_any_attempt_finds_what_was_acknowledged() {
    let (changes, states) = (changes(), states(&changes()));
    for mode in CrashMode::EVERY {
        for n in 1..5 {
            let disk = disk();
            let manifest = block_on(begin(&disk, 0)).expect("no fault yet");
            block_on(manifest.commit(&changes[0])).expect("no fault yet");
            for attempt in 0..3 {
                // Steps 0 and 1 remove the attempt before, and from there on the file is created, written, synced, named and marked.
                disk.fail_at(
                    if attempt == 0 { n } else { n + 2 },
                    DiskFault::NoSpaceAfter { blocks: usize::MAX },
                );
                let failed = block_on(manifest.commit(&changes[1])).expect_err("the disk is full");
                assert!(failed.in_doubt, "step {n}");
                let left = disk.image(mode, &mut || 1);
                let found = block_on(load(&left, CORE)).expect("a cut is no damage").catalog;
                let found = found.expect("a file that holds stays");
                assert!(found == states[1] || found == states[2], "step {n}, {mode:?}: {found:?}");
            }
        }
    }
}
