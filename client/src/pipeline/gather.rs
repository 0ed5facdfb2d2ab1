//! A multi-get: split by the address that owns each key, answered in parts, merged in the order of its keys.
//!
//! A value that did not fit its part's reply is asked for again on its own.

use super::call::Owner;
use super::{Completion, Pipeline};
use crate::outcome::ReadError;
use crate::pace::Class;
use crate::router::{EndpointId, Target};
use crate::siblings::Siblings;
use ferrite_wire::{Epoch, FrameKind, Key, Level, Request, limits};
use std::collections::BTreeMap;
use std::time::Instant;

/// Longest body of one part, in bytes: a part never comes near what a server takes.
const PART_BYTES_MAX: usize = limits::BODY_BYTES_MAX / 4;
/// Bytes of a key beside its own.
const KEY_HEAD_BYTES: usize = 12;

/// A multi-get under way.
pub(super) struct Gather {
    tag: u64,
    parts_open: usize,
    answers: Vec<Option<Result<Siblings, ReadError>>>,
}

impl Pipeline {
    pub(super) fn accept_multi_get(
        &mut self,
        now: Instant,
        tag: u64,
        keys: &[Key<'_>],
        level: Level,
        deadline: Instant,
    ) {
        if keys.is_empty() {
            self.completions.push_back((tag, Completion::Reads(Vec::new())));
            return;
        }
        let mut by_owner: BTreeMap<Option<EndpointId>, (Target, Vec<u32>)> = BTreeMap::new();
        for (place, key) in keys.iter().enumerate() {
            let target = self.router.target(key);
            let (last, _) = self.tried_last(now, target, Class::Read, false);
            let owner = self.router.preferred(target, &last);
            by_owner.entry(owner).or_insert_with(|| (target, Vec::new())).1.push(place as u32);
        }
        let mut parts: Vec<(Target, Vec<u32>)> = Vec::new();
        for (target, places) in by_owner.into_values() {
            let (mut part, mut bytes) = (Vec::new(), 0);
            for place in places {
                let key = &keys[place as usize];
                let key_bytes = KEY_HEAD_BYTES + key.partition.len() + key.sort.len();
                if part.len() == limits::MULTI_GET_KEYS_MAX || bytes + key_bytes > PART_BYTES_MAX {
                    parts.push((target, std::mem::take(&mut part)));
                    bytes = 0;
                }
                bytes += key_bytes;
                part.push(place);
            }
            parts.push((target, part));
        }
        self.gather_serial = self.gather_serial.wrapping_add(1);
        let gather = self.gather_serial;
        let answers = keys.iter().map(|_| None).collect();
        self.gathers.insert(gather, Gather { tag, parts_open: parts.len(), answers });
        for (target, places) in parts {
            let of_part: Vec<Key<'_>> = places.iter().map(|place| keys[*place as usize]).collect();
            let mut body = self.calls.buffer();
            Request::encode_multi_get(Epoch(0), level, &of_part, &mut body);
            self.start(now, Owner::Part { gather, places }, FrameKind::MultiGet, target, body, deadline);
        }
    }

    /// Takes a part's answer. `again` asks once more for single keys: their place, target and encoded get.
    pub(super) fn gather_part(
        &mut self,
        now: Instant,
        gather: u32,
        places: &[u32],
        completion: Completion,
        deadline: Instant,
        again: Vec<(u32, Target, Vec<u8>)>,
    ) {
        let whole = self.gathers.get_mut(&gather).expect("a part belongs to a multi-get");
        let mut set =
            |place: u32, answer: Result<Siblings, ReadError>| whole.answers[place as usize] = Some(answer);
        match completion {
            Completion::Reads(answers) => {
                places.iter().zip(answers).for_each(|(place, answer)| set(*place, answer));
            }
            Completion::Read(Err(error)) => places.iter().for_each(|place| set(*place, Err(error.clone()))),
            Completion::Read(Ok(found)) => {
                assert_eq!(places.len(), 1, "what one key has answers one key");
                set(places[0], Ok(found));
            }
            Completion::Write(_)
            | Completion::Writes(_)
            | Completion::Pong(_)
            | Completion::Status(_)
            | Completion::Topology(_)
            | Completion::Table(_) => {
                unreachable!("a part is a read")
            }
        }
        whole.parts_open += again.len();
        whole.parts_open -= 1;
        if whole.parts_open == 0 {
            let whole = self.gathers.remove(&gather).expect("just found");
            let unanswered = || Err(ReadError::Deadline(String::new()));
            let answers = whole.answers.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect();
            self.completions.push_back((whole.tag, Completion::Reads(answers)));
        }
        for (place, target, body) in again {
            self.start(
                now,
                Owner::Part { gather, places: vec![place] },
                FrameKind::Get,
                target,
                body,
                deadline,
            );
        }
    }
}
