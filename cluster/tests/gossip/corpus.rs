//! The corpus of the fuzz target, replayed: what once was found, or is worth starting from, stays tested on stable.
//!
//! `FERRITE_CORPUS=write` writes what is worth starting from: packets of a small cluster that was just begun.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ferrite_cluster::gossip::{Membership, Output};

use crate::exercise::{member, packet};

/// Fewest inputs that the corpus has.
const INPUTS_MIN: usize = 8;
/// Most packets of a kind that are written.
const OF_A_KIND_MAX: usize = 2;

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/gossip")
}

#[test]
fn packets() {
    if std::env::var("FERRITE_CORPUS").is_ok_and(|word| word == "write") {
        write();
    }
    let mut count = 0;
    for entry in std::fs::read_dir(corpus()).expect("the corpus is part of the project") {
        packet(&std::fs::read(entry.expect("readable").path()).expect("readable"));
        count += 1;
    }
    assert!(count >= INPUTS_MIN, "only {count} inputs");
}

/// What the cluster's first member was sent.
fn write() {
    let mut seen = BTreeSet::new();
    let mut kinds = std::collections::BTreeMap::<(u8, u8), usize>::new();
    std::fs::create_dir_all(corpus()).expect("a directory");
    for bytes in conversation() {
        // The kind of packet, and of message in it: behind `about`, the length and the sender.
        let (kind, at) = (bytes[27], 28 + 1 + 2 + 17 + 2 + 17);
        let message = if kind == 3 && bytes[28] == 0 { bytes[at] } else { 0 };
        let of_kind = kinds.entry((kind, message)).or_default();
        if *of_kind < OF_A_KIND_MAX && seen.insert(bytes.clone()) {
            *of_kind += 1;
            let name = format!("kind-{kind}-message-{message}-{of_kind}");
            std::fs::write(corpus().join(name), &bytes).expect("it can be written");
        }
    }
}

/// Packets to the first of three members that find each other, one of which then falls silent.
fn conversation() -> Vec<Vec<u8>> {
    use ferrite_cluster::gossip::{CoreReport, Fence, Generation, GossipOptions, Identity, Start};
    use ferrite_wire::{Epoch, NodeId};
    let address = |node: u8| std::net::SocketAddr::from(([10, 0, 0, node], 7_000));
    let other = |node: u8| {
        let start = Start {
            me: Identity::new(NodeId(node.into()), Generation(5), address(node)),
            scope: crate::exercise::SCOPE,
            version: "0.1.0".to_owned(),
            name: format!("n{node}"),
            seeds: vec![address(1)],
            random_seed: node.into(),
            options: GossipOptions::default(),
        };
        Membership::new(0, start)
    };
    let mut members = [member(), other(2), other(3)];
    let (mut to_first, mut waiting) = (Vec::new(), Vec::<(std::net::SocketAddr, Vec<u8>)>::new());
    for now_ms in (0..40_000).step_by(10) {
        let is_silent = |at: usize| at == 2 && now_ms > 8_000;
        let mut out = Vec::new();
        for (to, bytes) in std::mem::take(&mut waiting) {
            let Some(at) = (0..3).find(|at| address(*at as u8 + 1) == to) else { continue };
            if at == 0 {
                to_first.push(bytes.clone());
            }
            if !is_silent(at) {
                members[at].on_message(now_ms, &bytes, &mut out).expect("their own packets are sound");
            }
        }
        for (at, member) in members.iter_mut().enumerate().filter(|(at, _)| !is_silent(*at)) {
            let core = CoreReport { progress: now_ms as u32, fence: [Fence::Open, Fence::Fenced][at % 2] };
            member.report(now_ms, 10, Epoch(1), &[core]);
            member.tick(now_ms, &mut out);
        }
        waiting.extend(out.into_iter().filter_map(|output| match output {
            Output::Send { to, bytes, .. } => Some((to, bytes)),
            Output::Verdict { .. } | Output::Core { .. } | Output::Renewed { .. } => None,
        }));
    }
    to_first
}
