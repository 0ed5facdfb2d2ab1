//! Rounds of fault and healing, with writers through all of them.
//!
//! ```text
//! round := [registers and sets are written at ALL]  writers start  fault … fault over  writers end  registers are read
//!          hints are delivered  all is read  processes are looked at
//! ```
//!
//! The fault budget: at most one copy of a record is lost at a time, and registers and sets are written at ALL before the next one is.
//! Everything else that is done here may lose nothing that was acknowledged. Faults are dealt like cards, so that each comes up once
//! before any comes up twice. The seed decides which, to whom and how long; what nodes and writers make of it is the machine's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ferrite_client::{BlockingClient, Level, Topology};
use ferrite_loadgen::chooser::Rng;

use crate::carts::{Carts, Shopper, Spoilt};
use crate::fault::{self, Fault};
use crate::ground::{Ground, Kind};
use crate::nodes::{Nodes, Shape};
use crate::registers::{Registers, Terms};
use crate::report::Report;
use crate::sets::{Set, Side};
use crate::tally::Tally;
use crate::{Obstacle, failed, wait_for};

/// Nodes of the cluster, and replicas of each record.
const NODES: usize = 5;
const REPLICATION: usize = 3;
/// Nodes of the smaller side of a partition.
const LEFT_NODES: usize = 2;
/// New carts in a round, and clients of them on each side.
const CARTS: usize = 8;
const SHOPPERS_OF_EACH: usize = 2;
/// Writers of registers, one beside each node.
const WRITERS: usize = NODES;
/// New sets of each mode in a round.
const SETS_OF_EACH: usize = 4;
/// Sets with siblings that are read again after later rounds; older ones are let go.
const SETS_KEPT_MAX: usize = 64;
/// What a core calls the hints that it still keeps for others.
const HINTS: &str = "hints.count";
/// Longest time until a client is told who owns what.
const TOLD_WITHIN: Duration = Duration::from_secs(60);
/// Longest time until all hints are delivered.
const DRAINED_WITHIN: Duration = Duration::from_secs(60);
/// Violations after which nobody needs more.
const VIOLATIONS_MAX: usize = 50;
/// Small memtables, so that flushes and merges meet the faults.
const SERVER: &str = "memory = \"64MiB\"\nmemtable = \"1MiB\"\nstores = 2\nspin = \"off\"";
/// Gossip so quick that a node which stands still for as long as faults last is held to be down well before it goes on.
const GOSSIP: &str = "[gossip]\nprobe_interval = \"300ms\"\nprobe_timeout = \"150ms\"\nsuspicion = \"1s\"\n";

/// What to do, and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the nodes stand on.
    pub kind: Kind,
    /// What is drawn at random.
    pub seed: u64,
    /// Rounds at most.
    pub rounds: u64,
    /// No round begins after this.
    pub time: Duration,
    /// Shortest and longest time that a fault lasts.
    pub fault_time: (Duration, Duration),
    /// Which faults; none = all of them.
    pub only: Vec<Fault>,
}

impl Plan {
    /// Each fault once, in less than a minute.
    pub fn short(kind: Kind, seed: u64) -> Plan {
        let fault_time = (Duration::from_millis(2_500), Duration::from_millis(3_000));
        Plan {
            kind,
            seed,
            rounds: Fault::ALL.len() as u64,
            time: Duration::MAX,
            fault_time,
            only: Vec::new(),
        }
    }

    /// As long as that.
    pub fn long(kind: Kind, seed: u64, time: Duration) -> Plan {
        Plan {
            kind,
            seed,
            rounds: u64::MAX,
            time,
            fault_time: (Duration::from_millis(1_500), Duration::from_secs(10)),
            only: Vec::new(),
        }
    }
}

