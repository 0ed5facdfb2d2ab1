//! Batches of writes: split by owner, each entry with its own outcome, and none sent again that may have been applied.

use crate::fake::{Shelf, cluster};
use crate::frames::{error, version};
use crate::script::{Script, Seen, options};
use ferrite_client::{
    Client, Completion, Entry, ErrorCode, Key, Operation, ReadOptions, UnknownReason, WriteOptions,
    WriteOutcome,
};
use ferrite_wire::{FrameKind, Outcome, Outcomes, Reply, Request, limits};
use std::time::Duration;

fn done() -> Outcome {
    Outcome::Done { version: version(1), answered: 2, sloppy: false }
}

fn names() -> Vec<Vec<u8>> {
    (0..40u8).map(|name| vec![name]).collect()
}

fn entry(name: &[u8]) -> Entry<'_> {
    let key = Key::plain(name);
    if name[0].is_multiple_of(4) {
        Entry::Delete { key, context: b"" }
    } else {
        Entry::Put { key, ttl_ms: u64::from(name[0] % 2), context: b"", value: name }
    }
}

/// Answers a part: of each entry by its name.
fn answer(script: &mut Script, part: &Seen, of: impl Fn(u8) -> Outcome) {
    let Ok(Request::MultiPut { entries, .. }) = Request::decode(part.header.kind, &part.body) else {
        panic!("not a part")
    };
    let outcomes: Vec<Outcome> = entries.iter().map(|entry| of(entry.key().partition[0])).collect();
    let mut body = Vec::new();
    Outcomes::encode_all(outcomes.into_iter(), &mut body);
    script.reply(part, &Reply::decode(FrameKind::Outcomes, &body).unwrap());
}

fn outcomes(script: &mut Script) -> Vec<WriteOutcome> {
    let (1, Completion::Writes(outcomes)) = script.completion() else { panic!("no outcomes") };
    outcomes
}

#[test]
fn a_batch_is_split_by_owner_and_merged_in_order() {
    let mut script = Script::with_nodes(options(&["n1:7101"]), 3);
    let names = names();
    let entries: Vec<Entry<'_>> = names.iter().map(|name| entry(name)).collect();
    let write = WriteOptions { ttl: Some(Duration::from_secs(9)), ..WriteOptions::default() };
    script.submit(1, Operation::MultiPut(&entries, write));
    script.connect_all();
    let parts: Vec<_> = script.requests.drain(..).collect();
    assert_eq!(parts.len(), 3, "four vnodes, three owners");
    for part in &parts {
        let Ok(Request::MultiPut { entries, .. }) = Request::decode(part.header.kind, &part.body) else {
            panic!("not a part")
        };
        for entry in entries.iter() {
            match entry {
                Entry::Put { key, ttl_ms, .. } => {
                    let own = u64::from(key.partition[0] % 2);
                    assert_eq!(ttl_ms, if own > 0 { own } else { 9_000 }, "its own, or that of the options");
                }
                Entry::Delete { key, .. } => assert!(key.partition[0].is_multiple_of(4)),
            }
        }
        answer(&mut script, part, |name| match name {
            6 => Outcome::Error(ErrorCode::Unknown),
            7 => Outcome::Error(ErrorCode::DiskFull),
            8 => Outcome::Error(ErrorCode::BadContext),
            _ => done(),
        });
    }
    assert!(script.completions.is_empty(), "what another replica may take is sent again, alone");
    let again = script.request();
    assert_eq!(again.header.kind, FrameKind::Put);
    let Ok(Request::Put { key, ttl_ms, .. }) = Request::decode(again.header.kind, &again.body) else {
        panic!("not a put")
    };
    assert_eq!((key.partition, ttl_ms), (&[7][..], 1));
    script.reply(&again, &Reply::Done { version: version(5), answered: 3, sloppy: false });
    let outcomes = outcomes(&mut script);
    assert_eq!(outcomes.len(), 40);
    for (name, outcome) in (0u8..).zip(&outcomes) {
        match (name, outcome) {
            (6, WriteOutcome::Unknown(UnknownReason::Server(fault))) => {
                assert_eq!(fault.code, ErrorCode::Unknown);
            }
            (7, WriteOutcome::Done { answered: 3, .. }) => {}
            (8, WriteOutcome::NotApplied(fault)) => assert_eq!(fault.code, ErrorCode::BadContext),
            (_, WriteOutcome::Done { answered: 2, sloppy: false, .. }) => assert!(![6, 8].contains(&name)),
            (name, outcome) => panic!("{name}: {outcome}"),
        }
    }
    assert!(script.requests.is_empty(), "nothing in doubt is sent again");
}

