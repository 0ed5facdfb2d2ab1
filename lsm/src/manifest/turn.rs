//! Whose turn it is: tasks of one core that must not interleave wait here in the order they came.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// A lock for tasks of one thread, first come first served.
///
/// A waiter that is dropped gives up its place. How many may wait is bounded by who calls: the tasks of one engine.
#[derive(Debug, Default)]
pub(crate) struct Turn(RefCell<Queue>);

#[derive(Debug, Default)]
struct Queue {
    /// Tickets that wait or hold, oldest first: the front one holds.
    tickets: VecDeque<(u64, Option<Waker>)>,
    next: u64,
}

impl Turn {
    /// Waits for the turn; it lasts until the answer is dropped.
    pub(crate) async fn take(&self) -> Held<'_> {
        let ticket = {
            let mut queue = self.0.borrow_mut();
            queue.next += 1;
            let ticket = queue.next;
            queue.tickets.push_back((ticket, None));
            ticket
        };
        let held = Held { turn: self, ticket };
        poll_fn(|context| {
            let mut queue = self.0.borrow_mut();
            if queue.tickets.front().is_some_and(|(front, _)| *front == ticket) {
                return Poll::Ready(());
            }
            let mine = queue.tickets.iter_mut().find(|(waiting, _)| *waiting == ticket);
            mine.expect("a ticket stays until its holder is dropped").1 = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        held
    }
}

/// The turn, or a place in the queue for it.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    turn: &'a Turn,
    ticket: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut queue = self.turn.0.borrow_mut();
        queue.tickets.retain(|(ticket, _)| *ticket != self.ticket);
        let woken = queue.tickets.front_mut().and_then(|(_, waker)| waker.take());
        drop(queue);
        if let Some(waker) = woken {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Context;

    #[test]
    fn turns_come_in_order_and_a_dropped_waiter_loses_its_place() {
        let turn = Turn::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut first = Box::pin(turn.take());
        let Poll::Ready(held) = first.as_mut().poll(&mut context) else { panic!("nobody was before it") };
        let mut second = Box::pin(turn.take());
        let mut third = pin!(turn.take());
        assert!(second.as_mut().poll(&mut context).is_pending());
        assert!(third.as_mut().poll(&mut context).is_pending());
        drop(second);
        assert!(third.as_mut().poll(&mut context).is_pending());
        drop(held);
        assert!(third.as_mut().poll(&mut context).is_ready());
    }
}
