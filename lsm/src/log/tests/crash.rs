//! Power cuts at every step of a history, and again during the recovery after them.

use super::*;
use crate::mem_disk::run::try_run;
use crate::mem_disk::{CrashMode, Fault};

/// What a life did until the power went.
struct History {
    /// The last record whose commit returned.
    acknowledged: u64,
    /// The last record that may have been written.
    staged: u64,
    /// What is below may be gone.
    retired: u64,
}

/// Random writes on `disk`, until the power is off or the log is fenced.
fn live(disk: &MemDisk, life: u64, next: u64, operations: u64, rng: &mut dyn FnMut() -> u64) -> History {
    let mut history = History { acknowledged: next - 1, staged: next - 1, retired: 0 };
    let opened = try_run(Log::recover(disk.clone(), 0, options(life), &mut |_, _, _, _| {}));
    let Some(Ok((log, _))) = opened else { return history };
    for _ in 0..operations {
        match rng() % 8 {
            0 => {
                if log.wants_segment() && try_run(log.prepare()).is_none() {
                    return history;
                }
            }
            1 => {
                if try_run(log.append_mark()).is_none() {
                    return history;
                }
            }
            2 => {
                let seq = history.acknowledged.saturating_sub(rng() % 8);
                log.retire_below(Seq(seq));
                history.retired = history.retired.max(seq);
            }
            _ => {
                for _ in 0..1 + rng() % 3 {
                    let len = if rng().is_multiple_of(4) { 6000 } else { rng() % 300 };
                    if stage(&log, history.staged + 1, len as usize).is_ok() {
                        history.staged += 1;
                    }
                }
                match try_run(log.commit()) {
                    None | Some(Err(CommitError::Fenced)) => return history,
                    Some(Ok(Some(group))) => history.acknowledged = group.last_seq().0,
                    Some(Ok(None)) => {}
                    // What was let go of was never staged.
                    Some(Err(CommitError::NoSpace(_))) => history.staged = log.next_seq().0 - 1,
                    Some(Err(CommitError::NoBuffer)) => panic!("buffers are not bounded here"),
                }
            }
        }
    }
    history
}

/// Everything acknowledged and not retired is there, in order, nothing is invented, and no damage is reported: a power cut is
/// not damage.
fn check(disk: &MemDisk, life: u64, history: &History, context: &str) {
    let (_, recovery, replayed) = recover(disk, options(life));
    assert_eq!(recovery.damage, [], "{context}");
    let last = replayed.last().map_or(0, |(seq, _)| *seq);
    if history.acknowledged > 0 {
        let first = replayed.first().expect("something was acknowledged").0;
        assert!(first <= history.retired.max(1), "{context}: starts at {first}");
        assert_eq!(replayed, pairs(first..last + 1), "{context}");
    }
    assert!(last >= history.acknowledged, "{context}: {last} of {} acknowledged", history.acknowledged);
    assert!(last <= history.staged, "{context}: {last} of {} staged", history.staged);
}

#[test]
fn nothing_acknowledged_is_lost_at_any_step() {
    let operations = 100;
    let whole = MemDisk::new();
    live(&whole, 1, 1, operations, &mut random(5));
    let steps = whole.steps();
    assert!(steps > 80);
    for step in 0..steps {
        let disk = MemDisk::new();
        disk.crash_at(step);
        let history = live(&disk, 1, 1, operations, &mut random(5));
        for mode in CrashMode::EVERY {
            let left = disk.image(mode, &mut random(step));
            check(&left, 2, &history, &format!("step {step}, {mode:?}"));
        }
    }
    println!("counted: crash states {}", steps * CrashMode::EVERY.len() as u64);
}

/// Each step fails in each way: the log goes on or is fenced, and what it acknowledged stays.
#[test]
fn nothing_acknowledged_is_lost_when_any_step_fails() {
    let whole = MemDisk::new();
    live(&whole, 1, 1, 100, &mut random(6));
    for step in 0..whole.steps() {
        for fault in [Fault::NoSpace, Fault::NoSpaceAfter { blocks: 1 }, Fault::Io, Fault::Short] {
            let disk = MemDisk::new();
            disk.fail_at(step, fault);
            let history = live(&disk, 1, 1, 100, &mut random(6));
            for mode in [CrashMode::None, CrashMode::All, CrashMode::Random] {
                let left = disk.image(mode, &mut random(step));
                check(&left, 2, &history, &format!("{fault:?} at step {step}, {mode:?}"));
            }
        }
    }
    println!("counted: fail-at-N points {}", 4 * whole.steps());
}

/// The recovery is cut too, at each of its steps; the next one must still find everything.
#[test]
fn nothing_is_lost_when_recovery_itself_is_cut() {
    let mut states = 0;
    for seed in 0..20 {
        let mut rng = random(seed);
        let disk = MemDisk::new();
        disk.crash_at(20 + rng() % 60);
        let history = live(&disk, 1, 1, 100, &mut random(seed));
        for mode in CrashMode::EVERY {
            let left = disk.image(mode, &mut rng);
            for step in 0..16 {
                let again = left.image(CrashMode::None, &mut rng);
                again.crash_at(step);
                let opened = try_run(Log::recover(again.clone(), 0, options(2), &mut |_, _, _, _| {}));
                let torn = again.image(mode, &mut rng);
                check(&torn, 3, &history, &format!("seed {seed}, {mode:?}, recovery step {step}"));
                states += 1;
                if opened.is_some() {
                    break;
                }
            }
        }
    }
    println!("counted: crash states {states}");
}

/// Many lives after each other, each ended by a cut somewhere.
#[test]
fn nothing_is_lost_over_many_lives() {
    for seed in 0..30 {
        let mut rng = random(1000 + seed);
        let mut disk = MemDisk::new();
        let mut kept: Vec<(u64, u64)> = Vec::new();
        let mut retired = 0;
        for life in 1..8 {
            let (log, recovery, replayed) = recover(&disk, options(life));
            let context = format!("seed {seed}, life {life}");
            assert_eq!(recovery.damage, [], "{context}");
            let needed: Vec<_> = kept.iter().copied().filter(|(seq, _)| *seq >= retired).collect();
            let found: Vec<_> = replayed.iter().copied().filter(|(seq, _)| *seq >= retired).collect();
            assert!(found.starts_with(&needed), "{context}: {needed:?} in {found:?}");
            kept = found;
            disk.crash_at(disk.steps() + rng() % 40);
            for number in 1000 * life..1000 * life + 60 {
                let Ok(seq) = stage(&log, number, (rng() % 5000) as usize) else { break };
                let Some(Ok(Some(_))) = try_run(log.commit()) else { break };
                kept.push((seq.0, number));
                if rng().is_multiple_of(16) {
                    retired = seq.0.saturating_sub(2);
                    log.retire_below(Seq(retired));
                }
            }
            disk = disk.crash(CrashMode::EVERY[(rng() % 5) as usize], &mut rng);
        }
    }
}
