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

/// A bounded number of looks, the last of them after the end: whoever stands still between two has had one since.
pub(crate) struct Patience {
    until: Instant,
    is_over: bool,
}

impl Patience {
    /// Begins now.
    pub(crate) fn new() -> Patience {
        Patience { until: Instant::now() + REMAINS_MAX, is_over: false }
    }

    /// Waits for the next look; false once it has been long enough.
    pub(crate) fn wait(&mut self) -> bool {
        if self.is_over {
            return false;
        }
        self.is_over = Instant::now() >= self.until;
        if !self.is_over {
            std::thread::sleep(LOOK_EVERY);
        }
        true
    }
}

/// Whether a process runs: it is there, and is more than an entry that its parent has not collected.
pub(crate) fn is_alive(pid: u32) -> bool {
    // The state follows the name, which is in parentheses and may contain anything.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It stood still for all of the time between its first look and its second, and gave up on what had long been gone.
    #[test]
    fn there_is_one_look_after_the_end_and_no_more() {
        let mut patience = Patience { until: Instant::now(), is_over: false };
        assert!(patience.wait());
        assert!(!patience.wait() && !patience.wait());
    }
}
