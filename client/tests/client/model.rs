//! Any history at all: every call ends exactly once, and no write is ever sent again that might have been applied.

use crate::frames::{done, error, version};
use crate::script::{Script, options};
use ferrite_client::{
    Completion, Entry, ErrorCode, Key, Operation, Options, ReadOptions, WriteOptions, WriteOutcome,
};
use ferrite_wire::{FrameKind, Outcome, Outcomes, Reply, Request};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Get(u8),
    Batch(Vec<u8>),
    Connect,
    Refuse,
    /// One of the requests; with this error, and if it is a batch, of all of it or of some.
    Answer(prop::sample::Index, Option<(u8, bool)>),
    Lose(prop::sample::Index),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => any::<u8>().prop_map(Step::Put),
        2 => any::<u8>().prop_map(Step::Get),
        2 => prop::collection::vec(any::<u8>(), 0..5).prop_map(Step::Batch),
        3 => Just(Step::Connect),
        1 => Just(Step::Refuse),
        4 => (index(), prop::option::of((0u8..ErrorCode::ALL.len() as u8, any::<bool>()))).prop_map(|(at, code)| Step::Answer(at, code)),
        1 => index().prop_map(Step::Lose),
        2 => (0u16..3000).prop_map(Step::Wait),
    ]
}

/// Room for the writes of a batch between the numbers of two calls.
const WRITES: u64 = 256;

