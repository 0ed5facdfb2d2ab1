//! `ferrite status`: what the nodes say of themselves.

use std::collections::BTreeMap;

use ferrite_client::{BlockingClient, ReadOptions};
use ferrite_wire::NodeEntry;

use crate::connection::ClusterArgs;
use crate::outcome::Failure;

/// Show the nodes of a cluster and how they are; exit code 1 if one does not answer
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print every `name value` line of each node instead of a table
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Columns of the table, after name and address: a title, and the line it comes from.
const COLUMNS: [(&str, &str); 8] = [
    ("CORES", "cores"),
    ("FENCED", "fenced"),
    ("CLIENTS", "connections.clients"),
    ("GETS", "gets"),
    ("PUTS", "puts"),
    ("TABLES", "engine.tables"),
    ("BYTES", "engine.table_bytes"),
    ("MEMORY", "memory.used_bytes"),
];

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut client = args.cluster.connect()?;
    let topology = client.topology().map_err(Failure::failed)?;
    let down_after = args.cluster.timeout().div_f32(topology.nodes.len().clamp(1, 3) as f32);
    let options = ReadOptions { level: None, timeout: Some(down_after) };
    let mut silent = Vec::new();
    let mut rows = vec![row("NODE", "ADDRESS", "STATE", COLUMNS.map(|(title, _)| title.to_owned()))];
    for node in &topology.nodes {
        let answer = ask(&mut client, node, options);
        match &answer {
            Ok(text) if args.all => println!("# {} {}\n{}", node.name, node.contact, text.trim_end()),
            Ok(text) => rows.push(row(&node.name, &node.contact, "up", columns(text))),
            Err(why) => {
                silent.push(format!("{} ({why})", node.name));
                rows.push(row(&node.name, &node.contact, "silent", COLUMNS.map(|_| "-".to_owned())));
            }
        }
    }
    if !args.all {
        println!(
            "cluster {}: {} nodes, {} vnodes, topology epoch {}",
            topology.cluster,
            topology.nodes.len(),
            topology.vnodes(),
            topology.epoch.0
        );
        print_table(&rows);
        println!("Requests, tables and memory are those of each node's first core; --all shows more.");
    }
    if silent.is_empty() {
        Ok(())
    } else {
        Err(Failure::failed(format!("no answer from {}", silent.join(", "))))
    }
}

fn ask(client: &mut BlockingClient, node: &NodeEntry, options: ReadOptions) -> Result<String, String> {
    client.status_at(&node.contact, options).map_err(|error| error.to_string())
}

fn row(name: &str, address: &str, state: &str, rest: [String; COLUMNS.len()]) -> Vec<String> {
    [name, address, state].into_iter().map(str::to_owned).chain(rest).collect()
}

fn columns(text: &str) -> [String; COLUMNS.len()] {
    let lines: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    COLUMNS.map(|(_, name)| lines.get(name).map_or("-", |value| value).to_owned())
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
        let found = columns("node 1\ncores 2\nfenced false\nengine.tables 7\nodd\nmemory.used_bytes 8\n");
        assert_eq!(found, ["2", "false", "-", "-", "-", "7", "-", "8"]);
    }
}
