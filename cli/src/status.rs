//! `ferrite status`: what the nodes say of themselves, and one of them of all.

use std::collections::BTreeMap;

use ferrite_client::{BlockingClient, ReadOptions};
use ferrite_wire::{NodeEntry, NodeId, Topology};

use crate::connection::ClusterArgs;
use crate::outcome::Failure;

/// Show the nodes of a cluster and how they are; exit code 1 if one that owns data does not answer
///
/// Whether a node is up (UN), suspect (SN), down (DN) or was never heard of (?N), for how long, how its cores are and which version it
/// runs is what the first node that answers holds of it; the other columns are its own answer. A node that is joining (UJ, SJ, DJ, ?J) was
/// found by gossip, or is listed as joining, and owns nothing yet.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print every `name value` line of each node instead of a table
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Columns of the table that the first node fills that answers, after name and address.
const HELD: [&str; 4] = ["STATE", "AGE", "CORES", "VERSION"];
/// Columns that each node fills itself: a title, and the line it comes from.
const COLUMNS: [(&str, &str); 6] = [
    ("CLIENTS", "connections.clients"),
    ("GETS", "gets"),
    ("PUTS", "puts"),
    ("FILES", "engine.tables"),
    ("BYTES", "engine.table_bytes"),
    ("MEMORY", "memory.used_bytes"),
];

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut client = args.cluster.connect()?;
    let topology = client.topology().map_err(Failure::failed)?;
    let down_after = args.cluster.timeout().div_f32(topology.nodes.len().clamp(1, 3) as f32);
    let options = ReadOptions { level: None, timeout: Some(down_after) };
    let members: Vec<Shown> = topology.nodes.iter().map(Shown::member).collect();
    let mut answers: Vec<(&Shown, Answer)> =
        members.iter().map(|node| (node, ask(&mut client, node, options))).collect();
    let first = answers.iter().find_map(|(node, answer)| Some((*node, answer.first()?.to_owned())));
    let witness = first.as_ref().map(|(node, text)| (*node, lines(text)));
    let joining = witness.as_ref().map_or(Vec::new(), |(_, lines)| joining(lines, &topology));
    answers.extend(joining.iter().map(|node| match node.is_up(witness.as_ref().map(|(_, lines)| lines)) {
        true => (node, ask(&mut client, node, options)),
        // Nobody waits for one that is known to be gone.
        false => (node, Answer(vec![Err("it is not up".to_owned())])),
    }));
    if args.all {
        for (node, answer) in &answers {
            match (answer.first(), &witness) {
                (Some(_), _) => {
                    for (core, (address, said)) in node.cores.iter().zip(&answer.0).enumerate() {
                        match said {
                            Ok(text) => {
                                println!("# {} core {core} {address}\n{}", node.name, text.trim_end());
                            }
                            Err(why) => {
                                println!("# {} core {core} {address} does not answer: {why}", node.name);
                            }
                        }
                    }
                }
                (None, Some((by, lines))) => {
                    println!("# {} {} does not answer; {} says of it", node.name, node.address, by.name);
                    let own = format!("member.{}", node.id.0);
                    let of_it = |name: &str| name == own || name.starts_with(&format!("{own}."));
                    lines
                        .iter()
                        .filter(|(name, _)| of_it(name))
                        .for_each(|(name, value)| println!("{name} {value}"));
                }
                (None, None) => println!("# {} {} does not answer", node.name, node.address),
            }
        }
    } else {
        println!(
            "cluster {}: {} nodes{}, {} vnodes, topology epoch {}",
            topology.cluster,
            topology.nodes.len(),
            if joining.is_empty() { String::new() } else { format!(" and {} joining", joining.len()) },
            topology.vnodes(),
            topology.epoch.0
        );
        let titles = HELD.into_iter().chain(COLUMNS.map(|(title, _)| title)).map(str::to_owned);
        let mut rows = vec![row("NODE", "ADDRESS", titles)];
        for (node, answer) in &answers {
            let held = held(witness.as_ref().map(|(_, lines)| lines), node);
            rows.push(row(&node.name, &node.address, held.into_iter().chain(answer.columns())));
        }
        print_table(&rows);
        if let Some((by, _)) = &witness {
            println!(
                "UN up, SN suspect, DN down, ?N never heard of, and for how long: as {} holds it.",
                by.name
            );
            if !joining.is_empty() {
                println!("J for N: joining, which owns nothing yet.");
            }
        }
        println!(
            "Requests, files and memory are those of all cores of a node together; --all shows each core's, and more."
        );
    }
    let silent: Vec<String> = answers
        .iter()
        .filter(|(node, _)| !node.is_joining)
        .filter_map(|(node, answer)| Some(format!("{} ({})", node.name, answer.silence()?)))
        .collect();
    if silent.is_empty() {
        Ok(())
    } else {
        Err(Failure::failed(format!("no answer from {}", silent.join(", "))))
    }
}

