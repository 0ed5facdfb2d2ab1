//! A node that no other's configuration lists: it comes with one seed, is found by all, and owns nothing.

use std::process::Command;

use ferrite_client::{BlockingClient, ReadOptions, WriteOptions};
use ferrite_wire::{Key, Level, NodeId};

use crate::cluster::{Cluster, WITHIN, Wanted, directory, program, wait_for};

/// Nodes that own data, and the number of the one that comes, from 0.
const NODES: usize = 3;
const NEWCOMER: usize = 3;
/// Fast enough that a test need not wait for long.
const GOSSIP: &str = "probe_interval = \"300ms\"\nprobe_timeout = \"150ms\"\nsuspicion = \"1s\"\n";
const CARTS: &str = "\n[[table]]\nname = \"carts\"\n";

/// Three nodes that run, and the configuration that a fourth will read: theirs has not a word of it.
struct Joining {
    cluster: Cluster,
    text: String,
}

impl Joining {
    fn start() -> Joining {
        let wanted = Wanted { nodes: NODES + 1, cores: 1, server: "" };
        let mut cluster = Cluster::configure(program(), directory(), wanted);
        let text = std::fs::read_to_string(cluster.local.config_file()).expect("it was written");
        let at = text.rfind("\n[[nodes]]").expect("the fourth node");
        let theirs = format!("{}\n[gossip]\n{GOSSIP}", &text[..at]);
        std::fs::write(cluster.local.config_file(), theirs).expect("it can be written");
        for index in 0..NODES {
            cluster.local.start(index).expect("it starts");
        }
        let seed = &cluster.local.node(0).address;
        let text = format!("{text}joining = true\n\n[gossip]\nseeds = [\"{seed}\"]\n{GOSSIP}");
        Joining { cluster, text }
    }

    /// Starts the newcomer with its configuration, changed in this way.
    fn start_newcomer(&mut self, change: impl FnOnce(&str) -> String) {
        // The others have read theirs, and are not started again.
        std::fs::write(self.cluster.local.config_file(), change(&self.text)).expect("it can be written");
        self.cluster.local.start(NEWCOMER).expect("it starts");
    }

    /// What a node's status says of a member, from 0.
    fn line(&self, client: &mut BlockingClient, at: usize, of: usize, field: &str) -> Option<String> {
        let status = self.cluster.status(client, at);
        status.line(&format!("member.{}{field}", of + 1)).map(str::to_owned)
    }

    /// Waits until these nodes hold another to be so, and says in which life.
    fn until(&self, client: &mut BlockingClient, by: &[usize], of: usize, word: &str) -> u64 {
        wait_for(&format!("{by:?} hold {of} to be {word}"), || {
            let held: Vec<String> =
                by.iter().map(|at| self.line(client, *at, of, "")).collect::<Option<_>>()?;
            let life = |line: &String| line.strip_prefix(word)?.rsplit(' ').next()?.parse().ok();
            held.iter().map(life).collect::<Option<Vec<u64>>>()?.into_iter().max()
        })
    }
}

/// Waits until the nodes reach each other for data, and their clocks have been compared.
fn formed(client: &mut BlockingClient) {
    wait_for("all replicas take a write", || {
        let options = WriteOptions { level: Some(Level::All), ..WriteOptions::default() };
        client.put(Key::plain(b"first"), b"one", options).is_done().then_some(())
    });
}

/// Writes and reads through whoever takes it, and at all replicas.
fn work(client: &mut BlockingClient, round: u8) {
    for number in 0..100u8 {
        let (name, value) = ([b'k', number], [round, number]);
        let options = WriteOptions { level: Some(Level::All), ..WriteOptions::default() };
        // Whatever became of it, the same again does no harm.
        wait_for("all replicas take it", || {
            let written = client.put(Key::plain(&name), &value, options);
            if !written.is_done() {
                println!("round {round}, record {number}: {written}");
            }
            written.is_done().then_some(())
        });
        let found = client.get(Key::plain(&name), ReadOptions::default()).expect("it is read");
        assert_eq!(found.map(|found| found.bytes), Some(value.to_vec()));
    }
}

