//! The tokio front against servers on loopback.

use crate::fake::{Answer, Fake, Shelf, Stuck, cluster};
use ferrite_client::{Client, Key, ReadOptions, UnknownReason, WriteOptions, WriteOutcome};
use ferrite_wire::Request;
use std::time::Duration;

const READ: ReadOptions = ReadOptions { level: None, timeout: None };
const WRITE: WriteOptions = WriteOptions { level: None, timeout: None, ttl: None, sloppy: false };

#[tokio::test]
async fn many_tasks_share_a_client() {
    let shelf = Shelf::default();
    let servers = cluster(&shelf);
    let client =
        Client::builder().seeds([&servers[0][0].address]).connections_per_core(2).connect().await.unwrap();
    let mut tasks = Vec::new();
    for name in 0..500u32 {
        let client = client.clone();
        tasks.push(tokio::spawn(async move {
            let (key, value) = (name.to_le_bytes(), vec![name as u8; 100]);
            assert!(client.put(Key::plain(&key), &value, WRITE).await.is_done());
            let found = client.get(Key::plain(&key), READ).await.unwrap().unwrap();
            assert_eq!(found.bytes, value);
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(shelf.len(), 500);
    assert!(client.delete(Key::plain(&7u32.to_le_bytes()), WRITE).await.is_done());
    let names: Vec<[u8; 4]> = (0..500u32).map(u32::to_le_bytes).collect();
    let keys: Vec<Key<'_>> = names.iter().map(|name| Key::plain(name)).collect();
    for (name, answer) in client.multi_get(&keys, READ).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap().map(|value| value.bytes), (name != 7).then(|| vec![name as u8; 100]));
    }
    client.ping(None, READ).await.unwrap();
    assert_eq!(client.status(Some(&servers[1][2].address), READ).await.unwrap(), "keys 1\n");
    assert!(client.known_topology().is_some());
}

#[tokio::test]
async fn a_lost_connection_and_a_silent_server_leave_writes_unknown() {
    let shelf = Shelf::default();
    let server = Fake::start(move |header, request| match request {
        Request::Put { value: b"die", .. } => Answer::HangUp,
        Request::Put { value: b"sleep", .. } => Answer::Silence,
        _ => shelf.answer(header, request),
    });
    let client = Client::builder().seeds([&server.address]).connect().await.unwrap();
    let outcome = client.put(Key::plain(b"k"), b"die", WRITE).await;
    assert!(matches!(outcome, WriteOutcome::Unknown(UnknownReason::ConnectionLost(_))), "{outcome}");
    let short = WriteOptions { timeout: Some(Duration::from_millis(80)), ..WRITE };
    let outcome = client.put(Key::plain(b"k"), b"sleep", short).await;
    assert_eq!(outcome, WriteOutcome::Unknown(UnknownReason::Deadline));
    assert!(client.put(Key::plain(b"k"), b"v", WRITE).await.is_done());
    assert_eq!(client.get(Key::plain(b"k"), READ).await.unwrap().unwrap().bytes, b"v");
}

#[tokio::test]
async fn large_values_pass_both_ways() {
    let shelf = Shelf::default();
    let server = shelf.serve();
    let client = Client::builder().seeds([&server.address]).connect().await.unwrap();
    let value: Vec<u8> = (0..1_000_000u32).map(|at| (at % 251) as u8).collect();
    for name in 0..6u8 {
        assert!(client.put(Key::plain(&[name]), &value, WRITE).await.is_done());
    }
    let names: Vec<[u8; 1]> = (0..6u8).map(|name| [name]).collect();
    let keys: Vec<Key<'_>> = names.iter().map(|name| Key::plain(name)).collect();
    for answer in client.multi_get(&keys, READ).await {
        assert!(
            answer.unwrap().unwrap().bytes == value,
            "also those that no reply had room for beside the others"
        );
    }
}

/// The rest of it was sent as soon as the server read again, whatever had been written since.
#[tokio::test]
async fn what_was_not_sent_of_a_write_that_was_given_up_is_never_sent() {
    let server = Stuck::start();
    let client = Client::builder().seeds([&server.address]).connect().await.unwrap();
    let short = WriteOptions { timeout: Some(Duration::from_millis(100)), ..WRITE };
    let outcome = client.put(Key::plain(b"k"), &[7; 1 << 20], short).await;
    assert_eq!(outcome, WriteOutcome::Unknown(UnknownReason::Deadline));
    tokio::task::spawn_blocking(move || server.hears_of_a_reset()).await.unwrap();
}

/// Nobody waited for it any more, and nobody had given it up: the rest of it was sent behind the client, as soon as the server read again.
#[tokio::test]
async fn what_was_not_sent_of_a_write_is_never_sent_once_the_client_is_gone() {
    let server = Stuck::start();
    let client = Client::builder().seeds([&server.address]).connect().await.unwrap();
    let value = vec![7; 1 << 20];
    let begun = tokio::task::spawn_blocking(move || {
        server.has_begun();
        server
    });
    let server = tokio::select! {
        outcome = client.put(Key::plain(b"k"), &value, WRITE) => panic!("nobody answers: {outcome:?}"),
        server = begun => server.unwrap(),
    };
    drop(client);
    tokio::task::spawn_blocking(move || server.hears_of_a_reset()).await.unwrap();
}

#[tokio::test]
async fn dropping_the_last_handle_closes_the_connections() {
    let server = Shelf::default().serve();
    let client = Client::builder().seeds([&server.address]).connect().await.unwrap();
    drop(client.clone());
    client.ping(None, READ).await.unwrap();
    drop(client);
    tokio::task::yield_now().await;
    tokio::task::spawn_blocking(move || server.wait_for_ends(1)).await.unwrap();
}
