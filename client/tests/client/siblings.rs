//! Keys of tables with siblings, against a server that has the sets of the algebra: what is merged, and what is sent again.

use crate::fake::{Answer, Fake};
use crate::frames::{done, encoded, topology, version};
use ferrite_client::{
    BlockingClient, Client, Context, ErrorCode, Key, Mode, ReadError, ReadOptions, Replaces, Table, TableId,
    UPDATE_ATTEMPTS_MAX, Value, WriteOptions, WriteOutcome,
};
use ferrite_wire::{
    FrameHeader, Item, OVERWRITE, Reader, Reply, Request, SiblingValue, Siblings, Tables, Topology,
};
use std::sync::{Arc, Mutex};

fn carts() -> Table {
    let name = "carts".to_owned();
    Table { id: TableId::of(&name), name, mode: Mode::Siblings, max_siblings: 8, ..Table::default_of(1) }
}

fn key() -> Key<'static> {
    Key { table: TableId::of("carts"), partition: b"user:7", sort: b"" }
}

/// Of a cluster whose only node is nowhere: what is asked of anyone goes to the seed.
fn nowhere() -> Topology {
    let tables = Tables::new(vec![Table::default_of(1), carts()]).unwrap();
    Topology { tables, ..topology(1, &[("127.0.0.1:1".to_owned(), vec!["127.0.0.1:1".to_owned()])]) }
}

/// A toy of a server: the values of one key. A context is how many writes there had been, and covers all values from before.
#[derive(Default)]
struct Shelf {
    writes: u8,
    values: Vec<(u8, Vec<u8>)>,
    /// So many writes are refused for want of room, and another client's value comes in between.
    full_for: u32,
    /// Contexts and options as they came.
    asked: Vec<(u8, Vec<u8>)>,
}

impl Shelf {
    fn siblings(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let one = |(number, value): &(u8, Vec<u8>)| (version(u64::from(*number)), value.clone());
        let values: Vec<_> = self.values.iter().map(one).collect();
        let views = values.iter().map(|(version, value)| SiblingValue { version: *version, value });
        Siblings::encode_parts(&[self.writes], views, &mut out);
        out
    }

    fn replace(&mut self, options: u8, context: &[u8]) {
        let seen = if options == OVERWRITE { u8::MAX } else { context.first().copied().unwrap_or(0) };
        self.values.retain(|(number, _)| *number > seen);
        self.writes += 1;
    }

    fn answer(&mut self, header: &FrameHeader, request: &Request<'_>) -> Answer {
        let reply = |reply: &Reply<'_>| Answer::reply(header.request, reply);
        match *request {
            Request::Topology { .. } => reply(&Reply::Topology(&encoded(&nowhere()))),
            Request::Get { .. } if self.writes == 0 => reply(&Reply::Absent { answered: 1 }),
            Request::Get { .. } => {
                let bytes = self.siblings();
                let siblings = Siblings::decode(&mut Reader::new(&bytes)).unwrap();
                reply(&Reply::Siblings { answered: 2, siblings })
            }
            Request::MultiGet { keys, .. } => {
                let bytes = self.siblings();
                let siblings = Siblings::decode(&mut Reader::new(&bytes)).unwrap();
                let mut body = Vec::new();
                Reply::encode_values(
                    (0..keys.len()).map(|_| Item::Siblings { answered: 3, siblings }),
                    &mut body,
                );
                reply(&Reply::decode(ferrite_wire::FrameKind::Values, &body).unwrap())
            }
            Request::Put { options, context, .. } if self.full_for > 0 => {
                self.full_for -= 1;
                self.asked.push((options, context.to_vec()));
                self.writes += 1;
                self.values.push((self.writes, format!("other {}", self.writes).into_bytes()));
                reply(&Reply::Error { code: ErrorCode::TooManySiblings, text: "read it, merge them" })
            }
            Request::Put { options, context, value, .. } => {
                self.asked.push((options, context.to_vec()));
                self.replace(options, context);
                self.values.push((self.writes, value.to_vec()));
                reply(&done())
            }
            Request::Delete { options, context, .. } => {
                self.asked.push((options, context.to_vec()));
                self.replace(options, context);
                reply(&done())
            }
            _ => Answer::Silence,
        }
    }
}