/// What `ferrite status` prints.
fn table(cluster: &Cluster) -> String {
    let output = Command::new(program())
        .args(["status", "--timeout", "60s", "--config"])
        .arg(cluster.local.config_file())
        .output()
        .expect("ferrite starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Waits until the words of the newcomer's row are such.
fn until_row(cluster: &Cluster, what: &str, is_so: impl Fn(&[String]) -> bool) {
    wait_for(what, || {
        let said = table(cluster);
        let row = said.lines().find(|line| line.starts_with("n4 "))?;
        let words: Vec<String> = row.split_whitespace().map(str::to_owned).collect();
        println!("{row}");
        is_so(&words).then_some(())
    });
}

#[test]
fn a_node_that_nobody_lists_is_found_through_one_seed_and_owns_nothing() {
    let mut joining = Joining::start();
    let mut client = joining.cluster.client();
    formed(&mut client);
    work(&mut client, 0);
    joining.start_newcomer(str::to_owned);
    let life = joining.until(&mut client, &[0, 1, 2], NEWCOMER, "up");
    for of in 0..NODES {
        joining.until(&mut client, &[0, 1, 2, NEWCOMER], of, "up");
    }
    let address = joining.cluster.local.node(NEWCOMER).address.to_string();
    for at in 0..=NEWCOMER {
        let line = |client: &mut BlockingClient, field: &str| joining.line(client, at, NEWCOMER, field);
        wait_for("what it says of itself is known to all", || line(&mut client, ".version"));
        assert_eq!(line(&mut client, ".name").as_deref(), Some("n4"));
        assert_eq!(line(&mut client, ".address"), Some(address.clone()));
        assert_eq!(line(&mut client, ".joining").as_deref(), Some("true"));
        wait_for("its core is known to run", || {
            line(&mut client, ".cores").filter(|cores| cores.starts_with("0:running:"))
        });
    }
    until_row(&joining.cluster, "the table has it as joining, with its version", |row| {
        row[..3] == ["n4", address.as_str(), "UJ"] && row[5] != "-"
    });

    // Whoever knows only the newcomer is told of the others.
    let through = BlockingClient::builder().seeds([address.clone()]).timeout(WITHIN).connect_blocking();
    work(&mut through.expect("it answers"), 1);
    let topology = client.topology().expect("somebody answers");
    assert_eq!(topology.nodes.len(), NODES);
    assert!(topology.replicas.iter().all(|list| list.len() == NODES && !list.contains(&NodeId(4))));
    let status = joining.cluster.status(&mut client, NEWCOMER);
    assert_eq!(["puts", "gets", "connections.peers"].map(|name| status.number(name)), [0; 3]);

    joining.cluster.local.kill(NEWCOMER).expect("it runs");
    joining.until(&mut client, &[0, 1, 2], NEWCOMER, "down");
    until_row(&joining.cluster, "the table has it as down", |row| row[2] == "DJ");
    work(&mut client, 2);
    joining.start_newcomer(str::to_owned);
    let next = joining.until(&mut client, &[0, 1, 2], NEWCOMER, "up");
    assert!(next > life, "{next} after {life}");
    for at in 0..NODES {
        assert_eq!(joining.cluster.status(&mut client, at).number("gossip.refused"), 0);
    }
}

#[test]
fn a_node_of_another_cluster_or_with_other_tables_is_refused_and_told_why() {
    let mut joining = Joining::start();
    let mut client = joining.cluster.client();
    let refused = |joining: &Joining, words: &str| {
        wait_for(&format!("the newcomer is told: {words}"), || {
            let log = std::fs::read_to_string(joining.cluster.local.log_file(NEWCOMER)).ok()?;
            log.contains(words).then_some(())
        });
    };
    let id = joining.cluster.local.config().cluster.id;
    let elsewhere = |text: &str, name: &str| {
        // The last node's: its own, as the data of one cluster is not another's.
        let at = text.rfind("/n4\"").expect("its data directory");
        format!("{}/{name}{}", &text[..at], &text[at + "/n4".len()..])
    };
    joining
        .start_newcomer(|text| elsewhere(&text.replace(&id.to_string(), &format!("{:032x}", 7)), "foreign"));
    refused(&joining, &format!("this node belongs to cluster {id}, not to "));
    joining.cluster.local.kill(NEWCOMER).expect("it runs");

    joining.start_newcomer(|text| elsewhere(&format!("{text}{CARTS}"), "other-tables"));
    refused(&joining, "table carts is not known on n1");
    let said = wait_for("its status says why", || joining.line(&mut client, NEWCOMER, 0, ".refused"));
    assert!(said.contains("table carts is not known on n1"), "{said}");
    for at in 0..NODES {
        assert_eq!(joining.line(&mut client, at, NEWCOMER, ""), None, "it is no member");
    }
    joining.cluster.local.kill(NEWCOMER).expect("it runs");

    // The same node with the same tables is.
    joining.start_newcomer(str::to_owned);
    joining.until(&mut client, &[0, 1, 2], NEWCOMER, "up");
}
