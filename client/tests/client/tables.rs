//! Tables by their names: looked up once, looked for again in a new topology, and then given up.

use crate::fake::{Answer, Fake, Shelf, cluster};
use crate::frames::{encoded, topology};
use ferrite_client::{
    BlockingClient, Client, ErrorCode, Fault, Key, Mode, ReadError, ReadOptions, Record, Table, TableId,
    WriteOptions,
};
use ferrite_wire::{Reply, Request, Tables, Topology};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
fn a_known_name_asks_nobody_and_an_unknown_one_asks_once() {
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
    assert_eq!(asked(), 3, "looked for once");
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
    assert_eq!(client.table("cart").await.unwrap_err(), no_table("cart"));
    assert_eq!(asked(), 3);
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