fn server() -> (Fake, Arc<Mutex<Shelf>>) {
    let shelf = Arc::new(Mutex::new(Shelf::default()));
    let shared = shelf.clone();
    (Fake::start(move |header, request| shared.lock().unwrap().answer(header, request)), shelf)
}

const READ: ReadOptions = ReadOptions { level: None, timeout: None };
const WRITE: WriteOptions = WriteOptions { level: None, timeout: None, ttl: None, sloppy: false };

fn texts(values: &[Value]) -> Vec<String> {
    let mut texts: Vec<_> =
        values.iter().map(|value| String::from_utf8(value.bytes.clone()).unwrap()).collect();
    texts.sort();
    texts
}

/// Everything there is and one more, in one.
fn with(more: &str, values: &[Value]) -> Option<Vec<u8>> {
    let mut all = texts(values);
    all.push(more.to_owned());
    Some(all.join("+").into_bytes())
}

#[test]
fn siblings_come_with_a_context_that_replaces_them() {
    let (fake, shelf) = server();
    let mut client = BlockingClient::builder().seeds([&fake.address]).connect_blocking().unwrap();
    let none = client.get_siblings(key(), READ).unwrap();
    assert!(none.values.is_empty() && none.context.is_empty());
    assert_eq!(none.answered, 1, "also that there is nothing is said by somebody");
    assert!(client.put(key(), b"a", WRITE).is_done());
    assert_eq!(client.get(key(), READ).unwrap().expect("one value").bytes, b"a");
    assert!(client.put(key(), b"b", WRITE).is_done());
    assert_eq!(client.get(key(), READ), Err(ReadError::Siblings { count: 2 }));
    assert_eq!(client.multi_get(&[key()], READ), [Err(ReadError::Siblings { count: 2 })]);
    let many = client.multi_get_siblings(&[key(), key()], READ);
    for found in many.into_iter().map(Result::unwrap) {
        assert_eq!((texts(&found.values), found.answered), (vec!["a".to_owned(), "b".to_owned()], 3));
        assert_eq!(found.context, client.get_siblings(key(), READ).unwrap().context, "good for a write");
    }
    let both = client.get_siblings(key(), READ).unwrap();
    assert_eq!(texts(&both.values), ["a", "b"]);
    assert_eq!((both.answered, both.values[0].answered), (2, 2));
    let merged =
        client.get_merged(key(), READ, |values| with("c", values).unwrap()).unwrap().expect("values");
    assert_eq!((merged.bytes.as_slice(), merged.siblings), (&b"a+b+c"[..], 2));
    assert!(client.put(key(), b"unseen", WRITE).is_done());
    let kept = Context::from_bytes(merged.context.as_bytes());
    assert!(client.put_replacing(key(), &merged.bytes, Replaces::Seen(&kept), WRITE).is_done());
    assert_eq!(texts(&client.get_siblings(key(), READ).unwrap().values), ["a+b+c", "unseen"]);
    assert!(client.put_replacing(key(), b"all", Replaces::All, WRITE).is_done());
    assert_eq!(client.get(key(), READ).unwrap().expect("one value").bytes, b"all");
    let seen = client.get_siblings(key(), READ).unwrap().context;
    assert!(client.delete_replacing(key(), Replaces::Seen(&seen), WRITE).is_done());
    assert_eq!(client.get(key(), READ), Ok(None));
    assert_eq!(client.get_merged(key(), READ, |_| unreachable!("nothing is there")), Ok(None));
    let asked = shelf.lock().unwrap().asked.clone();
    assert_eq!(asked[3..], [(0, vec![2]), (OVERWRITE, vec![]), (0, vec![5])]);
}

