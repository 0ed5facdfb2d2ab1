//! Another number of cores, from one start to the next: what was acknowledged is there, also when the change was cut short.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ferrite_cli::local::{LocalCluster, Shape};
use ferrite_client::{Key, Level, WriteOptions};
use ferrite_node::config::ByteSize;
use ferrite_node::startup;

use crate::kills::{Ledger, round};
use crate::{client, directory, ferrite, program};

/// Longest that nodes may take to hear of each other's cores.
const PATIENCE: Duration = Duration::from_secs(60);
/// Puts that are counted.
const PUTS: u32 = 64;

/// Makes the configuration say `cores`, wherever it said another number.
fn set_cores(cluster: &LocalCluster, cores: u16) {
    let text = std::fs::read_to_string(cluster.config_file()).expect("it was written");
    let cpu = startup::allowed_cpus().expect("the kernel tells")[0];
    let line = |line: &str| match line.starts_with("cores =") {
        true => format!("cores = {:?}\n", vec![cpu; cores.into()]),
        false => format!("{line}\n"),
    };
    let changed: String = text.lines().map(line).collect();
    assert_ne!(changed, text, "the number of cores is in the file");
    std::fs::write(cluster.config_file(), changed).expect("it can be written");
}

/// Starts the node, and kills it as soon as its log says `line`.
fn kill_at(config: &Path, line: &str) -> bool {
    let mut child = Command::new(program())
        .args(["serve", "--config"])
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let log = BufReader::new(child.stderr.take().expect("it is piped"));
    let said = log.lines().map_while(Result::ok).any(|said| said.contains(line));
    child.kill().expect("it is ours");
    child.wait().expect("it ends");
    said
}

#[test]
fn one_core_two_and_one_again_keep_what_was_acknowledged() {
    let home = directory();
    // The ports of two cores are free, then.
    let shape =
        Shape { name: "test".into(), nodes: 1, cores: 2, memory: ByteSize::mib(64), first_port: None };
    let mut cluster = LocalCluster::create(program(), home.path(), &shape).expect("a configuration");
    let mut ledger = Ledger::default();
    // What the log says at the steps of a change, in their order.
    let steps =
        ["recovered the log of an old core", "its records are in tables", "the new layout is durable"];
    set_cores(&cluster, 1);
    cluster.start(0).expect("it starts");
    for (at, cores) in [2u16, 1, 2, 2, 1].into_iter().enumerate() {
        // Killed under load, and so with a log that is not empty.
        round(&mut cluster, &mut ledger, &[0], 300);
        ledger.check(&mut client(&cluster), &format!("before change {at}"));
        assert!(cluster.stop(0).expect("it stops").success());
        // One start is with the number that it was before.
        if at != 3 {
            set_cores(&cluster, cores);
            assert!(kill_at(cluster.config_file(), steps[at % steps.len()]), "change {at} says what it does");
        }
        cluster.start(0).expect("it starts with another number of cores");
        ledger.check(&mut client(&cluster), &format!("after change {at} to {cores} cores"));
    }
}

/// Only what each node's first core held and did was shown.
#[test]
fn the_status_counts_all_cores_and_shows_each() {
    let home = directory();
    let shape =
        Shape { name: "test".into(), nodes: 2, cores: 2, memory: ByteSize::mib(64), first_port: None };
    let mut cluster = LocalCluster::create(program(), home.path(), &shape).expect("a configuration");
    cluster.start_all().expect("it starts");
    let status = |more: &[&str]| {
        let config = cluster.config_file().to_str().expect("a path of this test").to_owned();
        let output = ferrite(home.path(), &[&["status", "--config", &config], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let deadline = Instant::now() + PATIENCE;
    // What is refused for want of a link is counted too, so that each core has one to each of the other node first.
    loop {
        let all = status(&["--all"]);
        let links: Vec<&str> = all.lines().filter(|line| line.starts_with("peer.")).collect();
        if links.len() == 2 * 2 * 2 && links.iter().all(|line| line.contains(" up ")) {
            break;
        }
        assert!(Instant::now() < deadline, "{links:?}");
    }
    let mut client = client(&cluster);
    let all = WriteOptions { level: Some(Level::All), ..WriteOptions::default() };
    let mut put = |key: u32| client.put(Key::plain(&key.to_le_bytes()), b"v", all);
    for key in 0..PUTS {
        while !put(key).is_done() {
            assert!(Instant::now() < deadline, "put {key} is not taken");
        }
    }
    let rows = || {
        let table = status(&[]);
        let lines = table.lines().filter(|line| line.starts_with("n1 ") || line.starts_with("n2 "));
        let rows = lines.map(|line| line.split_whitespace().map(str::to_owned).collect());
        let rows: Vec<Vec<String>> = rows.collect();
        assert_eq!(rows.len(), 2, "{table}");
        rows
    };
    // Until they have heard of each other, and of each other's cores.
    let rows_before = loop {
        let rows = rows();
        if rows.iter().all(|row| row[2] == "UN" && row[4] == "2" && row[5] == env!("CARGO_PKG_VERSION")) {
            break rows;
        }
        assert!(Instant::now() < deadline, "{rows:?}");
    };
    assert!(rows_before.iter().all(|row| row[3].ends_with('s')), "the age of a verdict: {rows_before:?}");
    for key in 0..PUTS {
        assert!(put(key).is_done());
    }
    let rows = rows();
    let puts = |rows: &[Vec<String>]| -> u64 {
        rows.iter().map(|row| row[8].parse::<u64>().expect("a number")).sum()
    };
    let counted = puts(&rows) - puts(&rows_before);
    assert_eq!(counted, u64::from(PUTS), "through whichever core: {rows:?} after {rows_before:?}");
    let all = status(&["--all"]);
    for node in ["n1", "n2"] {
        for core in 0..2 {
            let head = format!("# {node} core {core} ");
            let part = all.split(&head).nth(1).unwrap_or_else(|| panic!("no {head}in {all}"));
            let own = part.split("\n# ").next().expect("split gives one");
            assert!(own.lines().any(|line| line == format!("core {core}")), "{own}");
            assert!(own.contains("expired.in_queue ") && own.contains("engine.quarantined_areas "), "{own}");
        }
    }
}
