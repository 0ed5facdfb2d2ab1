//! Waiting for what a process leaves behind when it is killed.
//!
//! The kernel takes a ring apart after its process is gone: for some milliseconds, or as long as the device takes for a write
//! that is under way, the dead process still listens on its ports and holds its lock.

use std::fs;
use std::time::{Duration, Instant};

/// Longest wait for the remains of a dead process.
const REMAINS_MAX: Duration = Duration::from_secs(10);
/// How often they are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A bounded number of looks.
pub(crate) struct Patience {
    until: Instant,
}

impl Patience {
    /// Begins now.
    pub(crate) fn new() -> Patience {
        Patience { until: Instant::now() + REMAINS_MAX }
    }

    /// Waits for the next look; false once it has been long enough.
    pub(crate) fn wait(&mut self) -> bool {
        let goes_on = Instant::now() < self.until;
        if goes_on {
            std::thread::sleep(LOOK_EVERY);
        }
        goes_on
    }
}

/// Whether a process runs: it is there, and is more than an entry that its parent has not collected.
pub(crate) fn is_alive(pid: u32) -> bool {
    // The state follows the name, which is in parentheses and may contain anything.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}
