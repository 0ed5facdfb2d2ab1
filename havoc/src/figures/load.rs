//! A closed loop of clients, and how long they waited.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ferrite_client::{BlockingClient, Key, Level, WriteOptions};
use ferrite_loadgen::chooser::Rng;

use crate::Obstacle;

/// Latencies kept of one client; more are counted but not kept.
const SAMPLES_MAX: usize = 2_000_000;

/// What a client does, one operation at a time: false = it failed.
pub(super) type Operation<'a> = dyn Fn(&mut BlockingClient, u64) -> bool + Sync + 'a;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    pub(super) done: u64,
    pub(super) failed: u64,
    /// Of operations that were done, in microseconds.
    latencies_us: Vec<f32>,
    pub(super) time: Duration,
}

impl Measured {
    pub(super) fn add(&mut self, other: Measured) {
        self.done += other.done;
        self.failed += other.failed;
        self.latencies_us.extend(other.latencies_us);
        self.time += other.time;
    }

    /// The latency that this share of operations did not exceed, in microseconds.
    pub(super) fn quantile_us(&mut self, quantile: f64) -> f32 {
        self.latencies_us.sort_by(f32::total_cmp);
        let last = self.latencies_us.len().saturating_sub(1);
        let at = (quantile * last as f64).round() as usize;
        self.latencies_us.get(at).copied().unwrap_or(0.0)
    }

    pub(super) fn per_second(&self) -> f64 {
        self.done as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

/// Each client does one operation after the other, on records drawn at random, until time is up.
pub(super) fn for_a_time(
    clients: &mut [BlockingClient],
    time: Duration,
    records: u64,
    operation: &Operation<'_>,
) -> Measured {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .enumerate()
            .map(|(number, client)| {
                let stop = &stop;
                scope.spawn(move || {
                    let mut rng = Rng::new(number as u64 + 1);
                    let mut measured = Measured::default();
                    while !stop.load(Ordering::Relaxed) {
                        timed(&mut measured, client, rng.below(records), operation);
                    }
                    measured
                })
            })
            .collect();
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        let mut sum = Measured::default();
        for thread in threads {
            sum.add(thread.join().expect("a client's thread does not panic"));
        }
        sum.time = time;
        sum
    })
}

/// Each record once, shared out among the clients.
pub(super) fn each_once(clients: &mut [BlockingClient], records: u64, operation: &Operation<'_>) -> Measured {
    let (began, step) = (Instant::now(), clients.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .enumerate()
            .map(|(number, client)| {
                scope.spawn(move || {
                    let mut measured = Measured::default();
                    for record in (number as u64..records).step_by(step) {
                        timed(&mut measured, client, record, operation);
                    }
                    measured
                })
            })
            .collect();
        let mut sum = Measured::default();
        for thread in threads {
            sum.add(thread.join().expect("a client's thread does not panic"));
        }
        sum.time = began.elapsed();
        sum
    })
}

fn timed(measured: &mut Measured, client: &mut BlockingClient, record: u64, operation: &Operation<'_>) {
    let sent = Instant::now();
    if !operation(client, record) {
        measured.failed += 1;
        return;
    }
    measured.done += 1;
    if measured.latencies_us.len() < SAMPLES_MAX {
        measured.latencies_us.push(sent.elapsed().as_secs_f32() * 1e6);
    }
}

/// A record's key.
pub(super) fn key(record: u64) -> Vec<u8> {
    format!("record {record:08}").into_bytes()
}

/// Writes every record at ALL.
pub(super) fn fill(clients: &mut [BlockingClient], records: u64, value: &[u8]) -> Result<(), Obstacle> {
    let options = WriteOptions { level: Some(Level::All), ..WriteOptions::default() };
    let put = |client: &mut BlockingClient, record| {
        // A link that has just come up may refuse the first few.
        (0..50).any(|_| {
            let is_done = client.put(Key::plain(&key(record)), value, options).is_done();
            if !is_done {
                std::thread::sleep(Duration::from_millis(50));
            }
            is_done
        })
    };
    match each_once(clients, records, &put).failed {
        0 => Ok(()),
        failed => Err(Obstacle::new("write all records at ALL", format!("{failed} were not"))),
    }
}
