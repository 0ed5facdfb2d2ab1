//! A batch of writes: split by the address that owns each key, answered in parts, merged in the order of its entries.
//!
//! A part that was certainly not applied is sent again whole, as any write is. Nothing whose outcome is open ever is. Of the entries that
//! a server refused each on its own:
//! - What another server may take is sent to another at once, alone.
//! - What there was no room for is sent again together, after the pause that the part would make. One by one it would be up to a thousand requests where
//!   there was one, to servers that had too much to do with that.
//!
//! Both go on from where their part was: whoever refused it has been tried.

use super::call::{Call, Owner};
use super::{Completion, Pipeline};
use crate::WriteOptions;
use crate::outcome::{UnknownReason, WriteOutcome};
use crate::pace::Class;
use crate::retry::{Next, after};
use crate::router::{EndpointId, Target};
use ferrite_wire::{Entry, Epoch, ErrorCode, Fault, FrameKind, Outcome, Outcomes, Request, limits};
use std::collections::BTreeMap;
use std::time::Instant;

/// Longest body of a part of several entries, in bytes: it never comes near what a server takes.
const PART_BYTES_MAX: usize = limits::BODY_BYTES_MAX / 4;

/// A batch under way.
pub(super) struct Batch {
    tag: u64,
    parts_open: usize,
    outcomes: Vec<Option<WriteOutcome>>,
}

/// Writes of a part that are sent again, and what they were refused for.
pub(super) struct Again {
    call: Call,
    fault: Fault,
}

