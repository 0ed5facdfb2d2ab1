//! Tables by their names: looked up once, looked for again in a new topology, and then given up.

use crate::fake::{Answer, Fake, Shelf, cluster};
use crate::frames::{encoded, topology};
use crate::script::{Script, options};
use ferrite_client::{
    BlockingClient, Client, Completion, ErrorCode, Fault, Key, Mode, Operation, ReadError, ReadOptions,
    Record, Table, TableId, WriteOptions,
};
use ferrite_wire::{FrameKind, Reply, Request, Tables, Topology};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn carts() -> Table {
    Table {
        id: TableId::of("carts"),
        name: "carts".to_owned(),
        mode: Mode::Lww,
        replication: 1,
        ttl_ms: 60_000,
        max_siblings: 0,
    }
}

/// A server alone, with a topology that has `later` from its second answer on; and how often it was asked for it.
fn server(first: Topology, later: Topology) -> (Fake, Arc<AtomicUsize>) {
    let (shelf, fetched) = (Shelf::default(), Arc::new(AtomicUsize::new(0)));
    let counted = fetched.clone();
    let fake = Fake::start(move |header, request| match request {
        Request::Topology { .. } => {
            let topology = if counted.fetch_add(1, Ordering::SeqCst) == 0 { &first } else { &later };
            Answer::reply(header.request, &Reply::Topology(&encoded(topology)))
        }
        _ => shelf.answer(header, request),
    });
    (fake, fetched)
}

/// Of a cluster whose only node is nowhere: what is asked of anyone goes to the seed.
fn nowhere(more: &[Table]) -> Topology {
    let tables = Tables::new([&[Table::default_of(1)], more].concat()).unwrap();
    Topology { tables, ..topology(1, &[("127.0.0.1:1".to_owned(), vec!["127.0.0.1:1".to_owned()])]) }
}

fn no_table(name: &str) -> ReadError {
    let text = format!("there is no table \"{name}\"");
    ReadError::Refused(Fault { code: ErrorCode::NoTable, text })
}

#[test]
fn a_known_name_asks_nobody_and_an_unknown_one_is_looked_for_once_more() {
    let (fake, fetched) = server(nowhere(&[]), nowhere(&[carts()]));
    let mut client = BlockingClient::builder().seeds([&fake.address]).connect_blocking().unwrap();
    let asked = || fetched.load(Ordering::SeqCst);
    assert_eq!(client.table("default").unwrap(), Table::default_of(1));
    assert_eq!(asked(), 1, "when it connected");
    assert_eq!(client.table("carts").unwrap(), carts(), "declared since");
    assert_eq!(asked(), 2);
    assert_eq!(client.table("carts").unwrap(), carts());
    assert_eq!(asked(), 2, "and known now");
    assert_eq!(client.table("cart").unwrap_err(), no_table("cart"));
}

/// A misspelt name, looked up in front of each request, made every client fetch the whole topology as fast as it could.
#[test]
fn a_thousand_calls_for_an_unknown_table_cost_a_bounded_number_of_fetches() {
    let mut script = Script::with_nodes(options(&["n1:7101"]), 1);
    let (mut fetches, mut refused) = (0, 0);
    let mut serve = |script: &mut Script| {
        while let Some(request) = script.requests.pop_front() {
            assert_eq!(request.header.kind, FrameKind::Topology);
            fetches += 1;
            script.reply(&request, &Reply::Topology(&encoded(&nowhere(&[]))));
        }
        for (_, completion) in script.completions.drain(..) {
            assert_eq!(completion, Completion::Table(Err(no_table("cart"))));
            refused += 1;
        }
        (fetches, refused)
    };
    // One after the other for ten seconds, which is at most twice a second.
    for tag in 0..1_000 {
        script.submit(tag, Operation::Table("cart"));
        script.connect_all();
        assert_eq!(serve(&mut script).1, tag + 1, "none waits for the next fetch");
        script.advance(Duration::from_millis(10));
    }
    assert_eq!(serve(&mut script), (20, 1_000));
    // All at once share one.
    for tag in 0..1_000 {
        script.submit(tag, Operation::Table("cart"));
    }
    assert_eq!(script.pipeline.calls_open(), 1_001, "and wait for it");
    assert_eq!(serve(&mut script), (21, 2_000));
    // No table has such a name.
    script.advance(Duration::from_secs(1));
    let long = "c".repeat(65);
    script.submit(1, Operation::Table(&long));
    assert_eq!(script.completion(), (1, Completion::Table(Err(no_table(&long)))));
    assert!(script.requests.is_empty());
}