/// The faults of a plan that can be done on its ground, and what is left out of it, and why.
fn possible(kind: Kind, only: &[Fault]) -> Result<(Vec<Fault>, Vec<String>), Obstacle> {
    let is_wanted = |fault: &Fault| only.is_empty() || only.contains(fault);
    let wanted = Fault::ALL.into_iter().filter(is_wanted);
    let (can, cannot): (Vec<Fault>, Vec<Fault>) = wanted.partition(|fault| fault.why_not(kind).is_none());
    let told = |fault: &Fault| fault.why_not(kind).map(|why| format!("{fault}: {why}"));
    let skipped: Vec<String> = cannot.iter().filter_map(told).collect();
    if can.is_empty() {
        let why = format!(
            "{}; run it as root and without --no-root, or name other faults with --only",
            skipped.join("; ")
        );
        return Err(Obstacle::new(format!("do any of these faults on {kind}"), why));
    }
    Ok((can, skipped))
}

/// A campaign under way.
struct Campaign<'a> {
    nodes: Nodes,
    plan: &'a Plan,
    faults: Vec<Fault>,
    rng: Rng,
    writers: Vec<(usize, BlockingClient, Registers)>,
    kept: Vec<Set>,
    carts: Carts,
    report: Report,
    log_bytes: Vec<u64>,
}

/// Does it. `program` is the `ferrite` binary, `home` a directory on a file system that takes direct I/O; `say` is told of each round.
pub fn run(program: &Path, home: &Path, plan: &Plan, mut say: impl FnMut(&str)) -> Result<Report, Obstacle> {
    let started = Instant::now();
    let (faults, skipped) = possible(plan.kind, &plan.only)?;
    let small_disk = Fault::FullDisk.why_not(plan.kind).is_none().then_some(NODES - 1);
    let cores = match plan.kind {
        Kind::Namespaces => 2,
        Kind::Loopback | Kind::Plain => 1,
    };
    let shape = Shape {
        nodes: NODES,
        cores,
        replication: REPLICATION,
        server: SERVER.to_owned(),
        more: GOSSIP.to_owned(),
        small_disk,
        cpus: Vec::new(),
    };
    let ground = Ground::new(plan.kind, NODES, cores)?;
    let mut nodes = Nodes::configure(program, home, ground, shape)?;
    nodes.start_all()?;
    let report = Report { ground: plan.kind.to_string(), seed: plan.seed, skipped, ..Report::default() };
    let writers = (0..WRITERS).map(|number| {
        let at = number;
        let seed = plan.seed.wrapping_mul(31).wrapping_add(number as u64 + 1);
        (at, nodes.client(at), Registers::new(&format!("w{number}-"), seed, REPLICATION))
    });
    let writers = writers.collect();
    let (rng, log_bytes) = (Rng::new(plan.seed), vec![0; NODES]);
    let (kept, carts) = (Vec::new(), Carts::default());
    let mut campaign = Campaign { nodes, plan, faults, rng, writers, kept, carts, report, log_bytes };
    let mut deck = Vec::new();
    let mut round = 0;
    while round < plan.rounds && started.elapsed() < plan.time {
        if deck.is_empty() {
            deck = campaign.deal();
        }
        let Some(fault) = deck.pop() else { break };
        round += 1;
        let told = campaign.round(round, fault)?;
        say(&format!("[{:>5.0} s] round {round}: {told}", started.elapsed().as_secs_f64()));
        if campaign.report.violations.len() >= VIOLATIONS_MAX {
            break;
        }
    }
    if round == 0 {
        let why = format!("{:?} were over before the nodes ran; give it longer with --for", plan.time);
        return Err(Obstacle::new("do a fault", why));
    }
    for node in 0..NODES {
        if let Err(obstacle) = campaign.nodes.stop(node) {
            campaign.report.violations.push(obstacle.to_string());
        }
    }
    let tallies = campaign.writers.iter().map(|(_, _, registers)| registers.tally());
    campaign.report.registers = tallies.fold(Tally::default(), Tally::plus);
    campaign.report.time = started.elapsed();
    Ok(campaign.report)
}

/// The logs of a campaign, for whoever looks into a violation.
pub fn log_files(home: &Path) -> Vec<PathBuf> {
    (1..=NODES).map(|node| home.join(format!("n{node}.log"))).collect()
}