#[test]
fn an_update_replaces_what_it_read_and_begins_anew_where_others_fill_the_key_up() {
    let (fake, shelf) = server();
    let mut client = BlockingClient::builder().seeds([&fake.address]).connect_blocking().unwrap();
    assert!(client.update(key(), WRITE, |values| with("a", values)).unwrap().is_done());
    assert!(client.put(key(), b"b", WRITE).is_done());
    shelf.lock().unwrap().full_for = 2;
    let mut rounds = 0;
    let outcome = client.update(key(), WRITE, |values| {
        rounds += 1;
        with("c", values)
    });
    assert!(outcome.unwrap().is_done());
    assert_eq!(rounds, 3);
    let found = client.get_siblings(key(), READ).unwrap();
    assert_eq!(texts(&found.values), ["a+b+other 3+other 4+c"], "what came in between is in it");
    shelf.lock().unwrap().full_for = u32::MAX;
    rounds = 0;
    let outcome = client.update(key(), WRITE, |_| {
        rounds += 1;
        Some(Vec::new())
    });
    assert!(
        matches!(outcome, Ok(WriteOutcome::NotApplied(fault)) if fault.code == ErrorCode::TooManySiblings)
    );
    assert_eq!(rounds, UPDATE_ATTEMPTS_MAX);
    let count = client.get_siblings(key(), READ).unwrap().values.len();
    shelf.lock().unwrap().full_for = 0;
    assert!(count > 1);
    assert!(client.update(key(), WRITE, |_| None).unwrap().is_done());
    assert_eq!(client.get(key(), READ), Ok(None), "an update may delete what it read");
}

#[test]
fn an_update_of_nothing_to_nothing_asks_for_no_write_and_one_of_the_last_write_is_refused() {
    let (fake, shelf) = server();
    let mut client = BlockingClient::builder().seeds([&fake.address]).connect_blocking().unwrap();
    assert!(client.update(key(), WRITE, |_| None).unwrap().is_done());
    let refused = client.update(Key::plain(b"k"), WRITE, |_| unreachable!("refused before it is read"));
    assert!(matches!(refused, Err(ReadError::Refused(fault)) if fault.text.contains("keeps the last write")));
    assert!(shelf.lock().unwrap().asked.is_empty());
}

/// Before a topology was known an update of a table that keeps the last write was a get and a put like any other, and lost what was
/// written between the two.
#[test]
fn the_first_call_of_a_client_is_refused_as_well_if_it_updates_the_last_write() {
    let (fake, shelf) = server();
    let mut client = BlockingClient::builder().seeds([&fake.address]).connect_blocking().unwrap();
    let refused = client.update(Key::plain(b"k"), WRITE, |_| unreachable!("refused before it is read"));
    assert!(matches!(refused, Err(ReadError::Refused(fault)) if fault.text.contains("keeps the last write")));
    assert!(shelf.lock().unwrap().asked.is_empty());
}

#[tokio::test]
async fn tasks_have_the_same_calls() {
    let (fake, _) = server();
    let client = Client::builder().seeds([&fake.address]).connect().await.unwrap();
    assert!(client.update(key(), WRITE, |values| with("a", values)).await.unwrap().is_done());
    assert!(client.put(key(), b"b", WRITE).await.is_done());
    assert_eq!(client.get(key(), READ).await, Err(ReadError::Siblings { count: 2 }));
    let many = client.multi_get_siblings(&[key()], READ).await;
    assert_eq!(texts(&many[0].as_ref().unwrap().values), ["a", "b"]);
    let merged = client.get_merged(key(), READ, |values| with("c", values).unwrap()).await.unwrap().unwrap();
    let seen = Replaces::Seen(&merged.context);
    assert!(client.put_replacing(key(), &merged.bytes, seen, WRITE).await.is_done());
    assert_eq!(client.get(key(), READ).await.unwrap().unwrap().bytes, b"a+b+c");
    assert!(client.delete_replacing(key(), Replaces::All, WRITE).await.is_done());
    assert_eq!(client.get_siblings(key(), READ).await.unwrap().values, []);
}