#[test]
fn a_lookup_that_nobody_answers_ends_as_the_fetch_does_and_the_next_ones_do_not_hammer() {
    let mut script = Script::with_nodes(options(&["n1:7101"]), 1);
    for tag in 0..3 {
        script.submit(tag, Operation::Table("cart"));
    }
    for _ in 0..3 {
        let Some(request) = script.requests.pop_front() else { break };
        script.reply(&request, &crate::frames::error(ErrorCode::Stopping));
        script.connect_all();
    }
    assert_eq!(script.completions.len(), 3);
    script.submit(3, Operation::Table("cart"));
    assert!(script.requests.is_empty());
    for (_, completion) in script.completions.drain(..) {
        let Completion::Table(Err(ReadError::Refused(fault))) = completion else { panic!("{completion:?}") };
        assert_eq!(fault.code, ErrorCode::Stopping, "nobody can say that there is no such table");
    }
    script.submit(4, Operation::Table("default"));
    assert!(matches!(script.completion(), (4, Completion::Table(Ok(_)))), "what is at hand needs nobody");
}

#[tokio::test]
async fn the_other_front_resolves_names_as_well() {
    let (fake, fetched) = server(nowhere(&[]), nowhere(&[carts()]));
    let client = Client::builder().seeds([&fake.address]).connect().await.unwrap();
    let asked = || fetched.load(Ordering::SeqCst);
    assert_eq!(client.table("default").await.unwrap(), Table::default_of(1));
    assert_eq!(client.table("carts").await.unwrap(), carts());
    assert_eq!(client.table("carts").await.unwrap(), carts());
    assert_eq!(asked(), 2);
    assert_eq!(asked(), 2);
    assert_eq!(client.table("cart").await.unwrap_err(), no_table("cart"));
}

#[test]
fn equal_keys_of_two_tables_are_two_keys() {
    let shelf = Shelf::default();
    let servers = cluster(&shelf);
    let mut client = BlockingClient::builder().seeds([&servers[0][0].address]).connect_blocking().unwrap();
    let tables = Tables::new(vec![Table::default_of(2), carts()]).unwrap();
    let known = client.known_topology().unwrap();
    shelf.set_topology(Topology { tables, ..(**known).clone() });
    let carts = client.table("carts").unwrap();
    let (read, write) = (ReadOptions::default(), WriteOptions::default());
    assert!(client.put(carts.key(b"k"), b"cart", write).is_done());
    assert_eq!(client.get(Key::plain(b"k"), read), Ok(None));
    let record = Record { table: carts.id, ..Record::plain("l", "many") };
    let summary = client.put_many([record], write, 4, |_, _| ControlFlow::Continue(()));
    assert_eq!(summary.done, 1);
    let found = client.multi_get(&[carts.key(b"k"), carts.item(b"l", b""), Key::plain(b"l")], read);
    let found: Vec<_> = found.into_iter().map(|value| value.unwrap().map(|value| value.bytes)).collect();
    assert_eq!(found, [Some(b"cart".to_vec()), Some(b"many".to_vec()), None]);
    assert!(client.delete(carts.key(b"k"), write).is_done());
    assert_eq!(client.get(carts.key(b"k"), read), Ok(None));
}