#[test]
fn a_part_that_is_lost_is_in_doubt_and_the_others_are_not() {
    let mut script = Script::with_nodes(options(&["n1:7101"]), 3);
    let names = names();
    let entries: Vec<Entry<'_>> = names.iter().map(|name| entry(name)).collect();
    script.submit(1, Operation::MultiPut(&entries, WriteOptions::default()));
    script.connect_all();
    let parts: Vec<_> = script.requests.drain(..).collect();
    let Ok(Request::MultiPut { entries: lost, .. }) = Request::decode(parts[0].header.kind, &parts[0].body)
    else {
        panic!("not a part")
    };
    let lost: Vec<u8> = lost.iter().map(|entry| entry.key().partition[0]).collect();
    script.lose(parts[0].connection);
    answer(&mut script, &parts[1], |_| done());
    // A whole part that was not applied goes to another replica.
    script.reply(&parts[2], &error(ErrorCode::Stopping));
    script.connect_all();
    let again = script.request();
    assert_eq!((again.header.kind, &again.body[8..]), (FrameKind::MultiPut, &parts[2].body[8..]));
    answer(&mut script, &again, |_| done());
    for (name, outcome) in (0u8..).zip(outcomes(&mut script)) {
        let is_in_doubt = matches!(outcome, WriteOutcome::Unknown(UnknownReason::ConnectionLost(_)));
        assert_eq!(is_in_doubt, lost.contains(&name), "{name}: {outcome}");
        assert!(is_in_doubt || outcome.is_done());
    }
}

#[test]
fn an_answer_of_another_length_loses_the_connection() {
    let mut script = Script::with_nodes(options(&["n1:7101"]), 1);
    let entries = [entry(&[1]), entry(&[2])];
    script.submit(1, Operation::MultiPut(&entries, WriteOptions::default()));
    let part = script.request();
    let mut body = Vec::new();
    Outcomes::encode_all([done()].into_iter(), &mut body);
    script.reply(&part, &Reply::decode(FrameKind::Outcomes, &body).unwrap());
    assert!(outcomes(&mut script).iter().all(|outcome| matches!(outcome, WriteOutcome::Unknown(_))));
    assert_eq!(script.closed, [part.connection]);
}

#[test]
fn batches_are_bounded_by_count_and_bytes_and_what_is_too_large_is_refused_alone() {
    let mut script = Script::with_nodes(options(&["n1:7101"]), 1);
    script.submit(1, Operation::MultiPut(&[], WriteOptions::default()));
    assert_eq!(outcomes(&mut script), []);
    let large = vec![7; limits::VALUE_BYTES_MAX];
    let too_large = vec![7; limits::VALUE_BYTES_MAX + 1];
    let put = |value| Entry::Put { key: Key::plain(b"k"), ttl_ms: 0, context: b"", value };
    let mut entries = vec![put(&b"small"[..]); limits::MULTI_PUT_ENTRIES_MAX + 1];
    entries.extend([put(&large[..]), put(&too_large[..]), put(&large[..])]);
    script.submit(1, Operation::MultiPut(&entries, WriteOptions::default()));
    let mut lengths = Vec::new();
    while let Some(part) = script.requests.pop_front() {
        let Ok(Request::MultiPut { entries, .. }) = Request::decode(part.header.kind, &part.body) else {
            panic!("not a part")
        };
        assert!(part.body.len() <= limits::BODY_BYTES_MAX / 2);
        lengths.push(entries.len());
        answer(&mut script, &part, |_| done());
    }
    lengths.sort_unstable();
    assert_eq!(lengths, [1, 1, 1, limits::MULTI_PUT_ENTRIES_MAX]);
    let outcomes = outcomes(&mut script);
    let refused: Vec<usize> = (0..outcomes.len()).filter(|at| !outcomes[*at].is_done()).collect();
    assert_eq!(refused, [limits::MULTI_PUT_ENTRIES_MAX + 2]);
    assert!(
        matches!(&outcomes[refused[0]], WriteOutcome::NotApplied(fault) if fault.code == ErrorCode::TooLarge)
    );
}

#[test]
fn a_batch_goes_through_real_sockets() {
    let shelf = Shelf::default();
    let servers = cluster(&shelf);
    let seeds = [servers[0][0].address.clone()];
    let mut client = Client::builder().seeds(seeds).connect_blocking().expect("it connects");
    let names = names();
    let entries: Vec<Entry<'_>> = names.iter().map(|name| entry(name)).collect();
    let outcomes = client.put_batch(&entries, WriteOptions::default());
    assert!(outcomes.len() == 40 && outcomes.iter().all(WriteOutcome::is_done), "{outcomes:?}");
    assert_eq!(shelf.len(), 30, "a quarter of them deletes");
    let value = client.get(Key::plain(&[5]), ReadOptions::default()).expect("an answer");
    assert_eq!(value.expect("a value").bytes, [5]);
}
