//! The blocking front against servers on loopback.

use crate::fake::{Answer, Fake, Shelf, Stuck, cluster, cluster_at};
use crate::frames::CLUSTER;
use ferrite_client::{
    BlockingClient, ClusterId, Dial, ErrorCode, Key, ReadError, ReadOptions, Record, UnknownReason,
    WriteOptions, WriteOutcome,
};
use ferrite_wire::Request;
use socket2::SockRef;
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const READ: ReadOptions = ReadOptions { level: None, timeout: None };
const WRITE: WriteOptions = WriteOptions { level: None, timeout: None, ttl: None, sloppy: false };

fn connect(address: &str) -> BlockingClient {
    BlockingClient::builder().seeds([address]).connect_blocking().unwrap()
}

#[test]
fn every_call_works_and_goes_to_the_owning_core() {
    let shelf = Shelf::default();
    let servers = cluster(&shelf);
    let mut client = connect(&servers[1][0].address);
    let names: Vec<Vec<u8>> = (0..64u8).map(|name| vec![name]).collect();
    for name in &names {
        assert!(client.put(Key::plain(name), &[name[0]; 9], WRITE).is_done());
    }
    for name in &names {
        let value = client.get(Key::plain(name), READ).unwrap().unwrap();
        assert_eq!((value.bytes, value.answered), (vec![name[0]; 9], 2));
    }
    assert!(client.delete(Key::plain(&[3]), WRITE).is_done());
    let keys: Vec<Key<'_>> = names.iter().map(|name| Key::plain(name)).collect();
    for (name, answer) in (0u8..).zip(client.multi_get(&keys, READ)) {
        assert_eq!(answer.unwrap().map(|value| value.bytes), (name != 3).then(|| vec![name; 9]));
    }
    // Node v mod 2, core v mod 2: of the four vnodes' owners two serve, and the contact port serves no key.
    let asked = servers.each_ref().map(|node| node.iter().map(Fake::asked).collect::<Vec<_>>());
    assert_eq!((asked[0][0], asked[1][0]), (0, 0), "{asked:?}");
    assert!(asked[0][1] > 30 && asked[1][2] > 30, "{asked:?}");
    assert_eq!(asked[0][2] + asked[1][1], 0, "{asked:?}");
    client.ping(READ).unwrap();
    client.ping_at(&servers[0][2].address, READ).unwrap();
    assert_eq!(servers[0][2].asked(), 1);
    assert_eq!(client.status(READ).unwrap(), "keys 1\n");
}

#[test]
fn a_put_whose_connection_dies_is_unknown_and_is_not_sent_again() {
    let puts = Arc::new(AtomicUsize::new(0));
    let (shelf, counted) = (Shelf::default(), puts.clone());
    let server = Fake::start(move |header, request| match request {
        Request::Put { .. } => {
            counted.fetch_add(1, Ordering::SeqCst);
            Answer::HangUp
        }
        _ => shelf.answer(header, request),
    });
    let mut client = connect(&server.address);
    let outcome = client.put(Key::plain(b"k"), b"v", WRITE);
    assert!(matches!(outcome, WriteOutcome::Unknown(UnknownReason::ConnectionLost(_))), "{outcome}");
    // The read that follows reconnects.
    assert_eq!(client.get(Key::plain(b"k"), READ), Ok(None));
    assert_eq!(puts.load(Ordering::SeqCst), 1);
    assert_eq!(server.accepted(), 2);
}

#[test]
fn a_server_that_restarts_is_found_again() {
    let shelf = Shelf::default();
    // An address of its own, so that nobody takes the port in between.
    let first = shelf.serve_at("127.0.0.83:0");
    let address = first.address.clone();
    let mut client = connect(&address);
    assert!(client.put(Key::plain(b"k"), b"v", WRITE).is_done());
    drop(first);
    let second = shelf.serve_at(&address);
    let value = client.get(Key::plain(b"k"), READ).unwrap().unwrap();
    assert_eq!(value.bytes, b"v");
    assert_eq!(second.asked(), 1);
}

#[test]
fn a_dead_node_is_left_for_the_next_replica() {
    let shelf = Shelf::default();
    // An address of its own, so that nobody takes the ports of the dead.
    let [mut first, second] = cluster_at("127.0.0.84:0", &shelf);
    let mut client = connect(&second[0].address);
    first.clear();
    for name in 0..32u8 {
        let outcome = client.put(Key::plain(&[name]), b"v", WRITE);
        assert!(outcome.is_done(), "{outcome}");
    }
    assert_eq!(shelf.len(), 32);
}

#[test]
fn silence_ends_at_the_deadline() {
    let shelf = Shelf::default();
    let server = Fake::start(move |header, request| match request {
        Request::Put { .. } | Request::Get { .. } => Answer::Silence,
        _ => shelf.answer(header, request),
    });
    let mut client = connect(&server.address);
    let timeout = Some(Duration::from_millis(80));
    let outcome = client.put(Key::plain(b"k"), b"v", WriteOptions { timeout, ..WRITE });
    assert_eq!(outcome, WriteOutcome::Unknown(UnknownReason::Deadline));
    let error = client.get(Key::plain(b"k"), ReadOptions { timeout, ..READ }).unwrap_err();
    assert!(matches!(error, ReadError::Deadline(_)), "{error}");
    client.ping(READ).unwrap();
}

