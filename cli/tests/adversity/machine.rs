//! Whether the machine lets its CPUs run. A CPU that is away for a while, as those of a shared machine are now and then, takes the node
//! on it away too: whoever waited for that node is right to suspect it, and no test may hold that against them.
//!
//! On each CPU a thread sleeps for moments and notes by how much too late it wakes. One that hardly ever runs is put before those that
//! run all the time, so that it is late by milliseconds where nodes and clients want more than there is, and by more only where nobody runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::cluster::wait_for;

/// How long each of them sleeps.
const NAP: Duration = Duration::from_millis(20);
/// Lateness that is not noted.
const LATE_MIN: Duration = Duration::from_millis(50);

/// What was seen of a CPU.
#[derive(Debug, Default)]
struct Seen {
    naps: u64,
    /// When it was back, and how long it had been away.
    absences: Vec<(Instant, Duration)>,
}

/// Threads that look, one on each CPU, until this is dropped.
pub(crate) struct Machine {
    stop: Arc<AtomicBool>,
    watchers: Vec<(Arc<Mutex<Seen>>, JoinHandle<()>)>,
}

fn watch(cpu: usize, seen: &Mutex<Seen>, stop: &AtomicBool) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(None, &cpus).expect("it is one of those that this process may use");
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        std::thread::sleep(NAP);
        let late = begun.elapsed().saturating_sub(NAP);
        let mut seen = seen.lock().expect("nobody panics with it");
        seen.naps += 1;
        if late >= LATE_MIN {
            seen.absences.push((Instant::now(), late));
        }
    }
}

impl Machine {
    /// Begins to look.
    pub(crate) fn watched() -> Machine {
        let stop = Arc::new(AtomicBool::new(false));
        let allowed = sched_getaffinity(None).expect("the kernel tells");
        let watchers = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).map(|cpu| {
            let seen = Arc::new(Mutex::new(Seen::default()));
            let (theirs, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            (seen, std::thread::spawn(move || watch(cpu, &theirs, &stop)))
        });
        let watchers = watchers.collect();
        Machine { stop, watchers }
    }

    /// The longest that a CPU was away at a stretch, of those that were back after `since`; one that is away now is waited for.
    pub(crate) fn longest_absence(&self, since: Instant) -> Duration {
        let absences = self.watchers.iter().flat_map(|(seen, _)| {
            let naps = || seen.lock().expect("nobody panics with it").naps;
            // The nap that it is in may have begun before what is asked about was over: the next has not.
            let enough = naps() + 2;
            wait_for("a CPU is back", || (naps() >= enough).then_some(()));
            seen.lock().expect("nobody panics with it").absences.clone()
        });
        let those = absences.filter(|(back, _)| *back >= since).map(|(_, away)| away);
        those.max().unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for (_, thread) in self.watchers.drain(..) {
            // What it saw counts no more.
            let _ = thread.join();
        }
    }
}
