//! Damage and cut tails, told apart: every flipped byte, every truncation, every torn sector.

use super::*;
use crate::Damage;
use crate::mem_disk::{CrashMode, ReadFault};

const BLOCK: usize = 4096;

/// Five groups of one record in blocks 1 to 5 of slot 0; the last of them marked if asked.
fn five_groups(mark: bool) -> MemDisk {
    let disk = MemDisk::new();
    let small = LogOptions { segment_bytes: 8 * BLOCK as u64, group_bytes: 2 * BLOCK, ..options(1) };
    let (log, ..) = recover(&disk, small);
    write(&log, 1..6, 10);
    if mark {
        block_on(log.append_mark()).unwrap();
    }
    disk.crash(CrashMode::None, &mut random(1))
}

fn small(life: u64) -> LogOptions {
    LogOptions { segment_bytes: 8 * BLOCK as u64, group_bytes: 2 * BLOCK, ..options(life) }
}

fn lost(recovery: &LogRecovery) -> Vec<Option<(u64, u64)>> {
    recovery.damage.iter().map(|d| d.lost.map(|(from, to)| (from.0, to.0))).collect()
}

#[test]
fn damage_below_a_mark_is_reported_and_recovery_goes_on() {
    let disk = five_groups(false);
    assert!(disk.corrupt(segment(0), 3 * 4096 + 100, 1));
    let (_, recovery, replayed) = recover(&disk, small(2));
    assert_eq!(replayed, [(1, 1), (2, 2), (4, 4), (5, 5)]);
    assert_eq!(recovery.cut_tail, None);
    assert_eq!(lost(&recovery), [Some((3, 3))]);
    let damage = recovery.damage[0].damage;
    assert_eq!((damage.file, damage.offset, damage.what), (segment(0), 3 * 4096, "group checksum"));
    assert_ne!(damage.expected, damage.found);
    // It is still known in the next life, and nothing more.
    let (_, again, replayed) = recover(&disk, small(3));
    assert_eq!(replayed, [(1, 1), (2, 2), (4, 4), (5, 5)]);
    assert_eq!((again.damage, again.cut_tail), (recovery.damage, None));
}

#[test]
fn the_last_group_is_a_cut_tail_without_a_mark_and_damage_with_one() {
    for mark in [false, true] {
        let disk = five_groups(mark);
        assert!(disk.corrupt(segment(0), 5 * 4096 + 100, 1));
        let (_, recovery, replayed) = recover(&disk, small(2));
        assert_eq!(replayed, pairs(1..5));
        if mark {
            assert_eq!((lost(&recovery), recovery.cut_tail), (vec![Some((5, 5))], None));
        } else {
            let cut = CutTail { segment: 1, slot: 0, offset: 5 * 4096 };
            assert_eq!((recovery.damage, recovery.cut_tail), (vec![], Some(cut)));
        }
    }
}

#[test]
fn a_mark_in_a_newer_segment_counts_too() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    write(&log, 1..50, 3000);
    let segments = log.segments();
    let (first, second) = (segments[0], segments[1]);
    // The last group of the first segment, and a whole segment.
    assert!(disk.corrupt(segment(first.slot), first.bytes - 4096 + 50, 0xFF));
    let (_, recovery, replayed) = recover(&disk, options(2));
    assert_eq!(lost(&recovery), [Some((first.next - 1, first.next - 1))]);
    assert_eq!(replayed.len(), 48);
    disk.write_all(segment(second.slot), &[0; SEGMENT as usize]);
    let (_, recovery, replayed) = recover(&disk, options(3));
    let from = first.next - 1;
    assert_eq!(lost(&recovery), [Some((from, second.next - 1))]);
    assert_eq!(replayed.first(), Some(&(1, 1)));
    assert_eq!(replayed.last(), Some(&(49, 49)));
}

#[test]
fn the_end_of_an_earlier_life_is_damage_when_the_next_one_counted_it() {
    let disk = five_groups(false);
    let (log, ..) = recover(&disk, small(2));
    write(&log, 6..8, 10);
    assert!(disk.corrupt(segment(0), 5 * 4096 + 60, 1));
    let (_, recovery, replayed) = recover(&disk, small(3));
    assert_eq!(lost(&recovery), [Some((5, 5))]);
    assert_eq!(replayed, [(1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (7, 7)]);
}

#[test]
fn damage_before_the_first_group_of_all_is_found() {
    let disk = five_groups(false);
    assert!(disk.corrupt(segment(0), 4096 + 60, 1));
    let (_, recovery, replayed) = recover(&disk, small(2));
    assert_eq!(replayed, pairs(2..6));
    assert_eq!(lost(&recovery), [None], "nobody knows where the log began");
    let disk = five_groups(false);
    assert!(disk.corrupt(segment(0), 4096 + 60, 1));
    let (_, recovery, replayed) = recover(&disk, LogOptions { needed: Seq(1), ..small(2) });
    assert_eq!(replayed, pairs(2..6));
    assert_eq!(lost(&recovery), [Some((1, 1))]);
}

#[test]
fn a_segment_without_its_header_is_known_by_its_groups() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    write(&log, 1..30, 3000);
    let segments = log.segments();
    for (lost, reported) in [(0, false), (1, true), (segments.len() - 1, true)] {
        let left = disk.image(CrashMode::None, &mut random(1));
        let mut bytes = left.read_all(segment(segments[lost].slot)).unwrap();
        bytes[..4096].fill(0xEE);
        left.write_all(segment(segments[lost].slot), &bytes);
        let (_, recovery, replayed) = recover(&left, options(2));
        assert_eq!(replayed, pairs(1..30), "segment {lost}");
        let whats: Vec<&str> = recovery.damage.iter().map(|d| d.damage.what).collect();
        assert_eq!(whats, if reported { vec!["segment header checksum"] } else { vec![] });
    }
}

