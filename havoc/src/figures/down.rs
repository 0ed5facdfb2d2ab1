//! A node that was down under load: how soon reads at ONE on it are right again, second by second, and how soon hints are delivered.
//!
//! Writers write at QUORUM all the time. A reader asks the node itself, and nobody else, at ONE; a read is right if it finds what had
//! been acknowledged of the record before it was sent, or something later. What is acknowledged by the two others may come to the node a
//! moment later, so that single reads may be wrong at any time; but in the end each record is read until what had been acknowledged of it
//! is there, a bounded number of times. Where it is not, where hints are left, or where the node missed nothing, the figure
//! [is wrong](Outcome::wrong). It is, too, where the node is [late](Outcome::late): a second reader reads every record until what had been
//! acknowledged of it when the node came back is there, and is given ten seconds for all of them.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ferrite_client::{BlockingClient, Key, Level, ReadOptions, WriteOptions};
use ferrite_loadgen::chooser::Rng;

use super::load::{fill, key};
use crate::ground::Kind;
use crate::nodes::Nodes;
use crate::{Obstacle, wait_for};

/// How much.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// How long the node is down
    #[arg(long, default_value = "2s", value_parser = ferrite_loadgen::cli::duration)]
    pub down: Duration,
    /// How long reads on it are watched afterwards
    #[arg(long, default_value = "5s", value_parser = ferrite_loadgen::cli::duration)]
    pub watch: Duration,
    /// Watch no longer than until hints are drained
    #[arg(long)]
    pub until_drained: bool,
    /// Nodes, at least three
    #[arg(long, default_value_t = 3)]
    pub nodes: usize,
    /// Writes a second, of all writers together
    #[arg(long, default_value_t = 1_000)]
    pub rate: u64,
    /// Records
    #[arg(long, default_value_t = 5_000)]
    pub records: u64,
}

const VICTIM: usize = 2;
const WRITERS: u64 = 4;
const VALUE_BYTES: usize = 100;
/// How often the hints are counted that are left.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long all is well before the node goes down: what a second looks like then.
const BEFORE: Duration = Duration::from_secs(2);

/// Longest time that the node stays down beyond what was asked for, until it has missed something and others say that they keep hints for it.
const MISSED_WITHIN: Duration = Duration::from_secs(60);

/// How often a record is read until what had been acknowledged of it is there, and the rest between two times.
const POLLS_MAX: u32 = 200;
const POLL_PAUSE: Duration = Duration::from_millis(50);

/// Longest time from the node's return until all that had been acknowledged by then is read on it at ONE.
const RIGHT_WITHIN: Duration = Duration::from_secs(10);

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Writes that were acknowledged while the node was down.
    pub missed: u64,
    /// Hints that the others kept for it when it came back; `None` = they did not tell.
    pub owed: Option<u64>,
    /// When none was left, from its return on; `None` = it was not seen.
    pub drained: Option<Duration>,
    /// When every record was right at ONE as it had been acknowledged at its return, from then on; `None` = some were not in time.
    pub right: Option<Duration>,
    /// Records that were read on it in the end.
    pub records: u64,
    /// Those of them that it did not have as they had been acknowledged.
    pub stale: u64,
}

impl Outcome {
    /// What took too long, in one line. It depends on the machine, unlike what [is wrong](Outcome::wrong).
    pub fn late(&self) -> Option<String> {
        let within = RIGHT_WITHIN.as_secs();
        match self.right {
            Some(right) if right <= RIGHT_WITHIN => None,
            Some(_) | None => Some(format!(
                "reads at ONE on the node were not all right within {within} s after its return"
            )),
        }
    }

    /// What should not be, in one line.
    pub fn wrong(&self) -> Option<String> {
        if self.missed == 0 {
            return Some("no write was acknowledged while the node was down".to_owned());
        }
        if self.owed.is_none() {
            return Some("how many hints were kept for the node was not told".to_owned());
        }
        if self.owed == Some(0) {
            return Some(format!("the node missed {} writes, and nobody kept a hint for it", self.missed));
        }
        if self.drained.is_none() {
            return Some("hints for the node were not drained while it was watched".to_owned());
        }
        let Outcome { records, stale, .. } = self;
        (*stale > 0).then(|| {
            format!(
                "{stale} of {records} records were not right at ONE on the node after {POLLS_MAX} reads each"
            )
        })
    }
}

/// Reads of one second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    right: u64,
    wrong: u64,
    failed: u64,
}

impl Second {
    fn add(&mut self, other: Second) {
        self.right += other.right;
        self.wrong += other.wrong;
        self.failed += other.failed;
    }

    fn line(self, name: &str, hints: Option<u64>) -> String {
        let answered = self.right + self.wrong;
        let share = 100.0 * self.right as f64 / answered.max(1) as f64;
        let hints = hints.map_or_else(|| "not told".to_owned(), |hints| hints.to_string());
        format!("| {name} | {answered} | {} | {share:.2} % | {hints} |", self.failed)
    }
}

