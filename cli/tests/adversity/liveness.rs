//! Who is held to be up, by real nodes: while data saturates them, and when one of them stands still, goes on, or stops.

use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferrite_client::BlockingClient;
use ferrite_wire::Role;

use crate::cluster::{Cluster, Status, Wanted, directory, program, wait_for};
use crate::machine::Machine;
use crate::wire::{Raw, put, request};

const NODES: usize = 3;
/// Connections that saturate the first node, and requests that each has in flight.
const CONNECTIONS: usize = 8;
const DEPTH: usize = 64;
/// Bytes of each value. All in flight together are many times [`MEMTABLE`], so that writes wait for room, or are refused.
const VALUE_BYTES: usize = 32 * 1024;
const MEMTABLE: &str = "memtable = \"4MiB\"";
/// Looks at the first node that must find it saturated while gossip goes on.
const SATURATED_LOOKS: u64 = 10;
/// Packets that each node must have sent while saturated: some ten rounds of the protocol.
const PACKETS: u64 = 20;
/// A CPU that is away for so long at a stretch may make nodes suspect one on it: less than one has to answer.
const AWAY: Duration = Duration::from_millis(300);
/// For how long after that a verdict may still come of it: two rounds of the protocol, and as long as a node stays suspect.
const AFTERMATH: Duration = Duration::from_secs(6);
/// The same where gossip is quick.
const AWAY_QUICK: Duration = Duration::from_millis(100);
const AFTERMATH_QUICK: Duration = Duration::from_millis(1_600);

/// The word and the age in a node's line about another.
fn held(status: &Status, node: usize) -> (String, u64) {
    let line = status.line(&format!("member.{}", node + 1)).unwrap_or("unknown 0s");
    let (word, rest) = line.split_once(' ').unwrap_or((line, "0s"));
    let age = rest.split('s').next().and_then(|age| age.parse().ok()).unwrap_or(0);
    (word.to_owned(), age)
}

/// Waits until some nodes hold another to be so.
fn until_held(cluster: &Cluster, client: &mut BlockingClient, by: &[usize], of: usize, word: &str) {
    wait_for(&format!("{by:?} hold {of} to be {word}"), || {
        by.iter().all(|at| held(&cluster.status(client, *at), of).0 == word).then_some(())
    });
}

fn formed(cluster: &Cluster, client: &mut BlockingClient) {
    (0..NODES).for_each(|of| until_held(cluster, client, &[0, 1, 2], of, "up"));
}

/// A connection that always has [`DEPTH`] puts in flight.
fn press(cluster: &Cluster, stop: &Arc<AtomicBool>, done: &Arc<AtomicU64>, number: usize) -> JoinHandle<()> {
    let mut raw = Raw::greeted(cluster, Role::Client);
    let (stop, done) = (Arc::clone(stop), Arc::clone(done));
    std::thread::spawn(move || {
        let mut key = number as u64;
        let mut write = |raw: &mut Raw| {
            key += CONNECTIONS as u64;
            raw.send(&request(&put(&(key % 1_000).to_le_bytes(), &[7; VALUE_BYTES])));
        };
        (0..DEPTH).for_each(|_| write(&mut raw));
        while !stop.load(Ordering::Relaxed) {
            assert!(raw.next().is_some(), "the node goes on");
            done.fetch_add(1, Ordering::Relaxed);
            write(&mut raw);
        }
    })
}

/// What each node has sent, and whom it has suspected and held to be down, so far.
fn counts(cluster: &Cluster, client: &mut BlockingClient) -> [[u64; 3]; NODES] {
    std::array::from_fn(|at| {
        let status = cluster.status(client, at);
        ["sent", "suspicions", "downs"].map(|name| status.number(&format!("gossip.{name}")))
    })
}

/// Waits until the first node was found saturated often enough, and each has gossiped meanwhile.
fn gossip_beside_load(cluster: &Cluster, client: &mut BlockingClient, before: &[[u64; 3]; NODES]) {
    let refused = |status: &Status| {
        status.line("errors.Overloaded").map_or(0, |count| count.parse::<u64>().expect("a number"))
    };
    let (mut looks, mut saturated, mut waiting_bytes_max) = (0, 0, 0);
    let mut refused_before = refused(&cluster.status(client, 0));
    wait_for("gossip goes on while the data path is saturated", || {
        let status = cluster.status(client, 0);
        let (refused, waiting_bytes) = (refused(&status), status.number("waiting_bytes"));
        looks += 1;
        saturated += u64::from(waiting_bytes > 0 || refused > refused_before);
        (refused_before, waiting_bytes_max) = (refused, waiting_bytes.max(waiting_bytes_max));
        let now = counts(cluster, client);
        let has_gossiped = now.iter().zip(before).all(|(now, before)| now[0] >= before[0] + PACKETS);
        (has_gossiped && saturated >= SATURATED_LOOKS).then_some(())
    });
    println!(
        "saturated at {saturated} of {looks} looks: up to {waiting_bytes_max} bytes waited, {refused_before} writes were refused"
    );
}

