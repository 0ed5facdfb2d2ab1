//! Every byte of a small engine's files flipped, every length cut: what is read afterwards is right, or a typed error, or what
//! recovery said it left out: of the log, and so only of keys whose newest version is in the log alone. And an inspection finds each of
//! them, in the file where it is.

use std::cell::Cell;
use std::collections::BTreeMap;

use ferrite_lsm::inspect::{self, Event, Field, Part, Verdict};
use ferrite_lsm::layout::LayoutMark;
use ferrite_lsm::log::LogOptions;
use ferrite_lsm::mem_disk::run::block_on;
use ferrite_lsm::mem_disk::{CrashMode, MemDisk};
use ferrite_lsm::{Directory, FileName, Options, Record, RecordFlags, Recovery, Seq};

use crate::rig::{self, VNODES, Write, apart_options, key, open, run_jobs, stage};

const KEYS: u64 = 24;

fn options(entropy: u128) -> Options {
    let mut options = apart_options(entropy);
    options.log = LogOptions { segment_bytes: 20 << 10, group_bytes: 8 << 10, ..LogOptions::new(1) };
    // Two memtables of a chunk each are more, so that every round is flushed.
    options.memtable_bytes = 20 << 10;
    options.layout = Some(LayoutMark { generation: 1, cores: 1, index: 0 });
    options
}

/// What was acknowledged of a key.
#[derive(Default)]
struct Versions {
    /// All versions, oldest first, with their numbers in the log.
    all: Vec<(Seq, Write)>,
    /// Those up to this number are in tables.
    flushed: u64,
    /// Where the group of the newest is in the log: the id of its segment, and its place in that.
    place: (u64, u64),
}

impl Versions {
    /// The newest version that is in tables, and what is in the log alone.
    fn split(&self) -> (Option<&Write>, &[(Seq, Write)]) {
        let (tables, log) = self.all.split_at(self.all.partition_point(|(seq, _)| seq.0 <= self.flushed));
        (tables.last().map(|(_, write)| write), log)
    }

    /// Whether the newest version may be among what `recovery` says that the log has lost.
    fn may_be_lost(&self, recovery: &Recovery) -> bool {
        let Some((newest, _)) = self.split().1.last() else { return false };
        let mut ranges = recovery.damage.iter().map(|damage| damage.lost);
        // Of a log that was cut, what stands before the cut is there.
        recovery.cut_tail.is_some_and(|cut| (cut.segment, cut.offset) <= self.place)
            || ranges.any(|lost| lost.is_none_or(|(first, last)| (first..=last).contains(newest)))
    }
}

type History = BTreeMap<u64, Versions>;

/// Where the groups of the log are: by the first number of each the id of its segment, and its place in that.
fn places(disk: &MemDisk) -> BTreeMap<u64, (u64, u64)> {
    let (mut places, mut segment) = (BTreeMap::new(), 0);
    inspect_all(disk, &mut |event| {
        let Event::Part(Part { kind, offset, fields, .. }) = event else { return };
        let number = |name| match fields.iter().find(|(field, _)| *field == name) {
            Some((_, Field::Number(number))) => *number,
            other => panic!("{name} is {other:?}"),
        };
        match kind {
            "header" if fields.iter().any(|(field, _)| *field == "life_after") => segment = number("id"),
            "group" if fields.iter().any(|(field, _)| *field == "first") => {
                places.insert(number("first"), (segment, offset));
            }
            _ => {}
        }
    });
    places
}

/// Up to which number each store has flushed.
fn flushed_through(disk: &MemDisk) -> BTreeMap<u16, u64> {
    let mut through = BTreeMap::new();
    inspect_all(disk, &mut |event| {
        let Event::Part(Part { kind: "state of store", fields, .. }) = event else { return };
        let number = |name| match fields.iter().find(|(field, _)| *field == name) {
            Some((_, Field::Number(number))) => *number,
            other => panic!("{name} is {other:?}"),
        };
        through.insert(number("store") as u16, number("flushed_through"));
    });
    through
}

/// An engine that has flushed, merged, put values apart, and has records in its log; as a kill leaves it.
fn sample() -> (MemDisk, History) {
    let disk = MemDisk::new();
    let (engine, _) = open(&disk, options(1)).expect("a fresh disk");
    let mut history = History::new();
    let mut order = 0;
    for round in 0..4u64 {
        for n in 0..KEYS {
            if (n + round).is_multiple_of(3) {
                continue;
            }
            order += 1;
            let bytes = if (n + round).is_multiple_of(5) { 200 } else { 8 };
            let tombstone = (n * 7 + round).is_multiple_of(11);
            let write = Write { key: n, order, actor: round, bytes, tombstone };
            let seq = stage(&engine, &write).expect("it fits");
            history.entry(n).or_default().all.push((seq, write));
        }
        assert!(block_on(engine.commit()).is_ok());
        // The last round stays in the log.
        if round < 3 {
            block_on(run_jobs(&engine)).expect("no fault");
        }
    }
    let stores: Vec<u16> = (0..VNODES).map(|vnode| engine.vnode_store(vnode).expect("it lives")).collect();
    drop(engine);
    let disk = disk.crash(CrashMode::None, &mut || 1);
    let (flushed, places) = (flushed_through(&disk), places(&disk));
    for (n, versions) in &mut history {
        versions.flushed = flushed[&stores[usize::from(key(*n).prefix.vnode)]];
        if let Some((seq, _)) = versions.split().1.last() {
            let group = places.range(..=seq.0).next_back();
            versions.place = *group.expect("a group of the log has it").1;
        }
    }
    let in_log = history.values().filter(|versions| !versions.split().1.is_empty()).count();
    assert!(in_log > 0 && in_log < history.len(), "{in_log} of {} keys are in the log", history.len());
    (disk, history)
}

