//! CPU time: of the calling thread, and of a whole server process from `/proc`.
//!
//! A process's time is the sum over all its threads, including kernel workers that do its I/O, plus its children's (a
//! server that rewrites its log in a forked child pays for that too). The scheduler's own account per thread is exact to
//! the nanosecond but forgets threads that ended; the process's account in ticks does not. Whichever saw more counts.

use std::{fs, io};

use rustix::time::{ClockId, clock_gettime};

/// A process's CPU time so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuSample {
    /// Of its living threads, in nanoseconds.
    threads_ns: u64,
    /// Of all its threads and waited-for children, in nanoseconds, at the resolution of a tick.
    ticks_ns: u64,
    /// Length of a tick.
    tick_ns: u64,
}

impl CpuSample {
    /// Reads a process's account, its living children included.
    pub fn of_process(pid: u32) -> io::Result<CpuSample> {
        let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
        let mut sample = CpuSample { threads_ns: 0, ticks_ns: 0, tick_ns };
        let ticks =
            ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?).ok_or(io::ErrorKind::InvalidData)?;
        sample.ticks_ns = ticks * tick_ns;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            // A thread may end between being listed and being read; its time is in the ticks.
            if let Ok(line) = fs::read_to_string(task.join("schedstat")) {
                let first = line.split_ascii_whitespace().next();
                sample.threads_ns += first.and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
            }
            let children = fs::read_to_string(task.join("children")).unwrap_or_default();
            for child in children.split_ascii_whitespace().filter_map(|child| child.parse().ok()) {
                if let Ok(child) = CpuSample::of_process(child) {
                    sample.threads_ns += child.threads_ns;
                    sample.ticks_ns += child.ticks_ns;
                }
            }
        }
        Ok(sample)
    }

    /// CPU time spent between an earlier sample and this one, in nanoseconds.
    pub fn since(&self, earlier: &CpuSample) -> u64 {
        let threads = self.threads_ns.saturating_sub(earlier.threads_ns);
        let ticks = self.ticks_ns.saturating_sub(earlier.ticks_ns);
        // Two ticks is what rounding alone can make of user and system time.
        if ticks > threads + 2 * self.tick_ns { ticks } else { threads }
    }
}

/// User and system time in ticks, waited-for children included, from the text of a `stat` file.
fn ticks(stat: &str) -> Option<u64> {
    // The second field is the name in parentheses, and may hold spaces and parentheses itself.
    let (_, fields) = stat.rsplit_once(')')?;
    let times = fields.split_ascii_whitespace().skip(11).take(4);
    let times: Vec<u64> = times.map(str::parse).collect::<Result<_, _>>().ok()?;
    (times.len() == 4).then(|| times.iter().sum())
}

/// CPU time of the calling thread so far, in nanoseconds.
pub(crate) fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_past_any_name() {
        let line = "42 (a) b ( c) S 1 2 3 4 5 6 7 8 9 10 100 20 3 4 20 0 1 0";
        assert_eq!(ticks(line), Some(127));
        assert_eq!(ticks("42 (cut) S 1 2"), None);
    }

    #[test]
    fn time_spent_here_is_seen() {
        let me = std::process::id();
        let (before, began) = (CpuSample::of_process(me).expect("/proc"), thread_cpu_ns());
        let mut sum = 0u64;
        while thread_cpu_ns() - began < 40_000_000 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        let spent = CpuSample::of_process(me).expect("/proc").since(&before);
        assert!(spent >= 30_000_000, "{spent} ns");
    }

    #[test]
    fn threads_that_ended_are_taken_from_the_ticks() {
        let sample = |threads_ns, ticks_ns| CpuSample { threads_ns, ticks_ns, tick_ns: 10 };
        assert_eq!(sample(105, 110).since(&sample(0, 0)), 105);
        assert_eq!(sample(50, 500).since(&sample(40, 100)), 400);
    }
}
