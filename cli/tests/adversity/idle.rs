//! Ten thousand clients that do nothing any more, of one core: what each of them costs.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use ferrite_wire::{ErrorCode, FrameKind, Role};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cluster::{Cluster, Wanted, wait_for};
use crate::wire::{self, Raw, request};

const ONE_CORE: Wanted<'static> = Wanted { nodes: 1, cores: 1, server: "" };
/// As many clients as a core takes, but for a few places that are left to others.
const CLIENTS: usize = 10_000 - 10;
/// Fewer of those that have put and got something long: it takes longer.
const LONG_CLIENTS: usize = 1_000;
const LONG_BYTES: usize = 60_000;
/// Descriptors that are left to everything else in this process, and in the node's.
const OTHER_FILES: u64 = 2_000;
/// Most memory of a client that does nothing, in bytes: of the node's process, that is without what the kernel keeps for its socket.
const CLIENT_BYTES_MAX: u64 = 16 << 10;
/// The same of one that has sent or been sent much: the buffer of a receive, which is as long as that, was used to its end.
const RECEIVED_BYTES_MAX: u64 = CLIENT_BYTES_MAX + (4 << 10);

/// Held by whoever has so many files open in this process: there is room for one.
static OPEN_FILES: Mutex<()> = Mutex::new(());
/// Looks that must find no less memory than was found before.
const STILL_LOOKS: u32 = 50;

/// The memory of a node that does nothing, in bytes: once it has given back what is free, which takes it some ten milliseconds.
fn resident_bytes_at_rest(cluster: &Cluster) -> u64 {
    let (mut least, mut still) = (u64::MAX, 0);
    wait_for("the node's memory holds still", || {
        let found = cluster.resident_bytes(0);
        still = if found < least { 0 } else { still + 1 };
        least = least.min(found);
        (still == STILL_LOOKS).then_some(least)
    })
}

/// How many clients there can be here. Fewer than there should be are told to whoever runs the tests.
fn clients() -> usize {
    let limit = getrlimit(Resource::Nofile);
    // Up to what it may be without asking anyone. A refusal shows in what it is then.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let open_files_max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let clients = open_files_max.saturating_sub(OTHER_FILES).min(CLIENTS as u64) as usize;
    assert!(clients > 0, "{open_files_max} open files are too few for anything");
    if clients < CLIENTS {
        // Not by a macro whose output is kept from whoever runs the tests.
        let line = format!("only {clients} of {CLIENTS} idle clients: {open_files_max} files may be open\n");
        std::io::stderr().write_all(line.as_bytes()).expect("stderr is there");
    }
    clients
}

/// What each of so many clients costs that has done this and then nothing more, beside a first one that has done it as often.
fn cost(what: &str, count: usize, bytes_max: u64, done: impl Fn(&mut Raw)) {
    // Whoever failed with it has closed his.
    let _alone = OPEN_FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::start(ONE_CORE);
    let client = || {
        let mut raw = Raw::greeted(&cluster, Role::Client);
        done(&mut raw);
        raw
    };
    let mut first = client();
    // What the node keeps of what was done, and not of who did it, is there before.
    (1..count.min(LONG_CLIENTS)).for_each(|_| done(&mut first));
    let before = resident_bytes_at_rest(&cluster);
    let idle: Vec<Raw> = (1..count).map(|_| client()).collect();
    let each = resident_bytes_at_rest(&cluster).saturating_sub(before) / idle.len() as u64;
    println!("{} idle clients, {what}: {each} bytes each, of {bytes_max}", idle.len());
    assert!(each <= bytes_max, "{what}: {each} bytes each, of {} clients", idle.len());
    let mut status = cluster.client();
    assert!(cluster.status(&mut status, 0).number("connections.clients") >= count as u64, "all are there");
    drop(status);
    let (said, goes_on) = first.until_pong_or_closed();
    assert!(goes_on && said.is_empty());
    // The node first: it is then its ports that are kept for a while after, and not those of this side, which others need.
    drop(cluster);
}

#[test]
fn ten_thousand_clients_that_have_greeted_cost_little_each() {
    cost("greeted", clients(), CLIENT_BYTES_MAX, |_| {});
}

/// Again and again while the node's disk is behind.
fn put(raw: &mut Raw, value: &[u8]) {
    loop {
        raw.send(&request(&wire::put(b"key", value)));
        let said = raw.next().expect("it is answered");
        if said.kind == FrameKind::Done {
            return;
        }
        assert!(matches!(said.code, Some(ErrorCode::Overloaded | ErrorCode::Expired)), "{said:?}");
    }
}

fn get(raw: &mut Raw) {
    raw.send(&request(&wire::get(b"key")));
    assert_eq!(raw.next().map(|said| said.kind), Some(FrameKind::Value));
}

#[test]
fn ten_thousand_clients_that_have_put_and_got_cost_little_each() {
    cost("after a put and a get of a kilobyte", clients(), CLIENT_BYTES_MAX, |raw| {
        put(raw, &[7; 1_000]);
        get(raw);
    });
}

/// Their buffers grew for it.
#[test]
fn clients_that_have_got_long_values_cost_as_little() {
    cost("after a get of a long value", LONG_CLIENTS, RECEIVED_BYTES_MAX, |raw| {
        put(raw, &[7; LONG_BYTES]);
        get(raw);
    });
}

#[test]
fn clients_that_have_put_long_values_cost_as_little() {
    cost("after a put of a long value", LONG_CLIENTS, RECEIVED_BYTES_MAX, |raw| put(raw, &[7; LONG_BYTES]));
}
