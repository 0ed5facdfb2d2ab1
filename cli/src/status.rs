//! `ferrite status`: what the nodes say of themselves, and one of them of all.

use std::collections::BTreeMap;

use ferrite_client::{BlockingClient, ReadOptions};
use ferrite_wire::{NodeEntry, NodeId};

use crate::connection::ClusterArgs;
use crate::outcome::Failure;

/// Show the nodes of a cluster and how they are; exit code 1 if one does not answer
///
/// Whether a node is up (UN), suspect (SN), down (DN) or was never heard of (?N), for how long, how its cores are and which version it
/// runs is what the first node that answers holds of it; the other columns are its own answer.
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
    let answers: Vec<(&NodeEntry, Result<String, String>)> =
        topology.nodes.iter().map(|node| (node, ask(&mut client, node, options))).collect();
    let witness = answers.iter().find_map(|(node, answer)| Some((*node, lines(answer.as_ref().ok()?))));
    if args.all {
        for (node, answer) in &answers {
            match (answer, &witness) {
                (Ok(text), _) => println!("# {} {}\n{}", node.name, node.contact, text.trim_end()),
                (Err(_), Some((by, lines))) => {
                    println!("# {} {} does not answer; {} says of it", node.name, node.contact, by.name);
                    let own = format!("member.{}", node.id.0);
                    let of_it = |name: &str| name == own || name.starts_with(&format!("{own}."));
                    lines
                        .iter()
                        .filter(|(name, _)| of_it(name))
                        .for_each(|(name, value)| println!("{name} {value}"));
                }
                (Err(_), None) => println!("# {} {} does not answer", node.name, node.contact),
            }
        }
    } else {
        println!(
            "cluster {}: {} nodes, {} vnodes, topology epoch {}",
            topology.cluster,
            topology.nodes.len(),
            topology.vnodes(),
            topology.epoch.0
        );
        let titles = HELD.into_iter().chain(COLUMNS.map(|(title, _)| title)).map(str::to_owned);
        let mut rows = vec![row("NODE", "ADDRESS", titles)];
        for (node, answer) in &answers {
            let held = held(witness.as_ref().map(|(_, lines)| lines), node.id);
            let own = answer.as_ref().map_or(COLUMNS.map(|_| "-".to_owned()), |text| columns(text));
            rows.push(row(&node.name, &node.contact, held.into_iter().chain(own)));
        }
        print_table(&rows);
        if let Some((by, _)) = &witness {
            println!(
                "UN up, SN suspect, DN down, ?N never heard of, and for how long: as {} holds it.",
                by.name
            );
        }
        println!("Requests, files and memory are those of each node's first core; --all shows more.");
    }
    let silent: Vec<String> = answers
        .iter()
        .filter_map(|(node, answer)| Some(format!("{} ({})", node.name, answer.as_ref().err()?)))
        .collect();
    if silent.is_empty() {
        Ok(())
    } else {
        Err(Failure::failed(format!("no answer from {}", silent.join(", "))))
    }
}

fn ask(client: &mut BlockingClient, node: &NodeEntry, options: ReadOptions) -> Result<String, String> {
    client.status_at(&node.contact, options).map_err(|error| error.to_string())
}

fn row(name: &str, address: &str, rest: impl Iterator<Item = String>) -> Vec<String> {
    [name, address].into_iter().map(str::to_owned).chain(rest).collect()
}

type Lines<'t> = BTreeMap<&'t str, &'t str>;

fn lines(text: &str) -> Lines<'_> {
    text.lines().filter_map(|line| line.split_once(' ')).collect()
}

fn columns(text: &str) -> [String; COLUMNS.len()] {
    let lines = lines(text);
    COLUMNS.map(|(_, name)| lines.get(name).map_or("-", |value| value).to_owned())
}

/// What a node's lines say of another: state, age, cores, version.
fn held(lines: Option<&Lines<'_>>, node: NodeId) -> [String; HELD.len()] {
    let own = format!("member.{}", node.0);
    let line = |name: &str| lines.and_then(|lines| lines.get(name)).copied();
    let mut words = line(&own).unwrap_or("unknown").split(' ');
    let state = match words.next() {
        Some("up") => "UN",
        Some("suspect") => "SN",
        Some("down") => "DN",
        _ => "?N",
    };
    let age = words.next().unwrap_or("-");
    let cores = line(&format!("{own}.cores")).map_or_else(|| "-".to_owned(), cores);
    let version = line(&format!("{own}.version")).unwrap_or("-");
    [state.to_owned(), age.to_owned(), cores, version.to_owned()]
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

    #[test]
    fn columns_are_found_by_name() {
        let found = columns("node 1\ncores 2\nputs 4\nengine.tables 7\nodd\nmemory.used_bytes 8\n");
        assert_eq!(found, ["-", "-", "4", "7", "-", "8"]);
    }

    #[test]
    fn what_a_node_holds_of_others_is_a_state_an_age_cores_and_a_version() {
        let text = "member.1 up 90s generation 17\nmember.1.cores 0:running:90s\nmember.1.version 0.1.0\n\
                    member.2 suspect 1s generation 18\nmember.2.cores 0:running:9s,1:stalled:3s,2:fenced:8s\n\
                    member.3 down 12s generation 4\nmember.4 unknown\n";
        let lines = lines(text);
        let of = |node| held(Some(&lines), NodeId(node));
        assert_eq!(of(1), ["UN", "90s", "1", "0.1.0"]);
        assert_eq!(of(2), ["SN", "1s", "3 (1 stalled 3s, 2 fenced 8s)", "-"]);
        assert_eq!(of(3), ["DN", "12s", "-", "-"]);
        assert_eq!([of(4), of(5)], [["?N", "-", "-", "-"]; 2]);
        assert_eq!(held(None, NodeId(1)), ["?N", "-", "-", "-"]);
    }
}