/// Its checksum was right, so it was believed: a life that began at 0 made recovery count below nothing.
#[test]
fn a_resealed_header_that_makes_no_sense_is_damage_and_hides_no_group() {
    // 2^63 was taken for a number after which others can come; the header of the next segment was none then.
    for (at, value) in [(32, 0), (32, u64::MAX), (40, u64::MAX), (16, u64::MAX), (16, 1 << 63), (32, 1 << 63)]
    {
        let disk = five_groups(false);
        let mut bytes = disk.read_all(segment(0)).unwrap();
        for copy in [0, BLOCK - 512] {
            bytes[copy + at..copy + at + 8].copy_from_slice(&u64::to_le_bytes(value));
            format::reseal(&mut bytes[copy..copy + 64]);
        }
        disk.write_all(segment(0), &bytes);
        let (log, recovery, replayed) = recover(&disk, LogOptions { needed: Seq(1), ..small(2) });
        assert_eq!(replayed, pairs(1..6));
        assert_eq!(log.next_seq(), Seq(6));
        let whats: Vec<&str> = recovery.damage.iter().map(|d| d.damage.what).collect();
        assert_eq!(whats, ["segment header fields"]);
    }
}

#[test]
fn every_flipped_byte_is_found_or_unused() {
    let good = five_groups(true);
    let whole = pairs(1..6);
    let len = good.read_all(segment(0)).unwrap().len() as u64;
    for offset in 0..len {
        let disk = good.image(CrashMode::None, &mut random(1));
        assert!(disk.corrupt(segment(0), offset, 1 << (offset % 8)));
        let (_, recovery, replayed) = recover(&disk, small(2));
        let reported = !recovery.damage.is_empty() || recovery.cut_tail.is_some();
        // A header has a second copy, and what is not in a copy is not read.
        let unused = offset < 4096;
        assert!(replayed.iter().all(|record| whole.contains(record)), "byte {offset}");
        assert!(reported || replayed == whole, "byte {offset}: silently lost");
        assert!(reported || unused, "byte {offset}: not found");
    }
}

/// A segment that something else cut short, with nothing behind it, lost what was in it without a word: it did not say how long it was.
#[test]
fn every_truncation_leaves_a_prefix_and_is_reported() {
    let good = five_groups(false);
    let bytes = good.read_all(segment(0)).unwrap();
    for len in 0..bytes.len() {
        if len % 64 > 2 {
            continue;
        }
        let disk = good.image(CrashMode::None, &mut random(1));
        disk.write_all(segment(0), &bytes[..len]);
        let (log, recovery, replayed) = recover(&disk, small(2));
        let whole_groups = (len / BLOCK).saturating_sub(1).min(5) as u64;
        let known = if len < BLOCK { 0 } else { whole_groups };
        assert_eq!(replayed, pairs(1..1 + known), "{len} bytes");
        // Of a header so short that it cannot be read, nothing is known but that every segment has more.
        let made = (if len < 64 { BLOCK } else { bytes.len() }) as u64;
        let said: Vec<_> = recovery.damage.iter().map(|d| (d.damage, d.lost)).collect();
        let (file, what, found) = (segment(0), "segment length", len as u64);
        let expected = Damage { file, offset: found, what, expected: made, found };
        assert_eq!(said, [(expected, None)], "{len} bytes");
        write(&log, 100..101, 10);
        // The file is left as it is: whoever looks finds it.
        let (_, again, replayed) = recover(&disk, small(3));
        assert_eq!(again.damage, recovery.damage, "{len} bytes");
        assert_eq!(replayed.last().map(|record| record.1), Some(100), "{len} bytes");
    }
}

