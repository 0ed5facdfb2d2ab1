//! Connections that do nothing wrong but too little: silent, half-sent, never read. They hold nobody up and cost a bounded amount.

use std::collections::BTreeSet;
use std::io::Write;

use ferrite_wire::{ErrorCode, FRAME_HEADER_BYTES, FrameKind, Order, RequestId, Role, limits};

use crate::bystander::Bystander;
use crate::cluster::{Cluster, WITHIN, Wanted, wait_for};
use crate::wire::{self, Raw, frame, frame_of, hello, peer, request, request_of};

const ONE_NODE: Wanted<'static> = Wanted { nodes: 1, cores: 2, server: "" };
const SILENT: usize = 200;
const SLOW_READERS: usize = 300;
/// Gets of the longest value that each slow reader sends: their answers would be 2 GiB, and 600 GiB for all of them.
const UNREAD_GETS: u64 = 2_048;
/// Gets of the longest value that a late reader sends before it reads.
const LATE_GETS: u64 = 100;
/// The memory that a node is given here, and a tenth of it more: what its process may take, whoever is connected.
const MEMORY_BYTES_MAX: u64 = (64 << 20) * 11 / 10;

#[test]
fn what_stays_half_sent_is_closed_with_a_reason_and_holds_nobody_up() {
    let cluster = Cluster::start(ONE_NODE);
    let mut bystander = Bystander::start(&cluster);
    let greeting = hello(cluster.local.config().cluster.id, Role::Client);
    let put = request(&wire::put(b"half", &[7; 100_000]));
    let mut waiting = Vec::new();
    let mut half = |name: &'static str, role: Option<Role<'_>>, bytes: &[u8]| {
        let mut raw = match role {
            Some(role) => Raw::greeted(&cluster, role),
            None => Raw::connect(&cluster),
        };
        raw.send(bytes);
        waiting.push((name, raw));
    };
    half("no hello", None, b"");
    half("half a hello's header", None, &greeting[..FRAME_HEADER_BYTES / 2]);
    half("half a hello's body", None, &greeting[..FRAME_HEADER_BYTES + 20]);
    half("a header less a byte", Some(Role::Client), &put[..FRAME_HEADER_BYTES - 1]);
    half("a header without its body", Some(Role::Client), &put[..FRAME_HEADER_BYTES]);
    half("half a body", Some(Role::Client), &put[..put.len() / 2]);
    half("a body less a byte", Some(Role::Client), &put[..put.len() - 1]);
    half("half a peer's frame", Some(peer()), &frame(FrameKind::ReplicaWrite, &[0; 500])[..100]);
    half(
        "one frame and a half",
        Some(Role::Client),
        &[&frame(FrameKind::Ping, b"")[..], &put[..40]].concat(),
    );
    bystander.is_served("while they are half sent");
    for (name, mut raw) in waiting {
        let said = raw.until_closed();
        let last = said.last().unwrap_or_else(|| panic!("{name}: closed without a word"));
        assert_eq!((last.code, last.request), (Some(ErrorCode::Malformed), RequestId(0)), "{name}");
    }
    bystander.is_served("after they were closed");
    let mut client = cluster.client();
    let read = client.get(ferrite_client::Key::plain(b"half"), ferrite_client::ReadOptions::default());
    assert_eq!(read, Ok(None), "half a put is none");
}

#[test]
fn two_hundred_silent_connections_hold_nobody_up() {
    let cluster = Cluster::start(ONE_NODE);
    let mut bystander = Bystander::start(&cluster);
    let mut client = cluster.client();
    let nameless: Vec<Raw> = (0..SILENT).map(|_| Raw::connect(&cluster)).collect();
    let mut greeted: Vec<Raw> = (0..SILENT).map(|_| Raw::greeted(&cluster, Role::Client)).collect();
    bystander.is_served("beside silent connections");
    assert!(cluster.status(&mut client, 0).number("connections.clients") >= SILENT as u64);
    for mut raw in nameless {
        let said = raw.until_closed();
        assert_eq!(
            said.last().and_then(|said| said.code),
            Some(ErrorCode::Malformed),
            "closed with a reason"
        );
    }
    for raw in &mut greeted {
        let (said, goes_on) = raw.until_pong_or_closed();
        assert!(goes_on && said.is_empty(), "whoever has greeted may be silent for ever");
    }
    drop(greeted);
    bystander.is_served("after they left");
    wait_for("the node forgets those who left", || {
        (cluster.status(&mut client, 0).number("connections.clients") < SILENT as u64).then_some(())
    });
}

