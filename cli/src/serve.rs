//! `ferrite serve`: one node of a cluster, in the foreground.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use ferrite_node::config::{Config, Node};
use ferrite_node::server;
use rustix::process::{Signal, getpid, kill_process};

use crate::outcome::Failure;

/// Run a node of a cluster until SIGTERM or Ctrl-C
///
/// Once the node accepts connections, one line beginning with "ready" is printed on stdout; logs go to stderr. On SIGTERM it
/// stops accepting, finishes what is under way, syncs and exits with 0. If the log of a core is not closed after ten seconds,
/// it says why and exits with 1; the next start then reads it as after a kill.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The cluster's configuration
    #[arg(long, short, value_name = "FILE", default_value = "ferrite.toml")]
    config: PathBuf,
    /// Which of its nodes to be; needed if there are several
    #[arg(long, short, value_name = "NAME")]
    node: Option<String>,
    /// What to log: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: tracing::Level,
    /// Stop when standard input ends: for whoever starts nodes and must not leave them behind
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let config = Config::load(&args.config).map_err(Failure::usage)?;
    let node = chosen(&config, args)?;
    tracing_subscriber::fmt()
        .with_max_level(args.log)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    if args.stop_with_stdin {
        stop_with_stdin()?;
    }
    server::serve(&config, node, |started| {
        let cores = started.cores;
        // Whoever started the node may wait for this line, or may not listen at all.
        let _ = writeln!(
            io::stdout(),
            "ready: node {} of cluster {} at {} (cores: {cores}, data: {})",
            node.name,
            config.cluster.name,
            node.address,
            started.directory.path().display()
        );
    })
    .map_err(|error| Failure::with_code(error.exit_code(), error))
}

/// Tells this process to stop, as with SIGTERM, once the other end of its standard input is closed.
fn stop_with_stdin() -> Result<(), Failure> {
    let watch = || {
        // Whatever comes is of no interest, and an error is an end too.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = kill_process(getpid(), Signal::TERM);
    };
    let thread = std::thread::Builder::new().name("stdin".to_owned()).spawn(watch);
    thread.map(drop).map_err(|error| Failure::failed(format!("cannot start a thread: {error}")))
}

fn chosen<'a>(config: &'a Config, args: &Args) -> Result<&'a Node, Failure> {
    let names = || config.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ");
    match &args.node {
        Some(name) => config.node(name).ok_or_else(|| {
            let file = args.config.display();
            Failure::usage(format!("{file} has no node \"{name}\": it has {}", names()))
        }),
        None if config.nodes.len() == 1 => Ok(&config.nodes[0]),
        None => Err(Failure::usage(format!("say which node to be: --node with one of {}", names()))),
    }
}
