//! Answers to other cores whose queues are full, kept until these have room again: for each core by itself, so that one that stands still
//! holds up no other.

use std::collections::{BTreeMap, VecDeque};

use ferrite_wire::CoreId;

use crate::env::Hop;

/// What waits, in its order for each core.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// None is empty.
    by_core: BTreeMap<CoreId, VecDeque<Hop>>,
    bytes: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.by_core.is_empty()
    }

    /// Bytes of the frames in it.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
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
        self.bytes += message.frame_bytes();
        self.by_core.entry(core).or_default().push_back(message);
    }

    /// Tries again, core by core.
    pub(super) fn flush(&mut self, hop: impl Fn(CoreId, Hop) -> Result<(), Hop>) {
        let Backlog { by_core, bytes } = self;
        by_core.retain(|core, waiting| {
            while let Some(message) = waiting.pop_front() {
                let message_bytes = message.frame_bytes();
                if let Err(message) = hop(*core, message) {
                    waiting.push_front(message);
                    return true;
                }
                *bytes -= message_bytes;
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
        assert_eq!(backlog.bytes(), 40);
        full.borrow_mut().pop();
        // Behind those before it, though its core has room by now.
        backlog.send(CoreId(2), reply(6), hop);
        backlog.flush(hop);
        assert_eq!(sent.take(), [(CoreId(2), 2), (CoreId(2), 4), (CoreId(2), 6)]);
        full.borrow_mut().pop();
        backlog.flush(hop);
        assert_eq!(sent.take(), [(CoreId(1), 1), (CoreId(1), 3)]);
        assert!(backlog.is_empty() && backlog.bytes() == 0);
    }
}