/// A node in the table.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    id: NodeId,
    name: String,
    address: String,
    /// Where each core answers by itself.
    cores: Vec<String>,
    is_joining: bool,
}

/// What the cores of a node say, or why one says nothing.
struct Answer(Vec<Result<String, String>>);

impl Answer {
    /// What its first core says, which speaks for the node.
    fn first(&self) -> Option<&str> {
        self.0.first()?.as_deref().ok()
    }

    /// Its own columns: what the cores that answer say together.
    fn columns(&self) -> [String; COLUMNS.len()] {
        let mut sums = [None; COLUMNS.len()];
        for lines in self.0.iter().filter_map(|said| Some(lines(said.as_ref().ok()?))) {
            for (sum, (_, name)) in sums.iter_mut().zip(COLUMNS) {
                let value: Option<u64> = lines.get(name).and_then(|value| value.parse().ok());
                *sum = value.map_or(*sum, |value| Some(sum.unwrap_or(0) + value));
            }
        }
        sums.map(|sum| sum.map_or_else(|| "-".to_owned(), |sum| sum.to_string()))
    }

    /// Why a core does not answer, if one does not.
    fn silence(&self) -> Option<String> {
        let (core, why) =
            self.0.iter().enumerate().find_map(|(core, said)| Some((core, said.as_ref().err()?)))?;
        Some(if self.first().is_some() { format!("core {core}: {why}") } else { why.clone() })
    }
}

impl Shown {
    fn member(entry: &NodeEntry) -> Shown {
        let (name, address) = (entry.name.clone(), entry.contact.clone());
        let cores = if entry.endpoints.is_empty() { vec![address.clone()] } else { entry.endpoints.clone() };
        Shown { id: entry.id, name, address, cores, is_joining: false }
    }

    fn is_up(&self, lines: Option<&Lines<'_>>) -> bool {
        held(lines, self)[0].starts_with('U')
    }
}

/// The nodes that a node's lines say are joining, and that are no members of the topology at hand.
fn joining(lines: &Lines<'_>, topology: &Topology) -> Vec<Shown> {
    let id = |line: &str| line.strip_prefix("member.")?.strip_suffix(".joining")?.parse().ok().map(NodeId);
    let mut ids: Vec<NodeId> = lines.keys().filter_map(|line| id(line)).collect();
    ids.retain(|id| topology.node(*id).is_none());
    ids.sort_unstable();
    let shown = |id: NodeId| {
        let line = |field: &str| lines.get(format!("member.{}.{field}", id.0).as_str());
        let text = |field: &str| line(field).map_or("-", |value| value).to_owned();
        let address = text("address");
        Shown { id, name: text("name"), cores: vec![address.clone()], address, is_joining: true }
    };
    ids.into_iter().map(shown).collect()
}

/// Asks every core of a node; the others only if the first answers.
fn ask(client: &mut BlockingClient, node: &Shown, options: ReadOptions) -> Answer {
    let mut said = Vec::new();
    for address in &node.cores {
        said.push(client.status_at(address, options).map_err(|error| error.to_string()));
        if said[0].is_err() {
            break;
        }
    }
    Answer(said)
}

fn row(name: &str, address: &str, rest: impl Iterator<Item = String>) -> Vec<String> {
    [name, address].into_iter().map(str::to_owned).chain(rest).collect()
}

type Lines<'t> = BTreeMap<&'t str, &'t str>;

fn lines(text: &str) -> Lines<'_> {
    text.lines().filter_map(|line| line.split_once(' ')).collect()
}

/// What a node's lines say of another: state, age, cores, version.
fn held(lines: Option<&Lines<'_>>, node: &Shown) -> [String; HELD.len()] {
    let own = format!("member.{}", node.id.0);
    let line = |name: &str| lines.and_then(|lines| lines.get(name)).copied();
    let mut words = line(&own).unwrap_or("unknown").split(' ');
    let state = match words.next() {
        Some("up") => "U",
        Some("suspect") => "S",
        Some("down") => "D",
        _ => "?",
    };
    let state = format!("{state}{}", if node.is_joining { "J" } else { "N" });
    let age = words.next().unwrap_or("-");
    let cores = line(&format!("{own}.cores")).map_or_else(|| "-".to_owned(), cores);
    let version = line(&format!("{own}.version")).unwrap_or("-");
    [state, age.to_owned(), cores, version.to_owned()]
}