fn files(disk: &MemDisk) -> Vec<(FileName, u64)> {
    let directories = [Directory::Core(0), Directory::Store(3), Directory::Store(5)];
    directories.into_iter().flat_map(|directory| disk.list(directory)).collect()
}

fn image(disk: &MemDisk) -> MemDisk {
    disk.image(CrashMode::None, &mut || 1)
}

/// Opens the engine and reads every key. Whether the damage was noticed; `None` if the start was refused.
fn read_everything(disk: &MemDisk, history: &History, what: &dyn Fn() -> String) -> Option<bool> {
    let Ok((engine, recovery)) = open(disk, options(2)) else { return None };
    let said = recovery.cut_tail.is_some() || recovery.cut_manifest || !recovery.damage.is_empty();
    let mut noticed = said || !recovery.quarantined.is_empty();
    let nothing = Versions::default();
    for n in 0..KEYS + 2 {
        let versions = history.get(&n).unwrap_or(&nothing);
        let newest = versions.all.last().map(|(_, write)| write);
        let (in_table, in_log) = versions.split();
        let is_excused = versions.may_be_lost(&recovery);
        // What the log has lost, the tables have not.
        let is_right = |found: Option<&Record<'_>>| {
            let is = |write: &Write| found.is_some_and(|record| is_record_of(write, record));
            let is_left = || match in_table {
                Some(write) if is(write) => true,
                None if found.is_none() => true,
                Some(_) | None => in_log.iter().any(|(_, write)| is(write)),
            };
            newest.map_or(found.is_none(), is) || is_excused && is_left()
        };
        match block_on(engine.read(key(n).as_key())) {
            Err(_) => noticed = true,
            Ok(None) => assert!(is_right(None), "{}: key {n} is gone", what()),
            Ok(Some(found)) => {
                let record = found.record();
                assert!(is_right(Some(&record)), "{}: key {n} is {record:?}", what());
            }
        }
    }
    Some(noticed)
}

fn is_record_of(write: &Write, record: &Record<'_>) -> bool {
    let is_tombstone = record.flags.0 & RecordFlags::TOMBSTONE != 0;
    (write.order, write.actor, write.tombstone) == (record.order, record.actor, is_tombstone)
        && write.value() == record.value
}

