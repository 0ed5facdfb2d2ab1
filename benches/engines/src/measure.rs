//! What a row costs: time, CPU of all threads, bytes written, latencies.

use std::time::Instant;

use hdrhistogram::Histogram;

/// Counters of this process at one moment.
pub struct Mark {
    at: Instant,
    cpu_us: f64,
    written_bytes: u64,
    cancelled_bytes: u64,
}

impl Mark {
    /// Now; the peak of memory counts from here.
    pub fn now() -> Mark {
        // "5" forgets the peak so far. Where that is refused the peak is the process's: too high, never too low.
        let _best_effort = std::fs::write("/proc/self/clear_refs", "5");
        Mark {
            at: Instant::now(),
            cpu_us: cpu_us(),
            written_bytes: written_bytes(),
            cancelled_bytes: cancelled_bytes(),
        }
    }

    pub fn elapsed_us(&self) -> f64 {
        self.at.elapsed().as_secs_f64() * 1e6
    }
}

/// One row's figures, as the child prints and the parent reads them.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub fields: Vec<(String, f64)>,
    /// Free text behind the figures.
    pub note: String,
}

impl Figures {
    pub fn of(since: &Mark, operations: u64, latencies: &Histogram<u64>) -> Figures {
        let (wall, cpu) = (since.elapsed_us(), cpu_us() - since.cpu_us);
        let quantile = |q| latencies.value_at_quantile(q) as f64 / 1e3;
        let mut figures = Figures::default();
        figures.set("ops_per_s", operations as f64 / wall * 1e6);
        figures.set("cpu_us_per_op", cpu / operations as f64);
        figures.set("p50_us", quantile(0.5));
        figures.set("p99_us", quantile(0.99));
        figures.set("p999_us", quantile(0.999));
        figures.set("worst_us", latencies.max() as f64 / 1e3);
        figures.set("written_bytes", (written_bytes() - since.written_bytes) as f64);
        figures.set("cancelled_bytes", (cancelled_bytes() - since.cancelled_bytes) as f64);
        figures.set("peak_bytes", peak_bytes() as f64);
        figures
    }

    pub fn set(&mut self, name: &str, value: f64) {
        self.fields.retain(|(present, _)| present != name);
        self.fields.push((name.into(), value));
    }

    pub fn get(&self, name: &str) -> Option<f64> {
        self.fields.iter().find(|(present, _)| present == name).map(|(_, value)| *value)
    }

    pub fn to_line(&self) -> String {
        let fields: Vec<_> = self.fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("figures {} note {}", fields.join(" "), self.note)
    }

    pub fn parse(line: &str) -> Option<Figures> {
        let (fields, note) = line.strip_prefix("figures ")?.split_once(" note ")?;
        let fields = fields.split(' ').filter_map(|field| {
            let (name, value) = field.split_once('=')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Some(Figures { fields: fields.collect(), note: note.trim_end().to_owned() })
    }
}

/// Latencies in nanoseconds, up to ten minutes, to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("fixed bounds")
}

/// CPU time of all threads of this process so far, in microseconds.
fn cpu_us() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on Linux, and `time` is valid for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Bytes this process caused to be written to devices so far.
fn written_bytes() -> u64 {
    field("/proc/self/io", "write_bytes:").expect("Linux counts I/O")
}

/// Those of them that were in files removed before the kernel got to write them, so far.
fn cancelled_bytes() -> u64 {
    field("/proc/self/io", "cancelled_write_bytes:").expect("Linux counts I/O")
}

/// Most memory that this process had since the peak was last forgotten.
fn peak_bytes() -> u64 {
    field("/proc/self/status", "VmHWM:").expect("Linux says") * 1024
}

fn field(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line[name.len()..].split_whitespace().next()?.parse().ok()
}