/// The cores of a node in few words: their number, and which do not run.
fn cores(line: &str) -> String {
    let amiss: Vec<String> = line
        .split(',')
        .filter_map(|core| {
            let mut parts = core.split(':');
            let (number, verdict, age) = (parts.next()?, parts.next()?, parts.next()?);
            (verdict != "running").then(|| format!("{number} {verdict} {age}"))
        })
        .collect();
    let count = line.split(',').count();
    if amiss.is_empty() { count.to_string() } else { format!("{count} ({})", amiss.join(", ")) }
}

/// Prints rows as columns, the first row being their titles.
pub(crate) fn print_table(rows: &[Vec<String>]) {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("{}", cells.join("  ").trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrite_wire::{ClusterId, Epoch, HashSeed, Tables};

    #[test]
    fn columns_are_found_by_name_and_added_up_over_the_cores_that_answer() {
        let text = "node 1\ncores 2\nputs 4\nengine.tables 7\nodd\nmemory.used_bytes 8\n".to_owned();
        let other = "core 1\nputs 5\ngets 1\n".to_owned();
        let answer = Answer(vec![Ok(text), Ok(other), Err("timeout".to_owned())]);
        assert_eq!(answer.columns(), ["-", "1", "9", "7", "-", "8"]);
        assert_eq!(answer.silence().as_deref(), Some("core 2: timeout"));
        let silent = Answer(vec![Err("timeout".to_owned())]);
        assert_eq!(silent.columns(), COLUMNS.map(|_| "-"));
        assert_eq!((silent.first(), silent.silence().as_deref()), (None, Some("timeout")));
    }

    #[test]
    fn what_a_node_holds_of_others_is_a_state_an_age_cores_and_a_version() {
        let text = "member.1 up 90s generation 17\nmember.1.cores 0:running:90s\nmember.1.version 0.1.0\n\
                    member.2 suspect 1s generation 18\nmember.2.cores 0:running:9s,1:stalled:3s,2:fenced:8s\n\
                    member.3 down 12s generation 4\nmember.4 unknown\n";
        let lines = lines(text);
        let of = |node| held(Some(&lines), &shown(node, false));
        assert_eq!(of(1), ["UN", "90s", "1", "0.1.0"]);
        assert_eq!(of(2), ["SN", "1s", "3 (1 stalled 3s, 2 fenced 8s)", "-"]);
        assert_eq!(of(3), ["DN", "12s", "-", "-"]);
        assert_eq!([of(4), of(5)], [["?N", "-", "-", "-"]; 2]);
        assert_eq!(held(None, &shown(1, false)), ["?N", "-", "-", "-"]);
        assert_eq!(
            [1, 2, 3, 4].map(|node| held(Some(&lines), &shown(node, true))[0].clone()),
            ["UJ", "SJ", "DJ", "?J"]
        );
    }

    fn shown(node: u16, is_joining: bool) -> Shown {
        let (name, address) = (format!("n{node}"), format!("10.0.0.{node}:7100"));
        Shown { id: NodeId(node), name, cores: vec![address.clone()], address, is_joining }
    }

    #[test]
    fn nodes_that_are_joining_are_found_in_what_a_member_says() {
        let member = |id: u16| NodeEntry {
            id: NodeId(id),
            incarnation: 0,
            name: format!("n{id}"),
            rack: String::new(),
            datacenter: String::new(),
            contact: format!("10.0.0.{id}:7100"),
            endpoints: Vec::new(),
            core_of_vnode: Vec::new(),
        };
        let topology = Topology {
            epoch: Epoch(1),
            cluster: ClusterId([1; 16]),
            hash_seed: HashSeed(7),
            nodes: [1, 12].map(member).into(),
            tables: Tables::only_default(2),
            replicas: Vec::new(),
            vnode_epochs: Vec::new(),
        };
        let text = "member.1 up 9s\nmember.9 up 9s\nmember.9.name n9\nmember.9.address 10.0.0.9:7100\n\
                    member.9.joining true\nmember.12.joining true\nmember.30.joining true\nmember.x.joining true\n";
        let lines = lines(text);
        let found = joining(&lines, &topology);
        let (name, address) = ("-".to_owned(), "-".to_owned());
        let nameless =
            Shown { id: NodeId(30), name, cores: vec![address.clone()], address, is_joining: true };
        assert_eq!(found, [shown(9, true), nameless], "the witness may know an older topology");
        assert!(found[0].is_up(Some(&lines)) && !found[1].is_up(Some(&lines)));
    }
}
