//! Any history at all: every call ends exactly once, and no write is ever sent again that might have been applied.

use crate::frames::{done, error};
use crate::script::{Script, options};
use ferrite_client::{
    Completion, ErrorCode, Key, Operation, Options, ReadOptions, WriteOptions, WriteOutcome,
};
use ferrite_wire::{FrameKind, Reply, Request};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Get(u8),
    Connect,
    Refuse,
    Answer(prop::sample::Index, Option<u8>),
    Lose(prop::sample::Index),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => any::<u8>().prop_map(Step::Put),
        2 => any::<u8>().prop_map(Step::Get),
        3 => Just(Step::Connect),
        1 => Just(Step::Refuse),
        4 => (index(), prop::option::of(0u8..ErrorCode::ALL.len() as u8)).prop_map(|(at, code)| Step::Answer(at, code)),
        1 => index().prop_map(Step::Lose),
        2 => (0u16..3000).prop_map(Step::Wait),
    ]
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
                let value = tags.to_le_bytes();
                script.submit(tags, Operation::Put(Key::plain(&[key]), &value, WriteOptions::default()));
            }
            Step::Get(key) => {
                tags += 1;
                deadlines.insert(tags, script.now + TIMEOUT);
                script.submit(tags, Operation::Get(Key::plain(&[key]), ReadOptions::default()));
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
                let code = code.map(|code| ErrorCode::ALL[code as usize]);
                if let Ok(Request::Put { value, .. }) = Request::decode(request.header.kind, &request.body) {
                    let tag = u64::from_le_bytes(value.try_into().expect("eight bytes"));
                    // What a server says after the deadline is not heard.
                    let mut late = Ledger::default();
                    let ledger = if ended.contains_key(&tag) {
                        &mut late
                    } else {
                        ledgers.get_mut(&tag).expect("seen")
                    };
                    ledger.done += u32::from(code.is_none());
                    ledger.refused += u32::from(code.is_some_and(ErrorCode::says_not_applied));
                }
                match (code, request.header.kind) {
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
            if let Ok(Request::Put { value, .. }) = Request::decode(request.header.kind, &request.body) {
                let tag = u64::from_le_bytes(value.try_into().expect("eight bytes"));
                ledgers.entry(tag).or_default().sent += 1;
                let ledger = ledgers[&tag];
                prop_assert!(ledger.sent <= 1 + ledger.refused, "put {tag} was sent again: {ledger:?}");
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
        let ledger = ledgers.get(&tag).copied().unwrap_or_default();
        match completion {
            Completion::Write(WriteOutcome::Done { .. }) => prop_assert_eq!(ledger.done, 1),
            Completion::Write(WriteOutcome::NotApplied(_)) => prop_assert_eq!(ledger.sent, ledger.refused),
            Completion::Write(WriteOutcome::Unknown(_)) => prop_assert!(ledger.sent > ledger.refused),
            Completion::Read(_) => {}
            other => prop_assert!(false, "{other:?} ends neither a put nor a get"),
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
