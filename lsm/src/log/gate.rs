//! One task at a time: the others wait. For one thread.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The door.
#[derive(Debug, Default)]
pub(super) struct Gate {
    busy: Cell<bool>,
    /// One per waiting task; the host bounds its tasks.
    waiting: RefCell<Vec<Waker>>,
}

/// The right to be inside; given back when dropped.
#[derive(Debug)]
pub(super) struct Turn(Rc<Gate>);

impl Gate {
    /// Waits for a turn.
    pub(super) fn enter(self: &Rc<Gate>) -> Enter {
        Enter(Rc::clone(self))
    }

    /// A turn, if nobody has it.
    pub(super) fn try_enter(self: &Rc<Gate>) -> Option<Turn> {
        (!self.busy.replace(true)).then(|| Turn(Rc::clone(self)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.busy.set(false);
        // All are woken, one gets in: there are hardly ever two.
        let waiting = std::mem::take(&mut *self.0.waiting.borrow_mut());
        for waker in waiting {
            waker.wake();
        }
    }
}

/// See [`Gate::enter`].
pub(super) struct Enter(Rc<Gate>);

impl Future for Enter {
    type Output = Turn;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Turn> {
        if let Some(turn) = self.0.try_enter() {
            return Poll::Ready(turn);
        }
        let mut waiting = self.0.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem_disk::run::poll_once;
    use std::pin::pin;

    #[test]
    fn one_at_a_time() {
        let gate = Rc::new(Gate::default());
        let turn = poll_once(pin!(gate.enter())).expect("nobody is inside");
        let mut second = pin!(gate.enter());
        assert!(poll_once(second.as_mut()).is_none());
        assert!(gate.try_enter().is_none());
        drop(turn);
        assert!(poll_once(second.as_mut()).is_some());
    }
}
