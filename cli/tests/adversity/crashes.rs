//! SIGKILL under load, of every combination of nodes, also while they recover: what was acknowledged is there afterwards.

use std::sync::atomic::AtomicBool;

use crate::cluster::{Cluster, Wanted, wait_for};
use crate::ledger::{Ledger, Progress, StopAtEnd, Tally};

const ROUNDS: usize = 20;
/// Who is killed in a round: one node, so that the others go on; two, so that the quorum is gone; all.
const VICTIMS: [&[usize]; 5] = [&[0], &[1], &[0, 2], &[2], &[0, 1, 2]];
/// Every so many rounds the victims are killed once more while they recover.
const KILLED_TWICE_EVERY: usize = 3;
/// Acknowledged writes before the kills of a round (more as rounds go on, so that the moments differ), and after.
const WRITES_BEFORE: u64 = 300;
const WRITES_AFTER: u64 = 100;
/// Small enough that memtables of the smallest size are flushed, and their tables compacted, all the time.
const SMALL: &str = "memtable = \"1MiB\"\nstores = 2";
const KEYS: usize = 150;
const VALUE_BYTES_MAX: usize = 6_000;

/// Kills a node that recovers: once it has taken its directory, before it serves.
fn kill_while_it_recovers(cluster: &Cluster, index: usize) {
    let lock = cluster.local.node(index).data.join("LOCK");
    let mut child = cluster.spawn(index);
    let holder = child.id().to_string();
    wait_for("the node takes its directory", || {
        let ended = child.try_wait().expect("it was started here");
        assert!(ended.is_none(), "it ended by itself: {}", ended.unwrap_or_default());
        let text = std::fs::read_to_string(&lock).unwrap_or_default();
        (text.trim() == holder).then_some(())
    });
    child.kill().expect("it runs");
    child.wait().expect("it was started here");
}

/// What background work the nodes have done since they were started.
fn background(cluster: &Cluster, nodes: usize) -> (u64, u64) {
    let mut client = cluster.client();
    let all = (0..nodes).map(|index| cluster.status(&mut client, index));
    all.fold((0, 0), |(flushes, compactions), status| {
        (flushes + status.number("engine.flushes"), compactions + status.number("engine.compactions"))
    })
}

fn kill_in_rounds(wanted: Wanted<'_>, victims: &[&[usize]]) {
    let mut cluster = Cluster::start(wanted);
    let mut ledgers: Vec<Ledger> =
        (0..2).map(|writer| Ledger::new(&format!("writer {writer}"), KEYS, VALUE_BYTES_MAX)).collect();
    let (mut kills, mut read, mut flushes, mut compactions) = (0, 0, 0, 0);
    for round in 0..ROUNDS {
        let victims = victims[round % victims.len()];
        let (stop, progress) = (AtomicBool::new(false), Progress::default());
        std::thread::scope(|scope| {
            for ledger in &mut ledgers {
                let mut client = cluster.client();
                let (stop, progress) = (&stop, &progress);
                scope.spawn(move || ledger.write(&mut client, stop, progress));
            }
            let stopped = StopAtEnd(&stop);
            progress.wait_for(WRITES_BEFORE + 29 * round as u64);
            let done = background(&cluster, wanted.nodes);
            (flushes, compactions) = (flushes + done.0, compactions + done.1);
            victims.iter().for_each(|victim| cluster.local.kill(*victim).expect("it runs"));
            kills += victims.len();
            if round % KILLED_TWICE_EVERY == 0 {
                victims.iter().for_each(|victim| kill_while_it_recovers(&cluster, *victim));
                kills += victims.len();
            }
            cluster.local.start_all().expect("the victims recover");
            progress.wait_for(WRITES_AFTER);
            drop(stopped);
        });
        let mut client = cluster.client();
        let when = format!("after round {round}, kill of {victims:?}");
        read += ledgers.iter().map(|ledger| ledger.check(&mut client, &when)).sum::<usize>();
    }
    let tallies = ledgers.iter().map(Ledger::tally);
    let sum = tallies.fold(Tally::default(), |sum, tally| Tally {
        acknowledged: sum.acknowledged + tally.acknowledged,
        not_applied: sum.not_applied + tally.not_applied,
        unknown: sum.unknown + tally.unknown,
    });
    println!(
        "{} nodes, {ROUNDS} rounds, {kills} kills: {} writes acknowledged, {} not applied, {} unknown; {read} reads \
         checked; at least {flushes} flushes and {compactions} compactions",
        wanted.nodes, sum.acknowledged, sum.not_applied, sum.unknown
    );
    println!("counted: kills {kills}");
    println!("counted: reads checked after kills {read}");
    assert!(flushes > 0 && compactions > 0, "kills met nothing but the log: {flushes}, {compactions}");
}

#[test]
fn twenty_rounds_of_kills_of_three_nodes_lose_nothing_acknowledged_at_quorum() {
    kill_in_rounds(Wanted { nodes: 3, cores: 1, server: SMALL }, &VICTIMS);
}

#[test]
fn twenty_rounds_of_kills_of_one_node_with_two_cores_lose_nothing_acknowledged() {
    kill_in_rounds(Wanted { nodes: 1, cores: 2, server: SMALL }, &[&[0]]);
}