/// What is behind the cut says what was in it.
#[test]
fn a_segment_cut_short_between_others_says_what_it_lost() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    write(&log, 1..50, 3000);
    let segments = log.segments();
    let (before, cut) = (segments[0], segments[1]);
    let bytes = disk.read_all(segment(cut.slot)).unwrap();
    for len in [0, 100, BLOCK, 2 * BLOCK] {
        let disk = disk.image(CrashMode::None, &mut random(1));
        disk.write_all(segment(cut.slot), &bytes[..len]);
        let (_, recovery, replayed) = recover(&disk, options(2));
        let kept = (len / BLOCK).saturating_sub(1) as u64;
        let numbers = Some((before.next + kept, cut.next - 1));
        assert_eq!(lost(&recovery), [numbers, None], "{len} bytes");
        assert_eq!(recovery.damage[1].damage.what, "segment length");
        assert_eq!(replayed.len() as u64, 49 - (cut.next - before.next - kept), "{len} bytes");
    }
}

/// A power cut while a segment is made leaves a file that is shorter, or one without a header: neither was cut.
#[test]
fn a_segment_that_was_being_made_is_not_cut_short() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    write(&log, 1..5, 10);
    block_on(log.rotate()).unwrap();
    for blocks in 1..=SEGMENT / BLOCK as u64 {
        let left = disk.image(CrashMode::None, &mut random(1));
        left.write_all(segment(1), &vec![0; (blocks * BLOCK as u64) as usize]);
        let (_, recovery, replayed) = recover(&left, options(2));
        assert_eq!((recovery.damage, recovery.cut_tail), (vec![], None), "{blocks} blocks");
        assert_eq!(replayed, pairs(1..5));
    }
}

#[test]
fn a_write_torn_at_every_sector_is_cut() {
    let group_blocks = 3;
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    write(&log, 1..3, 10);
    let before = disk.read_all(segment(0)).unwrap();
    write(&log, 3..4, 2 * BLOCK + 100);
    let after = disk.read_all(segment(0)).unwrap();
    let start = 3 * BLOCK;
    let sectors = group_blocks * BLOCK / 512;
    for cut in 0..=sectors {
        for front in [true, false] {
            let torn = start + cut * 512;
            let bytes = if front {
                [&after[..torn], &before[torn..]].concat()
            } else {
                [&before[..torn], &after[torn..]].concat()
            };
            let left = MemDisk::new();
            left.write_all(segment(0), &bytes);
            let (_, recovery, replayed) = recover(&left, options(2));
            let whole = cut == if front { sectors } else { 0 };
            let nothing = cut == if front { 0 } else { sectors };
            assert_eq!(replayed, pairs(1..if whole { 4 } else { 3 }), "sector {cut}, front {front}");
            assert_eq!(recovery.damage, []);
            let expected = CutTail { segment: 1, slot: 0, offset: start as u64 };
            assert_eq!(recovery.cut_tail, (!whole && !nothing).then_some(expected));
        }
    }
}

#[test]
fn a_torn_tail_in_a_recycled_segment_is_told_from_leftovers() {
    let disk = MemDisk::new();
    let (log, ..) = recover(&disk, options(1));
    write(&log, 1..16, 10);
    block_on(log.rotate()).unwrap();
    log.retire_below(Seq(16));
    block_on(log.rotate()).unwrap();
    write(&log, 16..17, 10);
    block_on(log.rotate()).unwrap();
    write(&log, 17..19, 2 * BLOCK + 10);
    let current = *log.segments().last().unwrap();
    assert_eq!(current.slot, 0, "the first slot is in use again");
    let (_, recovery, _) = recover(&disk.image(CrashMode::None, &mut random(1)), options(2));
    assert_eq!(recovery.cut_tail, None, "leftovers are no tail");
    // Either end of the last group is gone for good.
    let last = current.bytes - 3 * 4096;
    for sector in [last, current.bytes - 512] {
        let left = disk.image(CrashMode::None, &mut random(1));
        for byte in 0..512 {
            left.corrupt(segment(0), sector + byte, 0x5A);
        }
        let (_, recovery, replayed) = recover(&left, options(2));
        assert_eq!(replayed.last(), Some(&(17, 17)));
        let expected = CutTail { segment: current.id, slot: 0, offset: last };
        assert_eq!(recovery.cut_tail, Some(expected));
    }
}

#[test]
fn short_reads_are_continued_and_failed_ones_refuse() {
    let disk = five_groups(false);
    for read in 0..6 {
        let left = disk.image(CrashMode::None, &mut random(1));
        left.fail_read_at(read, ReadFault::Short);
        let result = block_on(Log::recover(left, 0, small(2), &mut |_, _, _, _| {}));
        match result {
            Ok((_, recovery)) => assert_eq!((recovery.records, recovery.damage), (5, vec![])),
            Err(error) => assert!(matches!(error, LogError::Disk(_)), "{error}"),
        }
        let left = disk.image(CrashMode::None, &mut random(1));
        left.fail_read_at(read, ReadFault::Io);
        let result = block_on(Log::recover(left.clone(), 0, small(2), &mut |_, _, _, _| {}));
        assert!(result.is_err() || left.reads() <= read);
    }
}