impl Campaign<'_> {
    /// All faults that can be done here, in random order.
    fn deal(&mut self) -> Vec<Fault> {
        let mut deck = self.faults.clone();
        for at in (1..deck.len()).rev() {
            deck.swap(at, self.rng.below(at as u64 + 1) as usize);
        }
        if self.plan.rounds < u64::MAX {
            deck.truncate(self.plan.rounds as usize);
        }
        deck
    }

    fn round(&mut self, round: u64, fault: Fault) -> Result<String, Obstacle> {
        if fault == Fault::Wipe {
            self.level();
        }
        let left = self.draw_left();
        let at = [self.draw_of(&left, true), self.draw_of(&left, false)];
        let topology = self.topology(at[1])?;
        let mut sets =
            Set::across(&topology, &format!("set {round}"), SETS_OF_EACH, |node| left.contains(&node));
        self.carts.open(&topology, CARTS, |node| left.contains(&node));
        // A wiped directory may hold the only copy of what was acknowledged at ONE.
        let level = if fault == Fault::Wipe { Level::Quorum } else { Level::One };
        let (shortest, longest) = self.plan.fault_time;
        let spread_ms = (longest - shortest).as_millis() as u64;
        let hold = shortest + Duration::from_millis(self.rng.below(spread_ms + 1));
        // Nodes and clients first have to find out who is silent.
        let hold = if matches!(fault, Fault::Partition | Fault::OneWay) { hold * 2 } else { hold };

        let terms = Terms { drift: fault.drift(), sloppy: fault != Fault::Wipe };
        self.writers.iter_mut().for_each(|(_, _, registers)| registers.begin_round(terms));
        let before = self.writers.iter().map(|(_, _, registers)| registers.tally());
        let before = before.fold(Tally::default(), Tally::plus);
        let mut sides = [0, 1].map(|side| [0, 1].map(|adder| Side::new((round << 1 | side) << 1 | adder)));
        let shoppers = at.iter().flat_map(|at| [*at; SHOPPERS_OF_EACH]);
        let mut shoppers: Vec<Shopper> =
            shoppers.map(|at| Shopper::new(at, self.rng.below(u64::MAX))).collect();
        let stop = AtomicBool::new(false);
        let done = std::thread::scope(|scope| {
            let _stopped = StopAtEnd(&stop);
            for (_, client, registers) in &mut self.writers {
                let stop = &stop;
                scope.spawn(move || registers.run(client, stop));
            }
            let adders =
                sides.iter_mut().zip(at).flat_map(|(side, at)| side.iter_mut().map(move |side| (side, at)));
            for (side, at) in adders {
                let mut client = self.nodes.client(at);
                let (sets, stop) = (&sets, &stop);
                scope.spawn(move || {
                    // An add asks the topology for its table's mode.
                    let _ = client.topology();
                    side.run(&mut client, sets, level, stop);
                });
            }
            for shopper in &mut shoppers {
                let mut client = self.nodes.client(shopper.at());
                let (carts, stop) = (&self.carts, &stop);
                scope.spawn(move || shopper.run(&mut client, carts, stop));
            }
            fault::strike(&mut self.nodes, &mut self.rng, fault, &left, hold, |node| self.carts.lost(node))
        })?;
        *self.report.faults.entry(fault).or_default() += 1;
        match done.unnoticed {
            Some(unnoticed) => self.report.violations.push(unnoticed),
            None => self.report.stops_noticed += u64::from(fault == Fault::Pause),
        }

        self.check();
        if self.wait_for_hints() {
            self.writers.iter_mut().for_each(|(_, _, registers)| registers.delivered());
            self.carts.delivered();
        }
        // What was delivered late must not bring back what was deleted meanwhile.
        let after = self.check();
        let shopped = self.check_carts(shoppers);
        let (adds, lost) = self.check_sets(fault, &mut sides, &mut sets);
        self.look_at_processes();
        let count = |total: u64, before: u64| total - before;
        Ok(format!(
            "{}: registers {} writes acknowledged, {} not applied, {} unknown, {} reads; sets {} + {} adds acknowledged, \
             lost {} of siblings, {} of lww; carts {} writes acknowledged; violations {}",
            done.words,
            count(after.acknowledged, before.acknowledged),
            count(after.not_applied, before.not_applied),
            count(after.unknown, before.unknown),
            count(after.reads, before.reads),
            adds[0],
            adds[1],
            lost.0,
            lost.1,
            shopped.acknowledged,
            self.report.violations.len()
        ))
    }

    /// What a client beside a node is told, which is asked again where it is not told in time.
    fn topology(&self, at: usize) -> Result<Arc<Topology>, Obstacle> {
        let mut client = self.nodes.client(at);
        let mut told = client.topology();
        wait_for(TOLD_WITHIN, || {
            if told.is_err() {
                told = client.topology();
            }
            told.is_ok().then_some(())
        });
        told.map_err(failed("learn the topology"))
    }

    /// The nodes of the smaller side.
    fn draw_left(&mut self) -> Vec<usize> {
        let mut nodes: Vec<usize> = (0..NODES).collect();
        let mut drawn = || nodes.swap_remove(self.rng.below(nodes.len() as u64) as usize);
        (0..LEFT_NODES).map(|_| drawn()).collect()
    }

    fn draw_of(&mut self, left: &[usize], is_left: bool) -> usize {
        let side: Vec<usize> = (0..NODES).filter(|node| left.contains(node) == is_left).collect();
        side[self.rng.below(side.len() as u64) as usize]
    }

    /// Writes everything at ALL.
    fn level(&mut self) {
        std::thread::scope(|scope| {
            for (_, client, registers) in &mut self.writers {
                scope.spawn(move || registers.level(client));
            }
        });
        let mut client = self.nodes.client(0);
        for set in &self.kept {
            if !set.level(&mut client) {
                self.report.violations.push(format!("{} cannot be written at ALL", set.name()));
            }
        }
        self.collect();
    }

    /// Reads all registers, by those who wrote them.
    fn check(&mut self) -> Tally {
        std::thread::scope(|scope| {
            for (_, client, registers) in &mut self.writers {
                scope.spawn(move || registers.check(client));
            }
        });
        self.collect();
        let tallies = self.writers.iter().map(|(_, _, registers)| registers.tally());
        tallies.fold(Tally::default(), Tally::plus)
    }

    /// Whatever was kept for those who were away is delivered once they are there again; false = it was not.
    fn wait_for_hints(&mut self) -> bool {
        // A node that does not say how many it keeps keeps an unknown number.
        let owed = || -> Option<u64> { (0..NODES).map(|node| self.nodes.number(node, HINTS)).sum() };
        let are_delivered = wait_for(DRAINED_WITHIN, || owed().filter(|owed| *owed == 0)).is_some();
        if !are_delivered {
            let still = owed().map_or_else(|| "an unknown number of".to_owned(), |owed| owed.to_string());
            self.report.violations.push(format!(
                "{still} hints are still undelivered {} s after all was whole again",
                DRAINED_WITHIN.as_secs()
            ));
        }
        are_delivered
    }

    fn collect(&mut self) {
        for (_, _, registers) in &mut self.writers {
            self.report.violations.extend(registers.take_violations());
        }
    }

    /// Reads the round's carts, and those of earlier rounds: what others stood in for has been delivered, and must be there at QUORUM already.
    fn check_carts(&mut self, mut shoppers: Vec<Shopper>) -> Tally {
        let mut client = self.nodes.client(0);
        let mut checker = Shopper::new(0, 0);
        self.carts.check(&mut checker, &mut client, &[Level::Quorum, Level::All]);
        shoppers.push(checker);
        let mut tally = Tally::default();
        for shopper in &mut shoppers {
            tally = tally.plus(shopper.tally);
            for Spoilt { what, cart, history } in shopper.take_spoilt() {
                self.report.violations.push(what);
                let file = self.nodes.home().join(format!("{}.history", cart.replace(' ', "-")));
                // It is for whoever looks into it, and the violation is told without it as well.
                let _ = std::fs::write(file, history);
            }
        }
        self.report.carts = self.report.carts.plus(tally);
        tally
    }

    /// Reads the round's sets, and those of earlier rounds. Adds of each side, and losses of each mode.
    fn check_sets(
        &mut self,
        fault: Fault,
        sides: &mut [[Side; 2]; 2],
        sets: &mut Vec<Set>,
    ) -> ([u64; 2], (u64, u64)) {
        let counts = sides.each_mut().map(|adders| {
            adders.iter_mut().fold((0, 0), |(siblings, last_write), adder| {
                self.report.sets = self.report.sets.plus(adder.tally);
                let more = adder.settle(sets);
                (siblings + more.0, last_write + more.1)
            })
        });
        let mut client = self.nodes.client(0);
        let mut lost = (0, 0);
        for set in self.kept.iter().chain(sets.iter()) {
            match set.missing(&mut client) {
                None => {
                    self.report
                        .violations
                        .push(format!("{} cannot be read at ALL after healing", set.name()));
                }
                Some(missing) if set.keeps_siblings() => {
                    lost.0 += missing.len() as u64;
                    if !missing.is_empty() {
                        let count = missing.len();
                        self.report.violations.push(format!(
                            "{}: {count} acknowledged adds are lost, the first is {:x} (after {fault})",
                            set.name(),
                            missing[0]
                        ));
                    }
                }
                Some(missing) => lost.1 += missing.len() as u64,
            }
        }
        let adds = counts.map(|(siblings, last_write)| siblings + last_write);
        if fault == Fault::Partition {
            let test = &mut self.report.set_test;
            test.sides = [test.sides[0] + adds[0], test.sides[1] + adds[1]];
            test.siblings.0 += counts[0].0 + counts[1].0;
            test.siblings.1 += lost.0;
            test.last_write.0 += counts[0].1 + counts[1].1;
            test.last_write.1 += lost.1;
        }
        self.kept.extend(std::mem::take(sets).into_iter().filter(Set::keeps_siblings));
        let surplus = self.kept.len().saturating_sub(SETS_KEPT_MAX);
        self.kept.drain(..surplus);
        (adds, lost)
    }

    /// No process may have ended by itself, or have said that it found a bug.
    fn look_at_processes(&mut self) {
        for node in 0..NODES {
            if let Some(status) = self.nodes.ended(node) {
                self.report.violations.push(format!("node {} ended by itself: {status}", node + 1));
            }
            let log = std::fs::read(self.nodes.log_file(node)).unwrap_or_default();
            let new = &log[(self.log_bytes[node] as usize).min(log.len())..];
            self.log_bytes[node] = log.len() as u64;
            for line in String::from_utf8_lossy(new).lines().filter(|line| line.contains("panicked")) {
                self.report.violations.push(format!("node {}: {line}", node + 1));
            }
        }
    }
}