/// Measures, and prints a table.
pub fn run(program: &Path, home: &Path, options: Options) -> Result<Outcome, Obstacle> {
    let mut nodes = super::start(program, home, Kind::Plain, options.nodes.max(VICTIM + 1))?;
    let mut fillers: Vec<BlockingClient> = (0..8).map(|_| nodes.client(0)).collect();
    fill(&mut fillers, options.records, &value(0))?;
    drop(fillers);
    let floors: Vec<AtomicU64> = (0..options.records).map(|_| AtomicU64::new(0)).collect();
    let stop = AtomicBool::new(false);
    let writes = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let mut client = nodes.client(writer as usize % 2);
            let (floors, stop, writes) = (&floors, &stop, &writes);
            scope.spawn(move || write(&mut client, writer, options, floors, stop, writes));
        }
        let outcome = watch(&mut nodes, options, &floors, &writes);
        stop.store(true, Ordering::Relaxed);
        outcome
    })
}

fn watch(
    nodes: &mut Nodes,
    options: Options,
    floors: &[AtomicU64],
    writes: &AtomicU64,
) -> Result<Outcome, Obstacle> {
    let mut lines = Vec::new();
    let mut reader = nodes.client_of(VICTIM, &[VICTIM]);
    let before = read_for(&mut reader, BEFORE, floors);
    lines.push(before.line("before", hints(nodes)));
    drop(reader);
    nodes.kill(VICTIM)?;
    let killed = Instant::now();
    let written = writes.load(Ordering::Relaxed);
    std::thread::sleep(options.down);
    let (mut missed, mut owed) = (0, None);
    // Under much load it may be that nothing came through in that time.
    wait_for(MISSED_WITHIN, || {
        (missed, owed) = (writes.load(Ordering::Relaxed) - written, hints(nodes));
        (missed > 0 && owed > Some(0)).then_some(())
    });
    let down = killed.elapsed();
    nodes.start(VICTIM)?;
    let back = Instant::now();
    let nodes = &*nodes;
    let promised = promised(floors);
    let (right, by_seconds) = std::thread::scope(|scope| {
        let mut checker = nodes.client_of(VICTIM, &[VICTIM]);
        let checking = scope.spawn(move || {
            let left = not_right(&mut checker, promised, |_| back.elapsed() < RIGHT_WITHIN);
            left.is_empty().then(|| back.elapsed())
        });
        let by_seconds = by_seconds(nodes, options, back, floors);
        (checking.join().expect("a reader does not panic"), by_seconds)
    });
    let (more, drained) = by_seconds;
    lines.extend(more);
    let mut reader = nodes.client_of(VICTIM, &[VICTIM]);
    let stale = not_right(&mut reader, self::promised(floors), |polls| polls < POLLS_MAX).len() as u64;
    println!(
        "one of {} nodes down for {:.0} s under {} writes a second at QUORUM: {missed} writes missed; hints owed at its return: {}",
        nodes.len(),
        down.as_secs_f64(),
        options.rate,
        owed.map_or_else(|| "not told".to_owned(), |owed| owed.to_string()),
    );
    println!();
    println!("| second after its return | reads at ONE on it | failed | right | hints left |");
    println!("|---|---:|---:|---:|---:|");
    lines.iter().for_each(|line| println!("{line}"));
    match drained {
        Some(time) => println!("\nhints were drained {:.1} s after its return", time.as_secs_f64()),
        None => println!("\nhints were not seen drained"),
    }
    let within = RIGHT_WITHIN.as_secs();
    match right {
        Some(time) => println!(
            "at ONE on it every record was right as acknowledged at its return {:.1} s after it, of {within} s that it has",
            time.as_secs_f64()
        ),
        None => println!(
            "at ONE on it not every record was right as acknowledged at its return within {within} s"
        ),
    }
    let records = floors.len() as u64;
    println!("at ONE on it in the end: {} of {records} records right", records - stale);
    Ok(Outcome { missed, owed, drained, right, records, stale })
}

/// Reads on the node second by second after its return; and when hints were seen drained, from then on.
fn by_seconds(
    nodes: &Nodes,
    options: Options,
    back: Instant,
    floors: &[AtomicU64],
) -> (Vec<String>, Option<Duration>) {
    let (mut lines, mut drained) = (Vec::new(), None);
    let mut second = 0;
    // A client of its own: one that saw the node down would wait before it tries again.
    let mut reader = nodes.client_of(VICTIM, &[VICTIM]);
    while back.elapsed() < options.watch && !(options.until_drained && drained.is_some()) {
        second += 1;
        let mut reads = Second::default();
        let mut left = None;
        while back.elapsed() < Duration::from_secs(second) {
            let slice = Duration::from_secs(second).saturating_sub(back.elapsed()).min(LOOK_EVERY);
            reads.add(read_for(&mut reader, slice, floors));
            left = hints(nodes);
            if left == Some(0) && drained.is_none() {
                drained = Some(back.elapsed());
            }
        }
        lines.push(reads.line(&format!("{second}"), left));
    }
    (lines, drained)
}