impl Pipeline {
    pub(super) fn accept_batch(
        &mut self,
        now: Instant,
        tag: u64,
        entries: &[Entry<'_>],
        write: WriteOptions,
        options: u8,
        deadline: Instant,
    ) {
        let level = write.level.unwrap_or(self.options.level);
        let default_ttl_ms = super::route::ttl_ms(write);
        let mut outcomes: Vec<Option<WriteOutcome>> = Vec::with_capacity(entries.len());
        let mut by_owner: BTreeMap<Option<EndpointId>, (Target, Vec<u32>)> = BTreeMap::new();
        for (place, entry) in entries.iter().enumerate() {
            outcomes.push(too_large(entry).map(WriteOutcome::NotApplied));
            if outcomes[place].is_none() {
                let target = self.router.target(entry.key());
                let (last, _) = self.tried_last(now, target, Class::Write, false);
                let owner = self.router.preferred(target, &last);
                by_owner.entry(owner).or_insert_with(|| (target, Vec::new())).1.push(place as u32);
            }
        }
        let mut parts: Vec<(Target, Vec<u32>)> = Vec::new();
        for (target, places) in by_owner.into_values() {
            let (mut part, mut bytes) = (Vec::new(), 0);
            for place in places {
                let entry_bytes = entries[place as usize].encoded_len();
                let is_full =
                    part.len() == limits::MULTI_PUT_ENTRIES_MAX || bytes + entry_bytes > PART_BYTES_MAX;
                if is_full && !part.is_empty() {
                    parts.push((target, std::mem::take(&mut part)));
                    bytes = 0;
                }
                bytes += entry_bytes;
                part.push(place);
            }
            parts.push((target, part));
        }
        if parts.is_empty() {
            return self.end_batch(Batch { tag, parts_open: 0, outcomes });
        }
        self.gather_serial = self.gather_serial.wrapping_add(1);
        let batch = self.gather_serial;
        self.batches.insert(batch, Batch { tag, parts_open: parts.len(), outcomes });
        for (target, places) in parts {
            let of_part: Vec<_> =
                places.iter().map(|place| with_ttl(entries[*place as usize], default_ttl_ms)).collect();
            let mut body = self.calls.buffer();
            Request::encode_multi_put(Epoch(0), level, options, of_part.into_iter(), &mut body);
            self.start(now, Owner::Writes { batch, places }, FrameKind::MultiPut, target, body, deadline);
        }
    }

    /// What is sent again of an answered part.
    pub(super) fn writes_again(
        &mut self,
        now: Instant,
        part: &Call,
        batch: u32,
        places: &[u32],
        outcomes: &[WriteOutcome],
    ) -> Vec<Again> {
        let Ok(Request::MultiPut { level, options, entries, .. }) = Request::decode(part.kind, &part.body)
        else {
            unreachable!("the client encoded it");
        };
        let (mut again, mut crowded_out) = (Vec::new(), Vec::new());
        for ((entry, outcome), place) in entries.iter().zip(outcomes).zip(places) {
            let WriteOutcome::NotApplied(fault) = outcome else { continue };
            match after(fault.code, true) {
                Next::OtherReplica => {
                    let request = entry.request(Epoch(0), level, options);
                    let mut body = self.calls.buffer();
                    request.encode(&mut body);
                    let owner = Owner::Writes { batch, places: vec![*place] };
                    let target = self.router.target(entry.key());
                    // What its part met before was not about it.
                    let call = Call { faults: 0, ..part.rest(now, owner, request.kind(), target, body) };
                    again.push(Again { call, fault: fault.clone() });
                }
                Next::AfterPause => crowded_out.push((*place, entry, fault)),
                Next::Answer | Next::Unknown => {}
            }
        }
        if let Some((_, first, fault)) = crowded_out.first() {
            let places = crowded_out.iter().map(|(place, ..)| *place).collect();
            let target = self.router.target(first.key());
            let mut body = self.calls.buffer();
            let of_rest = crowded_out.iter().map(|(_, entry, _)| *entry);
            Request::encode_multi_put(Epoch(0), level, options, of_rest, &mut body);
            let mut call = part.rest(now, Owner::Writes { batch, places }, FrameKind::MultiPut, target, body);
            if crowded_out.len() < entries.len() {
                // The node takes some each time: the rest may try as often as the whole.
                (call.attempts, call.faults) = (0, 0);
            }
            again.push(Again { call, fault: (*fault).clone() });
        }
        again
    }

    /// Takes a part's answer.
    pub(super) fn take_part(
        &mut self,
        now: Instant,
        batch: u32,
        places: &[u32],
        completion: Completion,
        again: Vec<Again>,
    ) {
        let whole = self.batches.get_mut(&batch).expect("a part belongs to a batch");
        let mut set = |place: u32, outcome: WriteOutcome| whole.outcomes[place as usize] = Some(outcome);
        match completion {
            Completion::Writes(outcomes) => {
                places.iter().zip(outcomes).for_each(|(place, outcome)| set(*place, outcome));
            }
            Completion::Write(outcome) => places.iter().for_each(|place| set(*place, outcome.clone())),
            other => unreachable!("a part of a batch is a write, not {other:?}"),
        }
        whole.parts_open += again.len();
        whole.parts_open -= 1;
        if whole.parts_open == 0 {
            let whole = self.batches.remove(&batch).expect("just found");
            return self.end_batch(whole);
        }
        for Again { call, fault } in again {
            let slot = self.calls.insert(call);
            self.take_fault(now, slot, fault);
        }
    }

    fn end_batch(&mut self, whole: Batch) {
        let outcomes = whole.outcomes.into_iter().map(|outcome| outcome.expect("every part was answered"));
        self.completions.push_back((whole.tag, Completion::Writes(outcomes.collect())));
    }
}

/// The entry, with this time to live if it is a put that has none of its own.
fn with_ttl(entry: Entry<'_>, ttl_ms: u64) -> Entry<'_> {
    match entry {
        Entry::Put { key, ttl_ms: 0, context, value } => Entry::Put { key, ttl_ms, context, value },
        entry => entry,
    }
}

/// What a server has said of each entry of a part.
pub(super) fn outcomes_of(outcomes: &Outcomes<'_>) -> Vec<WriteOutcome> {
    let told = |outcome| match outcome {
        Outcome::Done { version, answered, sloppy } => WriteOutcome::Done { version, answered, sloppy },
        Outcome::Error(code) => {
            let fault = Fault { code, text: String::new() };
            match code.says_not_applied() {
                true => WriteOutcome::NotApplied(fault),
                false => WriteOutcome::Unknown(UnknownReason::Server(fault)),
            }
        }
    };
    outcomes.iter().map(told).collect()
}

fn too_large(entry: &Entry<'_>) -> Option<Fault> {
    let (key, context, value) = match entry {
        Entry::Put { key, context, value, .. } => (key, context, value.len()),
        Entry::Delete { key, context } => (key, context, 0),
    };
    let text = match () {
        () if key.partition.len() + key.sort.len() > limits::KEY_BYTES_MAX => {
            format!("a key has at most {} bytes", limits::KEY_BYTES_MAX)
        }
        () if value > limits::VALUE_BYTES_MAX => {
            format!("a value has at most {} bytes", limits::VALUE_BYTES_MAX)
        }
        () if context.len() > limits::CONTEXT_BYTES_MAX => {
            format!("a context has at most {} bytes", limits::CONTEXT_BYTES_MAX)
        }
        () => return None,
    };
    Some(Fault { code: ErrorCode::TooLarge, text })
}