/// Gossip has connections of its own: however much data waits on the others, nobody is suspected for it.
#[test]
fn a_saturated_data_path_does_not_disturb_gossip() {
    let cluster = Cluster::start(Wanted { nodes: NODES, cores: 1, server: MEMTABLE });
    let machine = Machine::watched();
    let mut client = cluster.client();
    formed(&cluster, &mut client);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut before = counts(&cluster, &mut client);
    let pressing: Vec<JoinHandle<()>> =
        (0..CONNECTIONS).map(|number| press(&cluster, &stop, &done, number)).collect();
    wait_for("nodes gossip under load while the machine lets them run", || {
        let begun = Instant::now();
        gossip_beside_load(&cluster, &mut client, &before);
        let after = counts(&cluster, &mut client);
        let written = done.load(Ordering::Relaxed);
        assert!(written > (CONNECTIONS * DEPTH) as u64, "only {written} writes pressed on the nodes");
        let suspecting: Vec<usize> = (0..NODES).filter(|at| after[*at][1..] != before[*at][1..]).collect();
        for (at, (after, before)) in after.iter().zip(&before).enumerate() {
            println!("node {}: {} packets beside {written} writes", at + 1, after[0] - before[0]);
        }
        before = after;
        if suspecting.is_empty() {
            return Some(());
        }
        let away = machine.longest_absence(begun - AFTERMATH);
        assert!(
            away >= AWAY,
            "{suspecting:?} suspected somebody, or held him to be down, and no CPU was away for longer than {away:?}"
        );
        println!("a CPU was away for {away:?}, and {suspecting:?} suspected who was on it: once more");
        None
    });
    stop.store(true, Ordering::Relaxed);
    pressing.into_iter().for_each(|thread| thread.join().expect("it was answered"));
}

fn signal(cluster: &Cluster, index: usize, signal: &str) {
    let pid = cluster.local.pid(index).expect("it runs").to_string();
    let status = Command::new("kill").args([signal, &pid]).status().expect("kill is there");
    assert!(status.success());
}

/// What `ferrite status` prints.
fn table(cluster: &Cluster) -> String {
    let output = Command::new(program())
        .args(["status", "--timeout", "3s", "--config"])
        .arg(cluster.local.config_file())
        .output()
        .expect("ferrite starts");
    String::from_utf8(output.stdout).expect("text")
}

/// What a node has logged so far.
fn log(cluster: &Cluster, index: usize) -> String {
    std::fs::read_to_string(cluster.local.log_file(index)).expect("it logs")
}

/// Whether a line of a log says that the third node is suspect.
fn suspects_third(line: &str) -> bool {
    ["verdict on a node", "node=3 ", "to=\"suspect\""].iter().all(|part| line.contains(part))
}

#[test]
fn a_node_that_stands_still_is_down_until_it_goes_on_and_one_that_stops_is_down_at_once() {
    let wanted = Wanted { nodes: NODES, cores: 1, server: "" };
    let mut cluster = Cluster::configure(program(), directory(), wanted);
    let mut file =
        std::fs::OpenOptions::new().append(true).open(cluster.local.config_file()).expect("it was written");
    let gossip = "\n[gossip]\nprobe_interval = \"300ms\"\nprobe_timeout = \"150ms\"\nsuspicion = \"1s\"\n";
    file.write_all(gossip.as_bytes()).expect("it can be added to");
    cluster.local.start_all().expect("all nodes start");
    let machine = Machine::watched();
    let mut client = cluster.client();
    formed(&cluster, &mut client);

    signal(&cluster, 2, "-STOP");
    until_held(&cluster, &mut client, &[0, 1], 2, "down");
    let state_of = |said: &str, name: &str| {
        let row = said.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{said}"));
        row.split_whitespace().nth(2).map(str::to_owned)
    };
    let has_suspected = |by: usize| log(&cluster, by).lines().any(suspects_third);
    assert!(has_suspected(0) || has_suspected(1), "it was suspect first, and a log says so in these words");
    wait_for("the table says so", || {
        let said = table(&cluster);
        let states = ["n1", "n2", "n3"].map(|name| state_of(&said, name).unwrap());
        (states == ["UN", "UN", "DN"]).then_some(())
    });
    signal(&cluster, 2, "-CONT");
    until_held(&cluster, &mut client, &[0, 1], 2, "up");
    // It had stood still itself, so it holds nobody to be down for that.
    until_held(&cluster, &mut client, &[2], 0, "up");

    wait_for("it says that it stops while the machine lets it run", || {
        let (begun, said_before) = (Instant::now(), log(&cluster, 0).len());
        assert!(cluster.local.stop(2).expect("it drains").success());
        until_held(&cluster, &mut client, &[0, 1], 2, "down");
        let is_suspected = log(&cluster, 0)[said_before..].lines().any(suspects_third);
        cluster.local.start(2).expect("it starts again");
        until_held(&cluster, &mut client, &[0, 1], 2, "up");
        if !is_suspected {
            return Some(());
        }
        let away = machine.longest_absence(begun - AFTERMATH_QUICK);
        assert!(away >= AWAY_QUICK, "it has said so itself, and no CPU was away for longer than {away:?}");
        println!("a CPU was away for {away:?}, and who was on it was suspected: once more");
        None
    });
    until_held(&cluster, &mut client, &[2], 0, "up");
}
