//! Somebody who uses the cluster properly while others do not, and must not notice them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use ferrite_client::{Key, ReadOptions, WriteOptions};

use crate::cluster::{Cluster, wait_for};

/// Keys it writes and reads, so that all cores are asked.
const KEYS: u64 = 16;
/// Full rounds that must follow whatever others did.
const ROUNDS_AFTER: u64 = KEYS;

/// A well-behaved client on a thread of its own: it writes, reads back, and accepts no error at all.
pub(crate) struct Bystander {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Bystander {
    pub(crate) fn start(cluster: &Cluster) -> Bystander {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut client = cluster.client();
        let (stopped, done) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let round = done.load(Ordering::Relaxed);
                let key = format!("bystander {}", round % KEYS);
                let value = format!("round {round}");
                let outcome =
                    client.put(Key::plain(key.as_bytes()), value.as_bytes(), WriteOptions::default());
                assert!(outcome.is_done(), "round {round}: {outcome}");
                let read = client.get(Key::plain(key.as_bytes()), ReadOptions::default());
                let read = read.unwrap_or_else(|error| panic!("round {round}: {error}"));
                assert_eq!(read.map(|value| value.bytes), Some(value.into_bytes()));
                done.store(round + 1, Ordering::Relaxed);
            }
        });
        Bystander { stop, rounds, thread: Some(thread) }
    }

    /// Waits until it has been served anew, as ever.
    pub(crate) fn is_served(&mut self, when: &str) {
        let goal = self.rounds.load(Ordering::Relaxed) + ROUNDS_AFTER;
        wait_for(&format!("the bystander goes on: {when}"), || {
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                self.end();
                panic!("{when}: the bystander ended by itself");
            }
            (self.rounds.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the bystander saw an error");
        }
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.end();
    }
}
