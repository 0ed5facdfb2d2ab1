//! SIGKILL under load, and other options at each start: what was acknowledged under the old ones is there under the new.
//!
//! `FERRITE_KILLS=200 cargo test --release -p ferrite-cli --test adversity other_options -- --nocapture` goes on for longer.

use std::sync::atomic::AtomicBool;

use ferrite_node::startup;

use crate::cluster::{Cluster, Wanted};
use crate::ledger::{Ledger, Progress, StopAtEnd};
use crate::random::Random;

const KILLS: u64 = 10;
const KEYS: usize = 150;
const VALUE_BYTES_MAX: usize = 9_000;
const WRITES_BEFORE: usize = 200;

/// Options of one start: the number of cores, and lines below `[server]`.
fn options(random: &mut Random) -> (usize, String) {
    let cores = 1 + random.below(2);
    let memtable = ["1MiB", "2MiB", "8MiB"][random.below(3)];
    let block_cache = ["1MiB", "4MiB", "16MiB"][random.below(3)];
    let compaction = ["leveled", "tiered"][random.below(2)];
    let large_value_threshold = ["1KiB", "4KiB", "1MiB"][random.below(3)];
    let spin = ["\"0s\"", "\"50us\""][random.below(2)];
    let server = format!(
        "memtable = \"{memtable}\"\nblock_cache = \"{block_cache}\"\ncompaction = \"{compaction}\"\n\
         large_value_threshold = \"{large_value_threshold}\"\nspin = {spin}\nstores = 4"
    );
    (cores, server)
}

/// Has the configuration say these options.
fn configure(cluster: &Cluster, plain: &str, (cores, server): &(usize, String)) {
    let cpu = startup::allowed_cpus().expect("the kernel tells")[0];
    let line = |line: &str| match line {
        "[server]" => format!("[server]\n{server}\n"),
        _ if line.starts_with("cores =") => format!("cores = {:?}\n", vec![cpu; *cores]),
        _ => format!("{line}\n"),
    };
    let text: String = plain.lines().map(line).collect();
    std::fs::write(cluster.local.config_file(), text).expect("it can be written");
}

#[test]
fn kills_with_other_options_at_each_start_lose_nothing_acknowledged() {
    let asked = std::env::var("FERRITE_KILLS").ok();
    let kills = asked.map_or(KILLS, |text| text.parse().expect("FERRITE_KILLS is a number"));
    let mut random = Random(11);
    let wanted = Wanted { nodes: 1, cores: 2, server: "" };
    let mut cluster = Cluster::configure(crate::cluster::program(), crate::cluster::directory(), wanted);
    let plain = std::fs::read_to_string(cluster.local.config_file()).expect("it was written");
    let mut ledger = Ledger::new("writer", KEYS, VALUE_BYTES_MAX);
    let (mut read, mut flushes) = (0, 0);
    for kill in 0..kills {
        let options = options(&mut random);
        configure(&cluster, &plain, &options);
        cluster.local.start_all().unwrap_or_else(|error| panic!("start {kill} with {options:?}: {error}"));
        let mut client = cluster.client();
        read += ledger.check(&mut client, &format!("after kill {kill}, now with {options:?}"));
        let (stop, progress) = (AtomicBool::new(false), Progress::default());
        std::thread::scope(|scope| {
            let (ledger, stop, progress, client) = (&mut ledger, &stop, &progress, &mut client);
            scope.spawn(move || ledger.write(client, stop, progress));
            let stopped = StopAtEnd(stop);
            progress.wait_for((WRITES_BEFORE + random.below(600)) as u64);
            flushes += cluster.status(&mut cluster.client(), 0).number("engine.flushes");
            cluster.local.kill(0).expect("it runs");
            drop(stopped);
        });
    }
    cluster.local.start_all().expect("it starts after the last kill");
    read += ledger.check(&mut cluster.client(), "after the last kill");
    let tally = ledger.tally();
    println!(
        "{kills} kills with other options at each start: {tally:?}; {read} reads checked; at least {flushes} flushes"
    );
    println!("counted: kills {kills}");
    println!("counted: reads checked after kills {read}");
    assert!(flushes > 0, "kills met nothing but the log");
}
