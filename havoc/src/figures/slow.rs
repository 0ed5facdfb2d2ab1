//! Reads at QUORUM while one replica is slow: how long they take, and how many more reads that costs.
//!
//! Three nodes behind the proxy, which takes so much longer with everything between the slow node and the others; half of it each way.
//! Some clients have the other two coordinate, the others all three: a coordinator that is slow itself is the client's to avoid. Healthy and
//! slow take turns. The figure is wrong where the 99th percentile of answered reads is more than twice the healthy one, where more
//! than one read in twenty was asked of one more replica, and where any read failed.

use std::path::Path;
use std::time::Duration;

use ferrite_client::{BlockingClient, Key, Level, ReadOptions};

use super::load::{Measured, fill, for_a_time, key};
use crate::Obstacle;
use crate::ground::Kind;
use crate::nodes::Nodes;

/// How much.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// How much later the slow node's answers come
    #[arg(long, default_value = "50ms", value_parser = ferrite_loadgen::cli::duration)]
    pub delay: Duration,
    /// Time of each of the turns
    #[arg(long, default_value = "1s", value_parser = ferrite_loadgen::cli::duration)]
    pub turn: Duration,
    /// Turns of each kind
    #[arg(long, default_value_t = 2)]
    pub rounds: usize,
    /// Clients, each with one read under way
    #[arg(long, default_value_t = 8)]
    pub clients: usize,
    /// Records
    #[arg(long, default_value_t = 2_000)]
    pub records: u64,
}

const SLOW: usize = 2;
/// Who coordinates for the clients that have the slow node coordinate nothing, and for the others.
const OTHER_TWO: [usize; 2] = [0, 1];
const ALL_THREE: [usize; 3] = [0, 1, SLOW];
/// Turns begin with so much that is not measured: who is slow has to be found out.
const SETTLE: Duration = Duration::from_millis(500);
/// Turns: when all is well, and with one that is slow.
const TURNS: [&str; 2] = ["healthy", "one slow"];
/// Most reads of a hundred that may be asked of one more replica.
const EXTRA_PERCENT_MAX: u64 = 5;

/// What the reads of a group came to in all turns of a kind.
#[derive(Clone, Copy, Debug)]
struct Reads {
    answered: u64,
    failed: u64,
    p99_us: f32,
    /// Of them asked of one more replica; `None` = not all coordinators told.
    extra: Option<u64>,
}

/// What is wrong with a group's reads, healthy and with one slow.
fn wrong(group: &str, turns: [Reads; 2]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (reads, turn) in turns.iter().zip(TURNS) {
        let mut say = |what: String| wrong.push(format!("clients {group}, {turn}: {what}"));
        if reads.answered == 0 {
            say("no read was answered".to_owned());
        }
        if reads.failed > 0 {
            say(format!("{} reads failed", reads.failed));
        }
        match reads.extra {
            None => say("how many extra reads there were was not told".to_owned()),
            Some(extra) if extra * 100 > reads.answered * EXTRA_PERCENT_MAX => {
                say(format!(
                    "extra reads {}, more than {EXTRA_PERCENT_MAX} %",
                    percent(extra, reads.answered)
                ));
            }
            Some(_) => {}
        }
    }
    let [healthy, slow] = turns.map(|reads| reads.p99_us);
    if super::ratio(slow, healthy) > super::P99_RATIO_MAX {
        let most = super::P99_RATIO_MAX;
        wrong.push(format!(
            "clients {group}: p99 is {slow:.0} µs with one slow, more than {most:.0} times the healthy {healthy:.0} µs"
        ));
    }
    wrong
}

fn percent(part: u64, of: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / of.max(1) as f64)
}