/// The numbers of the writes that a request carries: its call's, and its place there.
fn writes_of(request: &crate::script::Seen) -> Vec<u64> {
    let number = |value: &[u8]| u64::from_le_bytes(value.try_into().expect("eight bytes"));
    match Request::decode(request.header.kind, &request.body) {
        Ok(Request::Put { value, .. }) => vec![number(value)],
        Ok(Request::MultiPut { entries, .. }) => entries
            .iter()
            .map(|entry| match entry {
                Entry::Put { value, .. } => number(value),
                Entry::Delete { .. } => unreachable!("no batch here deletes"),
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// What servers saw and said of one write.
#[derive(Clone, Copy, Debug, Default)]
struct Ledger {
    sent: u32,
    done: u32,
    refused: u32,
}

fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let options = Options { timeout: TIMEOUT, ..options(&["n1:7101"]) };
    let mut script = Script::with_nodes(options, 3);
    let mut ledgers: BTreeMap<u64, Ledger> = BTreeMap::new();
    let (mut unanswered, mut deadlines) = (Vec::new(), BTreeMap::new());
    let (mut tags, mut ended) = (0u64, BTreeMap::new());
    let finale = [Step::Wait(60_000)];
    for step in steps.into_iter().chain(finale) {
        match step {
            Step::Put(key) => {
                tags += 1;
                deadlines.insert(tags, script.now + TIMEOUT);
                let value = (tags * WRITES).to_le_bytes();
                script.submit(tags, Operation::Put(Key::plain(&[key]), &value, WriteOptions::default()));
            }
            Step::Get(key) => {
                tags += 1;
                deadlines.insert(tags, script.now + TIMEOUT);
                script.submit(tags, Operation::Get(Key::plain(&[key]), ReadOptions::default()));
            }
            Step::Batch(keys) => {
                tags += 1;
                deadlines.insert(tags, script.now + TIMEOUT);
                let numbers = (tags * WRITES..).map(u64::to_le_bytes);
                let owned: Vec<([u8; 1], [u8; 8])> = keys.iter().map(|key| [*key]).zip(numbers).collect();
                let entries: Vec<Entry<'_>> = owned
                    .iter()
                    .map(|(key, number)| Entry::Put {
                        key: Key::plain(key),
                        ttl_ms: 0,
                        context: b"",
                        value: number,
                    })
                    .collect();
                script.submit(tags, Operation::MultiPut(&entries, WriteOptions::default()));
            }
            Step::Connect => {
                if !script.opening.is_empty() {
                    script.connect();
                }
            }
            Step::Refuse => {
                if !script.opening.is_empty() {
                    script.refuse();
                }
            }
            Step::Answer(at, code) => {
                if unanswered.is_empty() {
                    continue;
                }
                let request: crate::script::Seen = unanswered.swap_remove(at.index(unanswered.len()));
                if !script.open.contains_key(&request.connection) {
                    continue;
                }
                let refused_whole = code.is_some_and(|(_, is_whole)| is_whole);
                let code = code.map(|(code, _)| ErrorCode::ALL[code as usize]);
                let is_batch = request.header.kind == FrameKind::MultiPut;
                // Some of a batch are done where others are not, and some batches are refused whole.
                let mut outcomes = Vec::new();
                for (place, number) in writes_of(&request).into_iter().enumerate() {
                    let code = code.filter(|_| !is_batch || refused_whole || place % 2 == 0);
                    let done = Outcome::Done { version: version(1), answered: 2, sloppy: false };
                    outcomes.push(code.map_or(done, Outcome::Error));
                    // What a server says after the deadline is not heard.
                    if !ended.contains_key(&(number / WRITES)) {
                        let ledger: &mut Ledger = ledgers.get_mut(&number).expect("seen");
                        ledger.done += u32::from(code.is_none());
                        ledger.refused += u32::from(code.is_some_and(ErrorCode::says_not_applied));
                    }
                }
                match (code.filter(|_| !is_batch || refused_whole), request.header.kind) {
                    (None, FrameKind::MultiPut) => {
                        let mut body = Vec::new();
                        Outcomes::encode_all(outcomes.into_iter(), &mut body);
                        script.reply(&request, &Reply::decode(FrameKind::Outcomes, &body).expect("encoded"));
                    }
                    (Some(code), _) => script.reply(&request, &error(code)),
                    (None, FrameKind::Put) => script.reply(&request, &done()),
                    (None, FrameKind::Get) => script.reply(&request, &Reply::Absent { answered: 2 }),
                    // An empty topology is nonsense: the connection goes.
                    (None, _) => script.reply(&request, &Reply::Topology(b"")),
                }
            }
            Step::Lose(at) => {
                if let Some(connection) = (!script.open.is_empty())
                    .then(|| *script.open.keys().nth(at.index(script.open.len())).expect("an index"))
                {
                    script.lose(connection);
                }
            }
            Step::Wait(ms) => script.advance(Duration::from_millis(u64::from(ms))),
        }
        for request in std::mem::take(&mut script.requests) {
            for number in writes_of(&request) {
                ledgers.entry(number).or_default().sent += 1;
                let ledger = ledgers[&number];
                prop_assert!(ledger.sent <= 1 + ledger.refused, "put {number} was sent again: {ledger:?}");
            }
            unanswered.push(request);
        }
        for (tag, completion) in std::mem::take(&mut script.completions) {
            prop_assert!(ended.insert(tag, completion).is_none(), "call {tag} ended twice");
        }
        for (tag, deadline) in &deadlines {
            prop_assert!(
                *deadline > script.now || ended.contains_key(tag),
                "call {tag} outlived its deadline"
            );
        }
    }
    prop_assert_eq!(ended.len() as u64, tags, "calls never ended");
    for (tag, completion) in ended {
        let outcomes = match completion {
            Completion::Write(outcome) => vec![outcome],
            Completion::Writes(outcomes) => outcomes,
            Completion::Read(_) => continue,
            other => return Err(TestCaseError::fail(format!("{other:?} ends neither a write nor a get"))),
        };
        for (number, outcome) in (tag * WRITES..).zip(outcomes) {
            let ledger = ledgers.get(&number).copied().unwrap_or_default();
            match outcome {
                WriteOutcome::Done { .. } => prop_assert_eq!(ledger.done, 1),
                WriteOutcome::NotApplied(_) => prop_assert_eq!(ledger.sent, ledger.refused),
                WriteOutcome::Unknown(_) => prop_assert!(ledger.sent > ledger.refused),
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_call_ends_once_and_no_doubtful_write_is_repeated(steps in proptest::collection::vec(step(), 0..120)) {
        run(steps)?;
    }
}
