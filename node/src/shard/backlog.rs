//! Answers to other cores whose queues are full, kept until these have room again: for each core by itself, so that one that stands still
//! holds up no other.

use std::collections::{BTreeMap, VecDeque};

use ferrite_wire::CoreId;

use crate::env::Hop;

/// What waits for one core, in its order.
#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Hop>,
    /// Bytes of their frames.
    bytes: usize,
}

/// What waits for each core.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// None is empty.
    by_core: BTreeMap<CoreId, Waiting>,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.by_core.is_empty()
    }

    /// Bytes of the frames in it for one core: those for another say nothing of what this one may have.
    pub(super) fn bytes_of(&self, core: CoreId) -> usize {
        self.by_core.get(&core).map_or(0, |waiting| waiting.bytes)
    }

    /// Sends, behind what waits for the same core already.
    pub(super) fn send(&mut self, core: CoreId, message: Hop, hop: impl Fn(CoreId, Hop) -> Result<(), Hop>) {
        let message = match self.by_core.contains_key(&core) {
            true => message,
            false => match hop(core, message) {
                Ok(()) => return,
                Err(message) => message,
            },
        };
        let waiting = self.by_core.entry(core).or_default();
        waiting.bytes += message.frame_bytes();
        waiting.messages.push_back(message);
    }

    /// Tries again, core by core.
    pub(super) fn flush(&mut self, hop: impl Fn(CoreId, Hop) -> Result<(), Hop>) {
        self.by_core.retain(|core, waiting| {
            while let Some(message) = waiting.messages.pop_front() {
                let message_bytes = message.frame_bytes();
                if let Err(message) = hop(*core, message) {
                    waiting.messages.push_front(message);
                    return true;
                }
                waiting.bytes -= message_bytes;
            }
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::env::Connection;

    fn reply(number: u8) -> Hop {
        Hop::Reply { connection: Connection { slot: 1, generation: 1 }, frame: vec![number; 10] }
    }

    /// One answer to a core that stood still was first in the one queue for all, and no answer to any other core left until it went on.
    #[test]
    fn a_core_that_stands_still_holds_up_no_answer_to_another_and_each_keeps_its_order() {
        let (mut backlog, sent) = (Backlog::default(), RefCell::new(Vec::new()));
        let full = RefCell::new(vec![CoreId(1), CoreId(2)]);
        let hop = |core: CoreId, message: Hop| {
            if full.borrow().contains(&core) {
                return Err(message);
            }
            let Hop::Reply { frame, .. } = message else { unreachable!("only replies") };
            sent.borrow_mut().push((core, frame[0]));
            Ok(())
        };
        for (core, number) in [(1, 1), (2, 2), (1, 3), (2, 4), (3, 5)] {
            backlog.send(CoreId(core), reply(number), hop);
        }
        assert_eq!(sent.take(), [(CoreId(3), 5)]);
        assert_eq!([1, 2, 3].map(|core| backlog.bytes_of(CoreId(core))), [20, 20, 0]);
        full.borrow_mut().pop();
        // Behind those before it, though its core has room by now.
        backlog.send(CoreId(2), reply(6), hop);
        backlog.flush(hop);
        assert_eq!(sent.take(), [(CoreId(2), 2), (CoreId(2), 4), (CoreId(2), 6)]);
        full.borrow_mut().pop();
        backlog.flush(hop);
        assert_eq!(sent.take(), [(CoreId(1), 1), (CoreId(1), 3)]);
        assert!(backlog.is_empty());
    }
}
