//! On what terms a connection is read from: not while its answers pile up, not before there is room for the long frame that it sends, and not at all any more
//! if it is in the way of others and does not read itself.

use super::{Driver, MILLISECOND_NS};
use crate::env::{Connection, Handler};
use crate::reactor::table::token;

impl<H: Handler, E> Driver<H, E> {
    /// Receives more, unless the connection is on its way out or its answers pile up.
    pub(super) fn receive(&mut self, name: Connection) {
        self.receive_in(name, false);
    }

    /// The same; `is_turn`: it has waited for room, and it is its turn.
    fn receive_in(&mut self, name: Connection, is_turn: bool) {
        let options = &self.shared.options;
        let mut table = self.shared.table.borrow_mut();
        let Some(link) = table.get(name) else { return };
        let Some(stream) = link.stream.clone() else { return };
        if link.closing {
            return;
        }
        // What comes while it is not read from is not as old as what lay there before. What found no room for its answer is, and all behind it.
        let unread_bytes = link.input.unread().len();
        link.unread.goes_on(&stream, unread_bytes);
        // Answers are always taken: two sides that each wait for the other to read would wait for ever.
        let waits_for_room = link.had_no_room && !link.output.is_clear();
        if !link.outgoing && (waits_for_room || link.output.queued_bytes() >= options.pause_bytes) {
            link.pause(options, self.shared.now_ns.get());
            self.shared.count(|counters| counters.pauses += 1);
            return;
        }
        if !link.take_large(options, !is_turn && self.deferred.is_awaited()) {
            link.waits_for_room = true;
            link.unread.begins(self.shared.now_ns.get());
            self.shared.count(|counters| counters.large_waits += 1);
            return self.deferred.wait(name, is_turn, &mut table);
        }
        link.unread.ends(self.shared.now_ns.get(), &stream, unread_bytes);
        let buffer = link.input.lend(options.receive_bytes, link.need);
        self.shared.ring.receive(&stream, buffer, token(name));
    }

    /// Goes on reading long frames that waited for room, as far as there is some.
    pub(super) fn receive_large(&mut self) {
        while self.shared.large.has_some(self.shared.options.in_all_bytes_max)
            && let Some(name) = self.deferred.next_waiting()
        {
            let waits = |driver: &Driver<H, E>, is_over: bool| {
                let mut table = driver.shared.table.borrow_mut();
                table.get(name).is_some_and(|link| {
                    link.waits_for_room &= !is_over;
                    link.waits_for_room
                })
            };
            waits(self, true);
            self.receive_in(name, true);
            if waits(self, false) {
                return;
            }
        }
    }

    /// Closes the connections that are in the way of others and do not read: where all answers are short of room those that have taken nothing for long of what is
    /// being sent to them, and where long frames wait those that have sent a part of one and take nothing, or have been paused for long. However
    /// steadily these read, the room is not theirs for as long as their answers may last.
    pub(super) fn close_slow_readers(&mut self, now: u64) {
        let (is_crowded, is_awaited) = (self.shared.is_crowded(), self.deferred.is_awaited());
        let since_ns = now.saturating_sub(self.shared.options.slow_reader_ms * MILLISECOND_NS);
        let names = self.shared.table.borrow().names();
        for name in names {
            let is_slow = self.shared.table.borrow_mut().get(name).is_some_and(|link| {
                let is_still = link.output.is_sending_since(since_ns);
                let is_paused = link.paused_ns.is_some_and(|at| at <= since_ns);
                !link.outgoing
                    && (is_crowded && is_still || is_awaited && link.has_large() && (is_still || is_paused))
            });
            if is_slow {
                self.shared.count(|counters| counters.slow_readers += 1);
                self.on_broken(name);
            }
        }
    }
}
