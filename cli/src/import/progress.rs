//! How far an import is, once a second for a person at a terminal, every five seconds for a log.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two reports to a terminal.
const TERMINAL_EVERY: Duration = Duration::from_secs(1);
/// Between two reports to anything else.
const LOG_EVERY: Duration = Duration::from_secs(5);
/// Most failures that are shown; further ones are counted.
const FAILURES_SHOWN_MAX: u64 = 100;

/// Counts what happens and tells stderr.
pub(crate) struct Progress {
    started: Instant,
    reported: Instant,
    reported_records: u64,
    is_terminal: bool,
    is_line_open: bool,
    /// Acknowledged records.
    pub(crate) records: u64,
    /// Bytes of keys and values of all records taken.
    pub(crate) bytes: u64,
    /// Lines that are no records.
    pub(crate) bad_lines: u64,
    /// Writes that were not applied.
    pub(crate) not_applied: u64,
    /// Writes nobody can say of whether they were applied.
    pub(crate) unknown: u64,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        let now = Instant::now();
        Progress {
            started: now,
            reported: now,
            reported_records: 0,
            is_terminal: io::stderr().is_terminal(),
            is_line_open: false,
            records: 0,
            bytes: 0,
            bad_lines: 0,
            not_applied: 0,
            unknown: 0,
        }
    }

    /// Everything that did not become an acknowledged record.
    pub(crate) fn failures(&self) -> u64 {
        self.bad_lines + self.not_applied + self.unknown
    }

    /// Tells of one failure that was just counted.
    pub(crate) fn tell(&mut self, failure: &str) {
        let failures = self.failures();
        if failures <= FAILURES_SHOWN_MAX {
            self.line(&format!("ferrite: {failure}"));
        }
        if failures == FAILURES_SHOWN_MAX {
            self.line("ferrite: further failures are counted but not shown");
        }
    }

    /// Reports if it is time to; says whether it was.
    pub(crate) fn tick(&mut self) -> bool {
        let every = if self.is_terminal { TERMINAL_EVERY } else { LOG_EVERY };
        let now = Instant::now();
        let since = now - self.reported;
        if since < every {
            return false;
        }
        let rate = (self.records - self.reported_records) as f64 / since.as_secs_f64();
        let text = format!(
            "import: {} records, {}/s, {}, {} errors",
            grouped(self.records),
            grouped(rate as u64),
            size(self.bytes),
            grouped(self.failures())
        );
        (self.reported, self.reported_records) = (now, self.records);
        if self.is_terminal {
            // Stderr may be gone; the import is not about it.
            let _ = write!(io::stderr(), "\r{text}\x1b[K");
            self.is_line_open = true;
        } else {
            self.line(&text);
        }
        true
    }

    /// The last line: what it came to.
    pub(crate) fn finish(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = (self.records as f64 / seconds.max(0.001)) as u64;
        let text = format!(
            "imported {} records ({}) in {seconds:.1} s: {} records/s; {} bad lines, {} writes not applied, {} unknown",
            grouped(self.records),
            size(self.bytes),
            grouped(rate),
            grouped(self.bad_lines),
            grouped(self.not_applied),
            grouped(self.unknown)
        );
        self.line(&text);
    }

    fn line(&mut self, text: &str) {
        let start = if std::mem::take(&mut self.is_line_open) { "\r\x1b[K" } else { "" };
        let _ = writeln!(io::stderr(), "{start}{text}");
    }
}

/// A number with its thousands apart: `34,924`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in a unit a person can read: `1.8 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(
            [0, 7, 999, 1000, 34_924, 1_234_567].map(grouped),
            ["0", "7", "999", "1,000", "34,924", "1,234,567"]
        );
        assert_eq!(
            [0, 1023, 1024, 1 << 20, 3 << 40].map(size),
            ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "3.0 TiB"]
        );
    }
}
