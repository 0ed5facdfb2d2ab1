//! A latency histogram for a terminal: a line per doubling of the latency.

use hdrhistogram::Histogram;

/// Operations up to a latency, those of the bars below left out.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Bar {
    /// Upper end, in microseconds.
    pub up_to_us: u64,
    /// How many.
    pub count: u64,
}

/// Longest bar, in characters.
const WIDTH: u64 = 48;

/// Bars from the fastest to the slowest operation, the gaps between them included.
pub(crate) fn bars(histogram_ns: &Histogram<u64>) -> Vec<Bar> {
    if histogram_ns.is_empty() {
        return Vec::new();
    }
    let (fastest, slowest) = (histogram_ns.min(), histogram_ns.max());
    let mut bars = Vec::new();
    let mut low_ns = 0;
    let mut up_to_us = 1u64;
    while low_ns <= slowest {
        let high_ns = up_to_us * 1_000;
        if high_ns >= fastest {
            bars.push(Bar { up_to_us, count: histogram_ns.count_between(low_ns, high_ns) });
        }
        // Each value lies in one bucket of the histogram, and no bucket may be counted for two bars.
        low_ns = histogram_ns.next_non_equivalent(high_ns);
        up_to_us *= 2;
    }
    bars
}

/// The bars, drawn.
pub(crate) fn draw(bars: &[Bar]) -> String {
    let longest = bars.iter().map(|bar| bar.count).max().unwrap_or(0).max(1);
    let line = |bar: &Bar| {
        // Whatever is there can be seen.
        let length = (bar.count * WIDTH).div_ceil(longest);
        let label = match bar.up_to_us {
            us if us < 1_000 => format!("{us} µs"),
            us => format!("{:.1} ms", us as f64 / 1_000.0),
        };
        format!("  ≤ {label:>9} {:>9} {}\n", bar.count, "█".repeat(length as usize))
    };
    bars.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_is_in_one_bar() {
        let mut histogram =
            Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are right");
        for value_ns in (1..50_000u64).map(|n| n * n * 7 % 900_000_000 + 500) {
            histogram.record(value_ns).expect("within the bounds");
        }
        let bars = bars(&histogram);
        assert_eq!(bars.iter().map(|bar| bar.count).sum::<u64>(), histogram.len());
        assert!(
            bars.first().is_some_and(|bar| bar.count > 0) && bars.last().is_some_and(|bar| bar.count > 0)
        );
    }

    #[test]
    fn a_single_slow_operation_is_seen() {
        let text = draw(&[Bar { up_to_us: 64, count: 1_000_000 }, Bar { up_to_us: 131_072, count: 1 }]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].matches('█').count(), 48);
        assert_eq!(lines[1].matches('█').count(), 1);
        assert!(lines[1].contains("131.1 ms"), "{}", lines[1]);
    }
}
