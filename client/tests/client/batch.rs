//! Batches of writes: split by owner, each entry with its own outcome, and none sent again that may have been applied.

use crate::fake::{Shelf, cluster};
use crate::frames::{error, version};
use crate::script::{Script, Seen, options};
use ferrite_client::{
    Client, Completion, Entry, ErrorCode, Key, Operation, Options, ReadOptions, UnknownReason, WriteOptions,
    WriteOutcome,
};
use ferrite_wire::{FrameKind, Outcome, Outcomes, Reply, Request, limits};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

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

/// The entries' names.
fn names_in(part: &Seen) -> Vec<u8> {
    match Request::decode(part.header.kind, &part.body) {
        Ok(Request::MultiPut { entries, .. }) => {
            entries.iter().map(|entry| entry.key().partition[0]).collect()
        }
        Ok(Request::Put { key, .. } | Request::Delete { key, .. }) => vec![key.partition[0]],
        other => panic!("no write: {other:?}"),
    }
}

/// A batch of which the part of one owner is not answered, and the others are done.
fn with_one_part_open(options: Options) -> (Script, Seen) {
    let mut script = Script::with_nodes(options, 3);
    let names = names();
    let entries: Vec<Entry<'_>> = names.iter().map(|name| entry(name)).collect();
    script.submit(1, Operation::MultiPut(&entries, WriteOptions::default()));
    script.connect_all();
    let mut parts: Vec<_> = script.requests.drain(..).collect();
    let open = parts.remove(0);
    assert!(names_in(&open).len() > 4, "several are of one owner");
    for part in &parts {
        answer(&mut script, part, |_| done());
    }
    (script, open)
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

/// Each entry was sent again at once and alone: a core that had no room for one batch was sent up to a thousand requests for it.
#[test]
fn entries_that_there_was_no_room_for_are_sent_again_together_after_a_growing_pause() {
    let (mut script, first) = with_one_part_open(options(&["n1:7101"]));
    let (mut part, mut asked, mut pauses) = (first.clone(), Vec::new(), Vec::new());
    for _ in 0..5 {
        answer(&mut script, &part, |_| Outcome::Error(ErrorCode::Overloaded));
        assert!(script.requests.is_empty(), "not at once");
        assert_eq!(script.pipeline.calls_open(), 1, "one call for all of them");
        let refused_at = script.now;
        while script.requests.is_empty() {
            script.advance(MS);
            script.connect_all();
        }
        pauses.push(script.now - refused_at);
        asked.push(std::mem::replace(&mut part, script.request()).address);
        assert!(script.requests.is_empty(), "one request for all of them");
        assert_eq!(names_in(&part), names_in(&first));
    }
    answer(&mut script, &part, |_| done());
    assert!(outcomes(&mut script).iter().all(WriteOutcome::is_done));
    asked.truncate(3);
    asked.sort();
    assert_eq!(asked, ["n1:7101", "n2:7101", "n3:7101"], "the other replicas come first");
    assert!(pauses[0] >= 4 * MS && pauses[4] >= 2 * pauses[0], "{pauses:?}");
}

#[test]
fn of_a_part_only_what_there_was_no_room_for_waits() {
    let (mut script, part) = with_one_part_open(options(&["n1:7101"]));
    let names = names_in(&part);
    let (alone, in_doubt, refused, crowded_out) = (names[0], names[1], names[2], &names[3..]);
    answer(&mut script, &part, |name| match name {
        name if name == alone => Outcome::Error(ErrorCode::DiskFull),
        name if name == in_doubt => Outcome::Error(ErrorCode::Unknown),
        name if name == refused => Outcome::Error(ErrorCode::BadContext),
        _ => Outcome::Error(ErrorCode::Overloaded),
    });
    let again = script.request();
    assert_eq!(names_in(&again), [alone], "what another replica may take waits for nothing");
    assert_ne!(again.address, part.address, "that one has refused it");
    script.reply(&again, &Reply::Done { version: version(1), answered: 2, sloppy: false });
    assert!(script.requests.is_empty() && script.completions.is_empty());
    script.advance(100 * MS);
    let again = script.request();
    assert!(script.requests.is_empty());
    assert_eq!(names_in(&again), crowded_out);
    assert_ne!(again.address, part.address);
    // There was room for some of them now.
    let (taken, last) = crowded_out.split_at(1);
    answer(&mut script, &again, |name| match taken.contains(&name) {
        true => done(),
        false => Outcome::Error(ErrorCode::Overloaded),
    });
    script.advance(100 * MS);
    let again = script.request();
    assert_eq!(names_in(&again), last);
    answer(&mut script, &again, |_| done());
    for (name, outcome) in (0u8..).zip(outcomes(&mut script)) {
        match outcome {
            WriteOutcome::Unknown(UnknownReason::Server(_)) => assert_eq!(name, in_doubt),
            WriteOutcome::NotApplied(fault) => {
                assert_eq!((name, fault.code), (refused, ErrorCode::BadContext));
            }
            outcome => assert!(outcome.is_done() && name != in_doubt && name != refused, "{name}: {outcome}"),
        }
    }
    assert_eq!(script.pipeline.calls_open(), 0);
}

/// The rest of a part took over its attempts: after 64 of them it was given up, though each time some of it was taken.
#[test]
fn a_part_of_which_some_is_taken_each_time_is_done_in_the_end() {
    let timeout = 60_000 * MS;
    let mut script = Script::with_nodes(Options { timeout, ..options(&["n1:7101"]) }, 1);
    let names: Vec<[u8; 1]> = (0..100).map(|name| [name]).collect();
    let entries: Vec<Entry<'_>> = names.iter().map(|name| entry(name)).collect();
    script.submit(1, Operation::MultiPut(&entries, WriteOptions::default()));
    for _ in 0..names.len() {
        script.connect_all();
        let part = script.request();
        let first = names_in(&part)[0];
        answer(&mut script, &part, |name| match name == first {
            true => done(),
            false => Outcome::Error(ErrorCode::Overloaded),
        });
        script.advance(100 * MS);
    }
    assert!(outcomes(&mut script).iter().all(WriteOutcome::is_done));
}

#[test]
fn a_deadline_within_the_pause_ends_what_was_refused_as_not_applied() {
    let timeout = 3 * MS;
    let (mut script, part) = with_one_part_open(Options { timeout, ..options(&["n1:7101"]) });
    let names = names_in(&part);
    answer(&mut script, &part, |name| match name == names[0] {
        true => done(),
        false => Outcome::Error(ErrorCode::Overloaded),
    });
    script.advance(timeout - MS);
    assert!(script.completions.is_empty(), "they may still be taken");
    script.advance(MS);
    for (name, outcome) in (0u8..).zip(outcomes(&mut script)) {
        match outcome {
            WriteOutcome::NotApplied(fault) => {
                assert!(names[1..].contains(&name), "{name}");
                assert_eq!(fault.code, ErrorCode::Overloaded);
            }
            outcome => assert!(outcome.is_done() && !names[1..].contains(&name), "{name}: {outcome}"),
        }
    }
    assert!(script.requests.is_empty());
}

#[test]
fn a_deadline_after_the_pause_leaves_what_was_sent_again_in_doubt() {
    let (mut script, part) = with_one_part_open(options(&["n1:7101"]));
    let names = names_in(&part);
    answer(&mut script, &part, |name| match name == names[0] {
        true => done(),
        false => Outcome::Error(ErrorCode::Overloaded),
    });
    script.advance(100 * MS);
    script.request();
    script.advance(Duration::from_secs(5));
    for (name, outcome) in (0u8..).zip(outcomes(&mut script)) {
        let is_in_doubt = outcome == WriteOutcome::Unknown(UnknownReason::Deadline);
        assert_eq!(is_in_doubt, names[1..].contains(&name), "{name}: {outcome}");
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