/// Measures, and prints a table; what is wrong with it, in one line.
pub fn run(program: &Path, home: &Path, options: Options) -> Result<Option<String>, Obstacle> {
    let nodes = super::start(program, home, Kind::Loopback, 3)?;
    let mut fillers: Vec<BlockingClient> = (0..8).map(|_| nodes.client(0)).collect();
    fill(&mut fillers, options.records, &[b'v'; 100])?;
    drop(fillers);
    let number = options.clients.max(1);
    let of_two = |at: usize| nodes.client_of(OTHER_TWO[at % 2], &OTHER_TWO);
    let of_three = |at: usize| nodes.client(OTHER_TWO[at % 2]);
    let mut groups = [
        Group::of("of the other two", &OTHER_TWO, (0..number).map(of_two).collect()),
        Group::of("of all three", &ALL_THREE, (0..number).map(of_three).collect()),
    ];
    let read = ReadOptions { level: Some(Level::Quorum), ..ReadOptions::default() };
    let get = |client: &mut BlockingClient, record| client.get(Key::plain(&key(record)), read).is_ok();
    for _ in 0..options.rounds.max(1) {
        for (turn, delay) in [Duration::ZERO, options.delay / 2].into_iter().enumerate() {
            for other in OTHER_TWO {
                nodes.ground.delay(SLOW, other, delay)?;
                nodes.ground.delay(other, SLOW, delay)?;
            }
            for group in &mut groups {
                for_a_time(&mut group.clients, SETTLE, options.records, &get);
                let before = sent_hedges(&nodes, group.coordinators);
                group.measured[turn].add(for_a_time(&mut group.clients, options.turn, options.records, &get));
                let sent =
                    before.zip(sent_hedges(&nodes, group.coordinators)).map(|(before, after)| after - before);
                group.hedges[turn] = group.hedges[turn].zip(sent).map(|(sum, sent)| sum + sent);
            }
        }
    }
    println!(
        "reads at QUORUM of three nodes behind a proxy, one of them {} ms later, {} clients with one read under way, {} turns of {:.1} s",
        options.delay.as_millis(),
        options.clients,
        options.rounds,
        options.turn.as_secs_f64()
    );
    println!(
        "the first {} ms of each turn are left out: for so long nodes and clients find out who is slow, or is no longer",
        SETTLE.as_millis()
    );
    println!();
    println!("| clients | | reads | failed | p50 µs | p99 µs | p99.9 µs | extra reads | p99 / healthy |");
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|");
    let mut all_wrong = Vec::new();
    for group in &mut groups {
        let turns = [0, 1].map(|turn| group.reads(turn));
        for (turn, (name, reads)) in TURNS.into_iter().zip(turns).enumerate() {
            let extra =
                reads.extra.map_or_else(|| "not told".to_owned(), |sent| percent(sent, reads.answered));
            let [p50, p99_9] = [0.5, 0.999].map(|quantile| group.measured[turn].quantile_us(quantile));
            println!(
                "| {} | {name} | {} | {} | {p50:.0} | {:.0} | {p99_9:.0} | {extra} | {:.2} |",
                group.name,
                reads.answered,
                reads.failed,
                reads.p99_us,
                super::ratio(reads.p99_us, turns[0].p99_us)
            );
        }
        all_wrong.extend(wrong(group.name, turns));
    }
    Ok(super::in_one_line(all_wrong))
}

/// Clients that choose among the same coordinators.
struct Group {
    name: &'static str,
    coordinators: &'static [usize],
    clients: Vec<BlockingClient>,
    /// Healthy, and with one slow.
    measured: [Measured; 2],
    /// Reads that were asked of one more replica then; `None` = they are not counted.
    hedges: [Option<u64>; 2],
}

impl Group {
    fn of(name: &'static str, coordinators: &'static [usize], clients: Vec<BlockingClient>) -> Group {
        Group { name, coordinators, clients, measured: Default::default(), hedges: [Some(0); 2] }
    }

    fn reads(&mut self, turn: usize) -> Reads {
        let measured = &mut self.measured[turn];
        let p99_us = measured.quantile_us(0.99);
        Reads { answered: measured.done, failed: measured.failed, p99_us, extra: self.hedges[turn] }
    }
}

/// Reads that were asked of one more replica, by all that coordinate for some clients; `None` = not all of them told.
fn sent_hedges(nodes: &Nodes, coordinators: &[usize]) -> Option<u64> {
    coordinators.iter().map(|node| nodes.number(*node, "hedges.sent")).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Reads = Reads { answered: 1_000, failed: 0, p99_us: 700.0, extra: Some(50) };

    #[test]
    fn late_reads_many_extra_reads_and_failed_reads_are_wrong() {
        let late = |p99_us| Reads { p99_us, ..WELL };
        assert_eq!(wrong("of two", [WELL, late(1_400.0)]), [""; 0]);
        for (turns, words) in [
            ([WELL, late(1_401.0)], "p99 is 1401 µs with one slow, more than 2 times the healthy 700 µs"),
            ([WELL, Reads { extra: Some(51), ..WELL }], "one slow: extra reads 5.1 %, more than 5 %"),
            ([Reads { extra: Some(80), ..WELL }, WELL], "healthy: extra reads 8.0 %, more than 5 %"),
            ([WELL, Reads { extra: None, ..WELL }], "one slow: how many extra reads there were was not told"),
            ([WELL, Reads { failed: 1, ..WELL }], "one slow: 1 reads failed"),
            ([Reads { failed: 3, ..WELL }, WELL], "healthy: 3 reads failed"),
        ] {
            let said = wrong("of two", turns);
            assert!(said.len() == 1 && said[0].starts_with("clients of two"), "{said:?}");
            assert!(said[0].ends_with(words), "{said:?}");
        }
        let none = Reads { answered: 0, failed: 9, p99_us: 0.0, extra: Some(0) };
        let said = super::super::in_one_line(wrong("of two", [WELL, none])).expect("two things are wrong");
        assert_eq!(
            said,
            "clients of two, one slow: no read was answered; clients of two, one slow: 9 reads failed"
        );
    }
}
