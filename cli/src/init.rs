//! `ferrite init`: a cluster's birth. Draws its identity and writes the configuration that all its nodes will read.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ferrite_node::config::{Address, Birth, ByteSize, Config, Problem};
use ferrite_node::startup;
use ferrite_wire::{ClusterId, HashSeed};

use crate::outcome::Failure;

/// Make a new cluster: draw its identity and write the configuration of its nodes
///
/// The file is the same for every node; copy it to each machine. It is never overwritten, for the identity in it is
/// stamped into the nodes' data directories.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The cluster's name
    #[arg(long, default_value = "ferrite")]
    name: String,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=4096))]
    nodes: u16,
    /// Contact address: one, and further nodes get rising ports on the same host; or one per node
    #[arg(long = "address", value_name = "HOST:PORT", default_value = "127.0.0.1:7100")]
    addresses: Vec<Address>,
    /// Cores of each node; nodes that share a host are spread over its CPUs
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    cores: u16,
    /// Replicas of each record [default: 3, or as many as there are nodes]
    #[arg(long)]
    replication: Option<usize>,
    /// Equal slices of the token circle, a power of two, fixed for life [default: 4096; 16384 beyond 100 nodes]
    #[arg(long)]
    vnodes: Option<u32>,
    /// Memory of each node, like 512MiB [default: a quarter of the machine's, at most 4GiB]
    #[arg(long)]
    memory: Option<ByteSize>,
    /// Parent of the nodes' data directories [default: "data" beside the configuration]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Allow addresses that others can reach, although there is no authentication yet
    #[arg(long)]
    allow_insecure_network: bool,
    /// The file to write
    #[arg(long, short, value_name = "FILE", default_value = "ferrite.toml")]
    output: PathBuf,
}

/// Writes the configuration and says what to do with it.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let birth = birth(args)?;
    let given = args.addresses.len();
    let text = birth.render().ok_or_else(|| {
        Failure::usage(format!(
            "{given} addresses do not place {} nodes: give one --address whose following ports are free, or one per node",
            args.nodes
        ))
    })?;
    let config = Config::parse(&text, &args.output).map_err(|error| match error.problem {
        Problem::InsecureNetwork { address } => Failure::usage(format!(
            "{address} can be reached by others and this version has no authentication: use a loopback address, or \
             --allow-insecure-network if the network itself is trusted"
        )),
        problem => Failure::usage(problem),
    })?;
    write_new(&args.output, &text)?;
    let output = args.output.display();
    println!(
        "Wrote {output}: cluster \"{}\" ({}), {} nodes, {} replicas of each record.",
        config.cluster.name,
        config.cluster.id,
        config.nodes.len(),
        config.cluster.replication
    );
    println!("Start each node:");
    for node in &config.nodes {
        println!("  ferrite serve --config {output} --node {}", node.name);
    }
    Ok(())
}

fn birth(args: &Args) -> Result<Birth, Failure> {
    let mut random = [0; 24];
    getrandom::fill(&mut random).map_err(|error| Failure::failed(format!("no randomness: {error}")))?;
    let data = match &args.data {
        None => PathBuf::from("data"),
        // What was typed is relative to here, and paths in the file are relative to the file.
        Some(typed) => std::path::absolute(typed)
            .map_err(|error| Failure::usage(format!("--data {}: {error}", typed.display())))?,
    };
    Ok(Birth {
        name: args.name.clone(),
        id: ClusterId(std::array::from_fn(|at| random[at])),
        hash_seed: HashSeed(u64::from_le_bytes(std::array::from_fn(|at| random[16 + at]))),
        nodes: usize::from(args.nodes),
        addresses: args.addresses.clone(),
        cores: usize::from(args.cores),
        cpus: startup::allowed_cpus().map_err(Failure::failed)?,
        vnodes: args.vnodes,
        replication: args.replication,
        memory: args.memory,
        allow_insecure_network: args.allow_insecure_network,
        data,
    })
}

fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let written = OpenOptions::new().write(true).create_new(true).open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::usage(format!(
            "{} exists and holds a cluster's identity: name another file with --output",
            path.display()
        )),
        _ => Failure::failed(format!("cannot write {}: {error}", path.display())),
    })
}