/// Inspects everything there is.
fn inspect_all(disk: &MemDisk, see: &mut dyn FnMut(Event<'_>)) -> Verdict {
    block_on(async {
        let parts = [
            inspect::log(disk, 0, None, see).await.expect("buffers are there"),
            inspect::manifest(disk, 0, None, see).await.expect("buffers are there"),
            inspect::store(disk, None, see).await.expect("buffers are there"),
        ];
        parts.iter().fold(Verdict::default(), |sum, part| Verdict {
            damage: sum.damage + part.damage,
            notices: sum.notices + part.notices,
            unreported: sum.unreported + part.unreported,
        })
    })
}

/// Whether anything is found, and in which files.
fn findings(disk: &MemDisk) -> (Verdict, Vec<FileName>) {
    let mut places = Vec::new();
    let verdict = inspect_all(disk, &mut |event| {
        if let Event::Finding(finding) = event {
            places.push(finding.damage.file);
            assert!(!finding.advice.is_empty());
        }
    });
    assert_eq!(verdict.damage + verdict.notices, places.len() as u64);
    (verdict, places)
}

fn is_of(kind: &str, file: FileName) -> bool {
    match file {
        FileName::Segment { .. } => kind == "log",
        FileName::Manifest { .. } => kind == "manifest",
        FileName::Table { .. } => kind == "table",
        FileName::Values { .. } => kind == "values",
    }
}

/// Bytes that nobody reads: what is around the two copies in a segment's header, of 64 bytes each, one of them in the last sector.
fn is_unused(file: FileName, at: u64) -> bool {
    matches!(file, FileName::Segment { .. }) && (64..4096).contains(&at) && !(3584..3648).contains(&at)
}

/// Whether a start may be refused for a byte: for one of the manifest's, without which nobody knows what is there, and for one of the number
/// of a table's or a value file's format, which is believed before the checksum. For what else is damaged there is a report, or a quarantine.
fn may_refuse(file: FileName, at: u64, bytes: u64) -> bool {
    match file {
        FileName::Manifest { .. } => true,
        FileName::Segment { .. } => false,
        FileName::Table { .. } => (8..12).contains(&(at + 4096).saturating_sub(bytes)),
        FileName::Values { .. } => (8..12).contains(&at),
    }
}

fn flip_every_byte(kind: &str) {
    let (disk, history) = sample();
    let (flips, silent, refused) = (Cell::new(0u64), Cell::new(0u64), Cell::new(0u64));
    for (file, bytes) in files(&disk).into_iter().filter(|(file, _)| is_of(kind, *file)) {
        for at in 0..bytes {
            let left = image(&disk);
            assert!(left.corrupt(file, at, 1 << (at % 8)));
            let (verdict, places) = findings(&left);
            let found = verdict.damage + verdict.notices > 0;
            assert!(found || is_unused(file, at), "{file:?} byte {at}: the inspection finds nothing");
            // A log is cut where its last group ends, which may be in the segment before.
            let is_near = places.iter().any(|place| is_of(kind, *place));
            assert!(!found || is_near, "{file:?} byte {at}: found in {places:?}");
            let opened = read_everything(&left, &history, &|| format!("{file:?} byte {at} flipped"));
            assert!(
                opened.is_some() || may_refuse(file, at, bytes),
                "{file:?} byte {at}: the start is refused"
            );
            refused.set(refused.get() + u64::from(opened.is_none()));
            let noticed = opened.unwrap_or(true);
            assert!(!noticed || found, "{file:?} byte {at}: the engine noticed what the inspection did not");
            flips.set(flips.get() + 1);
            silent.set(silent.get() + u64::from(!noticed));
        }
    }
    assert!(flips.get() >= 4096, "{} flips", flips.get());
    rig::count("bytes flipped", flips.get());
    println!(
        "{kind}: {} bytes flipped, {} of them needed by no read, {} refuse a start",
        flips.get(),
        silent.get(),
        refused.get()
    );
}

fn cut_every_length(kind: &str) {
    let (disk, history) = sample();
    // A log may end anywhere, and all of it may be in tables: it is the length that tells of each cut.
    let must_be_noticed = kind == "log";
    let mut cuts = 0;
    for (file, bytes) in files(&disk).into_iter().filter(|(file, _)| is_of(kind, *file)) {
        let whole = disk.read_all(file).expect("it is listed");
        for len in 0..bytes {
            let left = image(&disk);
            left.write_all(file, &whole[..len as usize]);
            let what = || format!("{file:?} cut to {len} of {bytes} bytes");
            if len % 61 == 0 {
                let (verdict, places) = findings(&left);
                let is_told = verdict.damage > 0 && places.contains(&file);
                assert!(!must_be_noticed || is_told, "{}: the inspection does not find it", what());
            }
            let opened = read_everything(&left, &history, &what);
            assert!(opened.is_some() || !must_be_noticed, "{}: the start is refused", what());
            let noticed = opened.unwrap_or(true);
            assert!(!must_be_noticed || noticed, "{}: the engine does not notice", what());
            cuts += 1;
        }
    }
    rig::count("lengths cut", cuts);
    println!("{kind}: {cuts} lengths cut");
}

#[test]
fn what_is_whole_is_found_whole() {
    let (disk, history) = sample();
    let (verdict, places) = findings(&disk);
    assert_eq!((verdict, places), (Verdict::default(), vec![]));
    assert_eq!(read_everything(&image(&disk), &history, &|| "nothing was done".into()), Some(false));
    let mut kinds = BTreeMap::<&str, u64>::new();
    inspect_all(&disk, &mut |event| match event {
        Event::Part(part) | Event::Record(part) => *kinds.entry(part.kind).or_default() += 1,
        Event::Finding(finding) => panic!("{finding:?}"),
    });
    for kind in ["group", "block", "record", "value", "add table", "add value file", "footer", "end"] {
        assert!(kinds.contains_key(kind), "no {kind} among {kinds:?}");
    }
    let total: u64 = files(&disk).iter().map(|(_, bytes)| bytes).sum();
    println!("{} files of {total} bytes: {kinds:?}", files(&disk).len());
}

#[test]
fn flipped_bytes_of_the_log() {
    flip_every_byte("log");
}

#[test]
fn flipped_bytes_of_the_manifest() {
    flip_every_byte("manifest");
}

#[test]
fn flipped_bytes_of_tables() {
    flip_every_byte("table");
}

#[test]
fn flipped_bytes_of_value_files() {
    flip_every_byte("values");
}

#[test]
fn cut_lengths_of_the_log() {
    cut_every_length("log");
}

#[test]
fn cut_lengths_of_the_manifest() {
    cut_every_length("manifest");
}

#[test]
fn cut_lengths_of_tables() {
    cut_every_length("table");
}

#[test]
fn cut_lengths_of_value_files() {
    cut_every_length("values");
}

#[cfg(feature = "planted-bugs")]
#[test]
fn a_block_that_is_not_compared_with_its_checksum_is_caught() {
    rig::planted::caught(ferrite_lsm::planted::Bug::BlockNotVerified, 0..1, |_| {
        flip_every_byte("table");
        Ok(())
    });
}