/// What is acknowledged of each record by now.
fn promised(floors: &[AtomicU64]) -> Vec<(u64, u64)> {
    (0..).zip(floors.iter().map(|floor| floor.load(Ordering::Acquire))).collect()
}

/// Reads records on the node until what is promised of each is there, as long as it may; those of which it is not. The number of times that all
/// that are left have been read decides, or time does.
fn not_right(
    reader: &mut BlockingClient,
    mut left: Vec<(u64, u64)>,
    goes_on: impl Fn(u32) -> bool,
) -> Vec<(u64, u64)> {
    for polls in 0.. {
        if polls > 0 {
            std::thread::sleep(POLL_PAUSE);
        }
        left.retain(|(record, floor)| !goes_on(polls) || is_right(reader, *record, *floor) != Some(true));
        if left.is_empty() || !goes_on(polls + 1) {
            break;
        }
    }
    left
}

/// Whether a read at ONE finds that or something later; `None` = it is not answered.
fn is_right(client: &mut BlockingClient, record: u64, floor: u64) -> Option<bool> {
    let read = ReadOptions { level: Some(Level::One), timeout: Some(Duration::from_secs(1)) };
    let found = client.get(Key::plain(&key(record)), read).ok()?;
    Some(found.map_or(0, |found| counter(&found.bytes)) >= floor)
}

/// Hints that the others still owe the node; `None` = they do not tell.
fn hints(nodes: &Nodes) -> Option<u64> {
    let others = (0..nodes.len()).filter(|node| *node != VICTIM);
    others.map(|node| nodes.number(node, "hints.count")).sum()
}

fn value(counter: u64) -> Vec<u8> {
    let mut value = counter.to_le_bytes().to_vec();
    value.resize(VALUE_BYTES, b'v');
    value
}

fn counter(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Writes the records of one writer at its share of the rate.
fn write(
    client: &mut BlockingClient,
    writer: u64,
    options: Options,
    floors: &[AtomicU64],
    stop: &AtomicBool,
    writes: &AtomicU64,
) {
    let mut rng = Rng::new(writer + 1);
    let every = Duration::from_secs_f64(WRITERS as f64 / options.rate.max(1) as f64);
    let write = WriteOptions { level: Some(Level::Quorum), ..WriteOptions::default() };
    let began = Instant::now();
    for number in 1u32.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        std::thread::sleep((every * number).saturating_sub(began.elapsed()));
        let share = options.records / WRITERS;
        let record = rng.below(share.max(1)) * WRITERS + writer;
        let Some(floor) = floors.get(record as usize) else { continue };
        // Counters grow with the writer's own count: a write of unknown outcome has one of its own.
        let counter = u64::from(number);
        if client.put(Key::plain(&key(record)), &value(counter), write).is_done() {
            floor.store(counter, Ordering::Release);
            writes.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Reads at ONE, one read after the other.
fn read_for(client: &mut BlockingClient, time: Duration, floors: &[AtomicU64]) -> Second {
    let mut rng = Rng::new(77);
    let began = Instant::now();
    let mut second = Second::default();
    while began.elapsed() < time {
        let record = rng.below(floors.len() as u64);
        let floor = floors[record as usize].load(Ordering::Acquire);
        let count = match is_right(client, record, floor) {
            Some(true) => &mut second.right,
            Some(false) => &mut second.wrong,
            None => &mut second.failed,
        };
        *count += 1;
    }
    second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_missed_kept_drained_or_right_is_wrong() {
        let (drained, right) = (Some(Duration::ZERO), Some(Duration::ZERO));
        let well = Outcome { missed: 9, owed: Some(9), drained, right, records: 5, stale: 0 };
        assert_eq!(well.wrong(), None);
        for (outcome, word) in [
            (Outcome { missed: 0, ..well }, "no write"),
            (Outcome { owed: Some(0), ..well }, "nobody kept"),
            (Outcome { owed: None, ..well }, "not told"),
            (Outcome { drained: None, ..well }, "not drained"),
            (Outcome { stale: 1, ..well }, "1 of 5 records"),
        ] {
            assert!(outcome.wrong().is_some_and(|said| said.contains(word)), "{outcome:?}");
        }
    }

    #[test]
    fn a_node_that_is_not_right_at_one_within_ten_seconds_is_late() {
        let right = |right| Outcome { right, ..Outcome::default() }.late();
        assert_eq!(right(Some(Duration::from_secs(10))), None);
        for late in [None, Some(Duration::from_millis(10_001))] {
            assert!(
                right(late).is_some_and(|said| said.contains("within 10 s after its return")),
                "{late:?}"
            );
        }
    }
}