/// Lets the writers end, also when something stood in the way: they are waited for.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With none left nothing was done, nothing was lost, and that was what was said.
    #[test]
    fn a_plan_without_a_fault_that_can_be_done_is_no_plan() {
        let of = |kind, only: &[Fault]| possible(kind, only);
        let said = of(Kind::Loopback, &[Fault::FullDisk]).expect_err("it needs a mount").to_string();
        assert!(
            said.starts_with("cannot do any of these faults on loopback behind a fault proxy: full disk: ")
        );
        assert!(
            said.contains("run it as root and without --no-root, or name other faults with --only"),
            "{said}"
        );
        assert!(!said.contains('\n'), "{said}");

        let (can, skipped) = of(Kind::Namespaces, &[Fault::FullDisk]).expect("it can be mounted there");
        assert_eq!((can, skipped.len()), (vec![Fault::FullDisk], 0));
        let (can, skipped) = of(Kind::Loopback, &[Fault::FullDisk, Fault::Kill]).expect("one of two");
        assert_eq!(can, [Fault::Kill]);
        assert_eq!(skipped, ["full disk: nothing can be mounted without a namespace"]);
        let (can, skipped) = of(Kind::Loopback, &[]).expect("most of them");
        assert_eq!((can.len(), skipped.len()), (Fault::ALL.len() - 1, 1));
    }
}