#[test]
fn readers_that_never_read_cost_bounded_memory_and_hold_nobody_up() {
    // The queues between cores were not part of the memory, two of 64 MiB each; nor were four thousand reads that waited for the disk, nor short answers that
    // waited for another core by the hundred thousand.
    for cores in [1, 2] {
        let total = readers_that_never_read_cost(cores);
        assert!(total < MEMORY_BYTES_MAX, "{total} bytes in all beside them, at most {MEMORY_BYTES_MAX}");
    }
}

/// The most that the process took beside slow readers.
fn readers_that_never_read_cost(cores: usize) -> u64 {
    let cluster = Cluster::start(Wanted { cores, ..ONE_NODE });
    let mut bystander = Bystander::start(&cluster);
    let value = vec![b'v'; limits::VALUE_BYTES_MAX];
    let mut writer = Raw::greeted(&cluster, Role::Client);
    writer.send(&request(&wire::put(b"large", &value)));
    assert_eq!(writer.next().map(|said| said.kind), Some(FrameKind::Done));
    let before = cluster.resident_bytes_max(0);
    let mut body = Vec::new();
    wire::get(b"large").encode(&mut body);
    let gets: Vec<u8> = (1..=UNREAD_GETS)
        .flat_map(|number| frame_of(FrameKind::Get, RequestId(number), Order(0), &body))
        .collect();
    let readers: Vec<Raw> = (0..SLOW_READERS)
        .map(|_| {
            let raw = Raw::greeted(&cluster, Role::Client);
            raw.stream().set_nonblocking(true).expect("a flag");
            // As much as the node and the kernel take, which may be all; it is closed at once, or not.
            let _ = raw.stream().write(&gets);
            raw
        })
        .collect();
    bystander.is_served("beside readers that never read");
    bystander.is_served("a while later");
    let most = cluster.resident_bytes_max(0);
    let grown = most.saturating_sub(before);
    println!(
        "beside {SLOW_READERS} slow readers a process of {cores} cores takes {} MiB of {} that it may, {} MiB of them more than before",
        most >> 20,
        MEMORY_BYTES_MAX >> 20,
        grown >> 20
    );
    drop(readers);
    bystander.is_served("after they left");
    most
}

#[test]
fn a_reader_that_comes_late_to_many_large_answers_gets_them_or_is_told() {
    let cluster = Cluster::start(ONE_NODE);
    let value = vec![b'v'; limits::VALUE_BYTES_MAX];
    let mut raw = Raw::greeted(&cluster, Role::Client);
    let mut gets = Vec::new();
    // Of both cores: some are answered at once, some come back by way of a hop.
    for key in 0..8u8 {
        raw.send(&request(&wire::put(&[key], &value)));
        assert_eq!(raw.next().map(|said| said.kind), Some(FrameKind::Done));
    }
    for number in 1..=LATE_GETS {
        let given_us = WITHIN.as_micros() as u32;
        gets.extend(request_of(number, given_us, &wire::get(&[(number % 8) as u8])));
    }
    raw.send(&gets);
    let mut bystander = Bystander::start(&cluster);
    bystander.is_served("while nobody reads the answers");
    let (mut answered, mut values) = (BTreeSet::new(), 0);
    while answered.len() < LATE_GETS as usize {
        let said = raw.next().unwrap_or_else(|| panic!("closed after {} answers", answered.len()));
        assert!(answered.insert(said.request.0), "each once: {said:?}");
        match said.kind {
            FrameKind::Value => values += 1,
            _ => assert_eq!(said.code, Some(ErrorCode::Overloaded), "{said:?}"),
        }
    }
    println!("{LATE_GETS} large answers read late: {values} values, the others told to come again");
    let (said, goes_on) = raw.until_pong_or_closed();
    assert!(goes_on && said.is_empty() && values > 0);
}