/// The rest of it was sent as soon as the server read again, whatever had been written since.
#[test]
fn what_was_not_sent_of_a_write_that_was_given_up_is_never_sent() {
    let server = Stuck::start();
    let builder = BlockingClient::builder().seeds([&server.address]).timeout(Duration::from_secs(2));
    let mut client = builder.connect_blocking().unwrap();
    let outcome = client.put(Key::plain(b"k"), &[7; 1 << 20], WRITE);
    assert!(matches!(outcome, WriteOutcome::Unknown(_)), "{outcome}");
    server.hears_of_a_reset();
}

/// It took megabytes of writes, and sent them whatever became of them.
#[test]
fn the_system_takes_little_that_it_cannot_send_yet() {
    let server = Shelf::default().serve();
    let streams = Arc::new(Mutex::new(Vec::new()));
    let dialled = streams.clone();
    let dial: Dial = Arc::new(move |address, _| {
        let stream = TcpStream::connect(address)?;
        dialled.lock().unwrap().push(stream.try_clone()?);
        Ok(stream)
    });
    let mut client = BlockingClient::builder().seeds([&server.address]).start_blocking_through(dial);
    client.ping(READ).unwrap();
    let streams = streams.lock().unwrap();
    assert!(!streams.is_empty());
    for stream in streams.iter() {
        assert_eq!(SockRef::from(stream).tcp_notsent_lowat().unwrap(), 64 * 1024);
    }
}

/// It was dropped in the midst of a batch, with writes under way that nobody had given up.
#[test]
fn what_was_not_sent_of_a_batch_is_never_sent_once_the_client_is_gone() {
    let shelf = Shelf::default();
    let server = Fake::start(move |header, request| match request {
        Request::Put { value: b"silent", .. } => Answer::Silence,
        _ => shelf.answer(header, request),
    });
    let streams = Arc::new(Mutex::new(Vec::new()));
    let dialled = streams.clone();
    let dial: Dial = Arc::new(move |address, _| {
        let stream = TcpStream::connect(address)?;
        dialled.lock().unwrap().push(stream.try_clone()?);
        Ok(stream)
    });
    let mut client = BlockingClient::builder().seeds([&server.address]).start_blocking_through(dial);
    client.ping(READ).unwrap();
    let records = [&b"silent"[..], b"answered"].map(|value| Record::plain(value, value));
    let batch = move || client.put_many(records, WRITE, 2, |_, _| panic!("its caller is in trouble"));
    std::panic::catch_unwind(AssertUnwindSafe(batch)).unwrap_err();
    let streams = streams.lock().unwrap();
    let resets =
        streams.iter().filter(|stream| SockRef::from(stream).linger().unwrap() == Some(Duration::ZERO));
    assert_eq!(resets.count(), 1, "that with the write under way");
}

#[test]
fn nobody_there_means_not_applied() {
    // The kernel takes connections for a listener that never looks at them; so the port cannot become someone else's.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (timeout, connect_timeout) = (Duration::from_millis(100), Duration::from_millis(30));
    let builder =
        BlockingClient::builder().seeds([&address]).connect_timeout(connect_timeout).timeout(timeout);
    let mut client = builder.clone().start_blocking();
    let WriteOutcome::NotApplied(fault) = client.put(Key::plain(b"k"), b"v", WRITE) else {
        panic!("was it sent?")
    };
    assert_eq!(fault.code, ErrorCode::Expired);
    assert!(fault.text.contains(&address), "{fault}");
    let refused = builder.connect_blocking();
    assert!(matches!(refused.err(), Some(ReadError::Deadline(_))));
}

#[test]
fn a_foreign_cluster_is_named_and_not_written_to() {
    let shelf = Shelf::default();
    let server = Fake::start_at("127.0.0.1:0", ClusterId([9; 16]), move |header, request| {
        shelf.answer(header, request)
    });
    let builder = BlockingClient::builder().seeds([&server.address]).cluster(CLUSTER);
    let mut client = builder.clone().start_blocking();
    let WriteOutcome::NotApplied(fault) = client.put(Key::plain(b"k"), b"v", WRITE) else {
        panic!("was it sent?")
    };
    let Some(ReadError::Refused(refused)) = builder.connect_blocking().err() else { panic!("connected?") };
    assert_eq!((fault.code, refused.code), (ErrorCode::ForeignCluster, ErrorCode::ForeignCluster));
    assert!(fault.text.contains(&ClusterId([9; 16]).to_string()), "{fault}");
    assert_eq!(server.asked(), 0);
}

#[test]
fn a_batch_keeps_its_window_and_accounts_for_every_record() {
    let shelf = Shelf::default();
    let servers = cluster(&shelf);
    let mut client = connect(&servers[0][0].address);
    let record = |name: u32| Record::plain(name.to_le_bytes(), name.to_be_bytes());
    let mut seen = vec![0; 5000];
    let summary = client.put_many((0..5000).map(record), WRITE, 100, |place, outcome| {
        assert!(outcome.is_done(), "{outcome}");
        seen[place as usize] += 1;
        ControlFlow::Continue(())
    });
    assert_eq!((summary.done, summary.total(), shelf.len()), (5000, 5000, 5000));
    assert!(seen.iter().all(|count| *count == 1));

    let mut taken = 0;
    let counted = (0..5000).map(|name| {
        taken += 1;
        record(name)
    });
    let summary = client.put_many(counted, WRITE, 10, |_, _| ControlFlow::Break(()));
    assert!(taken <= 20 && summary.total() == taken, "{taken} taken, {summary:?}");
    assert!(client.put(Key::plain(b"after"), b"v", WRITE).is_done());
}

#[test]
fn dropping_the_client_closes_its_connections() {
    let server = Shelf::default().serve();
    let client = connect(&server.address);
    drop(client);
    server.wait_for_ends(1);
}
