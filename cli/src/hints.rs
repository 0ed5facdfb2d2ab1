//! `ferrite hints`: what nodes keep for others that missed writes, and whether it is delivered.

use std::collections::BTreeMap;

use ferrite_client::{BlockingClient, HintsAction, ReadOptions};
use ferrite_node::config::ByteSize;
use ferrite_wire::NodeEntry;

use crate::connection::ClusterArgs;
use crate::outcome::Failure;
use crate::status::print_table;

/// Show what nodes keep for others that missed writes, stop delivering it, or go on; exit code 1 if a node does not answer
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Show what is kept, for whom, how old it is, and what becomes of it
    Status(Of),
    /// Stop delivery until it is resumed, or the node restarted; hints are taken as before
    Pause(Of),
    /// Deliver again
    Resume(Of),
}

#[derive(clap::Args)]
struct Of {
    /// Only this node's
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What the cores of a node say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    /// By the name of whom it is for.
    kept: BTreeMap<String, Kept>,
    /// Most bytes that a core keeps, and that it keeps of what one replica missed; 0 = not told.
    most: (u64, u64),
}

/// What the cores of a node keep for one other node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kept {
    /// By core; of several the first that is not "empty" is shown.
    state: String,
    count: u64,
    bytes: u64,
    oldest_s: u64,
    per_s: u64,
    delivered: u64,
    /// By reason.
    dropped: BTreeMap<String, u64>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let (of, action) = match &args.action {
        Action::Status(of) => (of, HintsAction::Tell),
        Action::Pause(of) => (of, HintsAction::Pause),
        Action::Resume(of) => (of, HintsAction::Resume),
    };
    let mut client = of.cluster.connect()?;
    let topology = client.topology().map_err(Failure::failed)?;
    let chosen: Vec<&NodeEntry> =
        topology.nodes.iter().filter(|node| of.node.as_ref().is_none_or(|name| *name == node.name)).collect();
    if chosen.is_empty() {
        let name = of.node.as_deref().unwrap_or_default();
        let names: Vec<&str> = topology.nodes.iter().map(|node| node.name.as_str()).collect();
        return Err(Failure::usage(format!(
            "the cluster has no node \"{name}\": it has {}",
            names.join(", ")
        )));
    }
    let options = ReadOptions { level: None, timeout: Some(of.cluster.timeout()) };
    let titles = ["NODE", "FOR", "STATE", "HINTS", "BYTES", "OLDEST", "PER SECOND", "DELIVERED", "DROPPED"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    let (mut silent, mut bounds) = (Vec::new(), Vec::new());
    for node in chosen {
        match ask(&mut client, node, action, options) {
            Ok(told) => {
                rows.extend(told.kept.iter().map(|(name, kept)| row(&node.name, name, kept)));
                bounds.extend((told.most.0 > 0).then(|| (node.name.clone(), told.most)));
            }
            Err(why) => silent.push(format!("{} ({why})", node.name)),
        }
    }
    if action == HintsAction::Tell {
        if rows.len() > 1 {
            print_table(&rows);
        } else {
            println!("nothing is kept for anybody");
        }
        for (name, (all, one)) in bounds {
            let (all, one) = (ByteSize(all), ByteSize(one));
            println!("each core of {name} keeps at most {all}, and {one} of what one node missed");
        }
    }
    match silent.is_empty() {
        true => Ok(()),
        false => Err(Failure::failed(format!("no answer from {}", silent.join(", ")))),
    }
}

/// Asks every core of a node.
fn ask(
    client: &mut BlockingClient,
    node: &NodeEntry,
    action: HintsAction,
    options: ReadOptions,
) -> Result<Told, String> {
    let cores = match node.endpoints.is_empty() {
        true => std::slice::from_ref(&node.contact),
        false => &node.endpoints[..],
    };
    let mut told = Told::default();
    for address in cores {
        let text = client.hints_at(address, action, options).map_err(|error| error.to_string())?;
        add(&mut told, &text);
    }
    Ok(told)
}

/// Adds what one core says. Lines that are not known are passed over: a newer node may say more.
fn add(told: &mut Told, text: &str) {
    let Told { kept, most } = told;
    for (name, rest) in text.lines().filter_map(|line| line.split_once(' ')) {
        if let Some(target) = name.strip_prefix("hints.for.") {
            let of = kept.entry(target.to_owned()).or_default();
            let mut words = rest.split(' ');
            let state = words.next().unwrap_or_default();
            if of.state.is_empty() || of.state == "empty" {
                of.state = state.to_owned();
            }
            for (word, value) in words.filter_map(|word| word.split_once('=')) {
                let value: u64 = value.parse().unwrap_or(0);
                match word {
                    "count" => of.count += value,
                    "bytes" => of.bytes += value,
                    "oldest_s" => of.oldest_s = of.oldest_s.max(value),
                    "delivered_per_s" => of.per_s += value,
                    "delivered" => of.delivered += value,
                    _ => {}
                }
            }
        } else if let Some((target, reason)) =
            name.strip_prefix("hints.dropped.").and_then(|of| of.rsplit_once('.'))
        {
            let of = kept.entry(target.to_owned()).or_default();
            *of.dropped.entry(reason.to_owned()).or_default() += rest.parse::<u64>().unwrap_or(0);
        } else if name == "hints.bytes_max" {
            most.0 = rest.parse().unwrap_or(0);
        } else if name == "hints.bytes_max_for_one" {
            most.1 = rest.parse().unwrap_or(0);
        }
    }
}

fn row(node: &str, target: &str, kept: &Kept) -> Vec<String> {
    let dropped: Vec<String> =
        kept.dropped.iter().map(|(reason, count)| format!("{count} {}", reason.replace('_', " "))).collect();
    let dropped = if dropped.is_empty() { "0".to_owned() } else { dropped.join(", ") };
    vec![
        node.to_owned(),
        target.to_owned(),
        kept.state.clone(),
        kept.count.to_string(),
        kept.bytes.to_string(),
        format!("{}s", kept.oldest_s),
        kept.per_s.to_string(),
        kept.delivered.to_string(),
        dropped,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_added_up_by_target_and_reason() {
        let mut told = Told::default();
        add(
            &mut told,
            "hints.paused false\nhints.count 3\nhints.bytes_max 4096\nhints.bytes_max_for_one 1024\n\
             hints.for.node-9 orphaned count=4 bytes=80\n\
             hints.for.n3 empty count=0 bytes=0 oldest_s=0 delivered_per_s=0 written=9 delivered=9 window=8 in_flight=0\n\
             hints.dropped.n3.too_old 2\n",
        );
        add(
            &mut told,
            "hints.for.n3 waiting count=3 bytes=70 oldest_s=12 delivered_per_s=5 written=9 delivered=6 news=1\n\
             hints.dropped.n3.too_old 1\nhints.dropped.n.4.full 1\n",
        );
        let kept = &told.kept;
        let n3 = row("n1", "n3", &kept["n3"]);
        assert_eq!(n3, ["n1", "n3", "waiting", "3", "70", "12s", "5", "15", "3 too old"]);
        assert_eq!(kept["n.4"].dropped["full"], 1, "names may have dots");
        assert_eq!((&*kept["node-9"].state, kept["node-9"].count), ("orphaned", 4));
        assert_eq!(told.most, (4096, 1024));
    }
}
